//! A conversation whose tokens stay in memory: each turn reads only what is new.

use eunoe_core::{Error, Result};
use eunoe_kv::{Place, Plan};
use eunoe_model::chat::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::Engine;
use crate::generate::Answer;
use crate::layout::Length;

/// Beyond what anyone says; positions that are ranks set no end of their own.
const LONGEST: u32 = 1 << 20;
const ASSISTANT: &str = "assistant";

/// What was said so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Conversation {
    messages: Vec<Message>,
    /// Tokens that belong to earlier turns and were not read: the rest of a message whose reading was stopped, or the last
    /// token of an answer that was cut.
    unread: Vec<u32>,
}

impl Conversation {
    /// One in which nothing was said yet but a system message.
    pub fn new(system: Option<&str>) -> Self {
        let messages = system.map(|text| Message::new("system", text)).into_iter().collect();
        Self { messages, unread: Vec::new() }
    }

    /// Adds messages; gives the tokens to read next.
    ///
    /// # Errors
    /// The template's complaint, or that it changes what was already read; nothing is added then.
    pub fn hear(&mut self, engine: &Engine, new: Vec<Message>, tools: &[Value]) -> Result<Vec<u32>> {
        let tokenizer = &engine.tokenizer;
        let before = match self.messages.split_last() {
            Some((answer, before)) if answer.role == ASSISTANT => Some(before),
            _ => None,
        };
        let text = |new: &[Message]| -> String {
            new.iter().flat_map(|m| [m.content.as_deref().unwrap_or_default(), "\n"]).collect()
        };
        let tokens = match (&engine.template, before) {
            (None, None) => tokenizer.encode_prompt(&text(&new)),
            (None, Some(_)) => tokenizer.encode_special(&text(&new)),
            (Some(template), None) => {
                let all: Vec<Message> = self.messages.iter().chain(&new).cloned().collect();
                template.encode(tokenizer, &all, tools, true)?
            }
            (Some(template), Some(before)) => template.encode_after_answer(tokenizer, before, &new, tools)?,
        };
        self.messages.extend(new);
        let mut all = std::mem::take(&mut self.unread);
        all.extend(tokens);
        Ok(all)
    }

    /// An answer was made. Its last token is not in memory: a stop token is left to the template, which closes the turn
    /// itself; any other (the answer was cut, or its form was whole) is read with the next message.
    pub fn said(&mut self, engine: &Engine, answer: &Answer) {
        let last = answer.tokens.last().filter(|token| !engine.tokenizer.is_stop(**token));
        self.unread.extend(last);
        self.messages.push(Message::new(ASSISTANT, answer.text.as_str()));
    }

    /// An answer was stopped after `shown`, whose tokens are all in memory.
    pub fn stopped_at(&mut self, shown: &str) {
        self.messages.push(Message::new(ASSISTANT, shown));
    }

    /// Reading was stopped before these tokens: they are read with the next message, and the answer to this one is empty.
    pub fn leave_unread(&mut self, rest: &[u32]) {
        self.unread = rest.to_vec();
        self.messages.push(Message::new(ASSISTANT, ""));
    }

    /// What was said, in its order.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }
}

impl Engine {
    /// The longest conversation that a plan holds within `memory` bytes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a plan that tells a prompt from its answer; what the plan says where it holds no text at all.
    pub fn conversation(&self, plan: &Plan, memory: u64) -> Result<Length> {
        let context = self.config().context as u32;
        let needs = plan.make_policy(u32::MAX)?.needs();
        if needs.keep.is_some() {
            let why = "`prefill=dense` in a conversation: it forgets once, where a prompt ends, and a conversation goes on; \
                       use the streaming mode";
            return Err(Error::Unsupported(why.into()));
        }
        if needs.recall.is_some() || needs.view.is_some_and(|rows| rows.prompt != rows.answer) {
            let id = plan.policy.card.id;
            let why = format!("`{id}` tells a prompt from its answer, and a conversation has many of both");
            return Err(Error::Unsupported(why));
        }
        let by_rank = needs.place == Place::Rank && plan.budget.is_some();
        let fits = |longest: u32| -> Result<Length> {
            let length = Length { prompt: context, longest };
            let layout = self.layout(plan, length)?;
            let (asked, hint) =
                (layout.bytes_after(usize::MAX), "a plan with a smaller budget, or more memory");
            match asked <= memory {
                true => Ok(length),
                false => Err(Error::Limit {
                    what: "bytes of KV memory".into(),
                    asked,
                    have: memory,
                    hint: hint.into(),
                }),
            }
        };
        let most = if by_rank { LONGEST } else { context };
        fits(most).or_else(|error| {
            let (mut least, mut above) = (0, most);
            while above - least > 1 {
                let middle = least + (above - least) / 2;
                match fits(middle) {
                    Ok(_) => least = middle,
                    Err(_) => above = middle,
                }
            }
            if least > 0 { fits(least) } else { Err(error) }
        })
    }
}

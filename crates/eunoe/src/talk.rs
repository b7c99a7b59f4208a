//! A conversation in one sequence: each turn reads only the tokens that are new.

use anyhow::{Result, bail};
use eunoe_engine::{Answer, Engine, FinishReason, Length, Session};
use eunoe_kv::Plan;
use eunoe_model::chat::{ChatTemplate, Message};

/// Stands for the last answer while the template is rendered: what was generated is in memory already, token by token,
/// and what follows it is new.
const LAST_ANSWER: &str = "\u{2}the last answer\u{2}";

/// A conversation and its memory.
pub struct Talk<'a> {
    /// Who answers.
    pub engine: &'a Engine,
    /// What is remembered.
    pub session: Session,
    messages: Vec<Message>,
    length: Length,
    /// Tokens that belong to earlier turns and were not read: the rest of a message whose reading was stopped, or the
    /// last token of an answer that was cut.
    unread: Vec<u32>,
    /// Tokens in memory when the newest message was heard.
    read_before: usize,
}

impl<'a> Talk<'a> {
    /// An empty conversation.
    ///
    /// # Errors
    /// The plan cannot hold it.
    pub fn new(engine: &'a Engine, plan: &Plan, length: Length, system: Option<&str>) -> Result<Self> {
        let messages = system.map(|text| Message::new("system", text)).into_iter().collect();
        let session = engine.session(plan, length)?;
        Ok(Self { engine, session, messages, length, unread: Vec::new(), read_before: 0 })
    }

    /// Tokens that the plan holds.
    pub fn longest(&self) -> u32 {
        self.length.longest
    }

    /// Adds a message of the user; gives the tokens to read.
    ///
    /// # Errors
    /// The template's complaint, or that it changes what was already read.
    pub fn hear(&mut self, message: &str) -> Result<Vec<u32>> {
        let is_first = self.session.kv.seen() == 0 && self.unread.is_empty();
        self.read_before = self.session.kv.seen() as usize;
        self.messages.push(Message::new("user", message));
        let tokenizer = &self.engine.tokenizer;
        let text = match &self.engine.template {
            None => format!("{message}\n"),
            Some(template) if is_first => template.render(&self.messages, true)?,
            Some(template) => after_last_answer(template, &self.messages)?,
        };
        if is_first {
            return Ok(tokenizer.encode_prompt(&text));
        }
        let mut tokens = std::mem::take(&mut self.unread);
        tokens.extend(tokenizer.encode_special(&text));
        Ok(tokens)
    }

    /// Tokens that an answer may have after `new` tokens are read.
    ///
    /// # Errors
    /// There is none left; the message has the numbers.
    pub fn room(&self, new: usize) -> Result<usize> {
        let (longest, seen) = (self.length.longest as usize, self.session.kv.seen() as usize);
        match longest.checked_sub(seen + new) {
            Some(room) if room > 0 => Ok(room),
            _ => bail!(
                "the conversation is full: the plan holds {longest} tokens, {seen} are read and this message has {new}; \
                 start anew, or give a plan with rank positions, e.g. `--kv 'streaming_llm @ 1024tok'`"
            ),
        }
    }

    /// An answer was made. Its last token is not in memory: a stop token is left to the template, which closes the
    /// turn itself; any other is read with the next message.
    pub fn said(&mut self, answer: &Answer) {
        if answer.finish_reason == FinishReason::Length {
            self.unread.extend(answer.tokens.last());
        }
        self.messages.push(Message::new("assistant", answer.text.as_str()));
    }

    /// An answer was stopped after `shown`, whose tokens are all in memory.
    pub fn stopped_at(&mut self, shown: &str) {
        self.messages.push(Message::new("assistant", shown));
    }

    /// Reading `new` was stopped: the rest is read with the next message, and the answer to this one is empty.
    pub fn leave_unread(&mut self, new: &[u32]) {
        let read = self.session.kv.seen() as usize - self.read_before;
        self.unread = new[read.min(new.len())..].to_vec();
        self.messages.push(Message::new("assistant", ""));
    }
}

/// What the template puts between the last answer and the next one.
fn after_last_answer(template: &ChatTemplate, messages: &[Message]) -> Result<String> {
    let (before, last) = messages.split_at(messages.len() - 2);
    let read = template.render(before, true)?;
    let stand_in = Message::new("assistant", LAST_ANSWER);
    let all: Vec<_> = before.iter().chain([&stand_in, &last[1]]).cloned().collect();
    let rendered = template.render(&all, true)?;
    match rendered.strip_prefix(&read).and_then(|rest| rest.strip_prefix(LAST_ANSWER)) {
        Some(rest) => Ok(rest.to_owned()),
        None => bail!(
            "the model's chat template rewrites earlier turns, which are in memory already; use `eunoe run`"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(roles: &[(&str, &str)]) -> Vec<Message> {
        roles.iter().map(|(role, text)| Message::new(*role, *text)).collect()
    }

    #[test]
    fn only_what_follows_the_last_answer_is_new() {
        let source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}\
                      {% if add_generation_prompt %}<assistant>{% endif %}";
        let template = ChatTemplate::new(source, "", "").unwrap();
        let talk = say(&[("system", "s"), ("user", "a"), ("assistant", " b "), ("user", "c")]);
        assert_eq!(after_last_answer(&template, &talk).unwrap(), "</><user>c</><assistant>");
    }

    #[test]
    fn a_template_that_rewrites_the_past_is_refused() {
        let source = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}";
        let template = ChatTemplate::new(source, "", "").unwrap();
        let talk = say(&[("user", "a"), ("assistant", "b"), ("user", "c")]);
        assert!(
            after_last_answer(&template, &talk).unwrap_err().to_string().contains("rewrites earlier turns")
        );
    }
}

//! From an item to the tokens that a model reads, with what can go wrong there checked.

use std::ops::Range;

use anyhow::{Result, bail};
use eunoe_model::chat::{ChatTemplate, Message};
use eunoe_model::tokenizer::Tokenizer;
use eunoe_tasks::{Ask, Item, Reply, Task};

use crate::answer;

/// Writes prompts for one model.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    /// Messages are put into it.
    pub(crate) template: Option<&'a ChatTemplate>,
}

/// One question with its context, as the model reads it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prompt {
    pub(crate) text: String,
    /// Where in it the context stands.
    pub(crate) content: Range<usize>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) then: Then,
}

/// What follows a prompt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Then {
    /// At most so many tokens are written.
    Write(usize),
    /// The tokens of each continuation are weighed.
    Weigh(Vec<Vec<u32>>),
    /// One continuation is predicted.
    Predict(Vec<u32>),
    /// One continuation attends.
    Attend(Vec<u32>),
}

impl Prompt {
    /// Tokens that may follow.
    pub(crate) fn answer_tokens(&self) -> usize {
        match &self.then {
            Then::Write(tokens) => *tokens,
            Then::Weigh(options) => options.iter().map(Vec::len).max().unwrap_or(0),
            Then::Predict(rest) | Then::Attend(rest) => rest.len(),
        }
    }
}

impl Writer<'_> {
    /// Text with the template around it, if there is one and the task wants it.
    pub(crate) fn render(&self, task: &dyn Task, message: &str, cue: &str) -> Result<String> {
        let text = match self.template.filter(|_| !task.is_raw()) {
            Some(template) => template.render(&[Message::new("user", message)], true)?,
            None => message.to_owned(),
        };
        Ok(text + cue)
    }

    /// Tokens that the template and BOS add to a message.
    pub(crate) fn overhead(&self, task: &dyn Task) -> Result<usize> {
        let message = "a";
        let whole = self.tokenizer.encode_prompt(&self.render(task, message, "")?).len();
        Ok(whole.saturating_sub(self.tokenizer.encode(message).len()))
    }

    /// The questions of an item, in order.
    ///
    /// # Errors
    /// The template's complaint; more than one BOS; a prompt that with its answer is longer than `length`.
    pub(crate) fn prompts(&self, task: &dyn Task, item: &Item, length: usize) -> Result<Vec<Prompt>> {
        item.asks.iter().map(|ask| self.prompt(task, item, ask, length)).collect()
    }

    fn prompt(&self, task: &dyn Task, item: &Item, ask: &Ask, length: usize) -> Result<Prompt> {
        let id = task.card().id;
        let text = self.render(task, &format!("{}{}", item.context, ask.question), &ask.cue)?;
        let mut tokens = self.tokenizer.encode_prompt(&text);
        let begins = self.begins(&self.tokenizer.encode_special(&text));
        if begins > 1 {
            bail!(
                "a prompt of `{id}` has {begins} BOS tokens: the model's template or the text adds one too many"
            );
        }
        let (then, common) = self.then(&text, &tokens, ask);
        tokens.truncate(common);
        let content = answer::content_in(&text, &item.context);
        let prompt = Prompt { text, content, tokens, then };
        let whole = prompt.tokens.len() + prompt.answer_tokens();
        if prompt.tokens.is_empty() || whole > length {
            bail!("a prompt of `{id}` takes {whole} tokens with its answer, at most {length} were asked for");
        }
        Ok(prompt)
    }

    /// What follows a prompt, and how many tokens of the prompt all continuations share.
    fn then(&self, text: &str, tokens: &[u32], ask: &Ask) -> (Then, usize) {
        let whole = |rest: &str| self.tokenizer.encode_prompt(&format!("{text}{rest}"));
        let common = |a: &[u32]| a.iter().zip(tokens).take_while(|(a, b)| a == b).count().min(a.len() - 1);
        match &ask.reply {
            Reply::Write { tokens: most } => (Then::Write(*most), tokens.len()),
            Reply::Choose { options } => {
                let all: Vec<Vec<u32>> = options.iter().map(|option| whole(option)).collect();
                let shared = all.iter().map(|a| common(a)).min().unwrap_or(tokens.len());
                (Then::Weigh(all.iter().map(|a| a[shared..].to_vec()).collect()), shared)
            }
            Reply::Predict { text } | Reply::Attend { text } => {
                let all = whole(text);
                let shared = common(&all);
                let rest = all[shared..].to_vec();
                match ask.reply {
                    Reply::Attend { .. } => (Then::Attend(rest), shared),
                    _ => (Then::Predict(rest), shared),
                }
            }
        }
    }

    /// How the BOS that a text is given is spelled; empty where none is.
    pub(crate) fn bos(&self) -> String {
        let token = self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos());
        let name = token.map(|token| self.tokenizer.piece_or_name(token));
        name.map_or_else(String::new, |name| String::from_utf8_lossy(name).into_owned())
    }

    /// BOS tokens at the beginning.
    pub(crate) fn begins(&self, tokens: &[u32]) -> usize {
        let Some(bos) = self.tokenizer.bos() else { return 0 };
        tokens.iter().take_while(|token| **token == bos).count()
    }
}

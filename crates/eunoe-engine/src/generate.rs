//! Answers: tokens one by one until a stop, with text released as soon as it cannot become a stop string.

use crate::engine::{Engine, Session};
use crate::sample::{Sampler, Sampling, top_log_probs};
use eunoe_core::{Error, Result};
use eunoe_model::tokenizer::{Decoder, Tokenizer};
use serde::Serialize;

/// How an answer is made.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Most tokens of the answer, a stop token included.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts at which the answer ends; they are not part of it.
    pub stop: Vec<String>,
    /// Likeliest tokens reported per step; `None` reports no probabilities.
    pub log_probs: Option<usize>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// A stop token or stop string.
    Stop,
    /// `max_tokens` were made.
    Length,
}

/// One token of an answer with probabilities.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenLogProb {
    /// The token.
    pub token: u32,
    /// `ln P` before penalties and temperature.
    pub logprob: f32,
    /// The likeliest tokens and their `ln P`.
    pub top: Vec<(u32, f32)>,
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// Tokens made, the stop token included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Per token, where asked for.
    pub log_probs: Vec<TokenLogProb>,
}

/// What may come next where an answer has to follow a grammar.
pub trait Guide: Send {
    /// Makes the tokens that may not come next impossible: their `logits` `[vocab]` become `-inf`.
    ///
    /// # Errors
    /// A grammar that nothing can follow from here.
    fn mask(&mut self, logits: &mut [f32]) -> Result<()>;

    /// Goes on by a token; `true` once the answer is whole and nothing may follow.
    ///
    /// # Errors
    /// A token that was not allowed.
    fn accept(&mut self, token: u32) -> Result<bool>;
}

/// An answer as it grows: tokens chosen from logits, and the text that they release.
pub struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    max_tokens: usize,
    count: Option<usize>,
    sampler: Sampler,
    guide: Option<Box<dyn Guide>>,
    decoder: Option<Decoder<'a>>,
    text: Text,
    tokens: Vec<u32>,
    log_probs: Vec<TokenLogProb>,
    finish_reason: Option<FinishReason>,
}

impl<'a> Writer<'a> {
    /// An empty answer to `prompt`, which penalties look at.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the value of the request that cannot be.
    pub fn new(
        tokenizer: &'a Tokenizer,
        prompt: &[u32],
        request: &Request,
        guide: Option<Box<dyn Guide>>,
    ) -> Result<Self> {
        Ok(Self {
            tokenizer,
            max_tokens: request.max_tokens,
            count: request.log_probs,
            sampler: Sampler::new(&request.sampling, prompt)?,
            guide,
            decoder: Some(tokenizer.decoder()),
            text: Text::new(&request.stop)?,
            tokens: Vec::new(),
            log_probs: Vec::new(),
            finish_reason: (request.max_tokens == 0).then_some(FinishReason::Length),
        })
    }

    /// Chooses a token by the logits `[vocab]` after all that was read; gives it if the answer goes on after it, to be
    /// read next.
    ///
    /// # Errors
    /// [`Error::Invalid`] where nothing was read yet; those of the guide.
    pub fn write(&mut self, logits: &[f32]) -> Result<Option<u32>> {
        if self.finish_reason.is_some() {
            return Ok(None);
        }
        if logits.is_empty() {
            return Err(Error::Invalid(
                "nothing was read yet: an answer needs at least one token before it".into(),
            ));
        }
        let token = self.sampler.next(logits, self.guide.as_deref_mut())?;
        self.tokens.push(token);
        if let Some(count) = self.count {
            self.log_probs.push(token_log_prob(logits, token, count));
        }
        let more = match self.tokenizer.is_stop(token) {
            true => None,
            false => self.decoder.as_mut().map(|decoder| decoder.push(token)),
        };
        let is_whole = match &mut self.guide {
            Some(guide) => guide.accept(token)?,
            None => false,
        };
        let is_end = more.is_none_or(|more| self.text.push(&more)) || is_whole;
        if is_end || self.tokens.len() >= self.max_tokens {
            self.finish_reason = Some(if is_end { FinishReason::Stop } else { FinishReason::Length });
            if let Some(decoder) = self.decoder.take() {
                self.text.push(&decoder.finish());
            }
            return Ok(None);
        }
        Ok(Some(token))
    }

    /// Text that no stop string can begin in any more and that was not released before.
    pub fn release(&mut self) -> &str {
        if self.finish_reason.is_some() { self.text.rest() } else { self.text.release() }
    }

    /// Why the answer ended, once it has.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish_reason
    }

    /// Tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Probabilities so far, one entry per token; empty where they were not asked for.
    pub fn log_probs(&self) -> &[TokenLogProb] {
        &self.log_probs
    }

    /// The answer as it stands.
    pub fn finish(self) -> Answer {
        let Self { text, tokens, log_probs, finish_reason, .. } = self;
        let finish_reason = finish_reason.unwrap_or(FinishReason::Length);
        Answer { text: text.whole, tokens, finish_reason, log_probs }
    }
}

impl Engine {
    /// Makes an answer from what `session` has read (`prompt`, for penalties). `on_text` gets the text piece by
    /// piece and says whether to go on.
    ///
    /// # Errors
    /// Those of [`Engine::read`]; [`Error::Interrupted`] when `on_text` said no.
    pub fn generate(
        &self,
        session: &mut Session,
        prompt: &[u32],
        request: &Request,
        on_text: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Answer> {
        let mut writer = Writer::new(&self.tokenizer, prompt, request, None)?;
        while let Some(token) = writer.write(session.logits())? {
            if !on_text(writer.release()) {
                return Err(Error::Interrupted);
            }
            self.read(session, &[token], &mut |_| true)?;
        }
        on_text(writer.release());
        Ok(writer.finish())
    }
}

pub(crate) fn token_log_prob(logits: &[f32], token: u32, count: usize) -> TokenLogProb {
    TokenLogProb { token, logprob: crate::log_prob(logits, token), top: top_log_probs(logits, count) }
}

/// Text that ends at a stop string, released up to where one may begin.
struct Text {
    stop: Vec<String>,
    whole: String,
    released: usize,
    stopped: bool,
}

impl Text {
    fn new(stop: &[String]) -> Result<Self> {
        if stop.iter().any(String::is_empty) {
            return Err(Error::Invalid("an empty stop string would end every answer at once".into()));
        }
        Ok(Self { stop: stop.to_vec(), whole: String::new(), released: 0, stopped: false })
    }

    /// Adds text; true once a stop string was found, which is cut off with what follows.
    fn push(&mut self, more: &str) -> bool {
        if !self.stopped {
            self.whole.push_str(more);
            let found = self.stop.iter().filter_map(|s| self.whole[self.released..].find(s.as_str())).min();
            if let Some(at) = found {
                self.whole.truncate(self.released + at);
                self.stopped = true;
            }
        }
        self.stopped
    }

    /// New text that no stop string can begin in.
    fn release(&mut self) -> &str {
        let open = &self.whole[self.released..];
        let held = (0..open.len())
            .filter(|i| open.is_char_boundary(*i))
            .find(|i| self.stop.iter().any(|s| s.starts_with(&open[*i..])))
            .unwrap_or(open.len());
        let part = &open[..held];
        self.released += held;
        part
    }

    /// What is left at the end.
    fn rest(&mut self) -> &str {
        let part = &self.whole[self.released..];
        self.released = self.whole.len();
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_string_is_found_across_pieces_and_never_released() {
        let stop = ["</end>".to_owned()];
        let mut text = Text::new(&stop).unwrap();
        let mut out = String::new();
        for piece in ["Hi <", "b> there", " </e", "nd", "> more"] {
            let stopped = text.push(piece);
            out += if stopped { text.rest() } else { text.release() };
            if stopped {
                break;
            }
        }
        assert_eq!((out.as_str(), text.whole.as_str()), ("Hi <b> there ", "Hi <b> there "));
    }

    #[test]
    fn text_held_for_a_stop_string_comes_at_the_end() {
        let stop = ["\n\n".to_owned()];
        let mut text = Text::new(&stop).unwrap();
        assert!(!text.push("a\n"));
        assert_eq!(text.release(), "a");
        assert_eq!(text.rest(), "\n");
        assert!(Text::new(&["".to_owned()]).is_err());
    }
}

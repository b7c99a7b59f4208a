//! Answers: tokens one by one until a stop, with text released as soon as it cannot become a stop string.

use crate::engine::{Engine, Session};
use crate::sample::{Sampler, Sampling, top_log_probs};
use eunoe_core::{Error, Result};
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
        let mut sampler = Sampler::new(&request.sampling, prompt)?;
        let mut text = Text::new(&request.stop)?;
        let mut decoder = self.tokenizer.decoder();
        let (mut tokens, mut log_probs) = (Vec::new(), Vec::new());
        let finish_reason = loop {
            if tokens.len() >= request.max_tokens {
                break FinishReason::Length;
            }
            if session.logits().is_empty() {
                return Err(Error::Invalid(
                    "nothing was read yet: an answer needs at least one token before it".into(),
                ));
            }
            let token = sampler.next(session.logits());
            tokens.push(token);
            if let Some(count) = request.log_probs {
                log_probs.push(token_log_prob(session.logits(), token, count));
            }
            if self.tokenizer.is_stop(token) || text.push(&decoder.push(token)) {
                break FinishReason::Stop;
            }
            if !on_text(text.release()) {
                return Err(Error::Interrupted);
            }
            if tokens.len() < request.max_tokens {
                self.read(session, &[token], &mut |_| true)?;
            }
        };
        text.push(&decoder.finish());
        on_text(text.rest());
        Ok(Answer { text: text.whole, tokens, finish_reason, log_probs })
    }
}

fn token_log_prob(logits: &[f32], token: u32, count: usize) -> TokenLogProb {
    TokenLogProb { token, logprob: crate::log_prob(logits, token), top: top_log_probs(logits, count) }
}

/// Text that ends at a stop string, released up to where one may begin.
struct Text<'a> {
    stop: &'a [String],
    whole: String,
    released: usize,
    stopped: bool,
}

impl<'a> Text<'a> {
    fn new(stop: &'a [String]) -> Result<Self> {
        if stop.iter().any(String::is_empty) {
            return Err(Error::Invalid("an empty stop string would end every answer at once".into()));
        }
        Ok(Self { stop, whole: String::new(), released: 0, stopped: false })
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

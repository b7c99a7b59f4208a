//! How well a model predicts a text under a plan: perplexity, whole and by position.

use crate::engine::{Engine, GoOn, log_prob};
use crate::layout::Length;
use eunoe_core::{Error, Result};
use eunoe_kv::Plan;

/// How a text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// One sequence from start to end.
    Whole,
    /// Fresh sequences of `ctx` tokens, each `stride` tokens further; a token is scored once, in the first window
    /// that holds it.
    Sliding {
        /// Tokens of a window.
        ctx: usize,
        /// Tokens from one window's start to the next.
        stride: usize,
    },
    /// One sequence, of which the first tokens are a prompt and the others, which alone are scored, its answer.
    Answer {
        /// Tokens of the prompt.
        prompt: usize,
    },
}

/// The scores of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// Index of each scored token in the text, and its `-ln P`.
    pub nll: Vec<(usize, f32)>,
    /// Most hot KV bytes at any moment.
    pub peak_bytes: u64,
    /// The plan in effect.
    pub plan_used: String,
    /// [`Bill::attended`](crate::Bill::attended) of the last window.
    pub attended: f64,
}

impl Scores {
    /// Mean nats per token.
    pub fn mean(&self) -> f64 {
        self.nll.iter().map(|(_, n)| f64::from(*n)).sum::<f64>() / self.nll.len() as f64
    }
}

impl Engine {
    /// Scores `tokens`. A model that begins texts with BOS gets one at the start of each window; without one the first
    /// token of the text is not scored, and windows overlap by a token at least, so that every other is. `progress` gets the tokens done and says whether to go on.
    ///
    /// # Errors
    /// [`Error::Limit`] when the plan cannot hold a window, [`Error::Invalid`] for windows that cannot be,
    /// [`Error::Interrupted`].
    pub fn score(&self, plan: &Plan, tokens: &[u32], windows: Windows, progress: GoOn<'_>) -> Result<Scores> {
        let (ctx, stride) = match windows {
            Windows::Whole | Windows::Answer { .. } => (tokens.len(), tokens.len()),
            // a text shorter than a window is one window; a stride beyond the window stays an error
            Windows::Sliding { ctx, stride } if stride <= ctx => {
                (ctx.min(tokens.len()), stride.min(tokens.len()))
            }
            Windows::Sliding { ctx, stride } => (ctx, stride),
        };
        if tokens.len() < 2 || ctx < 2 || stride == 0 || stride > ctx {
            return Err(Error::Invalid(format!(
                "{} tokens in windows of {ctx} at a stride of {stride} cannot be scored; needed: two tokens, and \
                 a stride from 1 to the window",
                tokens.len()
            )));
        }
        let prompt = match windows {
            Windows::Answer { prompt } if prompt == 0 || prompt + 1 >= tokens.len() => {
                let len = tokens.len();
                return Err(Error::Invalid(format!(
                    "a prompt of {prompt} of {len} tokens: needed are one, and two tokens after it"
                )));
            }
            Windows::Answer { prompt } => Some(prompt),
            _ => None,
        };
        if prompt.is_none() && plan.make_policy(u32::MAX)?.needs().keep.is_some() {
            let why = "`prefill=dense` forgets only after the prompt, and a scored text is all prompt: score the \
                       streaming mode, or tell how long the prompt is (--prompt)";
            return Err(Error::Unsupported(why.into()));
        }
        let bos = self.tokenizer.bos().filter(|_| self.tokenizer.adds_bos());
        let mut scores = Scores::default();
        let mut done = 0; // tokens before this are scored or cannot be
        let mut start = 0;
        while done < tokens.len() && start < tokens.len() {
            let window = &tokens[start..tokens.len().min(start + ctx)];
            self.score_window(plan, bos, window, start, done, prompt, &mut scores, progress)?;
            done = start + window.len();
            // without a BOS a window's first token is context only: the last one scored so far
            start = (start + stride).min(done - usize::from(bos.is_none()));
        }
        Ok(scores)
    }

    /// One window that begins at token `start`; tokens before `done` are context only.
    #[allow(clippy::too_many_arguments, reason = "a window is what it is")]
    fn score_window(
        &self,
        plan: &Plan,
        bos: Option<u32>,
        window: &[u32],
        start: usize,
        done: usize,
        prompt: Option<usize>,
        scores: &mut Scores,
        progress: GoOn<'_>,
    ) -> Result<()> {
        let input: Vec<u32> = bos.into_iter().chain(window.iter().copied()).collect();
        let shift = input.len() - window.len();
        // the last token is only predicted
        let len = count(input.len() - 1)?;
        let asked = prompt.map_or(Ok(len), |prompt| count(prompt + shift))?;
        let mut session = self.session(plan, Length { prompt: asked, longest: len })?;
        let first = done.max(start).max(prompt.unwrap_or(0));
        self.read_rows(
            &mut session,
            &input[..input.len() - 1],
            &mut |n| progress(start + n),
            &mut |row, logits| {
                // row `row` predicts input `row + 1`, which is token `row + 1 - shift` of the window
                let token = start + row + 1 - shift;
                if token >= first {
                    scores.nll.push((token, -log_prob(logits, input[row + 1])));
                }
            },
        )?;
        let bill = session.bill();
        scores.peak_bytes = scores.peak_bytes.max(bill.peak_bytes);
        scores.attended = bill.attended;
        scores.plan_used = bill.plan_used;
        Ok(())
    }
}

/// A number of tokens as positions count them.
pub(crate) fn count(tokens: usize) -> Result<u32> {
    u32::try_from(tokens)
        .map_err(|_| Error::Invalid(format!("{tokens} tokens are more than positions can count")))
}

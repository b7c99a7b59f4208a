//! Items, and what is given for them.

use std::collections::BTreeMap;

use serde::Serialize;

/// What is read and asked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Item {
    /// Read once, before any question is known; the whole prompt is `context + question`, as one user message unless the
    /// task is raw.
    pub context: String,
    /// Asked after it, each as if the others had not been.
    pub asks: Vec<Ask>,
    /// Where what is asked for begins in the context, 0 (first byte) to 1, in the order of the context.
    pub depths: Vec<f64>,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ask {
    /// Ends the user's message, right after the context.
    pub question: String,
    /// Begins the answer: stands after the template has opened the model's turn, and the model goes on from it.
    pub cue: String,
    /// What the model does.
    pub reply: Reply,
    /// Right answers; for [`Reply::Choose`] the one right option. Which of them count is the task's.
    pub gold: Vec<String>,
}

/// What the model does after the cue.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It writes at most so many tokens, greedily.
    Write {
        /// Most tokens.
        tokens: usize,
    },
    /// It gives a probability to each of these continuations of the cue.
    Choose {
        /// Options, as they follow the cue, leading space included.
        options: Vec<String>,
    },
    /// It predicts this continuation token by token.
    Predict {
        /// The continuation.
        text: String,
    },
    /// The attention of the rows of this continuation is measured under full memory, and with it what a plan has kept.
    Attend {
        /// The continuation.
        text: String,
    },
}

/// What came.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Given {
    /// To [`Reply::Write`]: text, without the cue.
    Text(String),
    /// To [`Reply::Choose`]: `ln P` of each option.
    Options(Vec<f64>),
    /// To [`Reply::Predict`]: `-ln P` of each token, and whether each was the likeliest.
    Nats {
        /// `-ln P` of each token.
        nats: Vec<f32>,
        /// Whether each was the likeliest.
        likeliest: Vec<bool>,
    },
    /// To [`Reply::Attend`]: share of the attention that falls on what was kept, 0 to 1.
    Share(f64),
}

/// What answers are worth.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Mark {
    /// From 0 to 1.
    pub score: f64,
    /// More numbers, by name: other rules (`official`, `harness`), biases, buckets.
    pub details: BTreeMap<String, f64>,
}

impl Mark {
    /// A score without details.
    pub fn of(score: f64) -> Self {
        Self { score, details: BTreeMap::new() }
    }

    /// With one more number.
    pub fn with(mut self, name: impl Into<String>, value: f64) -> Self {
        self.details.insert(name.into(), value);
        self
    }
}

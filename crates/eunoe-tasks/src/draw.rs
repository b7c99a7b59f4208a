//! Which item is wanted.

use crate::sources::Sources;

/// One item of a task: how long, which, from what.
#[derive(Clone, Copy)]
pub struct Draw<'a> {
    /// Most tokens of prompt and answer together.
    pub length: usize,
    /// Tokens that the chat template adds around a message, BOS included.
    pub overhead: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Number of the item, from 0; items do not depend on how many there are.
    pub sample: usize,
    /// Tokens of a text in the tested model's tokenizer.
    pub count: &'a dyn Fn(&str) -> usize,
    /// Texts and questions.
    pub sources: &'a Sources,
}

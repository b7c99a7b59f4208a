//! The nouns every crate of Eunoe shares: shapes, tensor and KV types, cards of methods, errors.

mod args;
mod budget;
mod card;
mod dtype;
mod error;
mod phrase;

pub use args::{Args, Reading, Value, meant};
pub use budget::Budget;
pub use card::{Arg, Card, Kind, Shelf};
pub use dtype::{Codec, Codecs, Dtype};
pub use error::{Error, Result};
pub use phrase::{Parser, Token};

/// How the query heads that share a KV head become one: row by row, before rows are added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// The sum (ranks as the mean does).
    Sum,
    /// The largest.
    Max,
}

/// The attention shape of a model as KV policies see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Layers that a policy acts on (sliding-window layers are not among them).
    pub layers: usize,
    /// Query heads per layer.
    pub heads: usize,
    /// Key/value heads per layer; `heads / kv_heads` query heads share one.
    pub kv_heads: usize,
    /// Length of one key or value vector.
    pub head_dim: usize,
}

impl Shape {
    /// Query heads that share one KV head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Strips that a policy acts on: one per layer and KV head.
    pub fn strips(&self) -> usize {
        self.layers * self.kv_heads
    }
}

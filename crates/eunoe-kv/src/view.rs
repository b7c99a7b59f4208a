//! What rows see, where a policy says it: the rows' queries and the stored keys in, lists of slots out.

use std::ops::Range;

use eunoe_core::{Fold, Shape};

use crate::Pos;

/// The rows of one layer that are about to attend; their own keys and values are stored.
pub struct Look<'a> {
    /// The layer, counted among those that a policy acts on.
    pub layer: usize,
    /// Positions of the rows.
    pub pos: Range<Pos>,
    /// The rows belong to the prompt.
    pub is_prompt: bool,
    /// Rotated queries `[rows, heads, head_dim]`.
    pub q: &'a [f32],
    /// Sizes of the model.
    pub shape: Shape,
    /// The layer's strips.
    pub store: &'a dyn Store,
}

/// Read access to the strips of one layer.
pub trait Store {
    /// Slots of a strip, the rows' own included.
    fn len(&self, kv_head: usize) -> usize;

    /// Scaled dot products of queries with keys, several lists at once.
    fn dots(&self, asks: &mut [Dots<'_>]);

    /// Attention of one row `[group, head_dim]` at position `pos` over the slots up to it, folded over the group: one
    /// per slot of the strip.
    fn mass(&self, kv_head: usize, q: &[f32], pos: Pos, fold: Fold, out: &mut [f32]);
}

/// Rotated queries of one KV head, and the slots with whose keys they are multiplied.
pub struct Dots<'a> {
    /// The strip.
    pub kv_head: usize,
    /// `[queries, head_dim]`.
    pub q: &'a [f32],
    /// Slots of the strip.
    pub slots: Vec<u32>,
    /// `[slots, queries]`, once asked.
    pub out: Vec<f32>,
}

/// What the rows of one [`Look`] see, as one softmax. They see each other causally whatever it says.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// One for each KV head, or one for each query head.
    pub heads: Vec<Keys>,
}

/// Which keys rows see.
#[derive(Clone, Debug, PartialEq)]
pub enum Keys {
    /// All of the strip, causally.
    Live,
    /// Slots of the strip, ascending, all of them older than the rows.
    List(Vec<u32>),
}

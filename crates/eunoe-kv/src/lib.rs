//! The shelf of KV-cache policies, and the plan language that composes them.
//!
//! A policy answers one question: which slots of a strip are worth keeping? It declares what it needs once
//! ([`Needs`]) and then only scores slots; budget, protected slots, eviction, positions and batching belong to the
//! engine. A policy never touches tensors and never sees the engine.

pub mod allocators;
mod args;
mod budget;
pub mod caps;
pub mod codecs;
mod common;
mod plan;
pub mod policies;
pub mod select;
#[cfg(test)]
mod sim;

pub use allocators::AllocatorEntry;
pub use args::{Args, Value};
pub use budget::Budget;
pub use plan::Plan;
pub use policies::PolicyEntry;

pub use eunoe_core::Fold;
use eunoe_core::{Card, Shape};

/// A slot's name is its absolute token position: stable under eviction. Slot order is position order.
pub type Pos = u32;

/// The one number that travels with every slot of a policy that asks for it; the engine maintains it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Column {
    /// No number.
    None,
    /// Attention received: at each query row `column = decay * column + mass`.
    Running {
        /// Forgetting factor in 0..=1; 1 accumulates.
        decay: f32,
    },
    /// Attention received from the last `rows` query rows, computed when a strip is full (a ring of queries is kept).
    LastRows {
        /// Query rows that count.
        rows: u32,
    },
    /// `-ln P(token | what came before)`, known after the forward pass of the token.
    Surprisal,
}

/// Which positions the model sees for the slots of a strip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Each token's own position in the text; limited to the model's trained window.
    Own,
    /// The slot's rank in its strip: text may be longer than the trained window.
    Rank,
}

/// What one strip asks of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A share of what is there, and eviction when it is full.
    Share,
    /// Room for the whole text; never evicts.
    Whole,
}

/// What a policy needs, constant after it was made; the engine maintains, charges, enforces and prints it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Needs {
    /// The number that travels with each slot.
    pub column: Column,
    /// How a group of query heads becomes one column.
    pub fold: Fold,
    /// Positions the model sees.
    pub place: Place,
    /// Protected: `pos < sinks`.
    pub sinks: u32,
    /// Protected: `pos + recent > now` where `now` is the position of the newest stored row; at least 1.
    pub recent: u32,
    /// A full strip goes down to `cap - step`; 1 is the papers' per-token rule.
    pub step: u32,
    /// `Some(keep)`: the published mode (`prefill=dense`). The prompt is held whole and trimmed to `keep` at its end.
    pub keep: Option<u32>,
    /// With `keep`: whether eviction goes on after the prompt (at `keep` slots) or memory grows with the answer.
    /// Not read without `keep`.
    pub evicts_in_decode: bool,
}

/// One strip as a policy sees it: slots in position order, `column` as [`Needs::column`] asked (empty for `None`).
#[derive(Clone, Copy, Debug)]
pub struct Strip<'a> {
    /// Absolute positions, ascending.
    pub pos: &'a [Pos],
    /// The number that travels with each slot.
    pub column: &'a [f32],
}

/// What is worth keeping.
pub trait Policy: Send + Sync {
    /// Constant after construction.
    fn needs(&self) -> Needs;

    /// What the strip of this layer and KV head asks of the budget.
    fn claim(&self, layer: usize, kv_head: usize) -> Claim {
        let _ = (layer, kv_head);
        Claim::Share
    }

    /// Scores every slot into `out` (one per slot): higher stays; of equals the lower position stays.
    /// Called only when a strip is full; `now` is the position of the newest stored row.
    fn score(&self, layer: usize, kv_head: usize, strip: Strip<'_>, now: Pos, out: &mut [f32]);
}

/// Who gets how much of the budget.
pub trait Allocate: Send + Sync {
    /// One positive weight per strip, layer-major; [`caps::caps`] turns them into caps. Those of strips that claim
    /// everything are not read.
    fn weights(&self, shape: &Shape) -> Vec<f32>;

    /// `Some(floor)`: the strips of a layer share one cap and are evicted by score across heads, each keeping at
    /// least `floor` of its own part.
    fn pooled(&self) -> Option<f32> {
        None
    }
}

/// The cards of every policy, allocator and codec, in the order of their lists.
pub fn methods() -> Vec<Card> {
    let policies = policies::LIST.iter().map(|e| e.card);
    let allocators = allocators::LIST.iter().map(|e| e.card);
    policies.chain(allocators).chain(codecs::LIST.iter().map(|e| e.card)).collect()
}

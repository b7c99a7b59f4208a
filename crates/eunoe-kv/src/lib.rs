//! The shelf of KV-cache policies, and the plan language that composes them.
//!
//! A policy answers one question: which slots of a strip are worth keeping? It declares what it needs once
//! ([`Needs`]) and then only scores slots; budget, protected slots, eviction, positions and batching belong to the
//! engine. A policy never touches tensors and never sees the engine.

pub mod allocators;
pub mod caps;
pub mod codecs;
mod common;
mod grow;
mod plan;
pub mod policies;
mod profile;
pub mod recall;
pub mod select;
#[cfg(test)]
mod sim;
mod view;

pub use allocators::AllocatorEntry;
pub use eunoe_core::{Args, Budget, Value};
pub use plan::Plan;
pub use policies::PolicyEntry;
pub use profile::Profile;
pub use view::{Dots, Keys, Look, Store, View};

pub use eunoe_core::Fold;
use eunoe_core::{Card, Result, Shape};
use std::ops::Range;

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
    /// So many slots (the text's length if that is less), and eviction when they are full.
    Fixed(u32),
    /// Room for the whole text; never evicts.
    Whole,
}

/// What becomes of a slot that is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is gone.
    Drop,
    /// It is folded into the strip's side slot: the mean key and the mean value of all that were folded, in f32, which
    /// every row sees as one more key; with `weighted` its score counts ln(how many) more.
    Merge {
        /// Whether the side slot weighs as many tokens as were folded.
        weighted: bool,
    },
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
    /// What becomes of evicted slots.
    pub fate: Fate,
    /// `Some`: the policy says what rows see ([`Policy::view`]).
    pub view: Option<Blocks>,
    /// [`Policy::bind`] needs a profile.
    pub profile: bool,
    /// `Some`: old slots wait in a cold tier ([`Policy::recall`]).
    pub recall: Option<recall::Sizes>,
}

/// Rows for which a policy says at once what they see: at most to the next position that is a multiple of these. Rows
/// that come one by one are asked for one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Within the prompt.
    pub prompt: u32,
    /// After it.
    pub answer: u32,
}

impl Needs {
    /// Everything live is seen, forgotten slots are gone, and positions are the text's: what most policies change
    /// little of.
    pub const PLAIN: Self = Self {
        column: Column::None,
        fold: Fold::Sum,
        place: Place::Own,
        sinks: 0,
        recent: 1,
        step: 1,
        keep: None,
        evicts_in_decode: true,
        fate: Fate::Drop,
        view: None,
        profile: false,
        recall: None,
    };
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

    /// Learns the model's sizes and, with [`Needs::profile`], what its heads do, before anything else is asked.
    ///
    /// # Errors
    /// [`Error::Invalid`](eunoe_core::Error::Invalid) where a profile is missing, [`Error::Shape`](eunoe_core::Error::Shape)
    /// for that of another model.
    fn bind(&mut self, shape: &Shape, profile: Option<&Profile>) -> Result<()> {
        let _ = (shape, profile);
        Ok(())
    }

    /// What the strip of this layer and KV head asks of the budget, for a text that can come to have `longest` tokens.
    fn claim(&self, layer: usize, kv_head: usize, longest: u32) -> Claim {
        let _ = (layer, kv_head, longest);
        Claim::Share
    }

    /// Slots that a row after `tokens` others reads on average, over all strips; `None`: all that are stored.
    fn attended(&self, tokens: u32) -> Option<f64> {
        let _ = tokens;
        None
    }

    /// Scores every slot into `out` (one per slot): higher stays; of equals the lower position stays.
    /// Called only when a strip is full; `now` is the position of the newest stored row. By default the oldest goes.
    fn score(&self, layer: usize, kv_head: usize, strip: Strip<'_>, now: Pos, out: &mut [f32]) {
        let _ = (layer, kv_head);
        for (out, pos) in out.iter_mut().zip(strip.pos) {
            // the age, not the position: f32 counts whole numbers only up to 2^24
            *out = -((now - pos) as f32);
        }
    }

    /// With [`Needs::view`]: positions that no row from `next`, the first of a block, on ever sees; they are dropped.
    fn retire(&self, layer: usize, kv_head: usize, next: Pos) -> Range<Pos> {
        let _ = (layer, kv_head, next);
        0..0
    }

    /// With [`Needs::recall`]: which blocks there are, and which come back.
    fn recall(&mut self) -> Option<&mut dyn recall::Recall> {
        None
    }

    /// With [`Needs::view`]: what rows see that have just been stored. `None`: everything live.
    fn view(&mut self, look: &Look<'_>) -> Option<View> {
        let _ = look;
        None
    }
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

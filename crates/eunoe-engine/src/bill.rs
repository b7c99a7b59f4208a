//! What an answer's memory cost: asked for and in effect, kept and forgotten.

use serde::Serialize;

/// The `memory` record of an answer. Sums are over [`Bill::heads`]; `seen = kept + evicted + cold` holds for each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bill {
    /// The plan as the user wrote it.
    pub plan_asked: String,
    /// The plan in effect: policy, allocator, codec and budget; sizes that it does not name derive from the budget.
    pub plan_used: String,
    /// `full` (nothing is ever forgotten), `streaming` (evicts while reading), `dense` (as published: reads the whole
    /// prompt, then trims), `sparse` (keeps everything and reads a part) or `recall` (old slots wait in a cold tier).
    pub mode: &'static str,
    /// Hot KV bytes allowed; null without a budget.
    pub budget_bytes: Option<u64>,
    /// Most hot KV bytes at any moment, prefill included.
    pub peak_bytes: u64,
    /// Hot KV bytes now.
    pub live_bytes: u64,
    /// Bytes in the cold tier.
    pub cold_bytes: u64,
    /// Bytes that came back from the cold tier so far, each time anew.
    pub returned_bytes: u64,
    /// Hot KV bytes that another sequence had filled, and that this one began with.
    pub reused_bytes: u64,
    /// Policy data that is not KV memory (rings of queries, keys of cold blocks), in bytes.
    pub metadata_bytes: u64,
    /// Slots dropped at once when a strip is full.
    pub step: u32,
    /// First tokens of the text that are never dropped.
    pub sinks: u32,
    /// Newest tokens that are never dropped.
    pub recent: u32,
    /// Rows stored so far, summed over the strips that a policy acts on.
    pub seen: u64,
    /// Slots held now, summed likewise.
    pub kept: u64,
    /// Slots evicted, summed likewise.
    pub evicted: u64,
    /// Slots that wait in the cold tier, summed likewise.
    pub cold: u64,
    /// Share of the text so far that a row's query met, mean over rows, layers and heads that a policy acts on: 1 under
    /// full memory.
    pub attended: f64,
    /// Tokens that a row's query met, mean likewise, itself included.
    pub attended_tokens: f64,
    /// Share of a strip's recorded attention mass that lay on the slots it evicted, mean over evictions; null where
    /// the method sees no attention, 0 where nothing was evicted.
    pub mass_evicted: Option<f64>,
    /// Smaller memories that were tried first and whose answers were not trusted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub escalated: Vec<Rung>,
    /// One entry per layer and KV head.
    pub heads: Vec<HeadBill>,
}

/// A memory whose answer was not trusted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rung {
    /// The plan in effect.
    pub plan: String,
    /// Most hot KV bytes at any moment.
    pub peak_bytes: u64,
    /// Chance that full memory would have answered right where this plan did not, as [`Outlook`](crate::Outlook) has it.
    pub risk: f64,
}

/// One strip.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeadBill {
    /// Layer of the model.
    pub layer: usize,
    /// KV head of the layer.
    pub kv_head: usize,
    /// Rows stored so far.
    pub seen: u64,
    /// Slots held now.
    pub kept: u64,
    /// Slots evicted (in a sliding layer: slots that left its window, which is no forgetting).
    pub evicted: u64,
    /// Slots that wait in the cold tier.
    pub cold: u64,
    /// Hot bytes now.
    pub bytes: u64,
    /// A layer that sees a window by its own design; not part of the sums over slots.
    pub sliding: bool,
}

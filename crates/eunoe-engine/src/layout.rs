//! What a plan means for a model and a text: caps per strip, before any memory is taken.

use std::path::Path;

use eunoe_core::{Codec, Codecs, Error, Result, Shape};
use eunoe_kernels::strip::{SlotLayout, Strip};
use eunoe_kv::caps::{Ask, Room, caps, dense};
use eunoe_kv::{Budget, Claim, Column, Fate, Needs, Place, Plan, Policy, select};
use eunoe_model::Config;

use crate::cold::Cold;
use crate::residual::{Residual, STEP};
use crate::ring::Ring;
use crate::side::Side;
use crate::store::Head;

/// What errors call the positions of a text, of which a model has so many.
pub const POSITIONS: &str = "positions (prompt and answer), of which the model was trained on";

/// Slots that a sliding layer drops at once when it is full.
const SLIDE: u32 = 64;

/// How long a sequence can get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Prompt and answer.
    pub longest: u32,
}

/// When what one sequence remembers can be that of another.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StateKey {
    /// Equal where every rule and size of the plan is: the same tokens leave the same state then.
    same: String,
    /// Of a plan that leaves no mark on slots before it evicts: codecs and positions, which alone make the slots.
    plain: Option<(Codecs, Place)>,
    /// Slots of the smallest strip.
    least: u32,
}

impl StateKey {
    /// How many tokens of `read`, which a state of key `other` remembers, a sequence that is to read `text` need not read. Where
    /// `whole` does not hold, no slot of the state was marked or evicted, and any part of it serves.
    pub(crate) fn reuse(&self, other: &Self, whole: bool, read: &[u32], text: &[u32]) -> usize {
        let common = read.iter().zip(text).take_while(|(a, b)| a == b).count();
        if !whole && self.is_like(other) {
            // one row at least tells what comes next
            return common.min(text.len().saturating_sub(1)).min(self.least as usize);
        }
        if self.same == other.same && common == read.len() { common } else { 0 }
    }

    /// Whether both write the same slots until the first eviction.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.plain.is_some() && self.plain == other.plain
    }

    /// Whether a text of so many tokens is held without any eviction or mark.
    pub(crate) fn holds(&self, tokens: usize) -> bool {
        self.plain.is_some() && tokens <= self.least as usize
    }

    /// Whether slots stay as they were written until the first eviction.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain.is_some()
    }
}

/// What a plan means for a model and a text, before any memory is taken.
pub struct Layout {
    pub(crate) policy: Box<dyn Policy>,
    pub(crate) needs: Needs,
    pub(crate) pooled: Option<f32>,
    pub(crate) codec: Codecs,
    /// Per policy strip, layer-major.
    caps: Vec<u32>,
    keeps: Option<Vec<u32>>,
    /// Tokens of the prompt.
    pub(crate) prompt: u32,
    longest: u32,
    /// Every strip claims the whole text.
    pub(crate) keeps_all: bool,
    /// Slots of a sliding strip.
    sliding_cap: u32,
    pub(crate) budget_bytes: Option<u64>,
    slot_bytes: u64,
    /// Of a slot without a column.
    bare_slot_bytes: u64,
    /// Beside each strip: its side slot where evicted slots are folded, and its newest slots in full precision.
    beside_bytes: u64,
    residual: u32,
    sliding_strips: u64,
    kv_heads: u64,
    /// The plan's policy, allocator and codec, and the mean slots of a strip, from which sizes derive.
    rules: String,
}

impl Layout {
    /// Resolves a plan. `codec` is the default where the plan names none.
    ///
    /// # Errors
    /// [`Error::Limit`], with both numbers and the way out, when the plan cannot hold the text.
    pub fn new(config: &Config, plan: &Plan, length: Length, codec: Codec) -> Result<Self> {
        let codec = plan.codec.unwrap_or(codec.into());
        let shape = policy_shape(config);
        let budget_bytes = match plan.budget {
            Some(Budget::Bytes(b)) => Some(b),
            Some(Budget::Percent(p)) => Some((full_bytes(config, length.prompt) as f64 * p / 100.0) as u64),
            _ => None,
        };
        // from here on in positions, landmarks included
        let length = match plan.make_policy(u32::MAX)?.needs().recall {
            Some(sizes) => {
                Length { prompt: sizes.positions(length.prompt), longest: sizes.positions(length.longest) }
            }
            None => length,
        };
        let sliding_strips = (config.layers - shape.layers) * config.kv_heads;
        let sliding_cap =
            config.sliding.map_or(0, |s| (s.window as u32).saturating_add(SLIDE)).min(length.longest);
        let bytes = |codec, column| SlotLayout { codec, head_dim: config.head_dim, column }.bytes() as u64;
        let sliding = |codec| sliding_strips as u64 * u64::from(sliding_cap) * bytes(codec, false);
        // beside the strips that share the budget: sliding ones, side slots, and where what is far is gathered
        let beside = |needs: &Needs| {
            let sides = if needs.fate == Fate::Drop { 0 } else { Side::bytes_of(config.head_dim) };
            let far = far_slots(needs, length.longest) * config.kv_heads as u64 * bytes(codec, false);
            sliding(codec)
                + shape.strips() as u64 * (sides + residual_bytes(plan, config, length.longest))
                + far
        };
        let room = |column, beside: u64| match (plan.budget, budget_bytes) {
            (Some(Budget::Slots(n)), _) => Ok(Room::Slots(n)),
            (_, Some(b)) => match b.checked_sub(beside) {
                Some(bytes_left) => Ok(Room::Bytes { bytes: bytes_left, slot: bytes(codec, column) }),
                None => Err(Error::Limit {
                    what: "bytes of KV memory for what is held beside the strips that share the budget"
                        .into(),
                    asked: beside,
                    have: b,
                    hint: "a larger budget, or a smaller codec such as `q8`".into(),
                }),
            },
            _ => Ok(Room::Slots(length.longest)),
        };
        // whether slots carry a column is the policy's to say, and its sizes derive from the slots there are
        let draft = plan.make_policy(room(true, sliding(codec))?.mean(shape.strips()))?.needs();
        let column = matches!(draft.column, Column::Running { .. } | Column::Surprisal);
        let room = room(column, beside(&draft))?;
        let mut policy = plan.make_policy(room.mean(shape.strips()).min(length.longest.max(8)))?;
        policy.bind(&shape, plan.profile.as_deref())?;
        let mut needs = policy.needs();
        needs.recent = needs.recent.max(plan.residual);
        let allocator = plan.make_allocator()?;
        let strips = || (0..shape.layers).flat_map(|l| (0..shape.kv_heads).map(move |h| (l, h)));
        let claims: Vec<Claim> = strips().map(|(l, h)| policy.claim(l, h, length.longest)).collect();
        let ask = Ask {
            needs: &needs,
            claims: &claims,
            weights: &allocator.weights(&shape),
            floor: allocator.pooled().unwrap_or(0.0),
            longest: length.longest,
        };
        let (caps, keeps) = match needs.keep {
            Some(keep) => {
                let d = dense(&ask, keep, length.prompt, room)?;
                (d.caps, Some(d.keeps))
            }
            None => (caps(&ask, room)?, None),
        };
        let keeps_all = claims.iter().all(|claim| *claim == Claim::Whole);
        let slots = if keeps_all { 0 } else { room.mean(shape.strips()) };
        let rules = format!("{} {slots}", Plan { codec: Some(codec), ..plan.clone() });
        let layout = Self {
            policy,
            needs,
            pooled: allocator.pooled(),
            codec,
            caps,
            keeps,
            prompt: length.prompt,
            longest: length.longest,
            keeps_all,
            sliding_cap,
            budget_bytes,
            slot_bytes: bytes(codec, column),
            bare_slot_bytes: bytes(codec, false),
            beside_bytes: if needs.fate == Fate::Drop { 0 } else { Side::bytes_of(config.head_dim) }
                + residual_bytes(plan, config, length.longest),
            residual: plan.residual,
            sliding_strips: sliding_strips as u64,
            kv_heads: config.kv_heads as u64,
            rules,
        };
        layout.check_positions(config, length)?;
        Ok(layout)
    }

    /// Positions that the model never saw in training are refused.
    fn check_positions(&self, config: &Config, length: Length) -> Result<()> {
        let context = config.context as u64;
        let (asked, hint) = match self.needs.place {
            Place::Own if self.needs.recall.is_some_and(|sizes| !sizes.own) => (
                u64::from(self.needs.recall.map_or(0, |sizes| sizes.local).min(length.longest)),
                "what is near must lie within it: a smaller `local=`",
            ),
            Place::Own => (
                u64::from(length.longest),
                "shorten the text, or use a plan with rank positions, e.g. `streaming_llm @ 1024tok` or \
                 `a2sf(pos=rank) @ 1024tok`",
            ),
            Place::Rank => (
                self.caps
                    .chunks(config.kv_heads)
                    .map(|l| self.most_slots(l))
                    .max()
                    .unwrap_or(0)
                    .min(length.longest.into()),
                "rank positions go up to the slots of a strip: give the plan a smaller budget",
            ),
        };
        if asked > context {
            return Err(Error::Limit { what: POSITIONS.into(), asked, have: context, hint: hint.into() });
        }
        Ok(())
    }

    /// Slots of the largest strip that a layer's caps allow: where strips share them, all but the others' floors.
    fn most_slots(&self, layer: &[u32]) -> u64 {
        let Some(floor) = self.pooled else { return layer.iter().copied().max().unwrap_or(0).into() };
        let all: u64 = layer.iter().map(|c| u64::from(*c)).sum();
        all - layer.iter().skip(1).map(|c| u64::from(select::floor_slots(*c, floor))).sum::<u64>()
    }

    /// When its state can be that of another sequence; `None` where the policy itself remembers (it says what rows see, or
    /// recalls blocks).
    pub(crate) fn key(&self) -> Option<StateKey> {
        let needs = &self.needs;
        if needs.view.is_some() || needs.recall.is_some() {
            return None;
        }
        let prompt = needs.keep.map(|_| self.prompt);
        // where nothing is ever evicted, how much room there is makes no difference
        let caps = if self.keeps_all { &[] } else { &self.caps[..] };
        let same = format!("{} {caps:?} {:?} {:?} {prompt:?}", self.rules, self.keeps, self.sliding_cap);
        let is_plain = needs.column == Column::None && needs.keep.is_none() && self.residual == 0;
        let least =
            self.caps.iter().copied().chain((self.sliding_strips > 0).then_some(self.sliding_cap)).min();
        Some(StateKey {
            same,
            plain: is_plain.then_some((self.codec, needs.place)),
            least: least.unwrap_or(0),
        })
    }

    /// Bytes that can come to wait in the cold tier, and whether they wait on disk.
    pub fn cold_bytes(&self) -> (u64, bool) {
        let Some(sizes) = self.needs.recall else { return (0, false) };
        let slots = u64::from(sizes.waiting(self.needs.sinks, self.longest));
        (slots * self.caps.len() as u64 * self.bare_slot_bytes, sizes.disk)
    }

    /// The cold tier of a sequence, where its policy has one.
    pub(crate) fn cold(&self, config: &Config, folder: &Path) -> Result<Option<Cold>> {
        let (asked, _) = self.cold_bytes();
        let Some(sizes) = self.needs.recall else { return Ok(None) };
        if let Some(have) = sizes.cold.filter(|have| *have < asked) {
            return Err(Error::Limit {
                what: "bytes of the cold tier".into(),
                asked,
                have,
                hint: "a larger `cold=`, a smaller codec such as `q8`, or a shorter text".into(),
            });
        }
        let slot = SlotLayout { codec: self.codec, head_dim: config.head_dim, column: false };
        let layers = policy_shape(config).layers;
        Cold::new(sizes, far_slots(&self.needs, self.longest) as u32, layers, config.kv_heads, slot, folder)
            .map(Some)
    }

    /// The text's length in positions.
    pub(crate) fn length(&self) -> Length {
        Length { prompt: self.prompt, longest: self.longest }
    }

    /// Most hot bytes that the sequence can come to take.
    pub fn most_bytes(&self) -> u64 {
        let slots: u64 = self.caps.iter().map(|c| u64::from(*c)).sum();
        let sides = self.caps.len() as u64 * self.beside_bytes;
        let far = far_slots(&self.needs, self.longest) * self.kv_heads * self.bare_slot_bytes;
        far + sides
            + slots * self.slot_bytes
            + self.sliding_strips * u64::from(self.sliding_cap) * self.bare_slot_bytes
    }

    /// Most bytes of this machine's memory that the sequence can come to take over its first `rows` rows: hot ones, and a cold
    /// tier that is not on disk.
    pub fn bytes_after(&self, rows: usize) -> u64 {
        let row = self.caps.len() as u64 * self.slot_bytes + self.sliding_strips * self.bare_slot_bytes;
        let more = row.saturating_mul(rows as u64);
        let far = far_slots(&self.needs, self.longest) * self.kv_heads * self.bare_slot_bytes;
        let beside = far + self.caps.len() as u64 * self.beside_bytes;
        let cold = match self.cold_bytes() {
            (bytes, false) => bytes.min(more),
            (_, true) => 0,
        };
        self.most_bytes().min(beside.saturating_add(more)) + cold
    }

    /// Slots that a row at the end of the text reads, mean over the strips that a policy acts on.
    pub fn attended(&self) -> f64 {
        let stored = self.caps.iter().map(|c| f64::from(*c)).sum::<f64>() / self.caps.len().max(1) as f64;
        self.policy.attended(self.longest).map_or(stored, |slots| slots.min(self.longest.into()))
    }

    /// Bytes of so many slots in each strip that a policy acts on, and of the sliding ones.
    pub fn bytes_of(&self, slots: f64) -> u64 {
        let (strips, slot) = (self.caps.len() as f64, self.slot_bytes as f64);
        (strips * slots * slot) as u64
            + self.sliding_strips * u64::from(self.sliding_cap) * self.bare_slot_bytes
    }

    /// Slots of the smallest and the largest strip that a policy acts on.
    pub fn slots(&self) -> (u32, u32) {
        (self.caps.iter().copied().min().unwrap_or(0), self.caps.iter().copied().max().unwrap_or(0))
    }
}

/// Slots that hold the newest tokens of a strip in full precision.
fn residual_layout(config: &Config) -> SlotLayout {
    SlotLayout { codec: Codec::F16.into(), head_dim: config.head_dim, column: false }
}

/// Most bytes of the newest slots of a strip in full precision.
fn residual_bytes(plan: &Plan, config: &Config, longest: u32) -> u64 {
    if plan.residual == 0 {
        return 0;
    }
    u64::from((plan.residual + STEP).min(longest)) * residual_layout(config).bytes() as u64
}

/// Slots per KV head in which what is far is gathered, one layer after the other.
fn far_slots(needs: &Needs, longest: u32) -> u64 {
    match needs.recall {
        Some(sizes) if longest > sizes.local => sizes.far(needs.sinks).into(),
        _ => 0,
    }
}

/// What a policy sees of the model: its global layers.
pub fn policy_shape(config: &Config) -> Shape {
    let layers = (0..config.layers).filter(|l| !config.is_sliding(*l)).count();
    Shape { layers, heads: config.heads, kv_heads: config.kv_heads, head_dim: config.head_dim }
}

/// Bytes that `tokens` take under `full` with the f16 codec.
pub fn full_bytes(config: &Config, tokens: u32) -> u64 {
    let slot =
        SlotLayout { codec: Codec::F16.into(), head_dim: config.head_dim, column: false }.bytes() as u64;
    let window = config.sliding.map_or(0, |s| (s.window as u32).saturating_add(SLIDE)).min(tokens);
    let global = policy_shape(config).strips() as u64;
    let sliding = (config.layers * config.kv_heads) as u64 - global;
    slot * (global * u64::from(tokens) + sliding * u64::from(window))
}

impl Layout {
    /// An empty strip with its cap.
    pub(crate) fn head(&self, config: &Config, policy_layer: Option<usize>, kv_head: usize) -> Result<Head> {
        let at = |l: usize| l * config.kv_heads + kv_head;
        let cap = policy_layer.map_or(self.sliding_cap, |l| self.caps[at(l)]);
        let column = matches!(self.needs.column, Column::Running { .. } | Column::Surprisal);
        let layout = SlotLayout {
            codec: self.codec,
            head_dim: config.head_dim,
            column: column && policy_layer.is_some(),
        };
        // strips that share their slots may each grow to all of the layer's
        let most = match (policy_layer, self.pooled) {
            (Some(l), Some(_)) => self.caps[l * config.kv_heads..][..config.kv_heads].iter().sum(),
            _ => cap,
        };
        let ring = match self.needs.column {
            Column::LastRows { rows } if policy_layer.is_some() => {
                Some(Ring::new(rows as usize, config.heads / config.kv_heads * config.head_dim))
            }
            _ => None,
        };
        let keep = policy_layer.and_then(|l| self.keeps.as_ref().map(|k| k[at(l)]));
        let side = match self.needs.fate {
            Fate::Merge { weighted } if policy_layer.is_some() => Some(Side::new(config.head_dim, weighted)),
            _ => None,
        };
        let residual = match policy_layer {
            Some(_) if self.residual > 0 => {
                let slots = (self.residual + STEP).min(self.longest.max(STEP)) as usize;
                Some(Residual { strip: Strip::new(residual_layout(config), slots)?, slots: self.residual })
            }
            _ => None,
        };
        let mut head = Head::new(Strip::new(layout, most as usize)?, cap, keep);
        (head.ring, head.side, head.residual) = (ring, side, residual);
        Ok(head)
    }
}

//! The KV memory of one sequence: a strip per layer and KV head, caps that are never passed, eviction by policy.

use crate::bill::{Bill, HeadBill};
use crate::cold::Cold;
use crate::layout::{Layout, StateKey};
use crate::ledger::Ledger;
use crate::residual::Residual;
use crate::ring::Ring;
use crate::side::Side;
use eunoe_core::Result;
use eunoe_kernels::attend::{LastRows, last_rows};
use eunoe_kernels::rope::Rope;
use eunoe_kernels::strip::Strip;
use eunoe_kernels::{Isa, Pool};
use eunoe_kv::select::{self, Pooled};
use eunoe_kv::{Blocks, Column, Needs, Place, Plan, Policy};
use eunoe_model::Config;
use serde::{Deserialize, Serialize};

/// One strip and its account.
pub(crate) struct Head {
    pub(crate) strip: Strip,
    pub(crate) cap: u32,
    /// What the strip is trimmed to when the prompt ends (`prefill=dense`).
    pub(crate) keep: Option<u32>,
    pub(crate) ring: Option<Ring>,
    /// The newest slots in full precision.
    pub(crate) residual: Option<Residual>,
    /// Where evicted slots are folded.
    pub(crate) side: Option<Side>,
    pub(crate) seen: u64,
    pub(crate) evicted: u64,
}

impl Head {
    pub(crate) fn new(strip: Strip, cap: u32, keep: Option<u32>) -> Self {
        Self { strip, cap, keep, ring: None, residual: None, side: None, seen: 0, evicted: 0 }
    }

    /// Hot bytes now.
    fn bytes(&self) -> u64 {
        let newest = self.residual.as_ref().map_or(0, |r| r.strip.bytes());
        (self.strip.bytes() + newest) as u64 + self.side.as_ref().map_or(0, Side::bytes)
    }
}

/// The strips of one layer.
pub(crate) struct LayerKv {
    pub(crate) heads: Vec<Head>,
    /// The layer's number among those a policy acts on; `None` for a sliding layer.
    pub(crate) policy_layer: Option<usize>,
}

/// The KV memory of one sequence.
pub struct Kv {
    pub(crate) layers: Vec<LayerKv>,
    pub(crate) needs: Needs,
    pub(crate) window: Option<u32>,
    pub(crate) policy: Box<dyn Policy>,
    /// Tokens of the prompt.
    pub(crate) prompt: u32,
    /// Where old slots wait that may come back.
    pub(crate) cold: Option<Cold>,
    /// `Some(floor)`: the strips of a layer share one cap.
    pub(crate) pooled: Option<f32>,
    pub(crate) ledger: Ledger,
    /// When its state can be that of another sequence.
    pub(crate) key: Option<StateKey>,
    plan_asked: String,
    plan_used: String,
    budget_bytes: Option<u64>,
    mode: &'static str,
    /// Evictions that saw mass, and the sum of the shares they dropped.
    pub(crate) dropped: (u64, f64),
    /// Keys that rows met, and those that they would have met under full memory.
    pub(crate) met: Met,
    /// Positions given out so far.
    pub(crate) next: u32,
    /// Bytes that it began with.
    pub(crate) reused: u64,
    scratch: Scratch,
}

/// Keys that rows met.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Met {
    keys: u64,
    all: u64,
    rows: u64,
}

impl Met {
    /// Rows from position `pos` on, of which the first meets `first` keys and itself, and each one more.
    pub(crate) fn add(&mut self, rows: usize, first: usize, pos: u32) {
        let (n, own) = (rows as u64, rows as u64 * (rows as u64 + 1) / 2);
        self.keys += n * first as u64 + own;
        self.all += n * u64::from(pos) + own;
        self.rows += n;
    }

    fn share(self) -> f64 {
        if self.all == 0 { 1.0 } else { self.keys as f64 / self.all as f64 }
    }

    /// Keys that a row met, mean.
    fn mean(self) -> f64 {
        self.keys as f64 / self.rows.max(1) as f64
    }
}

#[derive(Default)]
struct Scratch {
    pos: Vec<u32>,
    column: Vec<f32>,
    score: Vec<f32>,
    list: Vec<u32>,
}

impl Kv {
    /// Reserves the strips of a sequence; pages come as it grows.
    ///
    /// # Errors
    /// [`Error::Limit`] when address space cannot be had.
    pub fn new(config: &Config, plan: &Plan, layout: Layout) -> Result<Self> {
        let mut policy_layers = 0;
        let mut layers = Vec::with_capacity(config.layers);
        for l in 0..config.layers {
            let policy_layer = (!config.is_sliding(l)).then(|| {
                policy_layers += 1;
                policy_layers - 1
            });
            let heads =
                (0..config.kv_heads).map(|h| layout.head(config, policy_layer, h)).collect::<Result<_>>()?;
            layers.push(LayerKv { heads, policy_layer });
        }
        let mode = match layout.needs {
            Needs { keep: Some(_), .. } => "dense",
            Needs { recall: Some(_), .. } => "recall",
            Needs { view: None, .. } if layout.keeps_all => "full",
            _ if layout.keeps_all => "sparse",
            _ => "streaming",
        };
        let plan_used = Plan { codec: Some(layout.codec), ..plan.clone() }.to_string();
        let (most, key) = (layout.most_bytes(), layout.key());
        let cold = layout.cold(config, &std::env::temp_dir())?;
        let mut ledger = Ledger::new(layout.budget_bytes.map_or(most, |b| b.min(most)));
        ledger.take(cold.as_ref().map_or(0, Cold::far_bytes))?;
        ledger.take(
            layers.iter().flat_map(|l| &l.heads).filter_map(|h| h.side.as_ref()).map(Side::bytes).sum(),
        )?;
        Ok(Self {
            layers,
            needs: layout.needs,
            window: config.sliding.map(|s| s.window as u32),
            policy: layout.policy,
            prompt: layout.prompt,
            cold,
            pooled: layout.pooled,
            ledger,
            key,
            plan_asked: plan.text.clone(),
            plan_used,
            budget_bytes: layout.budget_bytes.or(plan.budget.map(|_| most)),
            mode,
            dropped: (0, 0.0),
            met: Met::default(),
            next: 0,
            reused: 0,
            scratch: Scratch::default(),
        })
    }

    /// Rows stored so far.
    pub fn seen(&self) -> u32 {
        self.next
    }

    /// What the policy declared.
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// The account of hot bytes.
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }

    /// Most bytes of this machine's memory that it can come to hold while it reads `rows` more rows: hot ones up to its cap, and
    /// a cold tier that is not on disk.
    pub(crate) fn most_after(&self, rows: usize) -> u64 {
        let heads = self.layers.iter().flat_map(|layer| &layer.heads);
        let row: usize = heads
            .map(|head| {
                let newest = head.residual.as_ref().map_or(0, |r| r.strip.layout().bytes());
                head.strip.layout().bytes() + newest
            })
            .sum();
        let more = (row * rows) as u64;
        let cold = self.cold.as_ref().filter(|cold| !cold.sizes.disk).map_or(0, |cold| cold.bytes + more);
        self.ledger.cap.min(self.ledger.live + more) + cold
    }

    /// Drops what no row of a layer from `next` on sees.
    pub(crate) fn retire(&mut self, layer: usize, next: u32) {
        let policy_layer = self.layers[layer].policy_layer.unwrap_or(0);
        for (h, head) in self.layers[layer].heads.iter_mut().enumerate() {
            let gone = self.policy.retire(policy_layer, h, next);
            let slots = (0..head.strip.len() as u32).filter(|s| gone.contains(&head.strip.pos(*s as usize)));
            self.scratch.list.clear();
            if !gone.is_empty() {
                self.scratch.list.extend(slots);
            }
            drop_slots(head, &mut self.ledger, &self.scratch.list);
        }
    }

    /// Rows of a block for which the policy says what they see in this layer.
    pub(crate) fn views(&self, layer: usize) -> Option<Blocks> {
        let recall = self.needs.recall.map(|sizes| Blocks { prompt: sizes.pass, answer: 1 });
        self.needs.view.or(recall).filter(|_| self.layers[layer].policy_layer.is_some())
    }

    /// Whether every strip has room for so many rows more, so that nothing is evicted or slides.
    pub(crate) fn only_grows(&self, rows: usize) -> bool {
        self.layers.iter().flat_map(|l| &l.heads).all(|head| head.strip.len() + rows <= head.cap as usize)
    }

    /// Number of strips.
    pub(crate) fn strips(&self) -> usize {
        self.layers.iter().map(|layer| layer.heads.len()).sum()
    }

    /// The strip of a layer and KV head.
    ///
    /// # Panics
    /// When there is none.
    pub fn strip(&self, layer: usize, kv_head: usize) -> &Strip {
        &self.layers[layer].heads[kv_head].strip
    }

    /// Books rows that are about to enter a strip.
    pub(crate) fn book(&mut self, layer: usize, head: usize, rows: usize) -> Result<()> {
        let head = &mut self.layers[layer].heads[head];
        let newest = head.residual.as_ref().map_or(0, |r| r.strip.layout().bytes());
        self.ledger.take((rows * (head.strip.layout().bytes() + newest)) as u64)?;
        head.seen += rows as u64;
        Ok(())
    }

    /// Whether every slot is as it was written, so that a part of them is what fewer tokens would have left.
    pub(crate) fn is_plain(&self) -> bool {
        let is_whole = |h: &Head| h.evicted == 0 && h.residual.is_none();
        self.key.as_ref().is_some_and(StateKey::is_plain)
            && self.layers.iter().flat_map(|l| &l.heads).all(is_whole)
    }

    /// Drops the rows from position `to` on; `false` where what stays would not be what it was.
    pub(crate) fn rewind(&mut self, to: u32) -> bool {
        if !self.is_plain() || to > self.next {
            return false;
        }
        for head in self.layers.iter_mut().flat_map(|l| &mut l.heads) {
            let gone = head.strip.len() - to as usize;
            head.strip.truncate(to as usize);
            head.seen -= gone as u64;
            self.ledger.give((gone * head.strip.layout().bytes()) as u64);
        }
        self.ledger.peak = self.ledger.live;
        self.met_all(to);
        true
    }

    /// Books that the first `rows` rows met all before them.
    pub(crate) fn met_all(&mut self, rows: u32) {
        self.met = Met::default();
        let strips =
            self.layers.iter().filter(|l| l.policy_layer.is_some()).map(|l| l.heads.len()).sum::<usize>();
        (0..strips).for_each(|_| self.met.add(rows as usize, 0, 0));
        self.next = rows;
    }

    /// Whether the plan never forgets anything.
    pub(crate) fn is_full(&self) -> bool {
        self.mode == "full"
    }

    /// Drops slots that position `next` and later ones do not see.
    pub(crate) fn slide(&mut self, layer: usize, head: usize, next: u32) {
        let window = self.window.unwrap_or(u32::MAX);
        let head = &mut self.layers[layer].heads[head];
        let gone =
            (0..head.strip.len()).take_while(|i| head.strip.pos(*i).saturating_add(window) <= next).count();
        self.scratch.list.clear();
        self.scratch.list.extend(0..gone as u32);
        drop_slots(head, &mut self.ledger, &self.scratch.list);
    }

    /// Makes room for at least `step` rows in one strip: `count` slots go.
    pub(crate) fn evict(&mut self, on: &On<'_>, layer: usize, head: usize, count: usize) -> Result<()> {
        let now = self.newest_pos(layer, head);
        let mut scratch = std::mem::take(&mut self.scratch);
        self.scores(on, layer, head, now, &mut scratch);
        let outcome = select::evict(&self.needs, &scratch.score, &scratch.pos, now, count, &mut scratch.list);
        if outcome.is_ok() {
            self.note_mass(&scratch.column, &scratch.list);
            drop_slots(&mut self.layers[layer].heads[head], &mut self.ledger, &scratch.list);
        }
        self.scratch = scratch;
        outcome
    }

    /// Makes room in a layer whose strips share their slots: `count` slots go in all.
    pub(crate) fn evict_pooled(&mut self, on: &On<'_>, layer: usize, floor: f32, count: usize) -> Result<()> {
        let heads = self.layers[layer].heads.len();
        let now = self.newest_pos(layer, 0);
        let mut each: Vec<Scratch> = (0..heads).map(|_| Scratch::default()).collect();
        for (h, scratch) in each.iter_mut().enumerate() {
            self.scores(on, layer, h, now, scratch);
        }
        let part = |h: usize| self.layers[layer].heads[h].cap;
        let strips: Vec<Pooled<'_>> = each
            .iter()
            .enumerate()
            .map(|(h, s)| Pooled { scores: &s.score, pos: &s.pos, part: part(h) })
            .collect();
        let mut lists = vec![Vec::new(); heads];
        select::evict_pooled(&self.needs, &strips, now, floor, count, &mut lists)?;
        for (h, list) in lists.iter().enumerate() {
            self.note_mass(&each[h].column, list);
            drop_slots(&mut self.layers[layer].heads[h], &mut self.ledger, list);
        }
        Ok(())
    }

    /// Trims every strip to what `prefill=dense` keeps, once the prompt is read.
    ///
    /// # Errors
    /// None that the caps do not rule out.
    pub(crate) fn end_prompt(&mut self, on: &On<'_>) -> Result<()> {
        for layer in 0..self.layers.len() {
            let heads = &self.layers[layer].heads;
            let over: Vec<usize> = heads
                .iter()
                .map(|h| h.keep.map_or(0, |k| h.strip.len().saturating_sub(k as usize)))
                .collect();
            let total: usize = over.iter().sum();
            match self.pooled {
                Some(floor) if total > 0 => {
                    // floors are shares of what is kept
                    let heads = &mut self.layers[layer].heads;
                    let caps: Vec<u32> = heads.iter().map(|h| h.cap).collect();
                    heads.iter_mut().for_each(|h| h.cap = h.keep.unwrap_or(h.cap));
                    self.evict_pooled(on, layer, floor, total)?;
                    self.layers[layer].heads.iter_mut().zip(caps).for_each(|(h, cap)| h.cap = cap);
                }
                _ => {
                    for (h, count) in over.into_iter().enumerate().filter(|(_, count)| *count > 0) {
                        self.evict(on, layer, h, count)?;
                    }
                }
            }
            if self.needs.evicts_in_decode {
                self.layers[layer].heads.iter_mut().for_each(|h| h.cap = h.keep.unwrap_or(h.cap));
            }
        }
        Ok(())
    }

    /// Writes the surprisal of the rows from position `first` on into their slots.
    pub(crate) fn set_surprisal(&mut self, first: u32, surprisal: &[f32]) {
        let global = self.layers.iter_mut().filter(|l| l.policy_layer.is_some());
        for head in global.flat_map(|l| &mut l.heads) {
            for slot in (0..head.strip.len()).rev() {
                let pos = head.strip.pos(slot);
                let Some(s) = pos.checked_sub(first).and_then(|i| surprisal.get(i as usize)) else { break };
                head.strip.set_column(slot, *s);
            }
        }
    }

    /// The account of this sequence.
    pub fn bill(&self) -> Bill {
        let mut heads = Vec::new();
        for (layer, l) in self.layers.iter().enumerate() {
            let cold = self.cold.as_ref().zip(l.policy_layer).map_or(0, |(cold, layer)| cold.slots(layer));
            for (kv_head, h) in l.heads.iter().enumerate() {
                heads.push(HeadBill {
                    layer,
                    kv_head,
                    seen: h.seen,
                    kept: h.strip.len() as u64,
                    evicted: h.evicted - cold,
                    cold,
                    bytes: h.bytes(),
                    sliding: l.policy_layer.is_none(),
                });
            }
        }
        let sum = |of: fn(&HeadBill) -> u64| heads.iter().filter(|h| !h.sliding).map(of).sum();
        let rings = self.layers.iter().flat_map(|l| &l.heads).filter_map(|h| h.ring.as_ref());
        let sees_mass = matches!(self.needs.column, Column::Running { .. } | Column::LastRows { .. });
        Bill {
            plan_asked: self.plan_asked.clone(),
            plan_used: self.plan_used.clone(),
            mode: self.mode,
            budget_bytes: self.budget_bytes,
            peak_bytes: self.ledger.peak,
            live_bytes: self.ledger.live,
            cold_bytes: self.cold.as_ref().map_or(0, |cold| cold.bytes),
            reused_bytes: self.reused,
            returned_bytes: self.cold.as_ref().map_or(0, |cold| cold.returned),
            metadata_bytes: rings.map(|r| r.bytes() as u64).sum::<u64>()
                + self.cold.as_ref().map_or(0, Cold::key_bytes),
            step: self.needs.step,
            sinks: self.needs.sinks,
            recent: self.needs.recent,
            seen: sum(|h| h.seen),
            kept: sum(|h| h.kept),
            evicted: sum(|h| h.evicted),
            cold: sum(|h| h.cold),
            attended: self.met.share(),
            attended_tokens: self.met.mean(),
            mass_evicted: sees_mass.then(|| self.dropped.1 / self.dropped.0.max(1) as f64),
            escalated: Vec::new(),
            heads,
        }
    }

    /// Position of the newest row in a strip.
    fn newest_pos(&self, layer: usize, head: usize) -> u32 {
        let strip = &self.layers[layer].heads[head].strip;
        strip.len().checked_sub(1).map_or(0, |last| strip.pos(last))
    }

    /// Positions, columns and scores of a strip, into `scratch`.
    fn scores(&self, on: &On<'_>, layer: usize, kv_head: usize, now: u32, scratch: &mut Scratch) {
        let l = &self.layers[layer];
        let head = &l.heads[kv_head];
        let Scratch { pos, column, score, .. } = scratch;
        pos.clear();
        column.clear();
        head.strip.positions(pos);
        match (self.needs.column, &head.ring) {
            (Column::None, _) => {}
            (Column::LastRows { .. }, Some(ring)) => {
                column.resize(pos.len(), 0.0);
                let last = LastRows {
                    strip: &head.strip,
                    q: ring.queries(),
                    pos: ring.positions(),
                    scale: on.scale,
                    fold: self.needs.fold,
                    rank: on.rank(&self.needs),
                };
                last_rows(on.isa, on.pool, &last, column);
            }
            _ => head.strip.columns(column),
        }
        score.clear();
        score.resize(pos.len(), 0.0);
        let policy_layer = l.policy_layer.unwrap_or(0);
        self.policy.score(policy_layer, kv_head, eunoe_kv::Strip { pos, column }, now, score);
    }

    fn note_mass(&mut self, column: &[f32], list: &[u32]) {
        let total: f64 = column.iter().map(|m| f64::from(*m)).sum();
        if total > 0.0 && !list.is_empty() {
            let gone: f64 = list.iter().map(|i| f64::from(column[*i as usize])).sum();
            self.dropped.0 += 1;
            self.dropped.1 += gone / total;
        }
    }
}

pub(crate) fn drop_slots(head: &mut Head, ledger: &mut Ledger, list: &[u32]) {
    if let Some(side) = &mut head.side {
        side.fold(&head.strip, list);
    }
    head.strip.evict(list);
    head.evicted += list.len() as u64;
    ledger.give((list.len() * head.strip.layout().bytes()) as u64);
}

/// What attention over strips runs on.
pub(crate) struct On<'a> {
    pub(crate) isa: Isa,
    pub(crate) pool: &'a Pool,
    pub(crate) rope: &'a Rope,
    pub(crate) scale: f32,
}

impl<'a> On<'a> {
    pub(crate) fn rank(&self, needs: &Needs) -> Option<&'a Rope> {
        (needs.place == Place::Rank).then_some(self.rope)
    }
}

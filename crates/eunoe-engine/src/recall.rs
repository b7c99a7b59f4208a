//! Attention to the newest slots and to what returns from the cold tier, as one softmax; and how slots get there.

use std::ops::Range;

use crate::batch::Batch;
use crate::cold::Cold;
use crate::side::merge;
use crate::store::{Kv, On, drop_slots};
use eunoe_core::{Error, Result};
use eunoe_kernels::attend::{Heads, RecordRun, Rule, Run, attend, record};
use eunoe_kernels::rope::Rope;
use eunoe_kernels::strip::Strip;
use eunoe_kv::recall::Likeness;
use eunoe_kv::{Column, Pos};

/// Turns heads `[.., head_dim]` on by `delta` positions.
fn turn(rope: &Rope, heads: &mut [f32], head_dim: usize, delta: i64) {
    if delta != 0 {
        let mut angles = vec![0.0; rope.dims()];
        rope.shift(delta, &mut angles);
        heads.chunks_exact_mut(head_dim).for_each(|head| rope.rotate(head, &angles));
    }
}

impl Kv {
    /// Before the row at `next` is stored: blocks that no row sees as new any more leave the strips of a layer.
    ///
    /// # Errors
    /// Those of the cold tier.
    pub(crate) fn spill(&mut self, rope: &Rope, layer: usize, next: Pos) -> Result<()> {
        let (Some(cold), Some(l)) = (&mut self.cold, self.layers[layer].policy_layer) else { return Ok(()) };
        let is_grouped = cold.sizes.grouped.is_some();
        let end = if is_grouped { next } else { (next + 1).saturating_sub(cold.sizes.local) };
        let ends = self.policy.recall().map_or_else(Vec::new, |recall| recall.blocks(end));
        cold.cut(self.needs.sinks, &ends)?;
        for block in cold.waiting(l) {
            let pos = cold.blocks[block].clone();
            for (h, head) in self.layers[layer].heads.iter_mut().enumerate() {
                let slots: Vec<u32> = (0..head.strip.len() as u32)
                    .filter(|s| pos.contains(&head.strip.pos(*s as usize)))
                    .collect();
                if slots.len() != pos.len() {
                    return Err(Error::Invalid(format!("a block of {pos:?} is not whole in its strip")));
                }
                let stand = match cold.sizes.landmark() {
                    Some(_) => slots[slots.len() - 1..].to_vec(),
                    None => most_attended(&head.strip, &slots, cold.sizes.keys as usize),
                };
                let mut key = unplaced(rope, &head.strip, &slots, &stand, &mut cold.far[h]);
                if is_grouped {
                    let d = key.len();
                    turn(rope, &mut key, d, i64::from(pos.end) - 1);
                }
                cold.spill(l, h, &key)?;
                drop_slots(head, &mut self.ledger, &slots);
            }
        }
        Ok(())
    }

    /// Tells the policy how surprising the rows of a pass were.
    pub(crate) fn surprised(&mut self, rope: &Rope, first: Pos, surprisal: &[f32]) {
        let keys = Keys { layers: &self.layers, rope };
        if let Some(recall) = self.policy.recall() {
            recall.surprised(first, surprisal, &keys);
        }
    }
}

/// The `count` slots with the highest column, of equals the lower.
fn most_attended(strip: &Strip, slots: &[u32], count: usize) -> Vec<u32> {
    let mut order = slots.to_vec();
    let column = |slot: &u32| strip.column(*slot as usize);
    order.sort_by(|a, b| column(b).total_cmp(&column(a)).then(a.cmp(b)));
    order.truncate(count);
    order
}

/// Copies slots to `to` with their keys turned back to position 0; gives the mean key of those that stand for them.
fn unplaced(rope: &Rope, strip: &Strip, slots: &[u32], stand: &[u32], to: &mut Strip) -> Vec<f32> {
    let d = strip.layout().head_dim;
    let (mut k, mut v, mut mean) = (vec![0.0; d], vec![0.0; d], vec![0.0; d]);
    to.reset();
    for slot in slots {
        place(rope, strip, *slot as usize, 0, (&mut k, &mut v));
        to.push(&k, &v, strip.pos(*slot as usize));
        if stand.contains(slot) {
            mean.iter_mut().zip(&k).for_each(|(mean, k)| *mean += k / stand.len() as f32);
        }
    }
    mean
}

/// The key of a slot as if it stood at position `at`, and its value.
fn place(rope: &Rope, strip: &Strip, slot: usize, at: Pos, (k, v): (&mut [f32], &mut [f32])) {
    strip.read_k(slot, k);
    strip.read_v(slot, v);
    let d = k.len();
    turn(rope, k, d, i64::from(at) - i64::from(strip.pos(slot)));
}

/// Keys of the later layers, for policies that compare them.
struct Keys<'a> {
    layers: &'a [crate::store::LayerKv],
    rope: &'a Rope,
}

impl Likeness for Keys<'_> {
    fn of(&self, pos: Range<Pos>) -> Vec<f32> {
        let global: Vec<_> = self.layers.iter().filter(|l| l.policy_layer.is_some()).collect();
        let (n, mut sums) = (pos.len(), vec![0.0; pos.len() * pos.len()]);
        for head in global[global.len() * 5 / 8..].iter().flat_map(|l| &l.heads) {
            let d = head.strip.layout().head_dim;
            let slots: Vec<usize> =
                (0..head.strip.len()).filter(|s| pos.contains(&head.strip.pos(*s))).collect();
            if slots.len() != n {
                return Vec::new();
            }
            let (mut keys, mut v) = (vec![0.0; n * d], vec![0.0; d]);
            for (key, slot) in keys.chunks_exact_mut(d).zip(slots) {
                place(self.rope, &head.strip, slot, 0, (key, &mut v));
            }
            for (i, a) in keys.chunks_exact(d).enumerate() {
                for (j, b) in keys.chunks_exact(d).enumerate() {
                    sums[i * n + j] += a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
                }
            }
        }
        sums
    }
}

impl Batch<'_> {
    /// Attention of `rows`, which all strips of the layer have stored from slot `first` on, near and far.
    ///
    /// # Errors
    /// Those of the cold tier; [`Error::Invalid`] for blocks that are too many or none.
    pub(crate) fn look_back(
        &mut self,
        layer: usize,
        part: usize,
        (rows, first): (Range<usize>, &[usize]),
        q: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        let (on, c) = (&self.on, self.config);
        let part = &mut self.parts[part];
        let kv = &mut *part.kv;
        let (stride, group) = (c.heads * c.head_dim, c.heads / c.kv_heads);
        let start = kv.next + (rows.start - part.rows.start) as u32;
        let Some(cold) = &mut kv.cold else { return Ok(()) };
        let local = cold.sizes.local;
        let shape = Heads { heads: c.heads, group, scale: on.scale };
        let near = kv.layers[layer].heads.iter().zip(first).enumerate().map(|(h, (head, first))| Run {
            window: Some(local),
            ..Run::new(&head.strip, rows.clone(), *first, h * group)
        });
        attend(on.isa, on.pool, &near.collect::<Vec<_>>(), shape, q, out, Some(&mut self.lse));
        // rows before this one see nothing that is far
        let from = rows.start + (local.saturating_sub(start) as usize).min(rows.len());
        let mut far_q = q[rows.start * stride..rows.end * stride].to_vec();
        for (row, q) in far_q.chunks_exact_mut(stride).enumerate().filter(|_| !cold.sizes.own) {
            turn(on.rope, q, c.head_dim, i64::from(local) - 1 - i64::from(start) - row as i64);
        }
        let l = kv.layers[layer].policy_layer.unwrap_or(0);
        let back = match kv.policy.recall().filter(|_| !cold.blocks.is_empty()) {
            Some(recall) => {
                let likeness = cold.likeness(l, &mean_query(&far_q, c.kv_heads, c.head_dim, stride));
                recall.choose(l, &likeness, &cold.blocks)
            }
            None => Vec::new(),
        };
        check(&back, cold)?;
        if from < rows.end {
            for h in 0..c.kv_heads {
                let newest = start + rows.len() as u32 - 1;
                gather_far(on, cold, &kv.layers[layer].heads[h].strip, (l, h), &back, newest - local)?;
            }
            let (seen, skip) = (rows.end - from, from - rows.start);
            let far = cold
                .far
                .iter()
                .enumerate()
                .map(|(h, strip)| Run::new(strip, skip..rows.len(), strip.len() - seen, h * group));
            let (mut far_out, mut far_lse) = (vec![0.0; far_q.len()], vec![0.0; rows.len() * c.heads]);
            attend(
                on.isa,
                on.pool,
                &far.collect::<Vec<_>>(),
                shape,
                &far_q,
                &mut far_out,
                Some(&mut far_lse),
            );
            for at in skip * c.heads..rows.len() * c.heads {
                let to = rows.start * c.heads + at;
                let (head, far) = (to * c.head_dim, &far_out[at * c.head_dim..][..c.head_dim]);
                self.lse[to] = merge(&mut out[head..head + c.head_dim], self.lse[to], far, far_lse[at]);
            }
        }
        let came: usize = back.iter().map(|b| cold.blocks[*b as usize].len()).sum();
        first.iter().for_each(|first| kv.met.add(rows.len(), first + came, start));
        if let Column::Running { decay } = kv.needs.column {
            let rule = Rule { decay, fold: kv.needs.fold };
            let heads = kv.layers[layer].heads.iter_mut().zip(first).enumerate();
            let mut records: Vec<RecordRun<'_>> = heads
                .map(|(h, (head, first))| RecordRun {
                    strip: &mut head.strip,
                    rows: rows.clone(),
                    first: *first,
                    head: h * group,
                    window: Some(local),
                    rank: None,
                })
                .collect();
            record(on.isa, on.pool, &mut records, shape, q, &self.lse, rule);
        }
        Ok(())
    }
}

/// Mean over rows of the sum over each group: `[kv_heads, head_dim]`.
fn mean_query(q: &[f32], kv_heads: usize, head_dim: usize, stride: usize) -> Vec<f32> {
    let mut mean = vec![0.0; kv_heads * head_dim];
    let group = stride / mean.len();
    for (i, head) in q.chunks_exact(head_dim).enumerate() {
        let kv_head = i % (group * kv_heads) / group;
        mean[kv_head * head_dim..][..head_dim].iter_mut().zip(head).for_each(|(mean, q)| *mean += q);
    }
    let rows = (q.len() / stride) as f32;
    mean.iter_mut().for_each(|q| *q /= rows);
    mean
}

/// Fills the far strip of a KV head: sinks, blocks that come back, and what is in no block, up to position `newest`.
fn gather_far(
    on: &On<'_>,
    cold: &mut Cold,
    strip: &Strip,
    (layer, h): (usize, usize),
    back: &[u32],
    newest: Pos,
) -> Result<()> {
    let d = strip.layout().head_dim;
    let (mut k, mut v) = (vec![0.0; d], vec![0.0; d]);
    let own = cold.sizes.own;
    let first_cold = cold.blocks.first().map_or(u32::MAX, |block| block.start);
    cold.far[h].reset();
    let mut brought = false;
    for slot in 0..strip.len() {
        let pos = strip.pos(slot);
        if !brought && (pos >= first_cold || pos > newest) {
            brought = true;
            let at = cold.far[h].len();
            cold.bring_back(layer, h, back)?;
            if own {
                replace_keys(on.rope, &mut cold.far[h], at);
            }
        }
        if pos > newest {
            break;
        }
        place(on.rope, strip, slot, if own { pos } else { 0 }, (&mut k, &mut v));
        cold.far[h].push(&k, &v, pos);
    }
    Ok(())
}

/// Turns keys that stand at position 0, from slot `from` on, to their own positions.
pub(crate) fn replace_keys(rope: &Rope, far: &mut Strip, from: usize) {
    let d = far.layout().head_dim;
    let turned: Vec<(Vec<f32>, Vec<f32>, Pos)> = (from..far.len())
        .map(|slot| {
            let (mut k, mut v) = (vec![0.0; d], vec![0.0; d]);
            far.read_k(slot, &mut k);
            far.read_v(slot, &mut v);
            turn(rope, &mut k, d, i64::from(far.pos(slot)));
            (k, v, far.pos(slot))
        })
        .collect();
    far.truncate(from);
    turned.iter().for_each(|(k, v, pos)| far.push(k, v, *pos));
}

/// Blocks that come back exist, ascend and fit.
pub(crate) fn check(back: &[u32], cold: &Cold) -> Result<()> {
    let exist = back.iter().all(|b| (*b as usize) < cold.blocks.len());
    if !exist || !back.is_sorted_by(|a, b| a < b) {
        return Err(Error::Invalid("blocks to bring back that are none, or out of order".into()));
    }
    let slots: u64 = back.iter().map(|b| cold.blocks[*b as usize].len() as u64).sum();
    if slots > u64::from(cold.sizes.slots) {
        let hint = "a policy that brings back more than it asked room for: please report this".into();
        return Err(Error::Limit {
            what: "slots to bring back".into(),
            asked: slots,
            have: cold.sizes.slots.into(),
            hint,
        });
    }
    Ok(())
}

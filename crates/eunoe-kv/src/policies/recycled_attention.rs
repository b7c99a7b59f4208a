//! Keeps the whole text, but reads all of it only now and then: in between each row reads the slots that the last full
//! row attended to most.
//!
//! * Paper:    Xu et al., 2024, arXiv 2411.05787 (later: RefreshKV), section 3
//! * Equation: full row: C = top k of maxpool₇(max over the group of attn\[q\]); others: softmax over C and the newest
//! * Shapes:   the row's queries \[heads, d\] and its attention \[t\] → slots \[k\], per layer and KV head
//! * Cost:     attention of n / every + k slots a token; a full row scores keys twice; no memory is saved
//! * Differs:  the first row of the answer is a full one (paper: the list comes from the prompt's last row); the cosine
//!   is taken of rotated queries; a prompt is read whole
//! * Oracle:   top k of the pooled attention, and the list's life, step by step

use eunoe_core::{Arg, Card, Fold, Kind, Shelf};

use crate::common::{COUNT, arg};
use crate::{Blocks, Claim, Keys, Look, Needs, Policy, PolicyEntry, Pos, View};

/// Slots on either side over which attention is pooled.
const POOL: usize = 3;

const K: Arg = arg("k", COUNT, "slots/8", "slots that rows between full ones read");
const EVERY: Arg = arg("every", COUNT, "10", "steps after which a full row may come");
const SIMILARITY: Arg = arg(
    "similarity",
    Kind::Float { min: -1.0, max: 1.0 },
    "1",
    "no full row while the mean query's cosine with that of the last full row is at least this; 1: always one",
);

/// The method's entry.
pub static ENTRY: PolicyEntry = PolicyEntry {
    card: Card {
        id: "recycled_attention",
        shelf: Shelf::Policy,
        name: "Recycled Attention",
        paper: "Xu 2024, arXiv 2411.05787",
        idea: "forgets nothing, but reads most rows against the slots that the last full row looked at",
        args: &[K, EVERY, SIMILARITY],
    },
    make: |args, slots| {
        Ok(Box::new(Recycled {
            k: args.given_int("k").unwrap_or((slots / 8).max(1)) as usize,
            every: args.int("every"),
            similarity: args.float("similarity"),
            layers: Vec::new(),
        }))
    },
};

/// See the module.
#[derive(Clone, Debug)]
pub struct Recycled {
    k: usize,
    every: u32,
    similarity: f32,
    layers: Vec<Layer>,
}

/// What a layer remembers of its last full row.
#[derive(Clone, Debug, Default)]
struct Layer {
    /// Position of the first row that was looked at.
    start: Option<Pos>,
    /// Per KV head.
    lists: Vec<List>,
    /// Mean query over the heads of the last full row.
    mean: Vec<f32>,
}

/// Slots that are read between full rows.
#[derive(Clone, Debug, Default)]
struct List {
    /// Ascending.
    slots: Vec<u32>,
    /// Those of the last full row, the next to leave last.
    leaving: Vec<u32>,
}

impl List {
    /// The `k` slots of highest pooled attention.
    fn new(attn: &[f32], k: usize) -> Self {
        let mut pooled = attn.to_vec();
        for shift in 1..=POOL.min(attn.len().saturating_sub(1)) {
            pooled.iter_mut().zip(&attn[shift..]).for_each(|(most, later)| *most = later.max(*most));
            pooled[shift..].iter_mut().zip(attn).for_each(|(most, earlier)| *most = earlier.max(*most));
        }
        // Highest first, of equals the lower slot: attention is at least 0, so its bits are ordered as it is.
        let mut order: Vec<u64> = pooled
            .iter()
            .zip(0u32..)
            .map(|(a, slot)| u64::from(!a.to_bits()) << 32 | u64::from(slot))
            .collect();
        if k < order.len() {
            order.select_nth_unstable(k);
            order.truncate(k);
        }
        order.sort_unstable();
        let order: Vec<u32> = order.into_iter().map(|key| key as u32).collect();
        let mut slots = order.clone();
        slots.sort_unstable();
        Self { slots, leaving: order }
    }

    /// A new slot comes; the lowest of the last full row leaves, or when none is left the oldest.
    fn take(&mut self, slot: u32, k: usize) {
        if self.slots.len() >= k {
            let gone = self.leaving.pop().unwrap_or(self.slots[0]);
            self.slots.retain(|s| *s != gone);
        }
        self.slots.push(slot);
    }
}

impl Policy for Recycled {
    fn attended(&self, tokens: u32) -> Option<f64> {
        let (all, every) = (f64::from(tokens), f64::from(self.every));
        Some(all / every + (self.k as f64).min(all) * (1.0 - 1.0 / every))
    }

    fn needs(&self) -> Needs {
        Needs { view: Some(Blocks { prompt: u32::MAX, answer: 1 }), ..Needs::PLAIN }
    }

    fn claim(&self, _layer: usize, _kv_head: usize, _longest: u32) -> Claim {
        Claim::Whole
    }

    fn view(&mut self, look: &Look<'_>) -> Option<View> {
        if look.is_prompt {
            return None;
        }
        if self.layers.len() <= look.layer {
            self.layers.resize_with(look.layer + 1, Layer::default);
        }
        let (k, kv_heads, pos) = (self.k, look.shape.kv_heads, look.pos.start);
        let layer = &mut self.layers[look.layer];
        let mean = mean(look.q, look.shape.head_dim);
        let age = pos - *layer.start.get_or_insert(pos);
        let may = age.is_multiple_of(self.every);
        let drifted = self.similarity >= 1.0 || cosine(&mean, &layer.mean) < self.similarity;
        if look.store.len(0) <= k {
            layer.lists.clear();
            return None;
        }
        if layer.lists.is_empty() || (may && drifted) {
            let width = look.q.len() / kv_heads;
            layer.mean = mean;
            layer.lists = (0..kv_heads)
                .map(|h| {
                    let mut attn = vec![0.0; look.store.len(h)];
                    look.store.mass(h, &look.q[h * width..][..width], pos, Fold::Max, &mut attn);
                    List::new(&attn, k)
                })
                .collect();
            return None;
        }
        let heads = layer
            .lists
            .iter_mut()
            .enumerate()
            .map(|(h, list)| {
                let seen = Keys::List(list.slots.clone());
                list.take(look.store.len(h) as u32 - 1, k);
                seen
            })
            .collect();
        Some(View { heads })
    }
}

/// Mean over the heads of one row.
fn mean(q: &[f32], head_dim: usize) -> Vec<f32> {
    let mut mean = vec![0.0; head_dim];
    for head in q.chunks_exact(head_dim) {
        mean.iter_mut().zip(head).for_each(|(m, x)| *m += x);
    }
    mean
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_attended_slots_and_their_neighbours_are_read() {
        // Pooled over 3 on either side, slot 5's 0.6 reaches 2 … 8; of equals the lower slots come first.
        let mut attn = [0.01; 12];
        attn[5] = 0.6;
        let list = List::new(&attn, 4);
        assert_eq!(list.slots, [2, 3, 4, 5]);
        assert_eq!(List::new(&attn, 8).slots, [0, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn the_lowest_leaves_for_each_that_comes() {
        let mut attn = [0.0; 30];
        (attn[0], attn[20]) = (0.5, 0.9);
        // Pooled: 17 … 23 at 0.9, then 0 … 3 at 0.5: nine of them are 17 … 23, 0 and 1; 1 leaves first, then 0.
        let mut list = List::new(&attn, 9);
        assert_eq!(list.slots, [0, 1, 17, 18, 19, 20, 21, 22, 23]);
        list.take(30, 9);
        assert_eq!(list.slots, [0, 17, 18, 19, 20, 21, 22, 23, 30]);
        list.take(31, 9);
        assert_eq!(list.slots, [17, 18, 19, 20, 21, 22, 23, 30, 31]);
        (32..60).for_each(|slot| list.take(slot, 9));
        assert_eq!(list.slots, (51..60).collect::<Vec<_>>());
    }

    #[test]
    fn queries_that_point_the_same_way_are_similar() {
        assert!((cosine(&mean(&[1.0, 0.0, 0.0, 1.0], 2), &[2.0, 2.0]) - 1.0).abs() < 1e-6);
        assert!(cosine(&[1.0, 0.0], &[0.0, 3.0]).abs() < 1e-6);
    }
}

//! Attention in two levels: to the newest slots and to landmarks, and from a landmark to the slots of its block.

use std::ops::Range;

use crate::batch::Batch;
use crate::recall::{check, replace_keys};
use crate::side::merge;
use eunoe_core::Result;
use eunoe_kernels::attend::{Heads, Run, attend};

/// Gates of one KV head: scores of landmarks `[rows, group, blocks]`.
struct Gates {
    scores: Vec<f32>,
    blocks: usize,
}

impl Gates {
    fn new(q: &[&[f32]], keys: &[&[f32]], scale: f32, weights: &[f32]) -> Self {
        let score =
            |q: &[f32], key: &[f32]| q.iter().zip(key).fold(0.0, |sum, (q, k)| k.mul_add(*q, sum)) * scale;
        let scores =
            q.iter().flat_map(|q| keys.iter().zip(weights).map(|(key, weight)| score(q, key) + weight));
        Self { scores: scores.collect(), blocks: keys.len() }
    }

    /// Per block the most that any row and head gives it, of what they give to all.
    fn most(&self) -> Vec<f32> {
        let mut most = vec![0.0f32; self.blocks];
        for row in self.scores.chunks_exact(self.blocks) {
            let peak = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = row.iter().map(|s| (s - peak).exp()).sum();
            most.iter_mut().zip(row).for_each(|(most, s)| *most = most.max((s - peak).exp() / sum));
        }
        most
    }
}

impl Batch<'_> {
    /// Attention of `rows`, which all strips of the layer have stored from slot `first` on, in two levels.
    ///
    /// # Errors
    /// Those of the cold tier; [`Error::Invalid`](eunoe_core::Error::Invalid) for blocks that are too many or none.
    pub(crate) fn look_grouped(
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
        let group = c.heads / c.kv_heads;
        let start = kv.next + (rows.start - part.rows.start) as u32;
        let (Some(cold), Some(recall)) = (&mut kv.cold, kv.policy.recall()) else { return Ok(()) };
        let shape = Heads { heads: c.heads, group, scale: on.scale };
        let heads = &kv.layers[layer].heads;
        let run = |strip, rows: Range<usize>, first, h: usize, window| Run {
            window,
            ..Run::new(strip, rows, first, h * group)
        };
        // the row of a landmark does not see itself
        let has_landmark = cold.sizes.landmark_at(start + rows.len() as u32 - 1).is_some();
        let cut = rows.end - usize::from(has_landmark);
        let near = (0..c.kv_heads).flat_map(|h| {
            let rest = first[h] + (cut - rows.start);
            let runs = [(rows.start..cut, first[h]), (cut..rows.end, rest.saturating_sub(1))];
            runs.into_iter().filter(|r| !r.0.is_empty()).map(move |(rows, first)| (h, rows, first))
        });
        let near = near.map(|(h, rows, first)| run(&heads[h].strip, rows, first, h, None));
        attend(on.isa, on.pool, &near.collect::<Vec<_>>(), shape, q, out, Some(&mut self.lse));
        let l = kv.layers[layer].policy_layer.unwrap_or(0);
        let own = usize::from(cold.sizes.landmark().is_some());
        let weighted = own == 0 && cold.sizes.grouped.is_some_and(|grouped| grouped.weighted);
        let weights: Vec<f32> =
            cold.blocks.iter().map(|b| if weighted { (b.len() as f32).ln() } else { 0.0 }).collect();
        let (mut gates, mut chosen) = (Vec::new(), Vec::new());
        for h in 0..c.kv_heads {
            let at = |row: usize, g: usize| &q[(row * c.heads + h * group + g) * c.head_dim..][..c.head_dim];
            let queries: Vec<&[f32]> =
                rows.clone().flat_map(|row| (0..group).map(move |g| at(row, g))).collect();
            let of = Gates::new(&queries, &cold.keys(l, h, c.head_dim), on.scale, &weights);
            let back = if of.blocks == 0 { Vec::new() } else { recall.choose(l, &of.most(), &cold.blocks) };
            check(&back, cold)?;
            cold.far[h].reset();
            cold.bring_back(l, h, &back)?;
            replace_keys(on.rope, &mut cold.far[h], 0);
            kv.met.add(rows.len(), first[h] + cold.far[h].len(), start);
            chosen.push(back);
            gates.push(of);
        }
        let mut inside = vec![0.0; out.len()];
        for n in 0..chosen.iter().map(Vec::len).max().unwrap_or(0) {
            let mut runs = Vec::new();
            for h in (0..c.kv_heads).filter(|h| n < chosen[*h].len()) {
                let end: usize = chosen[h][..=n].iter().map(|b| cold.blocks[*b as usize].len()).sum();
                let window = Some((cold.blocks[chosen[h][n] as usize].len() - own) as u32);
                let last = end - 1 - own;
                runs.extend(rows.clone().map(|row| run(&cold.far[h], row..row + 1, last, h, window)));
            }
            attend(on.isa, on.pool, &runs, shape, q, &mut inside, None);
            for (i, row) in rows.clone().enumerate() {
                for h in (0..c.heads).filter(|h| n < chosen[h / group].len()) {
                    let of = &gates[h / group];
                    let gate = of.scores[(i * group + h % group) * of.blocks + chosen[h / group][n] as usize];
                    let at = row * c.heads + h;
                    let head = at * c.head_dim..(at + 1) * c.head_dim;
                    self.lse[at] = merge(&mut out[head.clone()], self.lse[at], &inside[head], gate);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_is_taken_over_heads_and_rows_of_shares() {
        // shares of row 1: 1/4, 3/4; of row 2: 4/5, 1/5
        let gates = Gates { scores: vec![0.0, 3f32.ln(), 9.0 + 4f32.ln(), 9.0], blocks: 2 };
        let most = gates.most();
        assert!((most[0] - 0.8).abs() < 1e-5 && (most[1] - 0.75).abs() < 1e-5, "{most:?}");
    }
}

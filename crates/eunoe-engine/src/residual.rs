//! The newest slots in full precision beside strips that quantise: a second strip holds them once more, and what rows see
//! of them comes from there.

use crate::batch::{Batch, Turn};
use crate::side::merge;
use crate::store::{Head, Kv};
use eunoe_kernels::attend::{Heads, Run, attend};
use eunoe_kernels::strip::Strip;

/// Rows after which slots leave the second strip together, so that a slot's place in it depends on positions alone.
pub(crate) const STEP: u32 = 64;

/// The newest slots of one strip.
pub(crate) struct Residual {
    pub(crate) strip: Strip,
    /// Slots that a row sees of it.
    pub(crate) slots: u32,
}

impl Kv {
    /// How many rows a strip may take before its newest slots are sorted out again; sorts them out where that is now.
    pub(crate) fn refresh(&mut self, layer: usize, head: usize, pos: u32) -> usize {
        let Head { residual: Some(Residual { strip, slots }), .. } = &mut self.layers[layer].heads[head]
        else {
            return usize::MAX;
        };
        if pos.is_multiple_of(STEP) {
            let old = (0..strip.len()).take_while(|i| strip.pos(*i) + *slots < pos).count();
            strip.evict(&(0..old as u32).collect::<Vec<_>>());
            self.ledger.give((old * strip.layout().bytes()) as u64);
        }
        (STEP - pos % STEP) as usize
    }
}

impl Batch<'_> {
    /// Attention of turns whose strips have a second one: to its newest slots, and to the older ones of the first.
    pub(crate) fn look_fresh(
        &mut self,
        layer: usize,
        turns: &[&Turn],
        shape: Heads,
        q: &[f32],
        out: &mut [f32],
    ) {
        if turns.is_empty() {
            return;
        }
        let (on, d) = (&self.on, self.config.head_dim);
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for t in turns {
            let head = &self.parts[t.part].kv.layers[layer].heads[t.head];
            let Some(Residual { strip, slots }) = &head.residual else { continue };
            let run = |strip, rows, first, window| Run {
                window,
                ..Run::new(strip, rows, first, t.head * shape.group)
            };
            near.push(run(strip, t.rows.clone(), strip.len() - t.rows.len(), Some(*slots)));
            let slots = *slots as usize;
            let blind = slots.saturating_sub(t.first).min(t.rows.len());
            if blind < t.rows.len() {
                far.push(run(&head.strip, t.rows.start + blind..t.rows.end, t.first + blind - slots, None));
            }
        }
        attend(on.isa, on.pool, &near, shape, q, out, Some(&mut self.lse));
        let (mut old, mut lse) = (vec![0.0; q.len()], vec![0.0; self.lse.len()]);
        attend(on.isa, on.pool, &far, shape, q, &mut old, Some(&mut lse));
        for run in &far {
            for row in run.rows.clone() {
                for at in row * shape.heads + run.head..row * shape.heads + run.head + shape.group {
                    let head = at * d..(at + 1) * d;
                    self.lse[at] = merge(&mut out[head.clone()], self.lse[at], &old[head], lse[at]);
                }
            }
        }
    }
}

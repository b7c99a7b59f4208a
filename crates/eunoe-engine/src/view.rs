//! Attention where a policy says what rows see: listed slots are copied side by side and attended to as any strip.

use std::ops::Range;

use crate::batch::Batch;
use crate::layout::policy_shape;
use crate::store::{LayerKv, On};
use eunoe_core::{Error, Fold, Result};
use eunoe_kernels::attend::{Heads, LastRows, Run, attend, last_rows};
use eunoe_kernels::strip::Strip;
use eunoe_kv::{Dots, Keys, Look, Pos, Store, View};
use std::sync::Mutex;

/// What a policy may read of a layer while it chooses.
struct Stored<'a> {
    layer: &'a LayerKv,
    on: &'a On<'a>,
}

impl Store for Stored<'_> {
    fn len(&self, kv_head: usize) -> usize {
        self.layer.heads[kv_head].strip.len()
    }

    fn dots(&self, asks: &mut [Dots<'_>]) {
        let asks: Vec<Mutex<&mut Dots<'_>>> = asks.iter_mut().map(Mutex::new).collect();
        self.on.pool.run(asks.len(), &|i| {
            let Ok(mut ask) = asks[i].lock() else { return };
            let Dots { kv_head, q, slots, out } = &mut **ask;
            out.resize(slots.len(), 0.0);
            self.layer.heads[*kv_head].strip.dots(q, self.on.scale, slots, out);
        });
    }

    fn mass(&self, kv_head: usize, q: &[f32], pos: Pos, fold: Fold, out: &mut [f32]) {
        let strip = &self.layer.heads[kv_head].strip;
        let last = LastRows { strip, q, pos: &[pos], scale: self.on.scale, fold, rank: None };
        last_rows(self.on.isa, self.on.pool, &last, out);
    }
}

impl Batch<'_> {
    /// Attention of `rows`, which all strips of the layer have stored from slot `first` on, as their policy says.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a view that the layer cannot give.
    pub(crate) fn look_through(
        &mut self,
        layer: usize,
        part: usize,
        (rows, first): (Range<usize>, &[usize]),
        q: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        let (on, c) = (&self.on, self.config);
        let part = &mut self.parts[part];
        let (kv, stride) = (&mut *part.kv, c.heads * c.head_dim);
        let start = kv.next + (rows.start - part.rows.start) as u32;
        let stored = Stored { layer: &kv.layers[layer], on };
        let view = kv.policy.view(&Look {
            layer: stored.layer.policy_layer.unwrap_or(0),
            pos: start..start + rows.len() as u32,
            is_prompt: start < kv.prompt,
            q: &q[rows.start * stride..rows.end * stride],
            shape: policy_shape(c),
            store: &stored,
        });
        let heads = view.map_or_else(|| vec![Keys::Live; c.kv_heads], |View { heads }| heads);
        if heads.len() != c.kv_heads && heads.len() != c.heads {
            return Err(Error::shape("heads of a view", c.heads, heads.len()));
        }
        let (group, per_strip) = (c.heads / heads.len(), heads.len() / c.kv_heads);
        while kv.listed.len() < heads.len() {
            let layout = stored.layer.heads[0].strip.layout();
            kv.listed.push(Strip::new(layout, stored.layer.heads[0].strip.capacity())?);
        }
        let mut firsts = Vec::with_capacity(heads.len());
        for (n, keys) in heads.iter().enumerate() {
            firsts.push(match keys {
                Keys::Live => first[n / per_strip],
                Keys::List(slots) => {
                    check(slots, first[n / per_strip])?;
                    slots.len()
                }
            });
        }
        let listed: Vec<Mutex<&mut Strip>> = kv.listed.iter_mut().map(Mutex::new).collect();
        on.pool.run(heads.len(), &|n| {
            let (Keys::List(slots), Ok(mut listed)) = (&heads[n], listed[n].lock()) else { return };
            let strip = &stored.layer.heads[n / per_strip].strip;
            listed.reset();
            listed.gather(strip, slots.iter().map(|s| *s as usize));
            listed.gather(strip, first[n / per_strip]..first[n / per_strip] + rows.len());
        });
        firsts.iter().for_each(|first| kv.met.add(rows.len(), *first, start));
        let run = |(n, keys): (usize, &Keys)| {
            let live = &stored.layer.heads[n / per_strip].strip;
            let strip = if *keys == Keys::Live { live } else { &kv.listed[n] };
            let (rows, first, head) = (rows.clone(), firsts[n], n * group);
            Run { strip, rows, first, head, window: None, rank: None, tiles: None }
        };
        let runs: Vec<Run<'_>> = heads.iter().enumerate().map(run).collect();
        let shape = Heads { heads: c.heads, group, scale: on.scale };
        attend(on.isa, on.pool, &runs, shape, q, out, None);
        Ok(())
    }
}

/// Slots of a list are ascending and before the rows.
fn check(slots: &[u32], end: usize) -> Result<()> {
    if slots.is_sorted_by(|a, b| a < b) && slots.last().is_none_or(|s| (*s as usize) < end) {
        return Ok(());
    }
    Err(Error::Invalid(format!("a view lists slots out of order or past {end}")))
}

//! Attention where a policy says what rows see: over the slots that it lists, as if they lay side by side.

use std::ops::Range;

use crate::batch::Batch;
use crate::layout::policy_shape;
use crate::store::{LayerKv, On};
use eunoe_core::{Error, Fold, Result};
use eunoe_kernels::attend::{Heads, LastRows, Run, attend, dots, last_rows};
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
            let strip = &self.layer.heads[*kv_head].strip;
            out.resize(slots.len() * (q.len() / strip.layout().head_dim), 0.0);
            dots(self.on.isa, strip, q, self.on.scale, slots, out);
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
        let mut heads = view.map_or_else(|| vec![Keys::Live; c.kv_heads], |View { heads }| heads);
        if heads.len() != c.kv_heads && heads.len() != c.heads {
            return Err(Error::shape("heads of a view", c.heads, heads.len()));
        }
        let (group, per_strip) = (c.heads / heads.len(), heads.len() / c.kv_heads);
        let mut runs = Vec::with_capacity(heads.len());
        for (n, keys) in heads.iter_mut().enumerate() {
            let own = first[n / per_strip];
            let (first, list) = match keys {
                Keys::Live => (own, None),
                Keys::List(slots) => {
                    check(slots, own)?;
                    let older = slots.len();
                    slots.extend(own as u32..(own + rows.len()) as u32);
                    (older, Some(&**slots))
                }
            };
            kv.met.add(rows.len(), first, start);
            let strip = &stored.layer.heads[n / per_strip].strip;
            let (rows, head) = (rows.clone(), n * group);
            runs.push(Run { list, ..Run::new(strip, rows, first, head) });
        }
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

//! Rows of several sequences in one forward pass: stores them strip by strip, never past a cap, and attends.

use crate::residual::Residual;
use crate::store::{Kv, On};
use eunoe_core::Result;
use eunoe_kernels::attend::{Heads, RecordRun, Rule, Run, attend, record};
use eunoe_kernels::strip::{Push, push};
use eunoe_kv::Column;
use eunoe_model::{Config, Memory};
use std::ops::Range;

/// One sequence's part of a forward pass.
pub(crate) struct Part<'a> {
    pub(crate) kv: &'a mut Kv,
    /// Its rows of the batch.
    pub(crate) rows: Range<usize>,
}

pub(crate) struct Batch<'a> {
    pub(crate) parts: Vec<Part<'a>>,
    pub(crate) config: &'a Config,
    pub(crate) on: On<'a>,
    /// Log-sum-exp of the rows' scores `[rows, heads]`.
    pub(crate) lse: Vec<f32>,
}

/// Rows that one strip takes before it is full again.
pub(crate) struct Turn {
    pub(crate) part: usize,
    pub(crate) head: usize,
    /// Rows of the batch.
    pub(crate) rows: Range<usize>,
    /// Slot of the first.
    pub(crate) first: usize,
}

impl Memory for Batch<'_> {
    fn attend(&mut self, layer: usize, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) -> Result<()> {
        let kv_heads = self.config.kv_heads;
        // next row of each part and KV head
        let mut next: Vec<Vec<usize>> = self.parts.iter().map(|p| vec![p.rows.start; kv_heads]).collect();
        loop {
            let mut turns = Vec::new();
            for (part, next) in next.iter_mut().enumerate() {
                self.retire(layer, part, next[0])?;
                let mut rooms = self.rooms(layer, part, next)?;
                self.keep_in_step(layer, part, next[0], &mut rooms);
                for (head, room) in rooms.into_iter().enumerate() {
                    let Part { kv, rows } = &mut self.parts[part];
                    let pos = kv.next + (next[head] - rows.start) as u32;
                    let room = if next[head] < rows.end { room.min(kv.refresh(layer, head, pos)) } else { 0 };
                    let rows = next[head]..self.parts[part].rows.end.min(next[head] + room);
                    if !rows.is_empty() {
                        next[head] = rows.end;
                        let kv = &mut self.parts[part].kv;
                        kv.book(layer, head, rows.len())?;
                        turns.push(Turn { part, head, rows, first: kv.strip(layer, head).len() });
                    }
                }
            }
            if turns.is_empty() {
                return Ok(());
            }
            self.store(layer, &turns, k, v);
            self.look(layer, &turns, q, out)?;
        }
    }
}

impl Batch<'_> {
    /// How many rows each strip of a sequence's layer can take; makes room in strips that are full and have rows left.
    fn rooms(&mut self, layer: usize, part: usize, next: &[usize]) -> Result<Vec<usize>> {
        let Part { kv, rows } = &mut self.parts[part];
        let step = kv.needs.step as usize;
        let free = |kv: &Kv, h: usize| {
            let head = &kv.layers[layer].heads[h];
            head.cap as usize - head.strip.len()
        };
        let is_sliding = kv.layers[layer].policy_layer.is_none();
        if let (false, Some(floor)) = (is_sliding, kv.pooled) {
            // strips that share their slots go in step
            let shared = |kv: &Kv| {
                let heads = &kv.layers[layer].heads;
                heads.iter().map(|h| h.cap as usize).sum::<usize>()
                    - heads.iter().map(|h| h.strip.len()).sum::<usize>()
            };
            if next[0] < rows.end && shared(kv) < next.len() {
                let count = step * next.len() - shared(kv);
                kv.evict_pooled(&self.on, layer, floor, count)?;
            }
            return Ok(vec![shared(kv) / next.len(); next.len()]);
        }
        for (head, next) in next.iter().enumerate() {
            if *next < rows.end && free(kv, head) == 0 {
                match is_sliding {
                    true => kv.slide(layer, head, kv.next + (next - rows.start) as u32),
                    false => kv.evict(&self.on, layer, head, step)?,
                }
            }
        }
        Ok((0..next.len()).map(|h| free(kv, h)).collect())
    }

    /// At the first row of a block, what no later row sees goes.
    fn retire(&mut self, layer: usize, part: usize, next: usize) -> Result<()> {
        let Part { kv, rows } = &mut self.parts[part];
        let Some(blocks) = kv.views(layer).filter(|_| next < rows.end) else { return Ok(()) };
        let pos = kv.next + (next - rows.start) as u32;
        if kv.cold.is_some() {
            return kv.spill(self.on.rope, layer, pos);
        }
        let block = if pos < kv.prompt { blocks.prompt } else { blocks.answer };
        if pos.is_multiple_of(block) {
            kv.retire(layer, pos);
        }
        Ok(())
    }

    /// Where a policy says what rows see, all strips of a layer take the same rows, at most to the end of a block.
    fn keep_in_step(&self, layer: usize, part: usize, next: usize, rooms: &mut [usize]) {
        let Part { kv, rows } = &self.parts[part];
        let Some(blocks) = kv.views(layer) else { return };
        let (pos, prompt) = (kv.next as usize + (next - rows.start), kv.prompt as usize);
        let left = |block: u32| block as usize - pos % block as usize;
        let most = if pos < prompt { left(blocks.prompt).min(prompt - pos) } else { left(blocks.answer) };
        rooms.fill(rooms.iter().fold(most, |least, room| least.min(*room)));
    }

    /// Stores the turns' rows in strips that have room for them.
    fn store(&mut self, layer: usize, turns: &[Turn], k: &[f32], v: &[f32]) {
        let mut pushes = Vec::with_capacity(turns.len());
        for (p, Part { kv, rows: all }) in self.parts.iter_mut().enumerate() {
            for (head, h) in kv.layers[layer].heads.iter_mut().enumerate() {
                if let Some(t) = turns.iter().find(|t| t.part == p && t.head == head) {
                    let pos = kv.next + (t.rows.start - all.start) as u32;
                    pushes.push(Push { strip: &mut h.strip, rows: t.rows.clone(), head, pos });
                    if let Some(Residual { strip, .. }) = &mut h.residual {
                        pushes.push(Push { strip, rows: t.rows.clone(), head, pos });
                    }
                }
            }
        }
        push(self.on.isa, self.on.pool, &mut pushes, self.config.kv_heads, k, v);
    }

    /// Attention of the turns' rows, and the mass that their policies ask for.
    fn look(&mut self, layer: usize, turns: &[Turn], q: &[f32], out: &mut [f32]) -> Result<()> {
        let (views, turns): (Vec<&Turn>, Vec<&Turn>) =
            turns.iter().partition(|t| self.parts[t.part].kv.views(layer).is_some());
        for turns in views.chunk_by(|a, b| a.part == b.part) {
            let first: Vec<usize> = turns.iter().map(|t| t.first).collect();
            let (part, rows) = (turns[0].part, (turns[0].rows.clone(), &first[..]));
            match self.parts[part].kv.cold {
                Some(ref cold) if cold.sizes.grouped.is_some() => {
                    self.look_grouped(layer, part, rows, q, out)?
                }
                Some(_) => self.look_back(layer, part, rows, q, out)?,
                None => self.look_through(layer, part, rows, q, out)?,
            }
        }
        let (on, c) = (&self.on, self.config);
        let group = c.heads / c.kv_heads;
        let shape = Heads { heads: c.heads, group, scale: on.scale };
        let is_sliding = c.is_sliding(layer);
        let of = |kv: &Kv| match is_sliding {
            true => (kv.window, None),
            false => (None, on.rank(&kv.needs)),
        };
        let has_newest = |t: &&&Turn| self.parts[t.part].kv.layers[layer].heads[t.head].residual.is_some();
        let fresh: Vec<&Turn> = turns.iter().filter(has_newest).copied().collect();
        let runs: Vec<Run<'_>> = turns
            .iter()
            .filter(|t| !has_newest(t))
            .map(|t| {
                let kv = &self.parts[t.part].kv;
                let ((window, rank), strip) = (of(kv), kv.strip(layer, t.head));
                Run { window, rank, ..Run::new(strip, t.rows.clone(), t.first, t.head * group) }
            })
            .collect();
        attend(on.isa, on.pool, &runs, shape, q, out, Some(&mut self.lse));
        self.look_fresh(layer, &fresh, shape, q, out);
        let on = &self.on;
        for t in &turns {
            let Some(side) = &self.parts[t.part].kv.layers[layer].heads[t.head].side else { continue };
            for at in
                t.rows.clone().flat_map(|row| (0..group).map(move |h| row * c.heads + t.head * group + h))
            {
                let of = at * c.head_dim..(at + 1) * c.head_dim;
                self.lse[at] = side.attend(&q[of.clone()], on.scale, &mut out[of], self.lse[at]);
            }
        }
        if is_sliding {
            return Ok(());
        }
        for t in &turns {
            let Part { kv, rows } = &mut self.parts[t.part];
            kv.met.add(t.rows.len(), t.first, kv.next + (t.rows.start - rows.start) as u32);
        }
        let width = group * c.head_dim;
        for (p, part) in self.parts.iter_mut().enumerate() {
            let rank = on.rank(&part.kv.needs);
            let (needs, start, next) = (part.kv.needs, part.rows.start, part.kv.next);
            let mut records = Vec::new();
            for (h, head) in part.kv.layers[layer].heads.iter_mut().enumerate() {
                for t in turns.iter().filter(|t| t.part == p && t.head == h) {
                    if let Some(ring) = &mut head.ring {
                        for row in t.rows.clone().skip(ring.last_of(t.rows.len())) {
                            let q = &q[row * c.heads * c.head_dim + h * width..][..width];
                            ring.push(q, next + (row - start) as u32);
                        }
                    }
                }
                if let Some(t) = turns.iter().find(|t| t.part == p && t.head == h) {
                    let (rows, first) = (t.rows.clone(), t.first);
                    records.push(RecordRun {
                        strip: &mut head.strip,
                        rows,
                        first,
                        head: h * group,
                        window: None,
                        rank,
                    });
                }
            }
            if let Column::Running { decay } = needs.column {
                let rule = Rule { decay, fold: needs.fold };
                record(on.isa, on.pool, &mut records, shape, q, &self.lse, rule);
            }
        }
        Ok(())
    }
}

//! Many rows into many strips at once.

use std::ops::Range;

use super::Strip;
use crate::ops::PART;
use crate::pool::Shards;
use crate::{Isa, Pool};

/// New rows of one strip.
pub struct Push<'a> {
    /// Where they go.
    pub strip: &'a mut Strip,
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// KV head of the strip.
    pub head: usize,
    /// Position of the first; each further row is one position on.
    pub pos: u32,
}

/// Appends rows of `k` and `v` (`[rows, kv_heads, head_dim]`) to several strips, as [`Strip::push`] row by row.
///
/// # Panics
/// When a strip has no room for its rows, or a row or head does not exist.
pub fn push(isa: Isa, pool: &Pool, pushes: &mut [Push<'_>], kv_heads: usize, k: &[f32], v: &[f32]) {
    let mut tasks = Vec::new(); // (push, rows, slots of the strip, slot of the first row)
    let mut layouts = Vec::with_capacity(pushes.len());
    for (n, push) in pushes.iter_mut().enumerate() {
        let (layout, first) = (push.strip.layout, push.strip.len);
        assert!(push.head < kv_heads, "KV head {} of {kv_heads}", push.head);
        assert!(
            first + push.rows.len() <= push.strip.capacity,
            "a strip of {} slots is full",
            push.strip.capacity
        );
        push.strip.len += push.rows.len();
        let slots = Shards::new(push.strip.slots_mut(first));
        let step = PART / (2 * layout.head_dim);
        let rows = push.rows.clone();
        tasks.extend(
            rows.clone()
                .step_by(step)
                .map(|r| (n, r..rows.end.min(r + step), slots, first + (r - rows.start))),
        );
        layouts.push((layout, push.head, push.pos, rows.start));
    }
    let values = pushes.iter().map(|p| 2 * p.rows.len() * p.strip.layout.head_dim).sum::<usize>();
    let work = |i: usize| {
        let (n, rows, slots, first) = &tasks[i];
        let (layout, head, pos, start) = layouts[*n];
        let (d, bytes) = (layout.head_dim, layout.bytes());
        // SAFETY: tasks write disjoint slots of strips that `pushes` borrows alone and that outlive the loop.
        let slots = unsafe { slots.part(first * bytes, rows.len() * bytes) };
        isa.run(
            #[inline(always)]
            || {
                for (row, slot) in rows.clone().zip(slots.chunks_exact_mut(bytes)) {
                    let at = (row * kv_heads + head) * d;
                    super::write(layout, slot, &k[at..at + d], &v[at..at + d], pos + (row - start) as u32);
                }
            },
        );
    };
    match values > PART {
        true => pool.run(tasks.len(), &work),
        false => (0..tasks.len()).for_each(work), // not worth another thread
    }
}

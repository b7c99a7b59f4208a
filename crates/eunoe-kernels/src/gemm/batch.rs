//! Many products of the same sizes.

use super::blocks::{Offsets, Product};
use super::pack::Element;
use crate::Pool;
use eunoe_core::{Error, Result};

/// Most levels of a batch.
pub(super) const MOST_LEVELS: usize = 4;
/// Multiply-adds from which a task is worth handing to another thread.
const LEAST_WORK: usize = 1 << 19;

/// Repeats of a product; element strides from one to the next, 0 where they share an operand.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    /// How many.
    pub count: usize,
    /// Distance of left operands.
    pub a: usize,
    /// Distance of right operands.
    pub b: usize,
    /// Distance of outputs.
    pub out: usize,
}

/// How many products levels stand for.
pub(super) fn count(levels: &[Level]) -> Result<usize> {
    if levels.len() > MOST_LEVELS {
        let [asked, have] = [levels.len(), MOST_LEVELS].map(|x| x as u64);
        let hint = "call once per outer level".into();
        return Err(Error::Limit { what: "levels of a batch".into(), asked, have, hint });
    }
    if levels.iter().any(|level| level.count == 0) {
        return Ok(0);
    }
    let count = levels.iter().try_fold(1usize, |all, level| all.checked_mul(level.count));
    count.ok_or_else(|| Error::Invalid("a batch of more products than can be counted".into()))
}

/// Where product `i` begins; the last level runs fastest. Operands without values may lie anywhere, so theirs may wrap.
fn offsets(levels: &[Level], mut i: usize) -> Offsets {
    let mut at = Offsets::default();
    for level in levels.iter().rev() {
        let j = i % level.count;
        i /= level.count;
        let next = |at: usize, step: usize| at.wrapping_add(j.wrapping_mul(step));
        at = Offsets { a: next(at.a, level.a), b: next(at.b, level.b), out: next(at.out, level.out) };
    }
    at
}

/// A product per task where there are enough of them, else one after the other, each by all threads.
pub(super) fn run<T: Element>(pool: &Pool, levels: &[Level], product: Product<'_, T>) {
    let count = product.count;
    let alone = count >= 4 * pool.threads() || product.work() < LEAST_WORK || pool.threads() == 1;
    if !alone {
        for i in 0..count {
            // SAFETY: one after the other.
            unsafe { product.at(offsets(levels, i)) }.run(Some(pool));
        }
        return;
    }
    let most = count.div_ceil(4 * pool.threads());
    let each = LEAST_WORK.div_ceil(product.work().max(1)).clamp(1, most.max(1));
    pool.run(count.div_ceil(each), &|task| {
        for i in task * each..count.min((task + 1) * each) {
            // SAFETY: each product is one task's, and `Out::check` keeps their outputs apart.
            unsafe { product.at(offsets(levels, i)) }.run(None);
        }
    });
}

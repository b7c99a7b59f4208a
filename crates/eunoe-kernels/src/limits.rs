//! What this machine can do, measured: the yardstick beside every speed.

use crate::{Isa, Pool};
use std::time::Instant;

/// Plain sequential reads of memory that no cache holds, GB/s over all threads of the pool; the best of three.
pub fn read_rate(isa: Isa, pool: &Pool) -> f64 {
    const WORDS: usize = 1 << 25; // 256 MiB
    let memory = vec![1u64; WORDS];
    let part = WORDS / pool.threads();
    let read = || {
        let start = Instant::now();
        pool.run(pool.threads(), &|i| {
            let words = &memory[i * part..][..part];
            let sum = isa.run(
                #[inline(always)]
                || words.iter().fold(0u64, |a, w| a ^ w),
            );
            std::hint::black_box(sum);
        });
        (part * pool.threads() * 8) as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    (0..3).map(|_| read()).fold(0.0, f64::max)
}

//! How many threads are worth it on this machine, where nobody said.

use super::Pool;
use crate::Isa;
use std::hint::black_box;
use std::time::Instant;

/// The share of the best rate that is good enough: fewer threads disturb others less.
const ENOUGH: f64 = 0.97;

impl Pool {
    /// The fewest threads (1, 2, 4, … or all that this process may use) that come near the best rate of short loops
    /// which read memory and compute; some 30 ms.
    pub fn measured() -> usize {
        let all = Self::available();
        if all == 1 {
            return 1;
        }
        let memory = vec![1u32; 1 << 23]; // 32 MiB
        let below = std::iter::successors(Some(1), |n| Some(2 * n)).take_while(|n| *n < all);
        let rates: Vec<_> = below.chain([all]).map(|n| (n, rate(&Self::new(n), &memory))).collect();
        fewest(&rates)
    }
}

/// Passes over `memory` per second, the best of three.
fn rate(pool: &Pool, memory: &[u32]) -> f64 {
    let parts: Vec<&[u32]> = memory.chunks(1 << 16).collect();
    let isa = Isa::detect();
    let pass = || {
        let start = Instant::now();
        pool.run(parts.len(), &|i| {
            let sums = isa.run(
                #[inline(always)]
                || mix(parts[i]),
            );
            black_box(sums);
        });
        1.0 / start.elapsed().as_secs_f64()
    };
    (0..3).map(|_| pass()).fold(0.0, f64::max)
}

/// A few operations on every word, as a matrix product has them.
#[inline(always)]
fn mix(words: &[u32]) -> [u32; 64] {
    let mut sums = [0u32; 64];
    for words in words.as_chunks::<64>().0 {
        for i in 0..64 {
            sums[i] = sums[i].wrapping_mul(31).wrapping_add(words[i]);
        }
    }
    sums
}

/// The first, and so the fewest, whose rate is near the best.
fn fewest(rates: &[(usize, f64)]) -> usize {
    let best = rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    rates.iter().find(|(_, rate)| *rate >= ENOUGH * best).map_or(1, |(threads, _)| *threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_bring_nothing_are_left_out() {
        assert_eq!(fewest(&[(1, 10.0), (2, 19.0)]), 2);
        assert_eq!(fewest(&[(1, 10.0), (2, 10.2)]), 1);
        assert_eq!(fewest(&[(1, 10.0), (2, 20.0), (4, 39.0), (6, 40.0)]), 4, "39 is 97.5 % of 40");
        assert_eq!(fewest(&[(1, 10.0), (2, 20.0), (4, 15.0)]), 2, "too many may be slower");
        assert_eq!(fewest(&[]), 1);
    }

    #[test]
    fn what_is_measured_is_what_the_process_may_use() {
        assert!((1..=Pool::available()).contains(&Pool::measured()));
        // 1 + 31 + 31^2 over three rounds of ones
        assert_eq!(mix(&[1; 192]), [993; 64]);
    }
}

//! What this machine can do, measured: the yardsticks beside every speed.
//!
//! Peaks run register to register, on operands of ones: what a loop returns is the number of multiply-adds that it did.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::pool::Shards;
use crate::vm::Huge;
use crate::{Isa, Pool};

#[cfg(target_arch = "x86_64")]
mod x86;

/// Independent sums of a loop: more than the latency of an instruction times those begun per cycle.
const CHAINS: usize = 12;

/// Plain sequential reads of memory that no cache holds, GB/s over all threads of the pool; the best of several.
/// 0 where 256 MiB cannot be had.
pub fn read_rate(isa: Isa, pool: &Pool) -> f64 {
    const BYTES: usize = 256 << 20;
    const PIECE: usize = 1 << 20;
    const ROUNDS: usize = 8;
    let Ok(mut memory) = Huge::new(BYTES) else { return 0.0 };
    let shards = Shards::new(&mut memory);
    pool.run(BYTES / PIECE, &|i| {
        // SAFETY: task `i` writes piece `i`, and `memory` outlives the loop.
        unsafe { shards.part(i * PIECE, PIECE) }.fill(1);
    });
    let read = || {
        let ones = AtomicU64::new(0);
        let start = Instant::now();
        pool.run(BYTES / PIECE, &|i| {
            ones.fetch_add(sum(isa, &memory[i * PIECE..][..PIECE]), Ordering::Relaxed);
        });
        let seconds = start.elapsed().as_secs_f64();
        (ones.into_inner() == WORD_OF_ONES.wrapping_mul(BYTES as u64 / 8))
            .then_some(BYTES as f64 / seconds / 1e9)
    };
    (0..ROUNDS).filter_map(|_| read()).fold(0.0, f64::max)
}

const WORD_OF_ONES: u64 = u64::from_ne_bytes([1; 8]);

/// The wrapping sum of the 64-bit words of `bytes`.
fn sum(isa: Isa, bytes: &[u8]) -> u64 {
    match isa {
        // SAFETY: `isa` was made where the processor has its features.
        #[cfg(target_arch = "x86_64")]
        isa if isa >= Isa::Avx512 => unsafe { x86::sum_512(bytes) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::sum_256(bytes) },
        _ => {
            let mut sums = [0u64; 16];
            for words in bytes.as_chunks::<8>().0.as_chunks::<16>().0 {
                for (sum, word) in sums.iter_mut().zip(words) {
                    *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
                }
            }
            sums.iter().fold(0, |a, b| a.wrapping_add(*b))
        }
    }
}

/// Multiply-adds of 8-bit integers, GMAC/s over all threads of the pool.
pub fn int8_peak(isa: Isa, pool: &Pool) -> f64 {
    peak(pool, int8_loop(isa))
}

/// Floating-point operations (an FMA is two), Gop/s over all threads of the pool.
pub fn f32_peak(isa: Isa, pool: &Pool) -> f64 {
    2.0 * peak(pool, f32_loop(isa))
}

/// Operations of bf16 products with f32 sums, Gop/s over all threads of the pool; `None` where the processor has no
/// instruction for them.
pub fn bf16_peak(isa: Isa, pool: &Pool) -> Option<f64> {
    bf16_loop(isa).map(|work| 2.0 * peak(pool, work))
}

/// A loop of that many rounds; gives the multiply-adds that it did, read off its result.
type Work = fn(u32) -> u64;

fn int8_loop(isa: Isa) -> Work {
    match isa {
        // SAFETY: `isa` was made where the processor has its features.
        #[cfg(target_arch = "x86_64")]
        isa if isa >= Isa::Avx512 => |rounds| unsafe { x86::int8_512(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => |rounds| unsafe { x86::int8_256(rounds) },
        _ => int8_scalar,
    }
}

fn f32_loop(isa: Isa) -> Work {
    match isa {
        // SAFETY: `isa` was made where the processor has its features.
        #[cfg(target_arch = "x86_64")]
        isa if isa >= Isa::Avx512 => |rounds| unsafe { x86::f32_512(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => |rounds| unsafe { x86::f32_256(rounds) },
        _ => f32_scalar,
    }
}

fn bf16_loop(isa: Isa) -> Option<Work> {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 && is_x86_feature_detected!("avx512bf16") {
        // SAFETY: the processor was asked just now.
        return Some(|rounds| unsafe { x86::bf16_512(rounds) });
    }
    let _ = isa;
    None
}

/// Billions of multiply-adds per second when every thread runs `work`; the best of several short runs.
fn peak(pool: &Pool, work: Work) -> f64 {
    const SECONDS: f64 = 5e-3;
    const RUNS: usize = 6;
    let run = |rounds: u32| {
        let done = AtomicU64::new(0);
        let start = Instant::now();
        pool.run(pool.threads(), &|_| {
            done.fetch_add(work(rounds), Ordering::Relaxed);
        });
        (done.into_inner() as f64, start.elapsed().as_secs_f64())
    };
    let mut rounds = 1 << 10;
    while rounds < MOST_ROUNDS && run(rounds).1 < SECONDS {
        rounds *= 2;
    }
    (0..RUNS).map(|_| run(rounds)).fold(0.0, |best, (done, seconds)| f64::max(best, done / seconds / 1e9))
}

/// Up to here a float lane counts exactly.
const MOST_ROUNDS: u32 = 1 << 22;

fn int8_scalar(rounds: u32) -> u64 {
    let mut sums = [0i32; 16];
    for _ in 0..rounds {
        let (a, b) = black_box(([1u8; 64], [1i8; 64]));
        for (i, sum) in sums.iter_mut().enumerate() {
            for k in i * 4..i * 4 + 4 {
                *sum += i32::from(a[k]) * i32::from(b[k]);
            }
        }
    }
    sums.iter().map(|sum| *sum as u64).sum()
}

fn f32_scalar(rounds: u32) -> u64 {
    let one = black_box(1.0f32);
    let mut sums = [0.0f32; CHAINS * 4];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = *sum * one + one;
        }
    }
    sums.iter().map(|sum| *sum as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_does_the_work_that_is_counted() {
        for isa in Isa::available() {
            let lanes = match isa {
                Isa::Scalar => 4,
                Isa::Avx2 => 8,
                _ => 16,
            };
            for rounds in [0, 1, 7, 1000] {
                let chains = if isa == Isa::Scalar { 4 } else { CHAINS };
                let of =
                    |per_lane: usize, chains: usize| (rounds as usize * per_lane * lanes * chains) as u64;
                assert_eq!(int8_loop(isa)(rounds), of(4, chains), "{isa:?} int8");
                assert_eq!(f32_loop(isa)(rounds), of(1, CHAINS), "{isa:?} f32");
                if let Some(work) = bf16_loop(isa) {
                    assert_eq!(work(rounds), of(2, CHAINS), "{isa:?} bf16");
                }
            }
            // 2^22 rounds of bf16 pairs end at 2^23 and a start below 12, where a float still counts ones
            assert!((f64::from(MOST_ROUNDS) * 2.0 + 12.0) < 2f64.powi(24));
        }
    }

    #[test]
    fn every_word_is_read() {
        let bytes: Vec<u8> =
            (0..4096 * 8).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let want = bytes.as_chunks().0.iter().fold(0u64, |a, w| a.wrapping_add(u64::from_ne_bytes(*w)));
        for isa in Isa::available() {
            assert_eq!(sum(isa, &bytes), want, "{isa:?}");
        }
    }

    #[test]
    fn limits_are_speeds() {
        let pool = Pool::new(2);
        for isa in Isa::available() {
            let rates = [read_rate(isa, &pool), int8_peak(isa, &pool), f32_peak(isa, &pool)];
            assert!(rates.iter().all(|r| r.is_finite() && *r > 0.01), "{isa:?}: {rates:?}");
            assert!(bf16_peak(isa, &pool).is_none_or(|r| r.is_finite() && r > 0.01));
        }
    }
}

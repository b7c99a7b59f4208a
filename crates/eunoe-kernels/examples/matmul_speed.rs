//! How fast are the weight kernels? Prints, per type, GEMV bytes per second beside a plain read of the same bytes,
//! and GEMM multiply-adds per second for 8 and 512 rows.
#![allow(clippy::print_stdout, reason = "an example talks")]

use eunoe_core::Dtype;
use eunoe_kernels::matmul::{Acts, Arithmetic, Packed, matmul};
use eunoe_kernels::{Isa, Pool};
use std::time::Instant;

fn best(runs: usize, mut work: impl FnMut()) -> f64 {
    let time = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..runs).map(|_| time(&mut work)).fold(f64::MAX, f64::min)
}

fn main() -> eunoe_core::Result<()> {
    let threads = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1);
    let (isa, pool, rows, cols) = (Isa::detect(), Pool::new(threads), 16384, 4096);
    let plain = vec![1u64; 1 << 25];
    let read = best(3, || {
        let part = plain.len() / threads;
        pool.run(threads, &|i| {
            let sum = isa.run(
                #[inline(always)]
                || plain[i * part..][..part].iter().fold(0u64, |a, b| a ^ b),
            );
            std::hint::black_box(sum);
        });
    });
    println!("{isa:?}, {threads} threads, plain read {:.1} GB/s", plain.len() as f64 * 8.0 / read / 1e9);
    for dtype in Dtype::ALL {
        let (block, size) = dtype.block();
        let w = Packed::new(&pool, dtype, rows, cols, &vec![0x11; rows * cols / block * size])?;
        print!("{:5}", dtype.name());
        for batch in [1, 8, 512] {
            let x = vec![0.5f32; batch * cols];
            let mut out = vec![0.0f32; batch * rows];
            let acts = Acts::new(isa, &pool, &x, cols, Arithmetic::Fast.inputs(&w));
            let time =
                best(if batch > 8 { 1 } else { 4 }, || matmul(isa, &pool, &[&w], &acts, &mut [&mut out]));
            match batch {
                1 => print!("  GEMV {:6.1} GB/s", w.bytes() as f64 / time / 1e9),
                _ => print!("  x{batch} {:6.1} GMAC/s", (batch * rows * cols) as f64 / time / 1e9),
            }
        }
        println!();
    }
    Ok(())
}

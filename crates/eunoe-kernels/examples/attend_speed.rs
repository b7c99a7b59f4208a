//! How fast is attention? Decode in GB/s of keys and values read, prefill in Gop/s, per codec; one thread and all.
//! `cargo run --release -p eunoe-kernels --example attend_speed [head_dim] [group]`

use std::time::Instant;

use eunoe_core::Codec;
use eunoe_kernels::attend::{Heads, Run, attend};
use eunoe_kernels::strip::{SlotLayout, Strip};
use eunoe_kernels::{Isa, Pool};

/// Bytes of all strips in a decode round: more than caches hold.
const ROUND: usize = 128 << 20;

fn strip(codec: Codec, head_dim: usize, slots: usize) -> Strip {
    let mut strip = Strip::new(SlotLayout { codec, head_dim, column: false }, slots).expect("address space");
    let x = |i: usize, j: usize| ((i * 31 + j * 17) % 97) as f32 / 48.5 - 1.0;
    for i in 0..slots {
        let (k, v): (Vec<_>, Vec<_>) = (0..head_dim).map(|j| (x(i, j), x(j, i))).unzip();
        strip.push(&k, &v, i as u32);
    }
    strip
}

/// The least of three times of attention by `rows` rows of one group at the end of each strip.
fn seconds(isa: Isa, pool: &Pool, strips: &[Strip], rows: usize, group: usize) -> f64 {
    let d = strips[0].layout().head_dim;
    let heads = group * strips.len();
    let q: Vec<f32> = (0..rows * heads * d).map(|i| (i % 89) as f32 / 44.5 - 1.0).collect();
    let mut out = vec![0.0; q.len()];
    let (window, rank, first) = (None, None, strips[0].len() - rows);
    let run = |(n, strip)| Run { strip, rows: 0..rows, first, head: n * group, window, rank, tiles: None };
    let runs: Vec<_> = strips.iter().enumerate().map(run).collect();
    let shape = Heads { heads, group, scale: (d as f32).powf(-0.5) };
    let mut once = || {
        let start = Instant::now();
        attend(isa, pool, &runs, shape, &q, &mut out, None);
        start.elapsed().as_secs_f64()
    };
    (0..4).map(|_| once()).fold(f64::INFINITY, f64::min)
}

#[allow(clippy::print_stdout, reason = "an example")]
fn main() {
    let arg = |n: usize, default| std::env::args().nth(n).map_or(default, |a| a.parse().expect("a number"));
    let (isa, d, group) = (Isa::detect(), arg(1, 64), arg(2, 3));
    for (codec, threads) in Codec::ALL.into_iter().flat_map(|c| [(c, 1), (c, Pool::available())]) {
        let pool = Pool::new(threads);
        for depth in [1024, 8192] {
            let bytes = depth * 2 * codec.bytes(d);
            let strips: Vec<_> = (0..ROUND / bytes).map(|_| strip(codec, d, depth)).collect();
            let rate = (strips.len() * bytes) as f64 / seconds(isa, &pool, &strips, 1, group) / 1e9;
            println!("{:4} {threads} threads  decode at {depth:5}: {rate:6.1} GB/s", codec.id());
        }
        for depth in [0, 4096] {
            let time = seconds(isa, &pool, &[strip(codec, d, depth + 512)], 512, group);
            let rate = (4 * (512 * depth + 512 * 513 / 2) * group * d) as f64 / time / 1e9;
            println!("{:4} {threads} threads prefill at {depth:5}: {rate:6.1} Gop/s", codec.id());
        }
    }
}

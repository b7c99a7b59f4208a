//! What do contiguous strips with pages on demand cost and save beside blocks of a pool? A page in Markdown.
//! `cargo run -p eunoe-kernels --example vattention [tokens/s] > docs/vattention.md`
#![allow(unsafe_code, reason = "pages are asked for ahead of time by a call of the system")]

#[path = "vattention/blocks.rs"]
mod blocks;
#[path = "vattention/pages.rs"]
mod pages;
#[path = "vattention/trace.rs"]
mod trace;

use eunoe_core::{Codec, Codecs};
use eunoe_kernels::Pool;
use eunoe_kernels::strip::SlotLayout;

/// Head dimension of both models.
const D: usize = 64;
/// Bytes of a key and a value in f16.
const PAIR: usize = 4 * D;
const SLOT: SlotLayout =
    SlotLayout { codec: Codecs { k: Codec::F16, v: Codec::F16 }, head_dim: D, column: false };

#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    layers: usize,
    kv_heads: usize,
    group: usize,
    /// Fastest reading in docs/performance.md, tokens/s.
    fastest: f64,
}

const SHAPES: [Shape; 2] = [
    Shape { name: "smollm2-135m", layers: 30, kv_heads: 3, group: 3, fastest: 1562.0 },
    Shape { name: "qwen2.5-0.5b", layers: 24, kv_heads: 2, group: 7, fastest: 705.0 },
];

/// SplitMix64.
struct Random(u64);

impl Random {
    /// From 0 to below 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ x >> 31) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }

    /// `n` of the first `all` numbers, ascending.
    fn some(&mut self, mut n: usize, all: usize) -> Vec<u32> {
        let mut some = Vec::with_capacity(n);
        for i in 0..all {
            if self.below(all - i) < n {
                some.push(i as u32);
                n -= 1;
            }
        }
        some
    }
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

#[allow(clippy::print_stdout, reason = "an example")]
fn say(line: &str) {
    println!("{line}");
}

fn main() {
    let assumed = std::env::args().nth(1).map_or(400.0, |a| a.parse().expect("tokens/s"));
    let threads = Pool::available();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    say(&format!(
        "# Strips on virtual memory, and blocks of a pool\n\nWritten by \
         `cargo run -p eunoe-kernels --example vattention > docs/vattention.md`; nothing is typed in but the speeds\nof \
         reading that are named. A strip is vAttention's idea (arXiv 2405.04437) on the CPU: address space for the most slots \
         is\nreserved, and the system puts a page behind it at the first touch. Ours is per layer and KV head, since heads \
         forget\neach for itself, and a slot is one record of key, value and position. {threads} processors; load of the \
         machine at the\nstart: {load}.\n"
    ));
    trace::page(&SHAPES);
    trace::example(&SHAPES[1]);
    pages::page(&SHAPES, assumed);
    blocks::page(&SHAPES, &Pool::new(threads), threads);
}

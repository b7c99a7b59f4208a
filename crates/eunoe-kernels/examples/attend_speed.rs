//! How fast is attention, and against what? Decode in GB/s of keys and values beside the rate at which this machine
//! reads, prefill in Gop/s beside its peak, for the shapes of three models, per codec; how time grows with depth; and
//! block-sparse attention with 90 % of its tiles masked beside dense.
//! `cargo run --release -p eunoe-kernels --example attend_speed [threads]`

use std::time::Instant;

use eunoe_core::Codec;
use eunoe_kernels::attend::{Heads, Run, TileMask, attend};
use eunoe_kernels::limits;
use eunoe_kernels::strip::{SlotLayout, Strip};
use eunoe_kernels::{Isa, Pool};

/// Bytes of all strips in a decode round: more than caches hold.
const ROUND: usize = 96 << 20;
const TURNS: usize = 7;
const DEPTHS: [usize; 4] = [1024, 4096, 8192, 16384];

/// One layer of a model.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    kv_heads: usize,
    group: usize,
    head_dim: usize,
}

const SHAPES: [Shape; 3] = [
    Shape { name: "SmolLM2-135M", kv_heads: 3, group: 3, head_dim: 64 },
    Shape { name: "Qwen2.5-0.5B", kv_heads: 2, group: 7, head_dim: 64 },
    Shape { name: "Qwen2.5-1.5B", kv_heads: 2, group: 6, head_dim: 128 },
];

struct Bench {
    isa: Isa,
    pool: Pool,
}

/// Strips of `layers` layers.
struct Layers {
    shape: Shape,
    strips: Vec<Strip>,
    slots: usize,
}

impl Layers {
    fn new(shape: Shape, codec: Codec, layers: usize, slots: usize) -> Self {
        let layout = SlotLayout { codec: codec.into(), head_dim: shape.head_dim, column: false };
        let x = |i: usize, j: usize| ((i * 31 + j * 17) % 97) as f32 / 48.5 - 1.0;
        let fill = |_| {
            let mut strip = Strip::new(layout, slots).expect("address space");
            for i in 0..slots {
                let (k, v): (Vec<_>, Vec<_>) = (0..shape.head_dim).map(|j| (x(i, j), x(j, i))).unzip();
                strip.push(&k, &v, i as u32);
            }
            strip
        };
        Self { shape, strips: (0..layers * shape.kv_heads).map(fill).collect(), slots }
    }

    /// As many layers as pass the caches.
    fn past_caches(shape: Shape, codec: Codec, slots: usize) -> Self {
        let bytes = 2 * codec.bytes(shape.head_dim) * slots * shape.kv_heads;
        Self::new(shape, codec, ROUND.div_ceil(bytes), slots)
    }
}

impl Bench {
    /// Seconds of attention by the last `rows` rows of every layer, one after the other, as a forward pass does.
    fn pass(&self, layers: &Layers, rows: usize, mask: Option<&TileMask>) -> f64 {
        let Shape { kv_heads, group, head_dim, .. } = layers.shape;
        let heads = kv_heads * group;
        let q: Vec<f32> = (0..rows * heads * head_dim).map(|i| (i % 89) as f32 / 44.5 - 1.0).collect();
        let mut out = vec![0.0; q.len()];
        let first = layers.slots - rows;
        let shape = Heads { heads, group, scale: (head_dim as f32).powf(-0.5) };
        let start = Instant::now();
        for layer in layers.strips.chunks(kv_heads) {
            let run = |(n, strip)| Run { tiles: mask, ..Run::new(strip, 0..rows, first, n * group) };
            let runs: Vec<_> = layer.iter().enumerate().map(run).collect();
            attend(self.isa, &self.pool, &runs, shape, &q, &mut out, None);
        }
        start.elapsed().as_secs_f64()
    }

    /// Median, least and most of several passes after one that does not count.
    fn seconds(&self, layers: &Layers, rows: usize) -> [f64; 3] {
        self.pass(layers, rows, None);
        spread((0..TURNS).map(|_| self.pass(layers, rows, None)).collect())
    }

    /// Prints a row per depth and gives the seconds of each.
    fn decode(&self, shape: Shape, codec: Codec) -> Vec<f64> {
        let each = |depth: usize| {
            let layers = Layers::past_caches(shape, codec, depth);
            let read = limits::read_rate(self.isa, &self.pool);
            let [mid, least, most] = self.seconds(&layers, 1);
            let bytes: usize = layers.strips.iter().map(Strip::bytes).sum();
            let rate = |seconds: f64| bytes as f64 / seconds / 1e9;
            say(&format!(
                "| {} | {} | decode 1 at {depth} | {:.1} GB/s ({:.1} … {:.1}) | {:.0} % of {:.1} GB/s |",
                shape.name,
                codec.id(),
                rate(mid),
                rate(most),
                rate(least),
                100.0 * rate(mid) / read,
                read
            ));
            mid / layers.strips.len() as f64
        };
        DEPTHS.map(each).into()
    }

    fn prefill(&self, shape: Shape, codec: Codec, peak: f64) -> Vec<f64> {
        let rows = 512;
        let each = |depth: usize| {
            let layers = Layers::new(shape, codec, 1, depth + rows);
            let [mid, least, most] = self.seconds(&layers, rows);
            let pairs = rows * depth + rows * (rows + 1) / 2;
            let ops = (4 * pairs * shape.kv_heads * shape.group * shape.head_dim) as f64;
            let rate = |seconds: f64| ops / seconds / 1e9;
            say(&format!(
                "| {} | {} | prefill {rows} at {depth} | {:.0} Gop/s ({:.0} … {:.0}) | {:.0} % of {:.0} Gop/s |",
                shape.name,
                codec.id(),
                rate(mid),
                rate(most),
                rate(least),
                100.0 * rate(mid) / peak,
                peak
            ));
            mid
        };
        DEPTHS.map(each).into()
    }

    /// All rows of a text of `slots`, dense and with 90 % of the tiles before the diagonal masked, in turns.
    fn sparse(&self, shape: Shape, slots: usize) {
        let layers = Layers::new(shape, Codec::F16, 1, slots);
        let mask = masked(shape.group, slots);
        let (mut dense, mut sparse) = (Vec::new(), Vec::new());
        for turn in 0..4 {
            let times = (self.pass(&layers, slots, None), self.pass(&layers, slots, Some(&mask)));
            if turn > 0 {
                dense.push(times.0);
                sparse.push(times.1);
            }
        }
        let ratios: Vec<f64> = dense.iter().zip(&sparse).map(|(d, s)| d / s).collect();
        let [mid, least, most] = spread(ratios);
        let (dense, sparse) = (spread(dense)[0], spread(sparse)[0]);
        say(&format!(
            "| {} | f16 | all {slots} rows, 10 % of tiles | {dense:.2} s dense, {sparse:.2} s | {mid:.1} times faster \
             ({least:.1} … {most:.1}) |",
            shape.name
        ));
    }
}

/// The diagonal, and one tile in ten before it, chosen per head by a fixed rule that spreads them.
fn masked(group: usize, slots: usize) -> TileMask {
    let mut mask = TileMask::new(group, slots, slots);
    for head in 0..group {
        for row in 0..mask.row_tiles() {
            mask.set(head, row, row, true);
            for slot in 0..row {
                let mixed = ((head * 1_000_003 + row) * 1_000_003 + slot).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                mask.set(head, row, slot, (mixed >> 40).is_multiple_of(10));
            }
        }
    }
    mask
}

/// Median, least, most.
fn spread(mut x: Vec<f64>) -> [f64; 3] {
    x.sort_by(f64::total_cmp);
    [x[x.len() / 2], x[0], x[x.len() - 1]]
}

/// Exponent of the power of depth that fits the times best.
fn slope(seconds: &[f64]) -> f64 {
    let points: Vec<(f64, f64)> =
        DEPTHS.iter().zip(seconds).map(|(depth, s)| ((*depth as f64).ln(), s.ln())).collect();
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let (cov, var) =
        points.iter().fold((0.0, 0.0), |(c, v), p| (c + (p.0 - x) * (p.1 - y), v + (p.0 - x) * (p.0 - x)));
    cov / var
}

#[allow(clippy::print_stdout, reason = "an example")]
fn say(line: &str) {
    println!("{line}");
}

fn main() {
    let threads = std::env::args().nth(1).map_or_else(Pool::available, |a| a.parse().expect("a number"));
    let bench = Bench { isa: Isa::detect(), pool: Pool::new(threads) };
    let (isa, pool) = (bench.isa, &bench.pool);
    let single = limits::f32_peak(isa, pool);
    let peaks = [single, limits::bf16_peak(isa, pool).unwrap_or(single)];
    say(
        "## Attention alone\n\nOne layer after the other, so that keys and values come from memory: decode beside plain \
         reads, prefill beside\nthe peak of the instructions that it uses; the last rows leave out 90 % of the tiles before \
         the diagonal.\n",
    );
    say(&format!(
        "{threads} threads, {isa:?}\n\n| shape | codec | what | speed | against the limit |\n|---|---|---|---|---|"
    ));
    let mut slopes = Vec::new();
    for shape in SHAPES {
        for codec in Codec::ALL {
            let peak = peaks[usize::from(codec != Codec::F32)];
            let (decode, prefill) = (bench.decode(shape, codec), bench.prefill(shape, codec, peak));
            slopes.push(format!(
                "{} {}: {:.2}, {:.2}",
                shape.name,
                codec.id(),
                slope(&decode),
                slope(&prefill)
            ));
        }
    }
    for shape in SHAPES {
        bench.sparse(shape, 16384);
    }
    say(&format!("\nTime grows with depth to the power of (decode, prefill): {}", slopes.join("; ")));
}

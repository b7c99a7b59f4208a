use eunoe_core::{Codec, Codecs};

use super::*;
pub(super) use crate::noise::Noise;
use crate::rope::Style;
use crate::strip::SlotLayout;

mod arg_max;
mod laws;
mod lists;
mod masks;

/// Slot i has position 7 + 3 i: as if others were evicted.
pub(super) fn position(i: usize) -> u32 {
    7 + 3 * i as u32
}

/// Values in another codec than keys.
const Q8_Q4: Codecs = Codecs { k: Codec::Q8, v: Codec::Q4 };
const Q4_F16: Codecs = Codecs { k: Codec::Q4, v: Codec::F16 };

/// Keys and values in one codec each, and in two.
fn layouts() -> impl Iterator<Item = Codecs> + Clone {
    Codec::ALL.map(Codecs::from).into_iter().chain([Q8_Q4, Q4_F16])
}

pub(super) fn strip(codec: impl Into<Codecs>, head_dim: usize, slots: usize, seed: u64) -> Strip {
    let mut strip =
        Strip::new(SlotLayout { codec: codec.into(), head_dim, column: true }, slots).expect("address space");
    let mut noise = Noise(seed);
    for i in 0..slots {
        strip.push(&noise.vec(head_dim), &noise.vec(head_dim), position(i));
    }
    strip
}

/// Turns a key or query by some positions, in f64.
type Turn<'a> = &'a dyn Fn(&mut [f64], i64);

/// How far bf16 (eight significant bits) is from what it stands for: half a unit of the last place of 1.
const BF16: f64 = 1.0 / 256.0;
/// What f32 sums and exponentials of values up to 3 cost.
const F32: f64 = 1e-5;

fn bf16(x: f64) -> f64 {
    f64::from(half::bf16::from_f32(x as f32))
}

/// One row's attention over decoded keys and values in f64.
struct Oracle<'a> {
    strip: &'a Strip,
    keys: Vec<Vec<f64>>,
    values: Vec<Vec<f64>>,
    scale: f32,
    rank: Option<Turn<'a>>,
    /// Queries, keys and values are rounded to bf16, as `attend` does with slots that are not in f32.
    rounds: bool,
}

/// What the oracle says of one line.
struct Attn {
    /// Per slot.
    attn: Vec<f64>,
    lse: f64,
    /// A bound on what rounding queries and keys to bf16 does to a score: each product is off by (1 + u)² - 1.
    doubt: f64,
}

impl Attn {
    /// A bound on the factor that rounding puts on a weight: e^doubt above, and the sum that it is divided by likewise.
    fn factor(&self) -> f64 {
        (2.0 * self.doubt).exp()
    }
}

impl<'a> Oracle<'a> {
    fn new(strip: &'a Strip, scale: f32, rank: Option<Turn<'a>>) -> Self {
        let d = strip.layout().head_dim;
        let read = |f: &dyn Fn(usize, &mut [f32])| {
            let one = |i| {
                let mut x = vec![f32::NAN; d];
                f(i, &mut x);
                x.into_iter().map(f64::from).collect()
            };
            (0..strip.len()).map(one).collect()
        };
        let mut keys: Vec<Vec<f64>> = read(&|i, x| strip.read_k(i, x));
        if let Some(turn) = rank {
            for (i, key) in keys.iter_mut().enumerate() {
                turn(key, i as i64 - i64::from(strip.pos(i)));
            }
        }
        Self { strip, keys, values: read(&|i, x| strip.read_v(i, x)), scale, rank, rounds: false }
    }

    fn rounded(strip: &'a Strip, scale: f32) -> Self {
        let mut this = Self::new(strip, scale, None);
        this.rounds = strip.layout().codec.k != Codec::F32;
        if this.rounds {
            this.keys.iter_mut().chain(&mut this.values).flatten().for_each(|x| *x = bf16(*x));
        }
        this
    }

    /// `moves` is the query's own way to its rank.
    fn attn(&self, q: &[f32], moves: i64, sees: &dyn Fn(usize) -> bool) -> Attn {
        // Scores in bf16 are binary logarithms: the query takes log2 e before it is rounded.
        let log2e = std::f32::consts::LOG2_E;
        let scaled = |x: f32| match self.rounds {
            true => bf16(f64::from(x * (self.scale * log2e))) / f64::from(log2e),
            false => f64::from(x) * f64::from(self.scale),
        };
        let mut q: Vec<f64> = q.iter().map(|x| scaled(*x)).collect();
        if let Some(turn) = self.rank {
            turn(&mut q, moves);
        }
        let score = |(j, k): (usize, &Vec<f64>)| {
            let dot: f64 = k.iter().zip(&q).map(|(a, b)| a * b).sum();
            if sees(j) { dot } else { f64::NEG_INFINITY }
        };
        let scores: Vec<f64> = self.keys.iter().enumerate().map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        let reach = |k: &Vec<f64>| k.iter().zip(&q).map(|(a, b)| (a * b).abs()).sum::<f64>();
        let seen = self.keys.iter().enumerate().filter(|(j, _)| sees(*j));
        let doubt = ((1.0 + BF16).powi(2) - 1.0) * seen.map(|(_, k)| reach(k)).fold(0.0, f64::max);
        Attn { attn: scores.iter().map(|s| (s - max).exp() / sum).collect(), lse: max + sum.ln(), doubt }
    }

    fn out(&self, attn: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.values[0].len()];
        for (p, v) in attn.iter().zip(&self.values) {
            out.iter_mut().zip(v).for_each(|(o, v)| *o += p * v);
        }
        out
    }

    fn row(&self, q: &[f32], slot: usize, window: Option<u32>) -> Attn {
        let own = self.strip.pos(slot);
        let sees = |j: usize| j <= slot && window.is_none_or(|w| self.strip.pos(j) + w > own);
        self.attn(q, slot as i64 - i64::from(own), &sees)
    }

    /// Sum of weights times magnitudes, per value.
    fn reach(&self, attn: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.values[0].len()];
        for (p, v) in attn.iter().zip(&self.values) {
            out.iter_mut().zip(v).for_each(|(o, v)| *o += p * v.abs());
        }
        out
    }
}

/// The last rows of one strip against the oracle.
fn compare(strip: &Strip, group: usize, rows: usize, window: Option<u32>, rank: Option<(&Rope, Turn<'_>)>) {
    let (d, first) = (strip.layout().head_dim, strip.len() - rows);
    let shape = Heads { heads: group, group, scale: (d as f32).powf(-0.5) };
    let q: Vec<f32> = Noise(5).vec(rows * group * d).iter().map(|x| x * 3.0).collect();
    let (mut out, mut lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; rows * group]);
    let run = Run { window, rank: rank.map(|r| r.0), ..Run::new(strip, 0..rows, first, 0) };
    attend(Isa::detect(), &Pool::new(2), &[run], shape, &q, &mut out, Some(&mut lse));
    let exact = Oracle::new(strip, shape.scale, rank.map(|r| r.1));
    let rounded = Oracle::rounded(strip, shape.scale);
    let is_f32 = strip.layout().codec.k == Codec::F32;
    for line in 0..rows * group {
        let at = line * d..(line + 1) * d;
        let context = format!("{:?} n {} group {group} line {line}", strip.layout(), strip.len());
        let near = |got: f32, want: f64, by: f64| {
            assert!((f64::from(got) - want).abs() <= by, "{context}: {got} {want} within {by}");
        };
        if rank.is_none() {
            // The same operands: only weights are rounded, each by at most u.
            let row = rounded.row(&q[at.clone()], first + line / group, window);
            let unit = if is_f32 { 0.0 } else { BF16 };
            near(lse[line], row.lse, F32);
            for ((got, want), reach) in
                out[at.clone()].iter().zip(rounded.out(&row.attn)).zip(rounded.reach(&row.attn))
            {
                near(*got, want, unit * reach + F32);
            }
        }
        // Against what is stored: weights are off by `factor`, they and values by 1 + u.
        let row = exact.row(&q[at.clone()], first + line / group, window);
        let (doubt, factor) =
            if is_f32 { (0.0, 1.0) } else { (row.doubt, row.factor() * (1.0 + BF16).powi(2)) };
        near(lse[line], row.lse, doubt + F32);
        for ((got, want), reach) in out[at].iter().zip(exact.out(&row.attn)).zip(exact.reach(&row.attn)) {
            near(*got, want, (factor - 1.0) * reach + F32);
        }
    }
}

#[test]
fn two_slots_by_hand() {
    // Keys 0 and ln 3 in one dimension, query 1, scale 1: weights 1/4 and 3/4; values 4 and 8: 1 + 6 = 7;
    // log-sum-exp ln(1 + 3). The first row sees slot 0 alone: 4, and 0.
    let layout = SlotLayout { codec: Codec::F32.into(), head_dim: 32, column: false };
    let mut strip = Strip::new(layout, 2).expect("address space");
    let unit = |x: f32| std::array::from_fn::<f32, 32, _>(|i| if i == 0 { x } else { 0.0 });
    strip.push(&unit(0.0), &[4.0; 32], 0);
    strip.push(&unit(3f32.ln()), &[8.0; 32], 1);
    for isa in Isa::available() {
        let (mut out, mut lse) = ([f32::NAN; 64], [f32::NAN; 2]);
        let q = [unit(1.0), unit(1.0)].concat();
        let run = Run::new(&strip, 0..2, 0, 0);
        let shape = Heads { heads: 1, group: 1, scale: 1.0 };
        attend(isa, &Pool::new(1), &[run], shape, &q, &mut out, Some(&mut lse));
        assert_eq!(out[..32], [4.0; 32]);
        assert!(out[32..].iter().all(|x| (x - 7.0).abs() < 1e-6), "{:?}", &out[32..]);
        assert!(lse[0] == 0.0 && (lse[1] - 4f32.ln()).abs() < 1e-6, "{lse:?}");
    }
}

#[test]
fn attention_is_the_oracles() {
    for n in [1, 7, 63, 64, 65, 1000, 1025, 2049] {
        for d in [32, 64, 96, 128, 256] {
            for (group, codec) in [
                (1, Codec::F32.into()),
                (3, Codec::F16.into()),
                (2, Codec::Q8.into()),
                (4, Codec::Q4.into()),
                (3, Q8_Q4),
                (1, Q4_F16),
                (6, Codec::F32.into()),
                (7, Codec::F16.into()),
            ] {
                compare(&strip(codec, d, n, 11), group, n.min(if n > 100 { 3 } else { 70 }), None, None);
            }
        }
    }
}

#[test]
fn a_window_hides_old_positions() {
    for (n, window) in [(65, 1), (200, 3), (200, 4), (200, 300), (2049, 900), (2049, 9000)] {
        for codec in layouts() {
            compare(&strip(codec, 96, n, 3), 3, 5, Some(window), None);
        }
    }
}

#[test]
fn ranks_replace_positions() {
    for style in [Style::Norm, Style::Neox] {
        let rope = Rope::new(style, 64, 10_000.0, 1.0, None).expect("even");
        let turn = |x: &mut [f64], by: i64| {
            for i in 0..32 {
                let (a, b) = if style == Style::Norm { (2 * i, 2 * i + 1) } else { (i, i + 32) };
                let (sin, cos) = (by as f64 * 10_000f64.powf(-(i as f64) / 32.0)).sin_cos();
                (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[a] * sin + x[b] * cos);
            }
        };
        for (n, codec) in [3, 130, 1100].into_iter().flat_map(|n| layouts().map(move |codec| (n, codec))) {
            compare(&strip(codec, 96, n, 8), 3, 3, None, Some((&rope, &turn)));
        }
    }
}

#[test]
fn huge_scores_stay_finite() {
    let strip = strip(Codec::F32, 64, 300, 2);
    let q: Vec<f32> = Noise(1).vec(64).iter().map(|x| x * 1e4).collect();
    let mut out = vec![f32::NAN; 64];
    let run = Run::new(&strip, 0..1, 299, 0);
    attend(
        Isa::detect(),
        &Pool::new(1),
        &[run],
        Heads { heads: 1, group: 1, scale: 1.0 },
        &q,
        &mut out,
        None,
    );
    let oracle = Oracle::new(&strip, 1.0, None);
    let row = oracle.row(&q, 299, None);
    assert!(row.lse > 1e4);
    for (got, want) in out.iter().zip(oracle.out(&row.attn)) {
        assert!((f64::from(*got) - want).abs() < 0.05, "{got} {want}");
    }
}

#[test]
fn mass_by_hand() {
    // Keys are 0, so weights are even. Row 0 gives slot 0 mass 1; row 1 gives both 1/2 after halving what is there:
    // slot 0: 1/2 + 1/2, slot 1: 1/2. Two heads summed give twice that, the larger of two the same.
    for (group, fold, want) in
        [(1, Fold::Sum, [1.0, 0.5]), (2, Fold::Sum, [2.0, 1.0]), (2, Fold::Max, [1.0, 0.5])]
    {
        let mut strip = Strip::new(SlotLayout { codec: Codec::F16.into(), head_dim: 32, column: true }, 2)
            .expect("memory");
        strip.push(&[0.0; 32], &[1.0; 32], 0);
        strip.push(&[0.0; 32], &[1.0; 32], 1);
        let q = vec![1.0; 2 * group * 32];
        let lse: Vec<f32> = (0..2 * group).map(|line| ((line / group + 1) as f32).ln()).collect();
        let run = RecordRun { strip: &mut strip, rows: 0..2, first: 0, head: 0, window: None, rank: None };
        let (shape, rule) = (Heads { heads: group, group, scale: 1.0 }, Rule { decay: 0.5, fold });
        record(Isa::detect(), &Pool::new(1), &mut [run], shape, &q, &lse, rule);
        let mut columns = Vec::new();
        strip.columns(&mut columns);
        assert!(columns.iter().zip(want).all(|(c, w)| (c - w).abs() < 1e-6), "{fold:?} {columns:?}");
    }
}

#[test]
fn last_rows_are_the_oracles() {
    let rope = Rope::new(Style::Neox, 64, 10_000.0, 1.0, None).expect("even");
    let turn = |x: &mut [f64], by: i64| {
        for i in 0..32 {
            let (sin, cos) = (by as f64 * 10_000f64.powf(-(i as f64) / 32.0)).sin_cos();
            (x[i], x[i + 32]) = (x[i] * cos - x[i + 32] * sin, x[i] * sin + x[i + 32] * cos);
        }
    };
    let cases = [
        (1, 1, 1, Fold::Sum, false),
        (70, 33, 3, Fold::Max, true),
        (1500, 50, 7, Fold::Sum, true),
        (1500, 8, 4, Fold::Max, false),
    ];
    for ((n, w, group, fold, ranked), codec) in
        cases.into_iter().flat_map(|case| [Codec::F16, Codec::Q8, Codec::Q4].map(|codec| (case, codec)))
    {
        let strip = strip(codec, 64, n, 21);
        let pos: Vec<u32> = (n - w.min(n)..n).map(position).collect();
        let q = Noise(9).vec(pos.len() * group * 64);
        let (rank, moved): (_, Option<Turn<'_>>) =
            if ranked { (Some(&rope), Some(&turn)) } else { (None, None) };
        let mut out = vec![f32::NAN; n];
        let last = LastRows { strip: &strip, q: &q, pos: &pos, scale: 0.125, fold, rank };
        last_rows(Isa::detect(), &Pool::new(2), &last, &mut out);
        let oracle = if ranked { Oracle::new(&strip, 0.125, moved) } else { Oracle::rounded(&strip, 0.125) };
        let (mut want, mut doubt) = (vec![0.0; n], vec![2e-5; n]);
        for (row, &own) in pos.iter().enumerate() {
            let sees = |j: usize| strip.pos(j) <= own;
            let rank = (0..n).filter(|j| sees(*j)).count() as i64 - 1;
            let mut mass = vec![0.0f64; n];
            for line in row * group..(row + 1) * group {
                let line = oracle.attn(&q[line * 64..][..64], rank - i64::from(own), &sees);
                // Rotated keys are rounded after f32 steps, on either side of a tie.
                let by = if ranked { line.factor() - 1.0 } else { 0.0 };
                for ((m, p), doubt) in mass.iter_mut().zip(&line.attn).zip(&mut doubt) {
                    *m = if fold == Fold::Sum { *m + p } else { m.max(*p) };
                    *doubt += by * p;
                }
            }
            want.iter_mut().zip(mass).for_each(|(w, m)| *w += m);
        }
        for (j, (got, want)) in out.iter().zip(want).enumerate() {
            assert!((f64::from(*got) - want).abs() <= doubt[j], "{codec:?} n {n} slot {j}: {got} {want}");
        }
    }
}

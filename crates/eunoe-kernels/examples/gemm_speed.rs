//! How fast are dense products, and against what? Gop/s of f32 and bf16 for sizes of training, in the three forms that a
//! layer and its gradients need, beside the peak of the instructions that are used; many small products; three loops.
//! `cargo run --release -p eunoe-kernels --example gemm_speed [threads]`

use std::time::Instant;

use eunoe_kernels::gemm::{Element, Level, Mat, Out, gemm, gemm_batch};
use eunoe_kernels::{Isa, Pool, limits};
use half::bf16;

const TURNS: usize = 7;
/// Rows (batch by time), steps, columns.
const SIZES: [[usize; 3]; 6] = [
    [1024, 256, 1024],
    [1024, 1024, 256],
    [1024, 576, 1536],
    [1024, 1024, 1024],
    [1024, 2048, 512],
    [2048, 2048, 2048],
];
/// How many, rows, steps, columns.
const BATCHES: [[usize; 4]; 5] =
    [[512, 64, 64, 64], [512, 32, 32, 32], [96, 256, 64, 256], [96, 256, 256, 64], [512, 48, 17, 33]];

#[derive(Clone, Copy)]
enum Form {
    Plain,
    RightTransposed,
    LeftTransposed,
}

const FORMS: [Form; 3] = [Form::Plain, Form::RightTransposed, Form::LeftTransposed];

struct Bench {
    isa: Isa,
    pool: Pool,
}

#[allow(clippy::print_stdout, reason = "an example")]
fn say(line: &str) {
    println!("{line}");
}

/// Median and best of several turns after one that does not count.
fn seconds(mut work: impl FnMut()) -> [f64; 2] {
    work();
    let mut times: Vec<f64> = (0..TURNS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    [times[TURNS / 2], times[0]]
}

fn values<T>(len: usize, of: impl Fn(f32) -> T) -> Vec<T> {
    (0..len).map(|i| of((i * 31 % 97) as f32 / 48.5 - 1.0)).collect()
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "A·B",
            Self::RightTransposed => "A·Bᵀ",
            Self::LeftTransposed => "Aᵀ·B",
        }
    }

    /// Views of data that lies as the form says.
    fn views<'a, T>(self, a: &'a [T], b: &'a [T], [m, k, n]: [usize; 3]) -> [Mat<'a, T>; 2] {
        let view = |x, rows, cols| Mat::row_major(x, rows, cols).expect("enough data");
        match self {
            Self::Plain => [view(a, m, k), view(b, k, n)],
            Self::RightTransposed => [view(a, m, k), view(b, n, k).t()],
            Self::LeftTransposed => [view(a, k, m).t(), view(b, k, n)],
        }
    }
}

impl Bench {
    fn row(&self, kind: &str, what: &str, form: Form, ops: f64, [mid, best]: [f64; 2]) {
        // the processor's clock moves: the limit is taken beside each row
        let single = limits::f32_peak(self.isa, &self.pool);
        let pairs =
            limits::bf16_peak(self.isa, &self.pool).filter(|_| matches!(self.isa, Isa::Avx512Bf16 { .. }));
        let peak = if kind == "bf16" { pairs.unwrap_or(single) } else { single };
        say(&format!(
            "| {kind} | {what} | {} | {} | {:.1} ({:.1}) | {:.0} % of {peak:.1} |",
            form.name(),
            self.pool.threads(),
            ops / mid / 1e9,
            ops / best / 1e9,
            100.0 * ops / mid / 1e9 / peak,
        ));
    }

    fn sizes<T: Element>(&self, kind: &str, of: fn(f32) -> T) {
        for [m, k, n] in SIZES {
            let (a, b, mut out) = (values(m * k, of), values(k * n, of), vec![0.0; m * n]);
            for form in FORMS {
                let [a, b] = form.views(&a, &b, [m, k, n]);
                let work = || gemm(self.isa, &self.pool, a, b, Out::set(&mut out, n)).expect("sizes");
                self.row(kind, &format!("{m} x {k} x {n}"), form, 2.0 * (m * k * n) as f64, seconds(work));
            }
        }
    }

    fn batches<T: Element>(&self, kind: &str, of: fn(f32) -> T) {
        for [count, m, k, n] in BATCHES {
            let (a, b) = (values(count * m * k, of), values(count * k * n, of));
            let mut out = vec![0.0; count * m * n];
            let levels = [Level { count, a: m * k, b: k * n, out: m * n }];
            for form in FORMS {
                let [a, b] = form.views(&a, &b, [m, k, n]);
                let work = || {
                    gemm_batch(self.isa, &self.pool, &levels, a, b, Out::set(&mut out, n)).expect("sizes");
                };
                let ops = 2.0 * (count * m * k * n) as f64;
                self.row(kind, &format!("{count} of {m} x {k} x {n}"), form, ops, seconds(work));
            }
        }
    }

    /// The limit from below: three loops, compiled for the same instruction set.
    fn naive(&self) {
        let [m, k, n] = SIZES[0];
        let (a, b, mut out) = (values(m * k, |x| x), values(k * n, |x| x), vec![0.0f32; m * n]);
        let work = || {
            self.isa.run(
                #[inline(always)]
                || {
                    for i in 0..m {
                        let row = &mut out[i * n..][..n];
                        row.fill(0.0);
                        for s in 0..k {
                            let left = a[i * k + s];
                            row.iter_mut()
                                .zip(&b[s * n..][..n])
                                .for_each(|(x, right)| *x = left.mul_add(*right, *x));
                        }
                    }
                },
            );
        };
        self.row(
            "f32",
            &format!("{m} x {k} x {n}, three loops"),
            Form::Plain,
            2.0 * (m * k * n) as f64,
            seconds(work),
        );
    }
}

fn main() {
    let most = std::env::args().nth(1).map_or_else(Pool::available, |a| a.parse().expect("a number"));
    let isa = Isa::detect();
    say(&format!(
        "## Dense products\n\nMedian (best) of {TURNS} in Gop/s, a multiply-add being two, on {isa:?}; the limit is the peak \
         of the instructions that are used, on as many threads.\n\n\
         | type | rows x steps x columns | form | threads | Gop/s | against the limit |\n|---|---|---|---|---|---|"
    ));
    let mut threads = vec![1, most];
    threads.dedup();
    for threads in threads {
        let bench = Bench { isa, pool: Pool::new(threads) };
        bench.sizes("f32", |x| x);
        bench.batches("f32", |x| x);
        bench.sizes("bf16", bf16::from_f32);
        bench.batches("bf16", bf16::from_f32);
    }
    Bench { isa, pool: Pool::new(1) }.naive();
}

//! How fast are the operations of training? Per operation, forward and backward: time, and bytes or multiply-adds per
//! second beside what this machine can do. Model of d 256 with 4 heads, 4 sequences of 256, 256 tokens to choose from.
//!
//! `cargo run --release -p eunoe-kernels --example grad_speed -- [threads]`
#![allow(clippy::print_stdout, reason = "an example talks")]

use std::time::Instant;

use eunoe_core::Result;
use eunoe_kernels::grad::adamw::{AdamW, State, sum_squares};
use eunoe_kernels::grad::attend::{self, Attention, Weights};
use eunoe_kernels::grad::decay::{self, Lightning};
use eunoe_kernels::grad::glu::{Act, Gated};
use eunoe_kernels::grad::norm::{self, Norm};
use eunoe_kernels::grad::prefix::{self, Prefixes};
use eunoe_kernels::grad::rope::Turns;
use eunoe_kernels::grad::softmax_loss::Targets;
use eunoe_kernels::rope::{Rope, Style};
use eunoe_kernels::{Isa, Pool, limits};

const BATCH: usize = 4;
const HEADS: usize = 4;
const T: usize = 256;
const HEAD_DIM: usize = 64;
const WIDTH: usize = HEADS * HEAD_DIM;
const ROWS: usize = BATCH * T;
const VOCAB: usize = 256;
/// Gate and up projections of the model.
const GATED: usize = ROWS * 3 * WIDTH;
/// More than the caches hold: the optimiser meets its parameters once per step.
const PARAMETERS: usize = 1 << 23;

struct Bench {
    isa: Isa,
    pool: Pool,
    /// GB/s, Gop/s.
    limits: [f64; 2],
}

impl Bench {
    /// Runs for a quarter of a second; prints the best time.
    fn time(&self, name: &str, mut work: impl FnMut(Isa, &Pool) -> Result<()>) -> Result<f64> {
        let (start, mut best) = (Instant::now(), f64::MAX);
        while start.elapsed().as_secs_f64() < 0.25 {
            let begin = Instant::now();
            work(self.isa, &self.pool)?;
            best = best.min(begin.elapsed().as_secs_f64());
        }
        print!("{name:24} {:10.0} ns", best * 1e9);
        Ok(best)
    }

    /// An operation that reads and writes so many floats.
    fn moves(&self, name: &str, floats: usize, work: impl FnMut(Isa, &Pool) -> Result<()>) -> Result<()> {
        let rate = 4e-9 * floats as f64 / self.time(name, work)?;
        println!("  {rate:7.1} GB/s   {:5.0} % of a plain read", 100.0 * rate / self.limits[0]);
        Ok(())
    }

    /// An operation of so many multiply-adds.
    fn counts(&self, name: &str, macs: usize, work: impl FnMut(Isa, &Pool) -> Result<()>) -> Result<()> {
        let rate = 2e-9 * macs as f64 / self.time(name, work)?;
        println!("  {rate:7.1} GFLOP/s {:5.0} % of the peak", 100.0 * rate / self.limits[1]);
        Ok(())
    }
}

fn noise(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn main() -> Result<()> {
    let threads = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or_else(Pool::available);
    let (isa, pool) = (Isa::detect(), Pool::new(threads));
    let limits = [limits::read_rate(isa, &pool), limits::f32_peak(isa, &pool)];
    println!("{isa:?}, {threads} threads, read {:.1} GB/s, f32 {:.0} Gop/s", limits[0], limits[1]);
    let bench = Bench { isa, pool, limits };
    attention(&bench)?;
    linear_attention(&bench)?;
    rows(&bench)?;
    gates(&bench)?;
    sequences(&bench)?;
    optimiser(&bench)
}

fn attention(bench: &Bench) -> Result<()> {
    let [q, k, v, dout] = [(); 4].map(|()| noise(ROWS * WIDTH));
    let [mut out, mut dq, mut dk, mut dv] = [(); 4].map(|()| vec![0.0; ROWS * WIDTH]);
    let inputs = attend::Inputs { q: &q, k: &k, v: &v };
    for (name, weights) in [("softmax", Weights::Softmax), ("sigmoid", Weights::Sigmoid)] {
        let (batch, heads, t_q, head_dim, scale) = (BATCH, HEADS, T, HEAD_DIM, 0.125);
        let (t_k, kv_heads, value_dim, window) = (t_q, heads, head_dim, None);
        let of = Attention { batch, heads, kv_heads, t_q, t_k, head_dim, value_dim, scale, window, weights };
        let mut lse = vec![0.0; of.lse_len()];
        // what is visible alone counts
        let macs = BATCH * HEADS * T * (T + 1) / 2 * HEAD_DIM;
        bench.counts(&format!("{name} attention"), 2 * macs, |isa, pool| {
            of.forward(isa, pool, inputs, &mut out, &mut lse)
        })?;
        let outputs = attend::Outputs { out: &out, lse: &lse, dout: &dout };
        bench.counts(&format!("{name} backward"), 5 * macs, |isa, pool| {
            let grads = attend::Grads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
            of.backward(isa, pool, inputs, outputs, grads)
        })?;
    }
    Ok(())
}

fn linear_attention(bench: &Bench) -> Result<()> {
    let [q, k, v, dout] = [(); 4].map(|()| noise(ROWS * WIDTH));
    let [mut out, mut dq, mut dk, mut dv] = [(); 4].map(|()| vec![0.0; ROWS * WIDTH]);
    let mut end = vec![0.0; BATCH * HEADS * HEAD_DIM * HEAD_DIM];
    let of = Lightning {
        batch: BATCH,
        heads: HEADS,
        t: T,
        key_dim: HEAD_DIM,
        value_dim: HEAD_DIM,
        decay: &[0.99; HEADS],
    };
    let inputs = decay::Inputs { q: &q, k: &k, v: &v, start: None };
    // per step and head: two products with the state, two with half a chunk of 64
    let macs = BATCH * HEADS * T * (2 * HEAD_DIM * HEAD_DIM + 64 * HEAD_DIM);
    bench
        .counts("lightning attention", macs, |isa, pool| of.forward(isa, pool, inputs, &mut out, &mut end))?;
    let outputs = decay::Outputs { dout: &dout, dend: None };
    let macs = BATCH * HEADS * T * (5 * HEAD_DIM * HEAD_DIM + 5 * 32 * HEAD_DIM);
    bench.counts("lightning backward", macs, |isa, pool| {
        let grads = decay::Grads { dq: &mut dq, dk: &mut dk, dv: &mut dv, dstart: None };
        of.backward(isa, pool, inputs, outputs, grads)
    })
}

fn rows(bench: &Bench) -> Result<()> {
    let len = ROWS * WIDTH;
    let (x, dy, weight) = (noise(len), noise(len), noise(WIDTH));
    let (mut y, mut dx, mut dweight) = (vec![0.0; len], vec![0.0; len], vec![0.0; WIDTH]);
    let norm = Norm { eps: 1e-6, width: WIDTH, weight: Some(&weight) };
    bench.moves("rms norm", 2 * len, |isa, pool| norm.forward(isa, pool, &x, &mut y))?;
    bench.moves("rms norm backward", 3 * len, |isa, pool| {
        let grads = norm::Grads { dx: &mut dx, dweight: Some(&mut dweight) };
        norm.backward(isa, pool, &x, &dy, grads)
    })?;
    let of: Vec<u32> = (0..ROWS as u32).map(|i| i * 7 % VOCAB as u32).collect();
    let targets = Targets { vocab: VOCAB, of: &of, ignore: None };
    let (logits, [mut loss, mut lse]) = (noise(ROWS * VOCAB), [(); 2].map(|()| vec![0.0; ROWS]));
    let mut dlogits = vec![0.0; ROWS * VOCAB];
    bench.moves("cross-entropy", ROWS * VOCAB, |isa, pool| {
        targets.forward(isa, pool, &logits, &mut loss, &mut lse)
    })?;
    bench.moves("cross-entropy backward", 2 * ROWS * VOCAB, |isa, pool| {
        targets.backward(isa, pool, &logits, &lse, &loss, &mut dlogits)
    })?;
    let rope = Rope::new(Style::Neox, HEAD_DIM, 1e4, 1.0, None)?;
    let turns = Turns::new(&rope, 0, T)?;
    bench.moves("rope", 2 * len, |isa, pool| turns.forward(isa, pool, HEAD_DIM, &x, &mut y))
}

fn gates(bench: &Bench) -> Result<()> {
    let [gate, up, dout] = [(); 3].map(|()| noise(GATED));
    let [mut out, mut dgate, mut dup] = [(); 3].map(|()| vec![0.0; GATED]);
    for (name, act) in [("silu", Act::Silu), ("gelu", Act::Gelu)] {
        let x = Gated { gate: &gate, up: &up };
        bench.moves(&format!("{name} gate"), 3 * GATED, |isa, pool| act.glu(isa, pool, x, &mut out))?;
        bench.moves(&format!("{name} gate backward"), 5 * GATED, |isa, pool| {
            act.glu_backward(isa, pool, x, &dout, &mut dgate, &mut dup)
        })?;
    }
    Ok(())
}

fn sequences(bench: &Bench) -> Result<()> {
    let (of, len) = (Prefixes { rows: BATCH * HEADS, t: T, cols: HEAD_DIM }, ROWS * WIDTH);
    let (s, [x, dy]) = (noise(ROWS * HEADS), [(); 2].map(|()| noise(len)));
    let ([mut y, mut dx], mut ds) = ([(); 2].map(|()| vec![0.0; len]), vec![0.0; s.len()]);
    let inputs = prefix::Inputs { s: &s, x: &x };
    bench.moves("prefix softmax", 2 * len, |isa, pool| of.forward(isa, pool, inputs, &mut y))?;
    bench.moves("prefix softmax backward", 3 * len, |isa, pool| {
        of.backward(isa, pool, inputs, &dy, prefix::Grads { ds: &mut ds, dx: &mut dx })
    })
}

fn optimiser(bench: &Bench) -> Result<()> {
    let (g, mut p) = (noise(PARAMETERS), noise(PARAMETERS));
    let [mut m, mut v] = [(); 2].map(|()| vec![0.0; PARAMETERS]);
    bench.moves("sum of squares", PARAMETERS, |isa, pool| {
        std::hint::black_box(sum_squares(isa, pool, &g));
        Ok(())
    })?;
    let mut adam = AdamW { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, decay: 0.1, step: 0, scale: 1.0 };
    bench.moves("adamw", 7 * PARAMETERS, |isa, pool| {
        adam.step += 1;
        adam.step(isa, pool, &g, State { p: &mut p, m: &mut m, v: &mut v })
    })
}

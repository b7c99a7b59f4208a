//! How long does a training step take, with our kernels and with candle's own operations?
//!
//!     cargo run --release -p eunoe-lab --example step_speed -- [--threads N] [--steps N] [--rounds N]
//!
//! One model (d 256, 4 layers, 4 heads, T 256, batch 4, AdamW, f32) on equal threads. The two forms take turns, each in a
//! process of its own: ours as `eunoe-lab` runs it, candle's as any program does. `bench/peers/torch_step.py` measures PyTorch
//! beside them.
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::process::Command;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use eunoe_kernels::{Isa, Pool, limits};
use eunoe_lab::nets::{Config, Decoder, Params};
use eunoe_lab::streams::Batch;
use eunoe_lab::train::{AdamW, Grads, TrainConfig};
use eunoe_lab::{Ctx, ops};

const BATCH: usize = 4;
const T: usize = 256;

/// Seconds of forward, backward and the optimiser's part of one step.
fn step(model: &Decoder, params: &Params, adam: &mut AdamW, batch: &Batch) -> anyhow::Result<[f64; 3]> {
    let start = Instant::now();
    let loss = model.loss(batch, &mut Ctx::default())?;
    let forward = start.elapsed();
    let store = loss.backward()?;
    let backward = start.elapsed();
    let mut grads = Grads::default();
    grads.add(params, store)?;
    adam.step(params, &grads, 1)?;
    let seconds = [forward, backward - forward, start.elapsed() - backward];
    Ok(seconds.map(|part| part.as_secs_f64()))
}

/// The value behind `name` on the command line.
fn value(name: &str, default: usize) -> anyhow::Result<usize> {
    let mut args = std::env::args().skip_while(|arg| arg != name).skip(1);
    args.next().map_or(Ok(default), |text| Ok(text.parse()?))
}

fn main() -> anyhow::Result<()> {
    let (threads, steps, rounds) =
        (value("--threads", Pool::available())?, value("--steps", 10)?, value("--rounds", 3)?);
    if let Some(form) = std::env::args().find(|arg| arg == "ours" || arg == "candle") {
        if form == "ours" {
            eunoe_lab::process::calm();
        }
        ops::set_threads(threads);
        ops::set_plain(form == "candle");
        return measure(steps);
    }
    let mut seconds = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (own, form) in seconds.iter_mut().zip(["ours", "candle"]) {
            let mut command = Command::new(std::env::current_exe()?);
            command.args([form, "--threads", &threads.to_string(), "--steps", &steps.to_string()]);
            let output = command.env("CANDLE_NUM_THREADS", threads.to_string()).output()?;
            anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            own.extend(serde_json::from_slice::<Vec<[f64; 3]>>(&output.stdout)?);
        }
    }
    report(threads, &seconds);
    Ok(())
}

/// Prints the seconds of each step's parts, as JSON.
fn measure(steps: usize) -> anyhow::Result<()> {
    let mut params = Params::new(0, DType::F32, &Device::Cpu);
    let model = Decoder::new(&Config::default(), &mut params)?;
    let mut adam = AdamW::new(&params, &TrainConfig::default())?;
    let tokens: Vec<u32> = (0..BATCH * (T + 1)).map(|i| (i * 7919 % 251) as u32).collect();
    let window = |shift: usize| -> candle_core::Result<Tensor> {
        let rows = (0..BATCH).flat_map(|b| tokens[b * (T + 1) + shift..][..T].to_vec());
        Tensor::from_vec(rows.collect::<Vec<u32>>(), (BATCH, T), &Device::Cpu)
    };
    let batch = Batch { tokens: window(0)?, targets: window(1)?, asked: None };
    let all = (0..steps + 3).map(|_| step(&model, &params, &mut adam, &batch));
    // the first ones warm up
    let seconds: Vec<[f64; 3]> = all.skip(3).collect::<anyhow::Result<_>>()?;
    println!("{}", serde_json::to_string(&seconds)?);
    Ok(())
}

fn report(threads: usize, seconds: &[Vec<[f64; 3]>; 2]) {
    let config = Config::default();
    let median = |i: usize, part: &dyn Fn(&[f64; 3]) -> f64| {
        let mut all: Vec<f64> = seconds[i].iter().map(part).collect();
        all.sort_by(f64::total_cmp);
        1e3 * all[all.len() / 2]
    };
    let total = |i| median(i, &|parts| parts.iter().sum());
    println!(
        "| {threads} threads | step, ms | forward | backward | optimiser | tokens/s |\n| --- | --- | --- | --- | --- | --- |"
    );
    for (i, name) in ["our kernels", "candle's operations"].into_iter().enumerate() {
        let [forward, backward, optimiser] = [0, 1, 2].map(|part| median(i, &|parts| parts[part]));
        let tokens = (BATCH * T) as f64 / total(i) * 1e3;
        println!(
            "| {name} | {:.1} | {forward:.1} | {backward:.1} | {optimiser:.1} | {tokens:.0} |",
            total(i)
        );
    }
    // two operations per weight and token forward, four backward; of attention seven products over half of the square
    let weights = config.vocab * config.d_model
        + config.layers * config.d_model * (4 * config.d_model + 3 * config.d_ff);
    let weights = weights as f64 * 6.0 * (BATCH * T) as f64;
    let attention = (config.layers * config.d_model * BATCH * T * T) as f64 * 7.0;
    let peak = limits::f32_peak(Isa::detect(), &Pool::new(threads));
    println!("\n{:.2} times candle's operations", total(1) / total(0));
    println!(
        "products: {:.1} Gop, {:.0} % of the measured {peak:.0} Gop/s",
        (weights + attention) / 1e9,
        100.0 * (weights + attention) / 1e6 / total(0) / peak
    );
}

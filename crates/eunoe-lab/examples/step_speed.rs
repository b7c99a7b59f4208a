//! How long does a training step take, with our kernels and with candle's own operations?
//!
//!     cargo run --release -p eunoe-lab --example step_speed -- [--threads N] [--steps N]
//!
//! One model (d 256, 4 layers, 4 heads, T 256, batch 4, AdamW, f32), both forms in turns in one process, on equal threads.
//! `bench/peers/torch_step.py` measures PyTorch on the same model and prints the same line.
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use eunoe_kernels::{Isa, Pool, limits};
use eunoe_lab::nets::{Config, Decoder, Params};
use eunoe_lab::train::{AdamW, Grads, TrainConfig};
use eunoe_lab::{Ctx, ops};

const BATCH: usize = 4;
const T: usize = 256;

/// Seconds of forward, backward and the optimiser's part of one step.
fn step(model: &Decoder, params: &Params, adam: &mut AdamW, data: &[Tensor; 2]) -> anyhow::Result<[f64; 3]> {
    let start = Instant::now();
    let loss = model.loss(&data[0], &data[1], &mut Ctx::default())?;
    let forward = start.elapsed();
    let store = loss.backward()?;
    let backward = start.elapsed();
    let mut grads = Grads::default();
    grads.add(params, store)?;
    adam.step(params, &grads, 1)?;
    let seconds = [forward, backward - forward, start.elapsed() - backward];
    Ok(seconds.map(|part| part.as_secs_f64()))
}

fn main() -> anyhow::Result<()> {
    let value = |name: &str, default: usize| {
        let mut args = std::env::args().skip_while(|arg| arg != name).skip(1);
        args.next().map_or(Ok(default), |text| text.parse())
    };
    let (threads, steps) = (value("--threads", Pool::available())?, value("--steps", 20)?);
    ops::set_threads(threads);
    let config = Config::default();
    let mut params = Params::new(0, DType::F32, &Device::Cpu);
    let model = Decoder::new(&config, &mut params)?;
    let mut adam = AdamW::new(&params, &TrainConfig::default())?;
    let tokens: Vec<u32> = (0..BATCH * (T + 1)).map(|i| (i * 7919 % 251) as u32).collect();
    let window = |shift: usize| -> candle_core::Result<Tensor> {
        let rows = (0..BATCH).flat_map(|b| tokens[b * (T + 1) + shift..][..T].to_vec());
        Tensor::from_vec(rows.collect::<Vec<u32>>(), (BATCH, T), &Device::Cpu)
    };
    let data = [window(0)?, window(1)?];
    let mut seconds = [Vec::new(), Vec::new()];
    for turn in 0..steps + 3 {
        for (i, plain) in [false, true].into_iter().enumerate() {
            // plain steps are long: a third as many
            if plain && turn % 3 != 0 {
                continue;
            }
            ops::set_plain(plain);
            let parts = step(&model, &params, &mut adam, &data)?;
            if turn >= 3 {
                seconds[i].push(parts);
            }
        }
    }
    report(&config, &params, threads, &seconds);
    Ok(())
}

fn report(config: &Config, params: &Params, threads: usize, seconds: &[Vec<[f64; 3]>; 2]) {
    let median = |i: usize, part: &dyn Fn(&[f64; 3]) -> f64| {
        let mut all: Vec<f64> = seconds[i].iter().map(part).collect();
        all.sort_by(f64::total_cmp);
        1e3 * all[all.len() / 2]
    };
    let total = |i| median(i, &|parts| parts.iter().sum());
    println!("| {threads} threads | step, ms | forward | backward | optimiser | tokens/s |\n| --- | --- | --- | --- | --- | --- |");
    for (i, name) in ["our kernels", "candle's operations"].into_iter().enumerate() {
        let [forward, backward, optimiser] = [0, 1, 2].map(|part| median(i, &|parts| parts[part]));
        let tokens = (BATCH * T) as f64 / total(i) * 1e3;
        println!("| {name} | {:.1} | {forward:.1} | {backward:.1} | {optimiser:.1} | {tokens:.0} |", total(i));
    }
    // two operations per weight and token forward, four backward; of attention seven products over half of the square
    let weights = params.count() as f64 * 6.0 * (BATCH * T) as f64;
    let attention = (config.layers * config.d_model * BATCH * T * T) as f64 * 7.0;
    let peak = limits::f32_peak(Isa::detect(), &Pool::new(threads));
    println!("\n{:.2} times candle's operations", total(1) / total(0));
    println!(
        "products: {:.1} Gop, {:.0} % of the measured {peak:.0} Gop/s",
        (weights + attention) / 1e9,
        100.0 * (weights + attention) / 1e6 / total(0) / peak
    );
}

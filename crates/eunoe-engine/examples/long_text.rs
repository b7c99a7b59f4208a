//! Does memory stay flat? Reads a long text under plans of fixed size and prints what the process holds on the way.
//!
//! `long_text MODEL.gguf TEXT TOKENS PLAN...`; fails when resident memory grows by more than 4 MiB after the first tenth.
#![allow(clippy::print_stdout, reason = "an example talks")]

use anyhow::{Context, bail, ensure};
use eunoe_engine::{Engine, Length, Options};
use eunoe_kv::Plan;
use std::path::Path;
use std::time::Instant;

/// Resident bytes of this process.
fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("needs Linux's /proc")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, text, count, plans @ ..] = args.as_slice() else {
        bail!("usage: long_text MODEL.gguf TEXT TOKENS PLAN...")
    };
    let engine = Engine::open(Path::new(model), Options::default(), &mut |_| {})?;
    let mut tokens = engine.tokenizer.encode(&std::fs::read_to_string(text)?);
    let count: usize = count.parse()?;
    ensure!(tokens.len() >= count, "`{text}` has {} tokens, {count} asked", tokens.len());
    tokens.truncate(count);
    println!(
        "| plan | tokens | live KV | peak KV | cap | resident | tokens/s |\n|---|---|---|---|---|---|---|"
    );
    for plan in plans {
        let longest = count as u32;
        let mut session = engine.session(&Plan::parse(plan)?, Length { prompt: longest, longest })?;
        let (mut first, mut most) = (None, 0);
        for (i, part) in tokens.chunks(count.div_ceil(10)).enumerate() {
            let start = Instant::now();
            engine.read(&mut session, part, &mut |_| true)?;
            let rate = part.len() as f64 / start.elapsed().as_secs_f64();
            let (ledger, resident) = (session.kv.ledger(), resident()?);
            first.get_or_insert(resident);
            most = most.max(resident);
            let mib = |bytes: u64| format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20));
            let seen = (i + 1) * count.div_ceil(10);
            let [live, peak, cap] = [ledger.live, ledger.peak, ledger.cap].map(mib);
            println!(
                "| {plan} | {} | {live} | {peak} | {cap} | {} | {rate:.0} |",
                seen.min(count),
                mib(resident)
            );
        }
        let growth = most - first.unwrap_or(0);
        ensure!(growth <= 4 << 20, "`{plan}`: resident memory grew by {growth} bytes");
    }
    Ok(())
}

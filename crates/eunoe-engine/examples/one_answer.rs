//! One row, one answer, on a real model: the same logits bit for bit for chunks of 1, 7, 64 and 512, on 1 and 2
//! threads, alone and in a batch of 3, under every policy; and the ledger never above its cap.
//!
//! `one_answer MODEL.gguf TEXT TOKENS SLOTS`
#![allow(clippy::print_stdout, reason = "an example talks")]

use anyhow::{bail, ensure};
use eunoe_engine::{Engine, Length, Options, Session};
use eunoe_kv::Plan;
use eunoe_model::probe::NoProbe;
use std::path::Path;

fn bits(session: &Session) -> Vec<u32> {
    session.logits().iter().map(|l| l.to_bits()).collect()
}

fn session(engine: &Engine, plan: &Plan, len: usize) -> eunoe_core::Result<Session> {
    engine.session(plan, Length { prompt: len as u32, longest: len as u32 })
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, text, count, slots] = args.as_slice() else {
        bail!("usage: one_answer MODEL TEXT TOKENS SLOTS")
    };
    let text = std::fs::read_to_string(text)?;
    let count: usize = count.parse()?;
    let open = |threads, chunk| {
        Engine::open(Path::new(model), Options { threads, chunk, ..Options::default() }, &mut |_| {})
    };
    let engines = [(1, 512), (2, 1), (2, 7), (2, 64), (1, 64)]
        .map(|(t, c)| open(t, c))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let all = engines[0].tokenizer.encode(&text);
    ensure!(all.len() >= 2 * count, "the text is too short");
    let tokens = &all[..count];
    for entry in eunoe_kv::policies::LIST {
        let budget = if entry.card.id == "full" { String::new() } else { format!(" @ {slots}tok") };
        let plan = Plan::parse(&format!("{}{budget}", entry.card.id))?;
        let mut want = None;
        for engine in &engines {
            let mut alone = session(engine, &plan, count)?;
            engine.read(&mut alone, tokens, &mut |_| true)?;
            let ledger = alone.kv.ledger();
            ensure!(ledger.peak <= ledger.cap, "{plan}: {ledger:?}");
            let got = bits(&alone);
            ensure!(*want.get_or_insert_with(|| got.clone()) == got, "{plan}: {:?} differ", engine.options);
        }
        let engine = &engines[2];
        let others = [&all[count / 2..][..count], &all[count..][..count]];
        let mut batch =
            [session(engine, &plan, count)?, session(engine, &plan, count)?, session(engine, &plan, count)?];
        for at in (0..count).step_by(5) {
            let end = count.min(at + 5);
            let [a, b, c] = &mut batch;
            let mut rows = [(a, &others[0][at..end]), (b, &tokens[at..end]), (c, &others[1][at..end])];
            engine.step(&mut rows, &mut NoProbe)?;
        }
        ensure!(want == Some(bits(&batch[1])), "{plan}: a batch of 3 differs");
        println!("{plan}: {count} tokens, one answer");
    }
    Ok(())
}

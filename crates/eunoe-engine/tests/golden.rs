//! Real models against the float reference of `scripts/golden.py`, where a model is there (`eunoe pull` puts it in
//! `$EUNOE_HOME/models`).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

use eunoe_engine::{Arithmetic, Engine, Length, Options, log_prob};
use eunoe_kv::Plan;
use serde_json::Value;
use std::path::PathBuf;

fn model(name: &str) -> Option<PathBuf> {
    let var = |v: &str| std::env::var_os(v).map(PathBuf::from);
    let cache =
        || var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache"))).map(|c| c.join("eunoe"));
    let path = var("EUNOE_HOME").or_else(cache)?.join("models").join(format!("{name}.gguf"));
    path.is_file().then_some(path)
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect()
}

/// Largest difference of a listed log-probability, and mean difference after position 0.
fn distance(engine: &Engine, window: &Value) -> (f64, f64) {
    let (tokens, positions) = (ids(&window["tokens"]), ids(&window["positions"]));
    let len = tokens.len() as u32;
    let mut session =
        engine.session(&Plan::parse("full").unwrap(), Length { prompt: len, longest: len }).unwrap();
    let (mut worst, mut sum, mut count) = (0.0f64, 0.0, 0);
    engine
        .read_rows(&mut session, &tokens, &mut |_| true, &mut |row, logits| {
            let Some(i) = positions.iter().position(|p| *p == row as u32) else { return };
            for pair in window["top"][i].as_array().unwrap() {
                let (id, want) = (pair[0].as_u64().unwrap() as u32, pair[1].as_f64().unwrap());
                let off = (f64::from(log_prob(logits, id)) - want).abs();
                worst = worst.max(off);
                if row > 0 {
                    (sum, count) = (sum + off, count + 1);
                }
            }
        })
        .unwrap();
    (worst, sum / f64::from(count))
}

fn check(name: &str) {
    let Some(path) = model(name) else {
        let required = std::env::var("EUNOE_REQUIRE_MODELS").unwrap_or_default();
        assert!(!required.contains(name), "{name} is required and missing");
        println!("skipped: `eunoe pull {name}` fetches the model that this test needs");
        return;
    };
    let file = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    for (arithmetic, most, mean) in [(Arithmetic::Exact, 1e-3, 1e-4), (Arithmetic::Fast, f64::MAX, 0.1)] {
        let engine = Engine::open(&path, Options { arithmetic, ..Options::default() }, &mut |_| {}).unwrap();
        for window in golden["windows"].as_array().unwrap() {
            let (worst, off) = distance(&engine, window);
            assert!(worst <= most && off <= mean, "{name} {arithmetic:?}: worst {worst}, mean {off}");
        }
        if arithmetic == Arithmetic::Exact {
            greedy(&engine, &golden["greedy"]);
        }
    }
}

/// The greedy continuation, up to the first step where the reference itself has a near-tie.
fn greedy(engine: &Engine, golden: &Value) {
    let (prompt, want) = (ids(&golden["tokens"]), ids(&golden["continuation"]));
    let longest = (prompt.len() + want.len()) as u32;
    let length = Length { prompt: prompt.len() as u32, longest };
    let mut session = engine.session(&Plan::parse("full").unwrap(), length).unwrap();
    engine.read(&mut session, &prompt, &mut |_| true).unwrap();
    let mut compared = 0;
    for (token, gap) in want.iter().zip(golden["gaps"].as_array().unwrap()) {
        if gap.as_f64().unwrap() < 0.05 {
            break;
        }
        let logits = session.logits();
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        assert_eq!(best as u32, *token);
        engine.read(&mut session, &[*token], &mut |_| true).unwrap();
        compared += 1;
    }
    assert!(compared > 0, "the reference ties at once");
}

#[test]
fn smollm2_135m_matches_the_reference() {
    check("smollm2-135m");
}

#[test]
fn qwen2_5_coder_0_5b_matches_the_reference() {
    check("qwen2.5-coder-0.5b");
}

#[test]
fn qwen2_5_coder_1_5b_matches_the_reference() {
    check("qwen2.5-coder-1.5b");
}

#[test]
fn gemma3_270m_matches_the_reference() {
    check("gemma3-270m");
}

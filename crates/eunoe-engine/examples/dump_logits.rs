//! What does the forward pass compute? Writes the logits of every row of some windows of tokens as raw f32
//! (little endian, `[t, vocab]` per window, in order) to standard output, for the parity script.
//!
//! `dump_logits MODEL.gguf exact|fast TOKENS.json`, where the JSON is a list of lists of token ids.

use anyhow::{Context, bail};
use eunoe_engine::{Arithmetic, Engine, Length, Options};
use eunoe_kv::Plan;
use std::io::Write;
use std::path::Path;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, mode, tokens] = args.as_slice() else {
        bail!("usage: dump_logits MODEL exact|fast TOKENS.json")
    };
    let arithmetic = match mode.as_str() {
        "exact" => Arithmetic::Exact,
        "fast" => Arithmetic::Fast,
        other => bail!("`{other}` is neither `exact` nor `fast`"),
    };
    let text = std::fs::read_to_string(tokens).with_context(|| format!("`{tokens}`"))?;
    let windows: Vec<Vec<u32>> = serde_json::from_str(&text)?;
    let options = Options { arithmetic, ..Options::default() };
    let engine = Engine::open(Path::new(model), options, &mut |_| {})?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for window in windows {
        let len = window.len() as u32;
        let mut session = engine.session(&Plan::parse("full")?, Length { prompt: len, longest: len })?;
        let mut outcome = Ok(());
        engine.read_rows(&mut session, &window, &mut |_| true, &mut |_, logits| {
            for logit in logits {
                if outcome.is_ok() {
                    outcome = out.write_all(&logit.to_le_bytes());
                }
            }
        })?;
        outcome?;
    }
    Ok(out.flush()?)
}

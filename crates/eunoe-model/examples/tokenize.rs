//! Which tokens is a text made of? `tokenize MODEL.gguf FILE` prints their ids as JSON.

use std::path::Path;

use anyhow::{Context, Result, bail};
use eunoe_model::{gguf, tokenizer::Tokenizer};

#[allow(clippy::print_stdout, reason = "an example prints")]
fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, file] = args.as_slice() else { bail!("usage: tokenize MODEL.gguf FILE") };
    let tokenizer = Tokenizer::from_gguf(&gguf::open(Path::new(model))?)?;
    let text = std::fs::read_to_string(file).with_context(|| format!("`{file}`"))?;
    println!("{}", serde_json::json!({ "tokens": tokenizer.encode(&text) }));
    Ok(())
}

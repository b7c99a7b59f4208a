//! The law of loading: the lab's decoder with the weights of a model file has the engine's logits, in exact arithmetic
//! and f32 memory.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

mod toy;

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use eunoe_core::{Dtype, Error};
use eunoe_engine::{Arithmetic, Engine, Length, Options, log_sum_exp};
use eunoe_kv::Plan;
use eunoe_lab::ops::Precision;
use eunoe_lab::{Ctx, bridge};
use eunoe_model::gguf::{self, Gguf, write::Put};
use toy::{LLAMA, Toy};

/// The largest difference of any log-probability after any token.
const MOST: f32 = 1e-3;

/// Rows of log-probabilities.
type Rows = Vec<Vec<f32>>;

fn log_probs(logits: &[f32]) -> Vec<f32> {
    let sum = log_sum_exp(logits);
    logits.iter().map(|logit| (f64::from(*logit) - sum) as f32).collect()
}

fn of_engine(engine: &Engine, tokens: &[u32]) -> Rows {
    let len = tokens.len() as u32;
    let plan = Plan::parse("full | f32").unwrap();
    let mut session = engine.session(&plan, Length { prompt: len, longest: len }).unwrap();
    let mut rows = Vec::new();
    engine
        .read_rows(&mut session, tokens, &mut |_| true, &mut |_, logits| rows.push(log_probs(logits)))
        .unwrap();
    rows
}

fn of_lab(path: &Path, tokens: &[u32]) -> Rows {
    let (decoder, _) = bridge::load(&gguf::open(path).unwrap(), Precision::F32, &Device::Cpu).unwrap();
    let tokens = Tensor::from_vec(tokens.to_vec(), (1, tokens.len()), &Device::Cpu).unwrap();
    let (logits, _) = decoder.run(&tokens, Vec::new(), &mut Ctx::default()).unwrap();
    logits.squeeze(0).unwrap().to_vec2::<f32>().unwrap().iter().map(|row| log_probs(row)).collect()
}

fn likeliest(row: &[f32]) -> usize {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap()
}

/// Compares all log-probabilities and the likeliest tokens; gives the largest difference.
fn compare(path: &Path, tokens: impl Fn(&Engine) -> Vec<u32>, what: &str) -> f32 {
    let options = Options { arithmetic: Arithmetic::Exact, ..Options::default() };
    let engine = Engine::open(path, options, &mut |_| {}).unwrap();
    let tokens = tokens(&engine);
    let (there, here) = (of_engine(&engine, &tokens), of_lab(path, &tokens));
    assert!(there.len() == tokens.len() && here.len() == tokens.len(), "{what}");
    let mut worst = 0.0f32;
    for (i, (there, here)) in there.iter().zip(&here).enumerate() {
        let far = there.iter().zip(here).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far <= MOST && here.iter().all(|p| p.is_finite()), "{what}, row {i}: {far}");
        assert_eq!(likeliest(there), likeliest(here), "{what}, row {i}");
        worst = worst.max(far);
    }
    worst
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn toys_have_the_logits_of_the_engine() {
    for toy in [
        LLAMA,
        Toy { tied: false, kv_heads: 2, dtype: Dtype::F16, ..LLAMA },
        Toy { biases: true, dtype: Dtype::F32, ..LLAMA },
        Toy { arch: "qwen2", biases: true, ..LLAMA },
        Toy { arch: "qwen2", ..LLAMA },
    ] {
        let tokens: Vec<u32> = (0..50).map(|i| i * 37 % 100).collect();
        let file = file(&toy.gguf().finish());
        compare(file.path(), |_| tokens.clone(), &format!("{toy:?}"));
    }
}

#[test]
fn rows_that_rotate_halves_are_not_turned() {
    let file = file(&LLAMA.gguf().put("eunoe.rope.halves", Put::Bool(true)).finish());
    compare(file.path(), |_| (0..50).collect(), "halves");
}

fn refused(toy: &[u8]) -> String {
    match bridge::load(&Gguf::parse(toy.to_vec()).unwrap(), Precision::F32, &Device::Cpu) {
        Err(Error::Unsupported(why)) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("must be refused"),
    }
}

#[test]
fn what_the_decoder_does_not_do_is_named() {
    let wide = Toy { heads: 4, ..LLAMA };
    assert!(refused(&wide.gguf().finish()).contains("4 heads of 32 on a stream of 64"));
    let gemma = Toy { arch: "gemma3", ..LLAMA };
    assert!(refused(&gemma.gguf().finish()).contains("architecture `gemma3`; it loads llama, qwen2"));
    let scaled = LLAMA
        .gguf()
        .put("llama.rope.scaling.type", Put::Str("linear"))
        .put("llama.rope.scaling.factor", Put::F32(2.0));
    assert!(refused(&scaled.finish()).contains("RoPE scaling"));
    let part = LLAMA.gguf().put("llama.rope.dimension_count", Put::U32(16));
    assert!(refused(&part.finish()).contains("a part of each head"));
    let ones: Vec<u8> = [1.0f32; 64].iter().flat_map(|x| x.to_le_bytes()).collect();
    let of = |name: &str, len: usize| (format!("blk.1.{name}"), ones[..4 * len].to_vec());
    let with = |tensors: &[(String, Vec<u8>)]| {
        let add = |w: eunoe_model::gguf::write::GgufWriter, (name, bytes): &(String, Vec<u8>)| {
            w.tensor(name, &[bytes.len() as u64 / 4], Dtype::F32, bytes)
        };
        refused(&tensors.iter().fold(LLAMA.gguf(), add).finish())
    };
    let norms = with(&[of("attn_q_norm.weight", 32), of("attn_k_norm.weight", 32)]);
    assert!(norms.contains("norms of queries and keys"), "{norms}");
    assert!(with(&[of("post_attention_norm.weight", 64)]).contains("norms after a layer"));
    assert!(with(&[of("attn_output.bias", 64)]).contains("a bias behind attention"));
}

fn model(name: &str) -> Option<PathBuf> {
    let var = |v: &str| std::env::var_os(v).map(PathBuf::from);
    let cache =
        || var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache"))).map(|c| c.join("eunoe"));
    let path = var("EUNOE_HOME").or_else(cache)?.join("models").join(format!("{name}.gguf"));
    path.is_file().then_some(path)
}

fn check(name: &str) {
    let Some(path) = model(name) else {
        let required = std::env::var("EUNOE_REQUIRE_MODELS").unwrap_or_default();
        assert!(!required.contains(name), "{name} is required and missing");
        println!("skipped: `eunoe pull {name}` fetches the model that this test needs");
        return;
    };
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/../eunoe/assets/a-scandal-in-bohemia.txt");
    let text = std::fs::read_to_string(text).unwrap();
    let worst = compare(
        &path,
        |engine| engine.tokenizer.encode(&text.chars().take(2000).collect::<String>())[..64].to_vec(),
        name,
    );
    println!("{name}: log-probabilities at most {worst:.1e} apart");
}

#[test]
fn smollm2_135m_has_the_logits_of_the_engine() {
    check("smollm2-135m");
}

#[test]
fn qwen2_5_coder_0_5b_has_the_logits_of_the_engine() {
    check("qwen2.5-coder-0.5b");
}

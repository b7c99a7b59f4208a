//! A trained model as a folder: the engine reads its bytes as tokens and finds the lab's loss, and nothing is written of
//! what it does not run.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use eunoe_engine::{Arithmetic, Engine, Length, Options, Windows};
use eunoe_kv::Plan;
use eunoe_lab::bridge;
use eunoe_lab::nets::{Config, Decoder, Mlp, Params};
use eunoe_lab::ops::Precision;
use eunoe_lab::streams::Text;
use eunoe_lab::train::{self, AdamW, Checkpoint, Data, Progress, Row, RunConfig, TrainConfig};
use eunoe_model::gguf;
use tempfile::TempDir;

const TEXT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../eunoe/assets/a-scandal-in-bohemia.txt");

/// Tokens per window.
const CTX: usize = 64;

struct Quiet;

impl Progress for Quiet {
    fn start(&mut self, _: u64) -> eunoe_core::Result<()> {
        Ok(())
    }

    fn row(&mut self, _: &Row) -> eunoe_core::Result<bool> {
        Ok(true)
    }
}

fn small() -> Config {
    Config { d_model: 64, heads: 2, layers: 2, d_ff: 96, ..Config::default() }
}

/// A model after a few steps with large ones, so that gains and biases have moved.
fn trained(model: Config, folder: &Path) -> (RunConfig, PathBuf) {
    let train = TrainConfig { steps: 20, batch: 4, seq_len: CTX, lr: 1e-2, ..TrainConfig::default() };
    let config =
        RunConfig { from: None, model, data: Data { files: vec![TEXT.into()], held_out: Vec::new() }, train };
    train::train(&config, folder, &Device::Cpu, &mut Quiet).unwrap();
    (config, folder.join("last.safetensors"))
}

fn lab_loss(config: &RunConfig, checkpoint: &Path, text: &[u8]) -> f64 {
    let mut params = Params::new(9, DType::F32, &Device::Cpu);
    let model = Decoder::new(&config.model, &mut params).unwrap();
    train::load_params(checkpoint, &params).unwrap();
    let text = Text::new(text.to_vec(), CTX + 1).unwrap();
    train::evaluate(&model, &text, CTX, usize::MAX, &Device::Cpu).unwrap()
}

fn open(folder: &Path, arithmetic: Arithmetic) -> Engine {
    Engine::open(folder, Options { arithmetic, ..Options::default() }, &mut |_| {}).unwrap()
}

/// The engine's loss on the same windows: each begins with the last token that the one before predicted.
fn engine_loss(folder: &Path, text: &str, arithmetic: Arithmetic) -> f64 {
    let engine = open(folder, arithmetic);
    let tokens = engine.tokenizer.encode(text);
    assert_eq!(tokens, text.bytes().map(u32::from).collect::<Vec<_>>(), "a token is a byte");
    let windows = Windows::Sliding { ctx: CTX + 1, stride: CTX + 1 };
    let plan = Plan::parse("full | f32").unwrap();
    let scores = engine.score(&plan, &tokens, windows, &mut |_| true).unwrap();
    assert_eq!(scores.nll.len(), tokens.len() - 1);
    scores.mean()
}

#[test]
fn the_engine_finds_the_loss_of_the_lab() {
    let whole = fs::read_to_string(TEXT).unwrap();
    // 20 windows
    let text = &whole[..20 * CTX + 1];
    for model in [
        small(),
        Config { kv_heads: 1, tied: false, ..small() },
        Config { qkv_bias: true, rope_base: 500.0, norm_eps: 1e-3, ..small() },
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (config, checkpoint) = trained(model, folder.path());
        let out = folder.path().join("out");
        bridge::export(&checkpoint, &out, false).unwrap();
        let (loaded, _) = bridge::load(&gguf::open(&out).unwrap(), Precision::F32, &Device::Cpu).unwrap();
        let Config { kv_heads, norm_eps, .. } = config.model;
        assert!((loaded.config.norm_eps - norm_eps).abs() < 1e-9, "{:?}", loaded.config);
        assert_eq!(loaded.config.kv_heads(), config.model.kv_heads());
        assert_eq!(Config { kv_heads, norm_eps, ..loaded.config }, config.model);
        let here = lab_loss(&config, &checkpoint, text.as_bytes());
        let exact = engine_loss(&out, text, Arithmetic::Exact);
        let fast = engine_loss(&out, text, Arithmetic::Fast);
        // untrained, it is ln 256 = 5.5
        assert!(here < 4.0 && (here - exact).abs() < 1e-4, "{:?}: {here}, {exact}", config.model);
        assert!((here - fast).abs() < 1e-2, "{here}, fast {fast}");
    }
}

#[test]
fn a_run_goes_on_from_a_folder_with_its_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let whole = fs::read_to_string(TEXT).unwrap();
    let text = &whole[..20 * CTX + 1];
    let (config, checkpoint) = trained(small(), folder.path());
    let base = folder.path().join("base");
    bridge::export(&checkpoint, &base, false).unwrap();
    // what the tokenizer says of itself goes along
    fs::write(base.join("generation_config.json"), r#"{"eos_token_id": 10}"#).unwrap();
    let before = lab_loss(&config, &checkpoint, text.as_bytes());

    let train = TrainConfig { lr: 3e-3, seed: 1, ..config.train.clone() };
    let tuned = RunConfig { from: Some(base.clone()), model: Config::default(), train, ..config.clone() };
    let run = folder.path().join("tuned");
    fs::create_dir(&run).unwrap();
    train::train(&tuned, &run, &Device::Cpu, &mut Quiet).unwrap();
    let checkpoint = run.join("last.safetensors");
    let header = train::read_header(&checkpoint).unwrap();
    assert_eq!((header.config.model.d_model, header.config.from.as_ref()), (64, Some(&base)));
    let after = lab_loss(&header.config, &checkpoint, text.as_bytes());
    assert!(after < before - 0.05, "{before} before, {after} after");
    // the same file goes on: all steps were taken
    train::train(&tuned, &run, &Device::Cpu, &mut Quiet).unwrap();

    let out = folder.path().join("out");
    bridge::export(&checkpoint, &out, false).unwrap();
    let engine = engine_loss(&out, text, Arithmetic::Exact);
    assert!((after - engine).abs() < 1e-4, "{after}, {engine}");
    assert!(open(&out, Arithmetic::Fast).tokenizer.is_stop(10));
    // a file that is not text is told where
    let bad = folder.path().join("bad");
    fs::write(&bad, b"good\xff").unwrap();
    let data = Data { files: vec![bad], held_out: Vec::new() };
    let error = train::train(&RunConfig { data, ..tuned }, &run, &Device::Cpu, &mut Quiet).map(|_| ());
    assert!(error.unwrap_err().to_string().contains("not UTF-8, which tokenizers read (at byte 4)"));
}

#[test]
fn a_folder_says_what_it_is_and_every_byte_is_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let (_, checkpoint) = untrained(&folder, small());
    let out = folder.path().join("out");
    bridge::export(&checkpoint, &out, false).unwrap();
    let engine = open(&out, Arithmetic::Fast);
    let t = &engine.tokenizer;
    assert_eq!((t.vocab_len(), t.bos(), t.eos(), t.adds_bos()), (256, None, None, false));
    assert!((0..=255u8).all(|byte| t.piece(byte.into()) == [byte] && !t.is_stop(byte.into())));
    let text = "a\0\u{7f}  \r\n é漢<|end|>\u{ad}";
    assert_eq!(t.encode(text), text.bytes().map(u32::from).collect::<Vec<_>>());
    assert_eq!(t.encode_prompt(text), t.encode(text));
    assert_eq!(t.decode(&t.encode(text)), text);
    assert_eq!((engine.config().context, engine.template.is_none()), (TrainConfig::default().seq_len, true));
    let kind = |out: &Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap()
    };
    assert_eq!(kind(&out)["model_type"], "llama");
    let (_, checkpoint) = untrained(&folder, Config { qkv_bias: true, ..small() });
    bridge::export(&checkpoint, &out, true).unwrap();
    assert_eq!(kind(&out)["model_type"], "qwen2");
    let mut session =
        engine.session(&Plan::parse("full").unwrap(), Length { prompt: 3, longest: 3 }).unwrap();
    engine.read(&mut session, &[0, 255, 10], &mut |_| true).unwrap();
    assert!(session.logits().len() == 256 && session.logits().iter().all(|l| l.is_finite()));
}

/// A checkpoint before the first step.
fn untrained(folder: &TempDir, model: Config) -> (RunConfig, PathBuf) {
    let config = RunConfig { model, ..RunConfig::default() };
    let mut params = Params::new(3, DType::F32, &Device::Cpu);
    Decoder::new(&config.model, &mut params).unwrap();
    let path = folder.path().join("last.safetensors");
    let adam = AdamW::new(&params, &config.train).unwrap();
    Checkpoint { config: config.clone(), ..Checkpoint::default() }.save(&path, &params, &adam).unwrap();
    (config, path)
}

#[test]
fn what_the_engine_does_not_run_is_named_and_nothing_is_written() {
    let mixers =
        |list: &[&str]| Config { mixers: list.iter().map(|mixer| (*mixer).to_owned()).collect(), ..small() };
    for (model, why) in [
        (mixers(&["softmax_attention", "gated_conv"]), "mixer `gated_conv`"),
        (mixers(&["softmax_attention(window=8)"]), "mixer `softmax_attention(window=8)`"),
        (Config { mlp: Mlp::Sglu, ..small() }, "`mlp = \"sglu\"`"),
        (Config { d_ff: 0, ..small() }, "`d_ff` 0"),
        (Config { heads: 4, ..small() }, "a multiple of 32 numbers, not of 16"),
        (Config { vocab: 300, ..small() }, "`vocab` is 300"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (_, checkpoint) = untrained(&folder, model);
        let error = bridge::export(&checkpoint, &folder.path().join("out"), false).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(names(folder.path()), ["last.safetensors"]);
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_folder_that_is_there_goes_only_where_it_is_an_export_and_force_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (_, checkpoint) = untrained(&folder, small());
    let out = folder.path().join("out");
    let refused = |replace: bool, why: &str| {
        let error = bridge::export(&checkpoint, &out, replace).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    bridge::export(&checkpoint, &out, false).unwrap();
    let files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(names(&out), files);
    fs::write(out.join("config.json"), "old").unwrap();
    refused(false, "is there already");
    assert_eq!(fs::read_to_string(out.join("config.json")).unwrap(), "old");
    bridge::export(&checkpoint, &out, true).unwrap();
    assert!(fs::read_to_string(out.join("config.json")).unwrap().contains("llama"));
    fs::write(out.join("thesis.txt"), "all of it").unwrap();
    refused(true, "`thesis.txt`");
    assert_eq!(fs::read_to_string(out.join("thesis.txt")).unwrap(), "all of it");
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(bridge::export(&checkpoint, &folder.path().join("file"), true).is_err());
    assert!(bridge::export(&checkpoint, &folder.path().join("no/such"), false).is_err());
    assert_eq!(names(folder.path()), ["file", "last.safetensors", "out"], "nothing half written is left");
}

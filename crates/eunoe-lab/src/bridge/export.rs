//! A trained model as a folder that the engine runs: `config.json`, `tokenizer.json`, `tokenizer_config.json` and
//! `model.safetensors`, under the names that Hugging Face's libraries use.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use eunoe_core::{Error, Result};
use eunoe_model::gguf;
use eunoe_model::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::mixers;
use crate::nets::{Config, Decoder, Mlp, Params};
use crate::train::{RunConfig, load_params, read_header};

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const WEIGHTS: &str = "model.safetensors";

/// Tokens of a model of bytes.
const BYTES: usize = 256;

/// Whole heads are rotated and stored in blocks of this many numbers.
const HEAD_BLOCK: usize = 32;

/// Parameters outside of layers, here and in folders.
const OUTER: [[&str; 2]; 3] = [
    ["embed.weight", "model.embed_tokens.weight"],
    ["norm.weight", "model.norm.weight"],
    ["head.weight", "lm_head.weight"],
];

/// Those of a layer.
const LAYER: [[&str; 2]; 12] = [
    ["mixer_norm.weight", "input_layernorm.weight"],
    ["mixer.q.weight", "self_attn.q_proj.weight"],
    ["mixer.k.weight", "self_attn.k_proj.weight"],
    ["mixer.v.weight", "self_attn.v_proj.weight"],
    ["mixer.q.bias", "self_attn.q_proj.bias"],
    ["mixer.k.bias", "self_attn.k_proj.bias"],
    ["mixer.v.bias", "self_attn.v_proj.bias"],
    ["mixer.out.weight", "self_attn.o_proj.weight"],
    ["mlp_norm.weight", "post_attention_layernorm.weight"],
    ["gate.weight", "mlp.gate_proj.weight"],
    ["up.weight", "mlp.up_proj.weight"],
    ["down.weight", "mlp.down_proj.weight"],
];

/// Writes the model of a checkpoint to `folder`, as a whole or not at all. A folder that is there is replaced only where
/// `replace` says so, and only where it holds nothing but what an export writes.
///
/// # Errors
/// [`Error::Unsupported`] naming what the engine does not run, [`Error::Invalid`] for a folder that is in the way, those
/// of reading the checkpoint, [`Error::Io`].
pub fn export(checkpoint: &Path, folder: &Path, replace: bool) -> Result<()> {
    let run = read_header(checkpoint)?.config;
    refuse(&run)?;
    let is_there = in_the_way(folder, replace)?;
    let mut params = Params::zeros(DType::F32, &Device::Cpu);
    Decoder::new(&run.model, &mut params)?;
    load_params(checkpoint, &params)?;

    let fail = |error| Error::io(folder, error);
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let aside = tempfile::tempdir_in(above).map_err(fail)?;
    let (new, old) = (aside.path().join("new"), aside.path().join("old"));
    fs::create_dir(&new).map_err(fail)?;
    for (name, text) in texts(&run)? {
        write(&new.join(name), &text)?;
    }
    write(&new.join(WEIGHTS), &weights(&params)?)?;
    // as the engine opens it: what it would refuse never gets the name
    let opened = gguf::open(&new)?;
    eunoe_model::Config::from_gguf(&opened)?;
    Tokenizer::from_gguf(&opened)?;

    if is_there {
        fs::rename(folder, &old).map_err(fail)?;
    }
    fs::rename(&new, folder).map_err(|error| {
        if is_there && fs::rename(&old, folder).is_err() {
            // the only copy of what was there must not go with the temporary folder
            let kept = aside.keep();
            return Error::Invalid(format!("{error}; what was there is now in `{}`", kept.display()));
        }
        fail(error)
    })
}

/// The files beside the weights: those of the folder that the run began with, whose sizes and tokens it has, or those of a
/// model of bytes.
fn texts(run: &RunConfig) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let made = |value: Value| format!("{value:#}\n").into_bytes();
    let Some(base) = &run.from else {
        return Ok(vec![
            (CONFIG, made(config(&run.model, run.train.seq_len))),
            (TOKENIZER, made(tokenizer())),
            (TOKENIZER_CONFIG, made(tokenizer_config(run.train.seq_len))),
        ]);
    };
    let mut files = Vec::new();
    for (name, is_needed) in
        [(CONFIG, true), (TOKENIZER, true), (TOKENIZER_CONFIG, false), (GENERATION_CONFIG, false)]
    {
        let path = base.join(name);
        match fs::read(&path) {
            Ok(text) => files.push((name, text)),
            Err(error) if error.kind() == ErrorKind::NotFound && !is_needed => {}
            Err(error) => return Err(Error::io(path, error)),
        }
    }
    Ok(files)
}

/// Refuses what the engine does not run.
fn refuse(run: &RunConfig) -> Result<()> {
    let config = &run.model;
    if let Some(base) = run.from.as_ref().filter(|base| !base.is_dir()) {
        let why =
            format!("the run began with `{}`; only what began with a folder can be exported", base.display());
        return Err(Error::Unsupported(why));
    }
    for phrase in &config.mixers {
        let (entry, args) = mixers::parse(phrase)?;
        if entry.card.id != mixers::softmax_attention::ENTRY.card.id || args.int("window") > 0 {
            let why = format!("the engine runs softmax attention over all tokens, not mixer `{phrase}`");
            return Err(Error::Unsupported(why));
        }
    }
    let d = config.head_dim();
    let refused = [
        (config.mlp != Mlp::SwiGlu, "the engine runs SwiGLU MLPs, not `mlp = \"sglu\"`".to_owned()),
        (config.d_ff == 0, "the engine runs no blocks without an MLP (`d_ff` 0)".into()),
        (
            !d.is_multiple_of(HEAD_BLOCK),
            format!(
                "the engine runs heads of a multiple of {HEAD_BLOCK} numbers, not of {d}: `d_model` / `heads`"
            ),
        ),
        (
            run.from.is_none() && config.vocab != BYTES,
            format!("only models of bytes have a tokenizer: `vocab` is {}, not {BYTES}", config.vocab),
        ),
    ];
    match refused.into_iter().find(|(is, _)| *is) {
        Some((_, why)) => Err(Error::Unsupported(why)),
        None => Ok(()),
    }
}

/// Whether the folder is there, and may go.
fn in_the_way(folder: &Path, replace: bool) -> Result<bool> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(|error| Error::io(folder, error))?,
    };
    let shown = folder.display();
    if !replace {
        return Err(Error::Invalid(format!(
            "`{shown}` is there already: name another folder, or use `--force`"
        )));
    }
    for entry in entries {
        let name = entry.map_err(|error| Error::io(folder, error))?.file_name();
        if ![CONFIG, TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG, WEIGHTS].iter().any(|own| name == *own) {
            return Err(Error::Invalid(format!(
                "`{shown}` is not replaced, since it holds `{}`, which no export writes: name another folder",
                name.display()
            )));
        }
    }
    Ok(true)
}

fn config(model: &Config, seq_len: usize) -> Value {
    let (kind, class) =
        if model.qkv_bias { ("qwen2", "Qwen2ForCausalLM") } else { ("llama", "LlamaForCausalLM") };
    json!({
        "architectures": [class],
        "model_type": kind,
        "vocab_size": model.vocab,
        "hidden_size": model.d_model,
        "intermediate_size": model.d_ff,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads(),
        "head_dim": model.head_dim(),
        "hidden_act": "silu",
        // what it was trained on; nothing stops a longer text
        "max_position_embeddings": seq_len,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_base,
        "tie_word_embeddings": model.tied,
        // said, because other libraries would take 1 and 2, which are bytes here
        "bos_token_id": null,
        "eos_token_id": null,
        "torch_dtype": "float32",
    })
}

/// Byte-level BPE whose tokens are the bytes, and which merges nothing.
fn tokenizer() -> Value {
    let vocab: serde_json::Map<String, Value> =
        byte_tokens().into_iter().zip(0..BYTES).map(|(text, id)| (text, id.into())).collect();
    let bytes =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": bytes,
        "post_processor": null,
        "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [],
        },
    })
}

fn tokenizer_config(seq_len: usize) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": seq_len,
        "clean_up_tokenization_spaces": false,
    })
}

/// How byte-level vocabularies spell each byte: printable characters of Latin-1 as themselves, the others in order from
/// U+0100 on.
fn byte_tokens() -> Vec<String> {
    let mut others = '\u{100}'..;
    let spelled = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => others.next().unwrap_or_default(),
    };
    (0..=u8::MAX).map(spelled).map(String::from).collect()
}

/// The safetensors file.
fn weights(params: &Params) -> Result<Vec<u8>> {
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    for (name, param) in params.iter() {
        let there = folder_name(name)
            .ok_or_else(|| Error::Unsupported(format!("parameter `{name}` has no place in a folder")))?;
        tensors.insert(there, param.var.as_tensor().clone());
    }
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(&tensors, Some(format)).map_err(|error| Error::Invalid(error.to_string()))
}

/// `layers.3.mixer.q.weight` → `model.layers.3.self_attn.q_proj.weight`.
fn folder_name(name: &str) -> Option<String> {
    let there = |table: &[[&str; 2]], name: &str| {
        table.iter().find(|[here, _]| *here == name).map(|[_, there]| (*there).to_owned())
    };
    match name.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
        Some((l, part)) => Some(format!("model.layers.{l}.{}", there(&LAYER, part)?)),
        None => there(&OUTER, name),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let written =
        File::create(path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|error| Error::io(path, error))
}

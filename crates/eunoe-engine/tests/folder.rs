//! Models as folders: the bits of their GGUF files, and an error in one line for whatever is wrong with them.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod toy;

use std::fs;
use std::path::Path;

use eunoe_core::Dtype;
use eunoe_engine::{Arithmetic, Engine, Options};
use eunoe_model::gguf::write::Put;
use serde_json::{Value, json};
use tempfile::TempDir;
use toy::folder::{Model, VOCAB, model, safetensors};

fn open(path: &Path, arithmetic: Arithmetic) -> eunoe_core::Result<Engine> {
    Engine::open(path, Options { threads: 1, arithmetic, ..Options::default() }, &mut |_| {})
}

fn logits(path: &Path, arithmetic: Arithmetic) -> Vec<f32> {
    let engine = open(path, arithmetic).unwrap();
    let tokens: Vec<u32> = (0..50).map(|i| i * 37 % 256).collect();
    toy::read(&engine, "full", &tokens).logits().to_vec()
}

fn written(model: &Model, dtype: Dtype, files: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    model.write(folder.path(), dtype, files);
    folder
}

#[test]
fn a_folder_has_the_bits_of_its_gguf_file_where_both_rotate_halves() {
    for (arch, tied) in [("qwen2", true), ("qwen2", false), ("llama", true), ("llama", false)] {
        let model = model(arch, tied);
        for (dtype, files) in [(Dtype::F32, 1), (Dtype::F32, 3), (Dtype::F16, 1), (Dtype::BF16, 2)] {
            let (folder, file) = (written(&model, dtype, files), tempfile::NamedTempFile::new().unwrap());
            let gguf = model.gguf(dtype, false).put("eunoe.rope.halves", Put::Bool(true));
            fs::write(file.path(), gguf.finish()).unwrap();
            for arithmetic in [Arithmetic::Exact, Arithmetic::Fast] {
                let [here, there] = [folder.path(), file.path()].map(|path| logits(path, arithmetic));
                assert!(here.len() == VOCAB && here.iter().all(|x| x.is_finite()));
                assert_eq!(here, there, "{arch}, tied {tied}, {dtype:?} in {files} files, {arithmetic:?}");
            }
        }
    }
}

#[test]
fn a_llama_folder_computes_what_its_gguf_file_with_turned_rows_does() {
    let model = model("llama", false);
    let folder = written(&model, Dtype::F32, 1);
    let far = |neighbours: bool| {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), model.gguf(Dtype::F32, neighbours).finish()).unwrap();
        let [here, there] = [folder.path(), file.path()].map(|path| logits(path, Arithmetic::Exact));
        here.iter().zip(&there).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    // scores are sums in another order
    assert!(far(true) < 1e-4, "{}", far(true));
    assert!(far(false) > 0.1, "rows that were not turned must show: {}", far(false));
}

#[test]
fn tokens_of_a_folder_are_those_of_the_file() {
    let model = model("qwen2", true);
    let folder = written(&model, Dtype::F32, 1);
    let engine = open(folder.path(), Arithmetic::Fast).unwrap();
    let t = &engine.tokenizer;
    let text = "naïve 漢字\n\0 <|end|> \u{7f}";
    assert_eq!(t.encode(text), text.bytes().map(u32::from).collect::<Vec<_>>());
    assert_eq!(t.encode_special("a<|end|>"), [97, 256]);
    assert_eq!((t.decode(&t.encode(text)).as_str(), t.decode(&[257, 259, 65])), (text, "A".into()));
    assert_eq!((t.eos(), t.bos(), t.vocab_len()), (Some(256), None, VOCAB));
    assert_eq!((engine.config().context, engine.template.is_none()), (512, true));
}

/// The tokenizer of a folder with these changes to its `tokenizer.json`.
fn tokens_with(change: impl Fn(&mut Value), text: &str) -> Vec<u32> {
    let mut model = model("qwen2", true);
    for (token, id) in [("12", 257), ("Ġa", 258)] {
        model.tokenizer["model"]["vocab"][token] = id.into();
    }
    change(&mut model.tokenizer);
    let folder = written(&model, Dtype::F16, 1);
    open(folder.path(), Arithmetic::Fast).unwrap().tokenizer.encode(text)
}

const BYTES: &str =
    r#"{ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": USE }"#;

/// A pre-tokenizer that first cuts by `first`, then takes bytes, which cut too or not.
fn sequence(first: Value, cuts: bool) -> Value {
    let bytes: Value = serde_json::from_str(&BYTES.replace("USE", &cuts.to_string())).unwrap();
    json!({ "type": "Sequence", "pretokenizers": [first, bytes] })
}

fn split(digits: &str) -> Value {
    let regex = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let regex = regex.replace("DIGITS", digits);
    json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false })
}

#[test]
fn each_known_pre_tokenizer_is_recognised() {
    let merges = [json!(["1 2", "Ġ a"]), json!([["1", "2"], ["Ġ", "a"]])];
    let digits = json!({ "type": "Digits", "individual_digits": true });
    let (one, two, space_a) = ([49, 50], [257], 258);
    for merges in merges {
        let tokens = |pre: Value, ignores: bool| {
            let change = |t: &mut Value| {
                t["model"]["merges"] = merges.clone();
                t["model"]["ignore_merges"] = ignores.into();
                t["pre_tokenizer"] = pre.clone();
                t["normalizer"] = json!({ "type": "NFC" });
            };
            tokens_with(change, "12 a")
        };
        let gpt2 = serde_json::from_str(&BYTES.replace("USE", "true")).unwrap();
        assert_eq!(tokens(gpt2, false), [&two[..], &[space_a]].concat(), "GPT-2");
        assert_eq!(tokens(sequence(digits.clone(), true), false), [&one[..], &[space_a]].concat(), "SmolLM");
        assert_eq!(tokens(sequence(split(r"\p{N}"), false), false), [&one[..], &[space_a]].concat(), "Qwen2");
        assert_eq!(
            tokens(sequence(split(r"\p{N}{1,3}"), false), true),
            [&two[..], &[space_a]].concat(),
            "Llama 3"
        );
    }
}

/// A post-processor that puts `name` in front of a text, with these ids.
fn begins_with(name: &str, ids: Value) -> Value {
    json!({ "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": name, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "special_tokens": { name: { "id": name, "ids": ids, "tokens": [name] } } })
}

#[test]
fn the_first_token_is_the_one_that_the_template_numbers() {
    let with = |steps: Value| {
        let mut model = model("llama", true);
        model.tokenizer["post_processor"] = json!({ "type": "Sequence", "processors": steps });
        model
    };
    let folder = written(&with(json!([begins_with("the start", json!([97]))])), Dtype::F16, 1);
    assert_eq!(open(folder.path(), Arithmetic::Fast).unwrap().tokenizer.encode_prompt("b"), [97, 98]);
    let first = begins_with("a", json!([97]));
    for (steps, says) in [
        (json!([first, begins_with("b", json!([98]))]), "puts two tokens in front"),
        (json!([begins_with("a", json!([98]))]), "gives `a` id 98, the tokens say 97"),
        (json!([begins_with("x y", json!([257]))]), "gives `x y` id 257, which no token has"),
        (json!([begins_with("a", json!([97, 98]))]), "gives `a` no id, or several"),
        (json!([begins_with("a", json!([-1]))]), "gives `a` no id, or several"),
    ] {
        let error = error(&with(steps), |_| ());
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn neighbours_of_the_tokenizer_say_what_is_special() {
    let mut model = model("llama", true);
    model.config["eos_token_id"] = json!([256, 7]);
    model.config["bos_token_id"] = 1.into();
    model.tokenizer["post_processor"] = json!({ "type": "Sequence", "processors": [
        { "type": "ByteLevel", "trim_offsets": false },
        begins_with("a", json!([97])),
    ] });
    let folder = written(&model, Dtype::BF16, 1);
    let says = |name: &str, what: &str| fs::write(folder.path().join(name), what).unwrap();
    says(
        "tokenizer_config.json",
        r#"{ "bos_token": "a", "eos_token": { "content": "<|end|>" }, "chat_template": "old" }"#,
    );
    says("generation_config.json", r#"{ "eos_token_id": [256, 9] }"#);
    let open = || open(folder.path(), Arithmetic::Fast).unwrap();
    let engine = open();
    let t = &engine.tokenizer;
    assert_eq!((t.bos(), t.eos()), (Some(97), Some(256)));
    assert_eq!([7, 8, 9, 256].map(|id| t.is_stop(id)), [true, false, true, true]);
    assert_eq!(t.encode_prompt("bc"), [97, 98, 99]);
    assert_eq!(engine.template.unwrap().source().unwrap(), "old");
    says("chat_template.jinja", "{{ bos_token }}new");
    assert_eq!(open().template.unwrap().render(&[], true).unwrap(), "anew");
    let named =
        r#"{ "chat_template": [{ "name": "x", "template": "1" }, { "name": "default", "template": "2" }] }"#;
    fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    says("tokenizer_config.json", named);
    // without the name of a first token, config.json has it, and it is not the one that texts get
    model.tokenizer["post_processor"] = Value::Null;
    model.write(folder.path(), Dtype::BF16, 1);
    let engine = open();
    assert_eq!((engine.template.unwrap().source().unwrap().as_str(), engine.tokenizer.bos()), ("2", Some(1)));
    assert!(!engine.tokenizer.adds_bos());
}

/// The error of a folder that was changed.
fn error(of: &Model, change: impl FnOnce(&Path)) -> String {
    let folder = written(of, Dtype::F32, 1);
    change(folder.path());
    let error = open(folder.path(), Arithmetic::Fast).err().expect("must be refused").to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn what_a_config_asks_for_and_is_not_done_is_named() {
    for (arch, key, value, says) in [
        (
            "llama",
            "model_type",
            json!("mamba"),
            "`mamba` in `config.json` is not supported; supported: llama, qwen2",
        ),
        ("llama", "hidden_act", json!("gelu"), "`hidden_act` `gelu`"),
        ("llama", "attention_bias", json!(true), "`attention_bias`"),
        ("llama", "mlp_bias", json!(true), "`mlp_bias`"),
        ("llama", "sliding_window", json!(4096), "`sliding_window`"),
        ("qwen2", "use_sliding_window", json!(true), "`use_sliding_window`"),
        ("qwen2", "layer_types", json!(["full_attention", "sliding_attention"]), "sliding attention"),
        ("llama", "quantization_config", json!({ "bits": 4 }), "`quantization_config`"),
        ("llama", "rope_scaling", json!({ "type": "dynamic", "factor": 2.0 }), "RoPE scaling `dynamic`"),
        ("llama", "rope_scaling", json!({ "rope_type": "llama3", "factor": 8.0 }), "supported: none, linear"),
        ("llama", "rope_parameters", json!({ "full_attention": {} }), "without `rope_theta`"),
        ("llama", "partial_rotary_factor", json!(0.5), "`partial_rotary_factor`"),
        ("llama", "head_dim", json!(24), "multiple of 32"),
        ("llama", "num_attention_heads", json!(0), "expected 1 to"),
        (
            "llama",
            "num_hidden_layers",
            json!(4_000_000_000_u32),
            "no tensor `model.layers.2.input_layernorm.weight`",
        ),
        (
            "llama",
            "num_hidden_layers",
            json!(1),
            "tensor `model.layers.1.input_layernorm.weight` is not part",
        ),
        ("llama", "num_hidden_layers", json!(-1), "invalid value: integer `-1`"),
        ("llama", "hidden_size", Value::Null, "invalid type: null"),
        ("llama", "hidden_size", json!(96), "`model.embed_tokens.weight`: expected [96, 260], got [64, 260]"),
        (
            "llama",
            "intermediate_size",
            json!(64),
            "`model.layers.0.mlp.gate_proj.weight`: expected [64, 64], got [64, 96]",
        ),
        (
            "llama",
            "vocab_size",
            json!(4_000_000_000_u32),
            "`model.embed_tokens.weight`: expected [64, 4000000000]",
        ),
        (
            "qwen2",
            "model_type",
            json!("llama"),
            "`model.layers.0.self_attn.k_proj.bias` is not part of this `llama`",
        ),
        ("llama", "model_type", json!("qwen2"), "no tensor `model.layers.0.self_attn.q_proj.bias`"),
        ("llama", "tie_word_embeddings", json!(true), "tensor `lm_head.weight` is not part"),
        ("llama", "eos_token_id", json!([256, 260]), "`config.json`: `eos_token_id` 260: the vocabulary has"),
    ] {
        let mut model = model(arch, false);
        model.config[key] = value;
        let error = error(&model, |_| ());
        assert!(error.contains(says), "{key}: {error}");
    }
    let mut model = model("llama", false);
    model.config.as_object_mut().unwrap().remove("rms_norm_eps");
    assert!(error(&model, |_| ()).contains("config.json`: missing field `rms_norm_eps` (at byte "));
}

#[test]
fn linear_scaling_of_positions_is_read_by_either_name() {
    let plain = model("qwen2", true);
    let of = |change: &dyn Fn(&mut Value)| {
        let mut config = plain.config.clone();
        change(&mut config);
        let model =
            Model { config, tensors: plain.tensors.clone(), tokenizer: plain.tokenizer.clone(), ..plain };
        logits(written(&model, Dtype::F32, 1).path(), Arithmetic::Exact)
    };
    let none = of(&|_| ());
    let scaled =
        of(&|c| c["rope_scaling"] = json!({ "type": "linear", "rope_type": "linear", "factor": 4.0 }));
    assert_ne!(none, scaled);
    let newer = json!({ "rope_type": "linear", "factor": 4.0, "rope_theta": 500.0 });
    assert_eq!(scaled, of(&|c| c["rope_parameters"] = newer.clone()));
    assert_eq!(none, of(&|c| c["rope_parameters"] = json!({ "rope_type": "default", "rope_theta": 500.0 })));
    assert_ne!(none, of(&|c| c["rope_theta"] = json!(10_000.0)));
}

#[test]
fn tokenizers_of_other_kinds_are_named() {
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": true });
    let spaced = json!({ "type": "ByteLevel", "add_prefix_space": true });
    let digits = json!({ "type": "Digits", "individual_digits": false });
    for (pointer, value, says) in [
        ("/model/type", json!("Unigram"), "a model of type `Unigram` (instead of byte-level `BPE`)"),
        ("/model/byte_fallback", json!(true), "`byte_fallback`"),
        ("/model/dropout", json!(0.1), "`dropout`"),
        ("/model/end_of_word_suffix", json!("</w>"), "`end_of_word_suffix`"),
        ("/model/vocab", json!({ "a": 0, "b": 0 }), "tokens `a` and `b` have the same id 0"),
        ("/model/vocab", json!({ "a": 260 }), "token `a` has id 260, the model has 260 tokens"),
        ("/model/vocab", json!({ "a": -1 }), "invalid value: integer `-1`"),
        ("/model/merges", json!(["a b"]), "names a token that the vocabulary lacks"),
        ("/model/merges", json!([["a", " b"]]), "outside the byte alphabet"),
        ("/model/merges", json!(["ab"]), "is no pair"),
        ("/normalizer", json!({ "type": "Lowercase" }), "normalizer `{\"type\":\"Lowercase\"}`"),
        ("/pre_tokenizer", Value::Null, "pre-tokenizer `null`"),
        ("/pre_tokenizer", json!({ "type": "Metaspace" }), "Metaspace"),
        ("/pre_tokenizer", spaced, "add_prefix_space"),
        ("/pre_tokenizer", sequence(digits, true), "individual_digits"),
        ("/post_processor", json!({ "type": "BertProcessing" }), "BertProcessing"),
        ("/added_tokens/0/lstrip", json!(true), "token `<|end|>`"),
        ("/added_tokens", json!({}), "invalid type: map"),
    ] {
        let mut model = model("llama", true);
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        model.tokenizer["pre_tokenizer"] = bytes.clone();
        model.tokenizer.pointer_mut(parent).unwrap()[key] = value;
        let error = error(&model, |_| ());
        assert!(error.contains(says), "{pointer}: {error}");
    }
    let mut model = model("llama", true);
    model.tokenizer["model"]["vocab"]["ab"] = 257.into();
    model.tokenizer["model"]["merges"] = json!(["a b"]);
    assert!(error(&model, |_| ()).contains("\"use_regex\":false"), "no cuts, where something merges");
    model.tokenizer["pre_tokenizer"] = bytes;
    model.tokenizer["model"]["ignore_merges"] = true.into();
    assert!(error(&model, |_| ()).contains("`ignore_merges` true"));
    model.tokenizer["model"]["ignore_merges"] = false.into();
    model.tokenizer["model"]["unk_token"] = "<|end|>".into();
    model.tokenizer["model"]["vocab"].as_object_mut().unwrap().remove("a");
    assert!(error(&model, |_| ()).contains("an `unk_token` for bytes without a token"));
}

#[test]
fn files_that_are_missing_or_broken_are_named() {
    let llama = model("llama", false);
    let gone = |name: &'static str| move |folder: &Path| fs::remove_file(folder.join(name)).unwrap();
    let is =
        |name: &'static str, bytes: &'static [u8]| move |f: &Path| fs::write(f.join(name), bytes).unwrap();
    assert!(
        error(&llama, gone("config.json"))
            .contains("config.json` is missing: a model is a `.gguf` file, or a folder")
    );
    assert!(error(&llama, gone("tokenizer.json")).contains("tokenizer.json` is missing"));
    assert!(error(&llama, gone("model.safetensors")).contains("model.safetensors`: No such file"));
    assert!(error(&llama, is("config.json", b"")).contains("config.json`: EOF while parsing"));
    assert!(
        error(&llama, is("config.json", b"{\n\"model_type\": 3}")).contains("expected a string (at byte 17)")
    );
    assert!(error(&llama, is("config.json", b"{\"model_type\": \"\xff\"}")).contains("invalid unicode"));
    assert!(error(&llama, is("tokenizer.json", b"[")).contains("tokenizer.json`:"));
    assert!(error(&llama, is("tokenizer_config.json", b"{]")).contains("tokenizer_config.json`:"));
    assert!(
        error(&llama, is("tokenizer_config.json", br#"{"bos_token": "zz"}"#))
            .contains("no token is called `zz`")
    );
    assert!(error(&llama, is("generation_config.json", b"3")).contains("generation_config.json`:"));
    assert!(
        error(&llama, is("generation_config.json", br#"{"eos_token_id": [9, 260]}"#))
            .contains("`generation_config.json`: `eos_token_id` 260: the vocabulary has 260 tokens")
    );
    assert!(error(&llama, is("chat_template.jinja", b"ab\xff")).contains("not UTF-8 (at byte 2)"));
    assert!(error(&llama, is("chat_template.jinja", b"{% if %}")).contains("chat template"));
    assert!(error(&llama, is("model.safetensors", b"")).contains("the file is empty"));
    assert!(error(&llama, is("model.safetensors", b"GGUF")).contains("cut off"));
}

/// The error of a folder whose only tensors are in a file with this header and so many bytes.
fn header_error(header: &Value, bytes: usize) -> String {
    let file = safetensors(header, &vec![0; bytes]);
    error(&model("llama", true), |folder| fs::write(folder.join("model.safetensors"), file).unwrap())
}

#[test]
fn headers_that_lie_are_refused() {
    let tensor = |dtype: &str, shape: Value, start: u64, end: u64| json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
    let one = |dtype: &str, shape: Value, start: u64, end: u64, bytes: usize| {
        header_error(&json!({ "x": tensor(dtype, shape, start, end) }), bytes)
    };
    assert!(
        one("F32", json!([2, 2]), 0, 16, 16).contains("no tensor `model.embed_tokens.weight`"),
        "this one is whole"
    );
    assert!(one("F32", json!([2, 2]), 0, 16, 15).contains("tensors take 16 bytes from here, there are 15"));
    assert!(one("F32", json!([2, 2]), 0, 16, 17).contains("there are 17"));
    assert!(one("F32", json!([2, 2]), 0, 12, 12).contains("invalid shape, data type, or offset"));
    assert!(one("F32", json!([2, 2]), 16, 0, 16).contains("invalid offset for tensor `x`"));
    assert!(one("F32", json!([2, 2]), 8, 24, 24).contains("invalid offset"), "a hole");
    assert!(one("F32", json!([u64::MAX, 2]), 0, 16, 16).contains("overflow"));
    assert!(one("F32", json!([0, 2]), 0, 0, 0).contains("holds no values"));
    assert!(
        one("F64", json!([2]), 0, 16, 16)
            .contains("tensor `x` is F64, which is not supported; supported: F32, F16, BF16")
    );
    assert!(one("I8", json!([2]), 0, 2, 2).contains("tensor `x` is I8"));
    assert!(
        one("F9", json!([2]), 0, 2, 2)
            .contains("the header is not that of safetensors: unknown variant `F9`")
    );
    let overlapping = json!({ "x": tensor("F32", json!([4]), 0, 16), "y": tensor("F32", json!([4]), 8, 24) });
    assert!(header_error(&overlapping, 24).contains("invalid offset for tensor `y`"));
    // lengths whose sum with the header's passes 2^64
    let size = (1_u64 << 61) - 1;
    let many: serde_json::Map<String, Value> =
        (0..8).map(|i| (i.to_string(), tensor("U8", json!([size]), i * size, (i + 1) * size))).collect();
    assert!(
        header_error(&many.into(), 0)
            .contains("tensors take 18446744073709551608 bytes from here, there are 0")
    );
    assert!(header_error(&json!([]), 0).contains("the header is not that of safetensors"));

    let whole = model("llama", true);
    let with_length = |len: u64| {
        error(&whole, |folder| {
            let file = folder.join("model.safetensors");
            let mut bytes = fs::read(&file).unwrap();
            bytes[..8].copy_from_slice(&len.to_le_bytes());
            fs::write(file, bytes).unwrap();
        })
    };
    for len in [u64::MAX, u64::MAX - 7, 1 << 40] {
        assert!(with_length(len).contains("cut off"), "{len}");
    }
    for len in [0, 1, 100] {
        assert!(with_length(len).contains("the header is not that of safetensors"), "{len}");
    }
}

#[test]
fn shards_are_where_the_index_says_or_nowhere() {
    let whole = model("qwen2", false);
    let index = |change: &dyn Fn(&mut Value), more: &dyn Fn(&Path)| {
        let folder = written(&whole, Dtype::F32, 2);
        let file = folder.path().join("model.safetensors.index.json");
        let mut index: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        change(&mut index["weight_map"]);
        fs::write(&file, index.to_string()).unwrap();
        more(folder.path());
        open(folder.path(), Arithmetic::Fast).err().map(|e| e.to_string()).unwrap_or_default()
    };
    const FIRST: &str = "model-00001-of-00002.safetensors";
    const SECOND: &str = "model-00002-of-00002.safetensors";
    assert_eq!(index(&|_| (), &|_| ()), "");
    for outside in ["../x.safetensors", "/x.safetensors", "sub/x.safetensors", "..", ".", ""] {
        let error = index(&|map| map["lm_head.weight"] = outside.into(), &|_| ());
        assert!(error.contains(&format!("`{outside}` is not the name of a file in this folder")), "{error}");
    }
    assert!(
        index(&|map| map["more"] = FIRST.into(), &|_| ())
            .contains(&format!("tensor `more` is not in `{FIRST}`"))
    );
    assert!(
        index(&|map| map["model.embed_tokens.weight"] = FIRST.into(), &|_| ())
            .contains("tensor `model.embed_tokens.weight` is not in")
    );
    let gone = |folder: &Path| fs::remove_file(folder.join(SECOND)).unwrap();
    assert!(index(&|_| (), &gone).contains(&format!("{SECOND}`: No such file")));
    let same = |folder: &Path| {
        fs::copy(folder.join(FIRST), folder.join(SECOND)).unwrap();
    };
    assert!(index(&|_| (), &same).contains("is in another file too"));
    let only_first = |map: &mut Value| map.as_object_mut().unwrap().retain(|_, file| file == FIRST);
    assert!(index(&only_first, &|_| ()).contains("no tensor `model.embed_tokens.weight`"));
    assert!(index(&|map| *map = json!(3), &|_| ()).contains("model.safetensors.index.json`: invalid type"));
}

#[test]
fn no_cut_and_no_flipped_bit_is_a_panic() {
    let whole = model("qwen2", true);
    let folder = written(&whole, Dtype::F16, 1);
    let mut random = fastrand::Rng::with_seed(4);
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let file = folder.path().join(name);
        let bytes = fs::read(&file).unwrap();
        for len in (0..bytes.len()).step_by(bytes.len() / 40) {
            fs::write(&file, &bytes[..len]).unwrap();
            assert!(
                open(folder.path(), Arithmetic::Fast).is_err(),
                "{len} of {} bytes of {name}",
                bytes.len()
            );
        }
        for _ in 0..150 {
            let mut hit = bytes.clone();
            hit[random.usize(..bytes.len().min(4000))] ^= 1 << random.u32(..8);
            fs::write(&file, hit).unwrap();
            if let Ok(engine) = open(folder.path(), Arithmetic::Fast) {
                let _ = engine.tokenizer.encode("any text");
            }
        }
        fs::write(&file, bytes).unwrap();
    }
    assert!(open(folder.path(), Arithmetic::Fast).is_ok());
}

//! Tokenizers against llama.cpp's ids for real models, and toy ones that a reader can follow.

mod models;

use eunoe_core::Error;
use eunoe_model::gguf::write::{GgufWriter, Put};
use eunoe_model::gguf::{Gguf, open};
use eunoe_model::tokenizer::Tokenizer;
use proptest::prelude::*;
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/tokens.json")).expect("tokens.json is JSON")
}

fn ids(row: &Value) -> Vec<u32> {
    serde_json::from_value(row.clone()).expect("rows are lists of ids")
}

#[test]
fn ids_are_those_of_llama_cpp() {
    let golden = golden();
    let texts: Vec<&str> = golden["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    for (name, want) in golden["ids"].as_object().unwrap() {
        let Some(path) = models::path(name) else { continue };
        let tokenizer = Tokenizer::from_gguf(&open(&path).unwrap()).unwrap();
        for (i, text) in texts.iter().enumerate() {
            assert_eq!(tokenizer.encode(text), ids(&want["plain"][i]), "{name}: {text:?}");
            assert_eq!(tokenizer.encode_special(text), ids(&want["special"][i]), "{name}, special: {text:?}");
            if name != "smollm2-135m" {
                assert_eq!(
                    tokenizer.decode(&tokenizer.encode(text)),
                    text.replace('▁', spaced(name)),
                    "{name}"
                );
            }
        }
    }
}

/// SentencePiece vocabularies cannot tell `▁` from a space.
fn spaced(model: &str) -> &'static str {
    if model.starts_with("gemma") { " " } else { "▁" }
}

#[test]
fn real_models_know_their_special_tokens() {
    for (name, bos, eos, stop) in [
        ("smollm2-135m", "<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        ("qwen2.5-coder-0.5b", "<|endoftext|>", "<|im_end|>", "<|file_sep|>"),
        ("gemma3-270m", "<bos>", "<eos>", "<end_of_turn>"),
    ] {
        let Some(path) = models::path(name) else { continue };
        let t = Tokenizer::from_gguf(&open(&path).unwrap()).unwrap();
        assert_eq!((t.bos(), t.eos()), (t.token_id(bos), t.token_id(eos)), "{name}");
        assert!(t.is_stop(t.eos().unwrap()) && t.is_stop(t.token_id(stop).unwrap()));
        assert!(t.eot().is_some() && !t.is_stop(t.token_id(" the").unwrap()));
        assert_eq!(t.piece(t.eos().unwrap()), b"");
        assert_eq!(t.piece_or_name(t.eos().unwrap()), eos.as_bytes());
        assert_eq!(t.adds_bos(), name.starts_with("gemma"));
    }
}

#[test]
fn a_prompt_has_one_bos() {
    let Some(path) = models::path("gemma3-270m") else { return };
    let t = Tokenizer::from_gguf(&open(&path).unwrap()).unwrap();
    let bos = t.bos().unwrap();
    let want = [&[bos][..], &t.encode("Hi")].concat();
    for text in ["Hi", "<bos>Hi", "<bos><bos>Hi"] {
        assert_eq!(t.encode_prompt(text), want);
    }
    assert_eq!(t.encode_prompt(""), [bos]);
}

const BYTES: [&str; 6] = ["a", "b", "c", "Ġ", "Ċ", "Ã"];

/// Tokens 0–5 are bytes; `ab` = 6, `abc` = 7, `bc` = 8, ` a` = 9, `<end>` = 10 (control), `<u>` = 11 (user-defined).
fn bpe(merges: &[&str]) -> GgufWriter {
    let tokens = [&BYTES[..], &["ab", "abc", "bc", "Ġa", "<end>", "<u>"]].concat();
    GgufWriter::new()
        .put("tokenizer.ggml.model", Put::Str("gpt2"))
        .put("tokenizer.ggml.pre", Put::Str("gpt-2"))
        .put("tokenizer.ggml.tokens", Put::Strs(&tokens))
        .put("tokenizer.ggml.token_type", Put::I32s(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 4]))
        .put("tokenizer.ggml.merges", Put::Strs(merges))
}

/// Tokens: unknown, begin, end, the bytes of `é`, then `a` … with scores that prefer ` ab` by way of `ab`.
fn spm() -> GgufWriter {
    let tokens = ["<unk>", "<s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "ab", "▁a", "▁ab", "aa"];
    GgufWriter::new()
        .put("tokenizer.ggml.model", Put::Str("llama"))
        .put("tokenizer.ggml.tokens", Put::Strs(&tokens))
        .put("tokenizer.ggml.token_type", Put::I32s(&[2, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1]))
        .put("tokenizer.ggml.scores", Put::F32s(&[0., 0., 0., 0., -9., -9., -9., -1., -2., -3., -1.]))
        .put("tokenizer.ggml.bos_token_id", Put::U32(1))
}

fn tokenizer(file: GgufWriter) -> Result<Tokenizer, Error> {
    Tokenizer::from_gguf(&Gguf::parse(file.finish()).expect("the writer makes a whole file"))
}

#[test]
fn merges_go_by_rank_then_by_place() {
    let t = tokenizer(bpe(&["b c", "a b", "ab c", "Ġ a"])).unwrap();
    // `bc` outranks `ab`, so that `abc` is a + bc although the vocabulary has it whole.
    assert_eq!(t.encode("abc ab"), [0, 8, 3, 6]);
    let t = tokenizer(bpe(&["a b", "ab c", "b c", "Ġ a"])).unwrap();
    assert_eq!(t.encode("abcbc a"), [7, 8, 9]);
}

#[test]
fn control_tokens_are_text_until_asked_for() {
    let t = tokenizer(bpe(&["a b"])).unwrap();
    // Bytes without a token (`<`, `e`, `n`, `d`, `>`) are dropped, as llama.cpp drops them.
    assert_eq!(t.encode("ab<end><u>"), [6, 11]);
    assert_eq!(t.encode_special("ab<end><u>"), [6, 10, 11]);
    assert_eq!(t.decode(&[6, 10, 11, 4, 99]), "ab<u>\n");
    assert_eq!((t.token_id("<end>"), t.token_id(" a"), t.token_id("Ġa")), (Some(10), Some(9), None));
    assert_eq!((t.piece(10), t.piece_or_name(10), t.piece(u32::MAX)), (&b""[..], &b"<end>"[..], &b""[..]));
}

#[test]
fn sentencepiece_merges_the_best_score_first_and_falls_back_to_bytes() {
    let t = tokenizer(spm()).unwrap();
    // `▁ab`: ab (-1) before ▁a (-2), then ▁ + ab (-3).
    assert_eq!(t.encode("ab"), [9]);
    // Equal scores go from the left: aa + b, not a + ab.
    assert_eq!(t.encode("aab"), [4, 10, 6]);
    assert_eq!(t.encode("aé a"), [8, 2, 3, 8]);
    // A byte without a token is the unknown token.
    assert_eq!(t.encode("\n"), [4, 0]);
    assert_eq!(t.decode(&[9, 2, 3, 8]), "abé a");
    assert_eq!(t.decode(&[2]), "\u{fffd}");
    assert_eq!(t.encode_prompt("<s>ab"), [1, 9]);
    let bare = tokenizer(spm().put("tokenizer.ggml.add_space_prefix", Put::Bool(false))).unwrap();
    assert_eq!(bare.encode("ab"), [7]);
}

#[test]
fn a_decoder_releases_whole_characters() {
    let t = tokenizer(spm()).unwrap();
    let mut d = t.decoder();
    let parts: Vec<String> = [9, 2, 3, 1, 2, 7].iter().map(|&id| d.push(id)).collect();
    assert_eq!(parts, [" ab", "", "é", "", "", "\u{fffd}ab"]);
    d.push(2);
    assert_eq!(d.finish(), "\u{fffd}");
}

#[test]
fn broken_vocabularies_are_refused() {
    let says = |file: GgufWriter, what: &str| {
        let e = tokenizer(file).unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
    };
    says(bpe(&["ab"]), "merge 0 `ab` is no pair");
    says(bpe(&["a c"]), "names a token that the vocabulary lacks");
    says(bpe(&["a 漢"]), "outside the byte alphabet");
    says(bpe(&[]).put("tokenizer.ggml.eos_token_id", Put::U32(12)), "is 12, the vocabulary has 12 tokens");
    says(GgufWriter::new(), "`tokenizer.ggml.model` is missing");
    says(
        GgufWriter::new().put("tokenizer.ggml.model", Put::Str("t5")),
        "`t5` is not supported; supported: gpt2",
    );
    let base = || GgufWriter::new().put("tokenizer.ggml.model", Put::Str("llama"));
    let tokens = |w: GgufWriter| w.put("tokenizer.ggml.tokens", Put::Strs(&["a", "<0xZZ>"]));
    says(tokens(base()).put("tokenizer.ggml.token_type", Put::I32s(&[1])), "token_type: expected 2, got 1");
    says(tokens(base()).put("tokenizer.ggml.token_type", Put::I32s(&[1, 6])), "byte token 1 is `<0xZZ>`");
    says(tokens(base()).put("tokenizer.ggml.scores", Put::F32s(&[1.0])), "scores: expected 2, got 1");
}

#[test]
fn an_empty_vocabulary_encodes_to_nothing() {
    let file = GgufWriter::new()
        .put("tokenizer.ggml.model", Put::Str("llama"))
        .put("tokenizer.ggml.tokens", Put::Strs(&[]))
        .put("tokenizer.ggml.scores", Put::F32s(&[]));
    let t = tokenizer(file).unwrap();
    assert_eq!((t.encode_prompt("abc"), t.bos(), t.vocab_len()), (vec![], None, 0));
    assert_eq!(t.decode(&[0, u32::MAX]), "");
}

proptest! {
    #[test]
    fn pushed_tokens_are_the_decoded_text(ids in prop::collection::vec(0_u32..14, 0..40)) {
        let t = tokenizer(spm().put("tokenizer.ggml.add_space_prefix", Put::Bool(false))).unwrap();
        let mut d = t.decoder();
        let mut text: String = ids.iter().map(|&id| d.push(id)).collect();
        text += &d.finish();
        prop_assert_eq!(text, t.decode(&ids));
    }

    #[test]
    fn any_text_comes_back(text in "[abc \n\u{c0}-\u{ff}é漢\u{1f600}]{0,40}") {
        let all: Vec<String> = (0_u32..0x144).filter_map(char::from_u32).map(String::from).collect();
        let tokens: Vec<&str> = all.iter().map(String::as_str).collect();
        let file = GgufWriter::new()
            .put("tokenizer.ggml.model", Put::Str("gpt2"))
            .put("tokenizer.ggml.tokens", Put::Strs(&tokens))
            .put("tokenizer.ggml.merges", Put::Strs(&[]));
        let t = tokenizer(file).unwrap();
        prop_assert_eq!(t.decode(&t.encode(&text)), text);
    }
}

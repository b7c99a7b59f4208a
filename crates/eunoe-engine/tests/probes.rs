//! Probes on a model whose heads do what their weights say: each looks a fixed distance back, at the first token, or
//! everywhere, so that its scores are known.

#![allow(clippy::unwrap_used, reason = "tests")]

mod toy;

use eunoe_core::{Dtype, Error};
use eunoe_engine::probes::retrieval_heads::{Report, Settings, detect};
use eunoe_engine::{Arithmetic, Engine, Options};
use eunoe_model::gguf::write::{GgufWriter, Put};

/// Random tokens repeat every 256: an eighth of the context.
const CONTEXT: u32 = 2048;
const BLOCK: usize = 256;
/// Tokens of ` The secret code of the X is Y 1234.` with one for the place and one for the word.
const NEEDLE: usize = 34;
/// With the sentence right after BOS, its answer comes one block later.
const LENGTH: usize = 1 + BLOCK + NEEDLE;
const HEADS: usize = 4;
const HEAD_DIM: usize = 64;
/// Values of a head that are rotated.
const ROTATED: usize = 32;
/// Token code, what the copying head writes, and a mark on BOS.
const D_MODEL: usize = 160;
const CODE: usize = 64;
const MARK: usize = 2 * CODE;

/// What a head looks at.
#[derive(Clone, Copy)]
enum Head {
    /// The key so many positions back.
    Back(usize),
    Bos,
    All,
}

/// Two layers; heads 0 and 1 share positional keys, heads 2 and 3 keys that mark BOS.
const MODEL: [[Head; HEADS]; 2] = [
    [Head::Back(BLOCK), Head::Back(1), Head::Bos, Head::All],
    [Head::Back(BLOCK + 3), Head::Back(BLOCK - 1), Head::All, Head::Bos],
];
/// The heads of [`MODEL`], layer-major.
const ECHO: usize = 0;
const BEFORE: usize = 1;
const BOS: [usize; 2] = [2, 7];
const ALL: [usize; 2] = [3, 6];
/// Of a sentence it sees, for each token, the one four before.
const LATE: usize = 4;
/// Alone writes: the token that it looks at.
const COPIES: usize = 5;

/// A matrix `[rows, cols]` of zeros but for some entries.
fn matrix(rows: usize, cols: usize, entries: impl IntoIterator<Item = (usize, usize, f32)>) -> Vec<u8> {
    let mut x = vec![0.0_f32; rows * cols];
    entries.into_iter().for_each(|(row, col, value)| x[row * cols + col] = value);
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Size of queries and keys: at its own distance a positional head scores 34 nats above the keys beside, on BOS the
/// others 78 above the rest.
const SHARP: f32 = 20.0;

/// Positional keys have `SHARP` in every even rotated value, of which pair f turns by 10000^(-f/16) per position.
fn query(head: Head) -> Vec<f32> {
    let mut q = vec![0.0; HEAD_DIM];
    match head {
        Head::Back(distance) => {
            for f in 0..ROTATED / 2 {
                let angle = -(distance as f64) * 10_000_f64.powf(-(f as f64) / 16.0);
                (q[2 * f], q[2 * f + 1]) = (SHARP * angle.cos() as f32, SHARP * angle.sin() as f32);
            }
        }
        Head::Bos => q[HEAD_DIM - 1] = SHARP,
        Head::All => {}
    }
    q
}

/// The file of [`MODEL`] with this vocabulary, of which the last token is BOS.
fn gguf(tokens: &[(String, i32)]) -> Vec<u8> {
    let names: Vec<&str> = tokens.iter().map(|(name, _)| name.as_str()).collect();
    let types: Vec<i32> = tokens.iter().map(|(_, kind)| *kind).collect();
    let (vocab, bos) = (names.len(), names.len() - 1);
    let mut w = GgufWriter::new().put("general.architecture", Put::Str("llama"));
    for (key, n) in [
        ("block_count", MODEL.len() as u32),
        ("context_length", CONTEXT),
        ("embedding_length", D_MODEL as u32),
        ("feed_forward_length", 32),
        ("attention.head_count", HEADS as u32),
        ("attention.head_count_kv", 2),
        ("attention.key_length", HEAD_DIM as u32),
        ("attention.value_length", HEAD_DIM as u32),
        ("rope.dimension_count", ROTATED as u32),
    ] {
        w = w.put(&format!("llama.{key}"), Put::U32(n));
    }
    w = w
        .put("llama.attention.layer_norm_rms_epsilon", Put::F32(1e-5))
        .put("llama.rope.freq_base", Put::F32(10_000.0))
        .put("tokenizer.ggml.model", Put::Str("gpt2"))
        .put("tokenizer.ggml.tokens", Put::Strs(&names))
        .put("tokenizer.ggml.token_type", Put::I32s(&types))
        .put("tokenizer.ggml.merges", Put::Strs(&[]))
        .put("tokenizer.ggml.bos_token_id", Put::U32(bos as u32))
        .put("tokenizer.ggml.add_bos_token", Put::Bool(true));
    let mut random = fastrand::Rng::with_seed(1);
    let code: Vec<f32> = (0..vocab * CODE).map(|_| if random.bool() { 1.0 } else { -1.0 }).collect();
    let code = |first: usize| code.iter().enumerate().map(move |(i, x)| (i / CODE, first + i % CODE, *x));
    let mut tensor = |name: &str, shape: [usize; 2], bytes: &[u8]| {
        let shape: Vec<u64> = shape.iter().filter(|n| **n > 0).map(|n| *n as u64).collect();
        w = std::mem::take(&mut w).tensor(name, &shape, Dtype::F32, bytes);
    };
    let ones = matrix(1, D_MODEL, (0..D_MODEL).map(|i| (0, i, 1.0)));
    tensor("token_embd.weight", [D_MODEL, vocab], &matrix(vocab, D_MODEL, code(0).chain([(bos, MARK, 1.0)])));
    tensor("output.weight", [D_MODEL, vocab], &matrix(vocab, D_MODEL, code(CODE)));
    tensor("output_norm.weight", [D_MODEL, 0], &ones);
    let (q, kv) = (HEADS * HEAD_DIM, 2 * HEAD_DIM);
    for (l, heads) in MODEL.iter().enumerate() {
        let mut tensor = |part: &str, shape, bytes: &[u8]| tensor(&format!("blk.{l}.{part}"), shape, bytes);
        tensor("attn_norm.weight", [D_MODEL, 0], &ones);
        tensor("ffn_norm.weight", [D_MODEL, 0], &ones);
        let bias: Vec<u8> = heads.iter().flat_map(|h| query(*h)).flat_map(f32::to_le_bytes).collect();
        tensor("attn_q.weight", [D_MODEL, q], &matrix(q, D_MODEL, []));
        tensor("attn_q.bias", [q, 0], &bias);
        tensor("attn_k.weight", [D_MODEL, kv], &matrix(kv, D_MODEL, [(kv - 1, MARK, SHARP)]));
        tensor("attn_k.bias", [kv, 0], &matrix(1, kv, (0..ROTATED / 2).map(|f| (0, 2 * f, SHARP))));
        tensor("attn_v.weight", [D_MODEL, kv], &matrix(kv, D_MODEL, (0..CODE).map(|i| (i, i, 1.0))));
        let writes = (0..CODE).map(|i| (CODE + i, (COPIES % HEADS) * HEAD_DIM + i, 1.0));
        let writes = writes.filter(|_| l == COPIES / HEADS);
        tensor("attn_output.weight", [q, D_MODEL], &matrix(D_MODEL, q, writes));
        for (part, cols, rows) in [("gate", D_MODEL, 32), ("up", D_MODEL, 32), ("down", 32, D_MODEL)] {
            tensor(&format!("ffn_{part}.weight"), [cols, rows], &matrix(rows, cols, []));
        }
    }
    w.finish()
}

fn open(bytes: &[u8]) -> Engine {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let options = Options { threads: 2, chunk: 128, arithmetic: Arithmetic::Exact };
    Engine::open(file.path(), options, &mut |_| {}).unwrap()
}

/// One token per character, and one for each place and word of a planted sentence.
fn built() -> Engine {
    const NAMES: &str = "lighthouse,bakery,harbour,museum,orchard,railway station,theatre,windmill,amber,copper,\
                         granite,juniper,marble,raven,saffron,walnut";
    let (normal, control, user) = (1, 3, 4);
    let mut tokens: Vec<(String, i32)> =
        ('!'..='~').chain(['Ġ', 'Ċ']).map(|c| (c.to_string(), normal)).collect();
    tokens.extend(NAMES.split(',').map(|name| (format!(" {name}"), user)));
    tokens.push(("<s>".into(), control));
    open(&gguf(&tokens))
}

/// Words of random letters.
fn story() -> String {
    let mut random = fastrand::Rng::with_seed(5);
    (0..3000).map(|i| if i % 6 == 5 { ' ' } else { random.lowercase() }).collect()
}

fn settings<'a>(text: &'a str, lengths: &'a [usize], seeds: u64) -> Settings<'a> {
    Settings { text, lengths, depths: &[0.0], seeds }
}

fn found(engine: &Engine, settings: &Settings<'_>) -> Result<Report, Error> {
    detect(engine, "built", "0", settings, &mut |_| true)
}

fn near(got: f32, want: f32, what: &str) {
    assert!((got - want).abs() < 1e-4, "{what}: {got}, not {want}");
}

/// Mean of `of(keys)` over rows, which have one key more than their number.
fn mean(rows: std::ops::Range<usize>, of: impl Fn(usize) -> f32) -> f32 {
    let n = rows.len() as f32;
    rows.map(|row| of(row + 1)).sum::<f32>() / n
}

#[test]
fn heads_score_by_what_they_were_built_to_do() {
    // of the longer texts none is repeated: there the sentence is further back than the head looks
    let (engine, story) = (built(), story());
    let report = found(&engine, &settings(&story, &[LENGTH, 600], 2)).unwrap();
    let p = &report.profile;
    assert_eq!((p.layers, p.heads, p.kv_heads, p.found), (2, 4, 2, [2, 4]));

    // the copying head gives every token; four before stands the same character three times: before ` secret`, at the o
    // of `of` and before the number; one before, digits alone can repeat
    near(p.retrieval[COPIES], 1.0, "retrieval, copying");
    near(p.retrieval[LATE], 3.0 / NEEDLE as f32, "retrieval, four late");
    assert!(p.retrieval[ECHO] <= 3.0 / NEEDLE as f32);
    [BEFORE].iter().chain(&BOS).chain(&ALL).for_each(|h| assert_eq!(p.retrieval[*h], 0.0, "head {h}"));

    // rows 256 to 1022 of four blocks; where all look alike, a row of n keys gives 1/n to each of its 1 to 3 copies
    let uniform = mean(BLOCK..4 * BLOCK - 1, |keys| ((keys - 1) / BLOCK) as f32 / keys as f32);
    for h in 0..8 {
        let (induction, echo) = match h {
            COPIES => (1.0, 0.0),
            ECHO => (0.0, 1.0),
            // its first three rows have nothing that far back
            LATE => (p.induction[h], p.echo[h]),
            BEFORE => (0.0, 0.0),
            _ => (uniform, uniform),
        };
        near(p.induction[h], induction, &format!("induction of head {h}"));
        near(p.echo[h], echo, &format!("echo of head {h}"));
    }
    assert!(p.induction[LATE].max(p.echo[LATE]) <= 3.0 / 767.0 + 1e-6);

    // rows 472 to 598 of a text: 255 back is the last of the newest 256, 256 back is not
    let rows = 600 - 128..599;
    for h in 0..8 {
        let (sink, streaming) = match h {
            h if BOS.contains(&h) => (1.0, 1.0),
            COPIES | BEFORE => (0.0, 1.0),
            ECHO | LATE => (0.0, 0.0),
            _ => (mean(rows.clone(), |n| 4.0 / n as f32), mean(rows.clone(), |n| 260.0 / n as f32)),
        };
        near(p.sink[h], sink, &format!("sink of head {h}"));
        near(p.streaming[h], streaming, &format!("streaming of head {h}"));
    }
}

#[test]
fn the_report_names_the_copying_head_and_what_is_lost_without_it() {
    let (engine, story) = (built(), story());
    let settings = settings(&story, &[LENGTH, 600], 2);
    let report = found(&engine, &settings).unwrap();
    let best: Vec<_> = report.best.iter().map(|b| (b.layer, b.head, b.retrieval, b.induction)).collect();
    assert_eq!(best, [(COPIES / HEADS, COPIES % HEADS, 1.0, 1.0)]);
    assert_eq!(report.share_retrieving, 1.0 / 8.0);
    assert_eq!(report.stability, Some(1.0));
    // a twentieth of eight heads is one; the others write nothing
    let c = &report.check;
    assert_eq!((c.n, c.heads), (2, 1));
    for (share, mean) in [(&c.whole, 1.0), (&c.without_best, 0.0), (&c.without_random, 1.0)] {
        assert!((share.mean - mean).abs() < 1e-12, "{share:?}");
    }
    // one seed agrees with nobody
    let one = found(&engine, &Settings { lengths: &[LENGTH], seeds: 1, ..settings }).unwrap();
    assert_eq!((one.profile.found, one.stability), ([1, 1], None));
}

#[test]
fn progress_only_rises_and_can_stop() {
    let (engine, story) = (built(), story());
    let settings = settings(&story, &[LENGTH, 600], 2);
    let mut told = Vec::new();
    detect(&engine, "built", "0", &settings, &mut |n| {
        told.push(n);
        true
    })
    .unwrap();
    // four texts, then two of them five times
    assert_eq!(told, (0..14).collect::<Vec<_>>());
    assert_eq!(settings.texts(), 4 + 5 * 4);
    for last in [0, 2, 4, 9] {
        let stopped = detect(&engine, "built", "0", &settings, &mut |n| n < last);
        assert!(matches!(stopped, Err(Error::Interrupted)), "{last}");
    }
}

#[test]
fn what_cannot_be_read_is_refused() {
    let (engine, story) = (built(), story());
    let refused = |settings: Settings<'_>| found(&engine, &settings).unwrap_err();
    let longer = refused(settings(&story, &[LENGTH, 2049], 1));
    assert!(matches!(longer, Error::Limit { asked: 2049, have: 2048, .. }), "{longer}");
    let text = longer.to_string();
    assert!(text.contains("2049 asked, 2048 available; give shorter lengths"), "{text}");
    let whole = refused(settings(&story, &[2048], 1)).to_string();
    assert!(whole.starts_with("the model repeats none of 1 planted sentences"), "{whole}");
    for depths in [&[0.5, 1.5][..], &[-0.1], &[f64::NAN]] {
        let bad = refused(Settings { depths, ..settings(&story, &[LENGTH], 1) });
        assert!(matches!(&bad, Error::Invalid(why) if why.starts_with("a depth of")), "{bad}");
    }
    for nothing in [settings(&story, &[], 1), settings(&story, &[LENGTH], 0)] {
        assert!(matches!(refused(nothing), Error::Invalid(why) if why.starts_with("nothing to read")));
    }
    let short = refused(settings("", &[LENGTH], 1)).to_string();
    assert!(short.starts_with("a text of 0 tokens for 291"), "{short}");
}

#[test]
fn a_vocabulary_too_small_for_random_tokens_is_refused() {
    let tokens = |n: u8| {
        let letters = (b'B'..b'B' + n - 1).map(|c| (char::from(c).to_string(), 1));
        letters.chain([("<s>".into(), 3)]).collect::<Vec<_>>()
    };
    let story = "abc ".repeat(200);
    for n in [4, 7, 8] {
        let why = found(&open(&gguf(&tokens(n))), &settings(&story, &[64], 1)).unwrap_err();
        assert!(matches!(why, Error::Unsupported(_)), "{n}: {why}");
        let asked = why.to_string();
        // eight are enough for random tokens; these are in no sentence
        let expected = if n < 8 {
            format!("a model of {n} tokens")
        } else {
            "the model's tokenizer cannot spell".into()
        };
        assert!(asked.starts_with(&expected), "{asked}");
    }
}

#[test]
fn a_model_that_sees_windows_only_is_refused() {
    let toy = toy::Toy { arch: "gemma3", ..toy::LLAMA };
    let why = found(&toy.open(1, 64), &settings(&story(), &[LENGTH], 1)).unwrap_err();
    assert!(matches!(&why, Error::Unsupported(why) if why.contains("window")), "{why}");
}

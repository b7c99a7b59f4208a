//! Scores of attention written down, and the parts that the end-to-end test sees only together.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::causal::Without;
use super::*;
use eunoe_core::Dtype;
use eunoe_model::gguf;
use eunoe_model::gguf::write::{GgufWriter, Put};
use eunoe_model::tokenizer::Tokenizer;

const HEADS: usize = 4;
const HEAD_DIM: usize = 32;

/// Four heads of 32 on two KV heads, and a tokenizer with one token per character, `Ġ` and `Ċ` for space and newline.
fn small() -> (Config, Tokenizer) {
    let names: Vec<String> = ('!'..='~').chain(['Ġ', 'Ċ']).map(String::from).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut w = GgufWriter::new().put("general.architecture", Put::Str("llama"));
    for (key, n) in [
        ("block_count", 4),
        ("context_length", 512),
        ("embedding_length", 32),
        ("feed_forward_length", 32),
        ("attention.head_count", HEADS as u32),
        ("attention.head_count_kv", 2),
        ("attention.key_length", HEAD_DIM as u32),
        ("attention.value_length", HEAD_DIM as u32),
    ] {
        w = w.put(&format!("llama.{key}"), Put::U32(n));
    }
    w = w
        .put("llama.attention.layer_norm_rms_epsilon", Put::F32(1e-5))
        .put("tokenizer.ggml.model", Put::Str("gpt2"))
        .put("tokenizer.ggml.tokens", Put::Strs(&names))
        .put("tokenizer.ggml.merges", Put::Strs(&[]));
    let vocab = names.len();
    w = w.tensor("token_embd.weight", &[32, vocab as u64], Dtype::F32, &vec![0; 4 * 32 * vocab]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), w.finish()).unwrap();
    let file = gguf::open(file.path()).unwrap();
    (Config::from_gguf(&file).unwrap(), Tokenizer::from_gguf(&file).unwrap())
}

fn close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?} is not {b:?}");
}

#[test]
fn induction_and_echo_add_up_over_earlier_copies() {
    // tokens a b a b a, row 4: copies of `a` at 0 and 2, after them `b` at 1 and 3
    let attn = [0.1, 0.2, 0.3, 0.15, 0.25];
    close(&to_copies(2, 4, &attn), &[0.2 + 0.15, 0.1 + 0.3]);
    // row 3: one copy of `b`, at 1
    close(&to_copies(2, 3, &attn[..4]), &[0.3, 0.2]);
    // rows of the first block repeat nothing
    close(&to_copies(2, 1, &attn[..2]), &[0.0, 0.0]);
}

#[test]
fn sinks_are_the_first_four_and_streaming_adds_the_newest_256() {
    // 300 keys: 0..4 are sinks, 44..300 are recent; halves of what is left lie on either side of 44
    let mut attn = vec![0.0; 300];
    (attn[0], attn[3], attn[4], attn[43], attn[44], attn[299]) = (0.1, 0.2, 0.05, 0.25, 0.3, 0.1);
    close(&to_ends(&attn), &[0.3, 0.3 + 0.4]);
    // where both meet, no key counts twice
    close(&to_ends(&[0.1, 0.2, 0.1, 0.2, 0.3, 0.1]), &[0.6, 1.0]);
    close(&to_ends(&[0.5, 0.5]), &[1.0, 1.0]);
}

#[test]
fn a_token_is_copied_from_the_planted_key_that_holds_it() {
    // 9 [5 6 7] 6 8 [5 6 7]: rows 5, 6, 7 write 5, 6, 7
    let planted = Planted { tokens: vec![9, 5, 6, 7, 6, 8, 5, 6, 7], needle: 1..4, rows: 5..8, secret: 6..7 };
    let copied = |row: usize, peaks: &[usize]| {
        let mut attn = vec![0.1; row + 1];
        peaks.iter().for_each(|j| attn[*j] = 0.5);
        is_copied(&planted, row, &attn)
    };
    assert!(copied(5, &[1]) && copied(6, &[2]) && copied(7, &[3]));
    // another planted token; the right token outside the sentence; nothing above the rest: the first key
    assert!(!copied(5, &[2]) && !copied(6, &[4]) && !copied(6, &[]));
    // of equals the first counts
    assert!(copied(6, &[2, 4]) && !copied(6, &[1, 2]));
}

#[test]
fn heads_attend_to_the_keys_of_their_group() {
    let (c, _) = small();
    // a query of √32 · ln 2 on keys of j and -j gives scores of ± j · ln 2: attention 1 : 2 : 4 and 4 : 2 : 1
    let one = |x: f32| {
        let mut v = vec![0.0; HEAD_DIM];
        v[17] = x;
        v
    };
    let q: Vec<f32> = (0..2 * HEADS).flat_map(|_| one(32.0_f32.sqrt() * 2.0_f32.ln())).collect();
    let k: Vec<f32> = (0..3).flat_map(|j| [one(j as f32), one(-(j as f32))].concat()).collect();
    let each = |row: usize, attn: &[f32]| [attn[0], attn[row], attn.iter().sum(), row as f32];
    let sums = heads(&Pool::new(2), &c, 1..3, &q, &k, &each);
    // rows 1 and 2: 1/3 + 1/7 = 10/21 and 2/3 + 4/7 = 26/21 in one group, the reverse in the other
    let [low, high] = [10.0 / 21.0, 26.0 / 21.0];
    assert_eq!(sums.len(), HEADS);
    sums[..2].iter().for_each(|sum| close(sum, &[low, high, 2.0, 3.0]));
    sums[2..].iter().for_each(|sum| close(sum, &[high, low, 2.0, 3.0]));
    // each row its own query: with the first row's at 0, that row looks at 0 and 1 alike
    let half = [vec![0.0; HEADS * HEAD_DIM], q[HEADS * HEAD_DIM..].to_vec()].concat();
    let sums = heads(&Pool::new(1), &c, 1..3, &half, &k, &each);
    close(&sums[0], &[0.5 + 1.0 / 7.0, 0.5 + 4.0 / 7.0, 2.0, 3.0]);
}

#[test]
fn a_sentence_stands_in_the_text_and_after_its_question() {
    let (_, t) = small();
    let story = "It rained all day; nobody came, and the dog slept by the stove. ".repeat(10);
    for (depth, length) in [(0.0, 256), (0.5, 301), (1.0, 400)] {
        let mut random = fastrand::Rng::with_seed(3);
        let Planted { tokens, needle, rows, secret } = plant(&t, &story, length, depth, &mut random).unwrap();
        assert_eq!(tokens.len(), length);
        let answer = rows.start + 1..rows.end + 1;
        assert_eq!(answer.end, length);
        assert_eq!(tokens[needle.clone()], tokens[answer.clone()]);
        let text = |range: Range<usize>| t.decode(&tokens[range]);
        let sentence = text(needle.clone());
        let told = sentence.strip_prefix(" The secret code of the ").unwrap();
        let (place, told) = told.split_once(" is ").unwrap();
        assert_eq!(text(secret.start + 1..secret.end + 1), format!(" {}", told.strip_suffix('.').unwrap()));
        let rest = text(needle.end..answer.start);
        let (after, question) = rest.split_once("\n\n").unwrap();
        assert_eq!(question, format!("Question: What is the secret code of the {place}?\nAnswer:"));
        let before = text(0..needle.start);
        assert!(story.contains(&(before.clone() + after)));
        let room = before.len() + after.len();
        assert_eq!(before.len(), (depth * room as f64) as usize);
    }
}

#[test]
fn what_cannot_be_planted_is_refused() {
    let (_, t) = small();
    let story = "It rained. ".repeat(20);
    let refused = |text: &str, length: usize| {
        let planted = plant(&t, text, length, 0.5, &mut fastrand::Rng::with_seed(3));
        planted.err().unwrap().to_string()
    };
    assert!(
        refused(&story, 64).starts_with("a length of 64 tokens: a planted sentence and its question need")
    );
    assert_eq!(refused(&story, 500), "a text of 220 tokens for 500: give a longer one");
    assert_eq!(refused("", 200), "a text of 0 tokens for 200: give a longer one");
}

#[test]
fn taken_away_are_the_named_heads_of_the_answers_rows() {
    let (c, _) = small();
    // layers 1 and 3 see all: head 1 is head 1 of layer 1, head 6 is head 2 of layer 3
    let mut probe = Without { config: &c, global: &[1, 3], heads: &[1, 6], rows: 5..7 };
    assert!(probe.wants(Point::Z, 1) && probe.wants(Point::Z, 3) && !probe.wants(Point::Z, 2));
    let mut without = |layer, row| {
        let mut z = vec![1.0; HEADS * HEAD_DIM];
        probe.visit(Site { point: Point::Z, layer, row, pos: row as u32 }, &mut z);
        z.chunks(HEAD_DIM).map(|head| head.iter().sum::<f32>() / 32.0).collect::<Vec<_>>()
    };
    assert_eq!(without(1, 5), [1.0, 0.0, 1.0, 1.0]);
    assert_eq!(without(3, 6), [1.0, 1.0, 0.0, 1.0]);
    for (layer, row) in [(0, 5), (2, 5), (1, 4), (3, 7)] {
        assert_eq!(without(layer, row), [1.0; HEADS], "layer {layer}, row {row}");
    }
}

#[test]
fn an_interval_holds_95_of_100_means() {
    let of = |x: &[f64]| (Share::of(x).mean, Share::of(x).interval);
    assert_eq!(of(&[0.5; 7]), (0.5, [0.5; 2]));
    assert_eq!(of(&[0.25]), (0.25, [0.25; 2]));
    // of two texts, a quarter of the draws takes the first twice and a quarter the second
    assert_eq!(of(&[0.0, 1.0]), (0.5, [0.0, 1.0]));
    // of 1000 with half at 1: the mean of 1000 coins, deviation 0.0158, so 0.5 ± 0.031; 90 of 100 are within 0.026
    let coins: Vec<f64> = (0..1000).map(|i| f64::from(i % 2)).collect();
    let (mean, [low, high]) = of(&coins);
    assert_eq!(mean, 0.5);
    assert!((low - 0.469).abs() < 0.0025 && (high - 0.531).abs() < 0.0025, "{low} {high}");
}

#[test]
fn of_equal_scores_the_lower_head_comes_first() {
    assert_eq!(ranked(&[0.1, 0.5, 0.1, 0.9]), [3, 1, 0, 2]);
}

#[test]
fn seeds_agree_by_the_heads_that_they_share() {
    let (a, b) = (vec![0.9, 0.8, 0.1, 0.0], vec![0.9, 0.1, 0.8, 0.0]);
    // {0, 1} and {0, 2} share one head of three
    assert_eq!(stability(&[a.clone(), b.clone()], 2), Some(1.0 / 3.0));
    assert_eq!(stability(&[a.clone(), a.clone()], 2), Some(1.0));
    // pairs: 1, 1/3, 1/3
    assert_eq!(stability(&[a.clone(), a.clone(), b], 2), Some((1.0 + 2.0 / 3.0) / 3.0));
    // heads that copy nothing are not among the best: {0} of {0, 1}
    assert_eq!(stability(&[a.clone(), vec![0.5, 0.0, 0.0, 0.0]], 2), Some(0.5));
    // and a seed that found nothing agrees with none
    let nothing = vec![0.0; 4];
    assert_eq!(stability(&[a.clone(), nothing.clone(), a.clone()], 2), Some(1.0));
    assert_eq!(stability(&[a.clone(), nothing], 2), None);
    assert_eq!(stability(&[a], 2), None);
}

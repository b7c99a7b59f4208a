//! Sentences planted in a text, with the question that asks for them.

use eunoe_core::{Error, Result};
use eunoe_model::tokenizer::Tokenizer;
use std::ops::Range;

/// One text with a planted sentence, and the sentence again as the answer to a question.
pub(super) struct Planted {
    pub(super) tokens: Vec<u32>,
    /// The sentence in the text.
    pub(super) needle: Range<usize>,
    /// The rows that write the answer: row `r` writes token `r + 1`.
    pub(super) rows: Range<usize>,
    /// Those of them that write what the question does not tell.
    pub(super) secret: Range<usize>,
}

/// Plants a sentence with a made-up place and number at `depth`, from 0 to 1, of a text of `length` tokens.
///
/// # Errors
/// [`Error::Invalid`] for a text or a length that is too short, [`Error::Unsupported`] for a tokenizer that cannot
/// spell the sentence.
pub(super) fn plant(
    t: &Tokenizer,
    text: &str,
    length: usize,
    depth: f64,
    random: &mut fastrand::Rng,
) -> Result<Planted> {
    const PLACES: [&str; 8] =
        ["lighthouse", "bakery", "harbour", "museum", "orchard", "railway station", "theatre", "windmill"];
    const WORDS: [&str; 8] =
        ["amber", "copper", "granite", "juniper", "marble", "raven", "saffron", "walnut"];
    /// Tokens of the text around the sentence.
    const LEAST: usize = 8;
    let mut pick = |words: [&'static str; 8]| words[random.usize(..8)];
    let (place, word) = (pick(PLACES), pick(WORDS));
    let number = random.u32(1000..10_000);
    let opening = format!(" The secret code of the {place} is");
    let sentence = format!("{opening} {word} {number}.");
    let question = format!("\n\nQuestion: What is the secret code of the {place}?\nAnswer:");
    let (story, opening) = (t.encode(text), t.encode(&opening).len());
    let (needle, question) = (t.encode(&sentence), t.encode(&question));
    if opening + 1 >= needle.len() || question.is_empty() {
        return Err(Error::Unsupported(format!("the model's tokenizer cannot spell `{sentence}`")));
    }
    let mut tokens: Vec<u32> = t.bos().into_iter().collect();
    let around = 2 * needle.len() + question.len() + tokens.len();
    let room = length.saturating_sub(around);
    if room < LEAST {
        return Err(Error::Invalid(format!(
            "a length of {length} tokens: a planted sentence and its question need {}",
            around + LEAST
        )));
    }
    if story.len() < room {
        let have = story.len();
        return Err(Error::Invalid(format!("a text of {have} tokens for {length}: give a longer one")));
    }
    let start = random.usize(..=story.len() - room);
    let at = (depth * room as f64) as usize;
    tokens.extend(&story[start..start + at]);
    let planted = tokens.len()..tokens.len() + needle.len();
    tokens.extend(&needle);
    tokens.extend(&story[start + at..start + room]);
    tokens.extend(&question);
    let rows = tokens.len() - 1..tokens.len() - 1 + needle.len();
    tokens.extend(&needle);
    let secret = rows.start + opening..rows.end - 1;
    Ok(Planted { tokens, needle: planted, rows, secret })
}

//! Sentences planted in a copy of the prompt: whether a memory still has them at its end.

use crate::engine::{Engine, GoOn, likeliest};
use crate::layout::Length;
use crate::score::count;
use eunoe_core::{Error, Result};
use eunoe_kv::Plan;
use eunoe_model::tokenizer::Tokenizer;
use serde::Serialize;
use std::ops::Range;

/// Beginnings of sentences that end with a number; `{}` is one of [`NAMES`].
const SENTENCES: [&str; 6] = [
    "The special magic number for {} is",
    "The parcel for {} has the number",
    "In the ledger, {} is entered under",
    "The telephone number of {} is",
    "The train to {} has the number",
    "The safe of {} opens with",
];
const NAMES: [&str; 12] = [
    "Aldermoor",
    "Brackenridge",
    "Corvington",
    "Dunhallow",
    "Everleigh",
    "Farnsdale",
    "Grimsworth",
    "Hollowbeck",
    "Inverlade",
    "Kestrelford",
    "Larkspur",
    "Mossgate",
];

/// Planted sentences, and which memories still have them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Canaries {
    /// How many were planted.
    pub planted: usize,
    /// How many full memory repeats.
    pub full: usize,
    /// How many the plan repeats.
    pub plan: usize,
    /// Share of those that full memory repeats which the plan repeats too; 1 where it repeats none.
    pub survived: f64,
}

impl Canaries {
    pub(super) fn new(full: &[bool], plan: &[bool]) -> Self {
        let count = |of: &[bool]| of.iter().filter(|has| **has).count();
        let both = full.iter().zip(plan).filter(|(f, p)| **f && **p).count();
        let survived = if count(full) == 0 { 1.0 } else { both as f64 / count(full) as f64 };
        Self { planted: full.len(), full: count(full), plan: count(plan), survived }
    }
}

/// A prompt with sentences planted in it, and the sentences again as they are recited.
pub(super) struct Planted {
    pub(super) tokens: Vec<u32>,
    recital: Vec<u32>,
    /// Rows of the recital that write the secret tokens of each sentence: row `r` writes token `r + 1`.
    secrets: Vec<Vec<usize>>,
}

/// Plants `count` sentences between those of `content`, a part of the prompt, evenly over it.
///
/// # Errors
/// [`Error::Unsupported`] for a tokenizer that cannot spell them, or content with too few places between its sentences.
pub(super) fn plant(
    t: &Tokenizer,
    prompt: &str,
    content: &Range<usize>,
    count: usize,
    seed: u64,
) -> Result<Planted> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut sentences, mut names) = (SENTENCES, NAMES);
    random.shuffle(&mut sentences);
    random.shuffle(&mut names);
    let places = places(prompt, content, count)?;
    let (mut text, mut copied) = (String::new(), 0);
    let mut planted = Planted { tokens: Vec::new(), recital: Vec::new(), secrets: Vec::new() };
    for ((name, sentence), at) in names.iter().zip(sentences.iter().cycle()).zip(places) {
        let opening = sentence.replace("{}", name);
        let sentence = format!("{opening} {}.", random.u32(1000..10_000));
        text += &format!("{} {sentence}", &prompt[copied..at]);
        copied = at;
        planted.recite(t, &opening, &sentence)?;
    }
    text += &prompt[copied..];
    planted.tokens = t.encode_prompt(&text);
    Ok(planted)
}

/// Ends of sentences, evenly over the content of a prompt.
fn places(prompt: &str, content: &Range<usize>, count: usize) -> Result<Vec<usize>> {
    let Some(text) = prompt.get(content.clone()) else {
        return Err(Error::Invalid("the content of a prompt is a part of it".into()));
    };
    let at = |i: usize| content.start + sentence_end(text, text.len() * (i + 1) / (count + 1));
    let places: Vec<usize> = (0..count.min(NAMES.len())).map(at).collect();
    if places.windows(2).any(|two| two[0] >= two[1]) || places.last().is_some_and(|at| *at >= content.end) {
        let why = "the text has too few sentences to plant others between them";
        return Err(Error::Unsupported(why.into()));
    }
    Ok(places)
}

impl Planted {
    /// How long the sequence that reads and repeats it gets.
    ///
    /// # Errors
    /// More tokens than are counted.
    pub(super) fn length(&self) -> Result<Length> {
        let tokens = self.tokens.len();
        Ok(Length { prompt: count(tokens)?, longest: count(tokens + self.recital.len())? })
    }

    fn recite(&mut self, t: &Tokenizer, opening: &str, sentence: &str) -> Result<()> {
        let (opening, whole) = (t.encode(opening), t.encode(sentence));
        if !whole.starts_with(&opening) || whole.len() < opening.len() + 2 {
            return Err(Error::Unsupported(format!("the model's tokenizer cannot spell `{sentence}`")));
        }
        let start = self.recital.len();
        // the full stop is no secret
        self.secrets.push((start + opening.len() - 1..start + whole.len() - 2).collect());
        self.recital.extend(whole);
        self.recital.extend(t.encode("\n"));
        Ok(())
    }
}

/// Where the first sentence or line ends at or after byte `at`; where none does, the end.
fn sentence_end(text: &str, at: usize) -> usize {
    const ENDS: [&str; 8] = [". ", ".\n", "! ", "? ", "\n", "。", "！", "？"];
    let at = (0..=at.min(text.len())).rfind(|i| text.is_char_boundary(*i)).unwrap_or(0);
    let rest = &text[at..];
    let end = |end: &&str| Some(rest.find(*end)? + end.trim_end().len());
    at + ENDS.iter().filter_map(end).min().unwrap_or(rest.len())
}

impl Engine {
    /// Which planted sentences a memory repeats, each given its beginning.
    pub(super) fn recites(&self, plan: &Plan, planted: &Planted, go_on: GoOn<'_>) -> Result<Vec<bool>> {
        let Planted { tokens, recital, secrets } = planted;
        let (rows, vocab) = (secrets.concat(), self.config().vocab);
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut session = self.session(plan, planted.length()?)?;
        self.read(&mut session, tokens, go_on)?;
        let streams = self.read_streams(&mut session, recital, &rows, &mut |n| go_on(tokens.len() + n))?;
        let logits = self.model.logits(&streams);
        let mut writes = logits
            .chunks_exact(vocab)
            .zip(&rows)
            .map(|(logits, row)| likeliest(logits) == Some(recital[row + 1] as usize));
        Ok(secrets.iter().map(|rows| writes.by_ref().take(rows.len()).fold(true, |all, w| all & w)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_planted_where_others_end() {
        assert_eq!(sentence_end("One two. Three.", 2), 8);
        assert_eq!(sentence_end("One\ntwo", 1), 3);
        assert_eq!(sentence_end("no end", 3), 6);
        assert_eq!(sentence_end("ä. b", 1), 3);
        assert_eq!(sentence_end("一。二。", 3), 6);
        assert_eq!(sentence_end("end.", 99), 4);
    }

    #[test]
    fn sentences_stand_within_the_content_and_apart() {
        let prompt = "<user> One. Two. Three. Four.</user>";
        // 22 bytes of content: thirds begin at 7 and 14, in `Two. ` and `Three. `
        assert_eq!(places(prompt, &(7..29), 2).unwrap(), [16, 23]);
        assert!(
            matches!(places(prompt, &(7..29), 9), Err(Error::Unsupported(_))),
            "two would stand at one place"
        );
        assert!(matches!(places("{json:1}", &(0..8), 2), Err(Error::Unsupported(_))));
        assert!(matches!(places("ä", &(1..2), 1), Err(Error::Invalid(_))));
        assert!(places(prompt, &(7..29), 0).unwrap().is_empty());
    }

    #[test]
    fn survival_is_told_of_what_full_memory_has() {
        let canaries = Canaries::new(&[true, true, false, true], &[true, false, true, false]);
        assert_eq!(canaries, Canaries { planted: 4, full: 3, plan: 2, survived: 1.0 / 3.0 });
        assert_eq!(Canaries::new(&[false], &[false]).survived, 1.0);
    }
}

//! The last word of a passage is predicted from the whole passage: a short task that a memory should not
//! harm.
//!
//! * Paper:    Paperno et al., 2016, arXiv 1606.06031
//! * Equation: score = 1 if every token of the last word was the likeliest; `nll` = mean of -ln P over its
//!   tokens
//! * Shapes:   n words of filler, then the passage → one ask
//! * Cost:     one prompt
//! * Differs:  book text that has nothing to do with the passage fills the length before it, so that memory
//!   is cut (none if the length holds only the passage). Without a file of passages: sentences of the text,
//!   40 words or more, whose last word of 4 letters or more stood in them before; nobody checked that a
//!   reader guesses them
//! * Oracle:   passages found again in the text; marks by hand

use eunoe_core::{Card, Error, Result};
use fastrand::Rng;

use super::{card, filled};
use crate::random::rng;
use crate::sources::Continuation;
use crate::{Ask, Draw, Given, Haystack, Item, Mark, Reply, Sources, Task};

/// Least words of a passage of the text.
const LEAST: usize = 40;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Lambada;

static CARD: Card = card(
    "lambada",
    "LAMBADA",
    "Paperno 2016, arXiv 1606.06031",
    "the last word of a passage is predicted from all of it",
);

fn bare(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()
}

/// Whole sentences from the text whose last word stood in them before.
fn found(hay: &Haystack, rng: &mut Rng) -> Option<Continuation> {
    let first = rng.usize(..hay.len());
    let starts = (0..hay.len()).map(|i| (first + i) % hay.len()).filter(|start| hay.is_start(*start));
    starts.into_iter().find_map(|start| {
        let end = (start + LEAST..hay.len()).find(|end| hay.is_start(*end))?;
        let last = bare(hay.word(end - 1));
        let is_known = (start..end - 1).any(|i| bare(hay.word(i)) == last);
        (last.chars().count() >= 4 && is_known).then(|| Continuation {
            context: hay.passage(start, end - 1 - start),
            continuation: hay.word(end - 1).trim_matches(|c: char| !c.is_alphanumeric()).to_owned(),
        })
    })
}

impl Task for Lambada {
    fn card(&self) -> &Card {
        &CARD
    }

    fn draw(&self, draw: &Draw<'_>) -> Result<Item> {
        let mut rng = rng(draw, CARD.id);
        let list = draw.sources.continuations();
        let passage = match list.len() {
            0 => found(draw.sources.haystack()?, &mut rng).ok_or_else(|| {
                Error::Invalid("`lambada` finds no passage in the text; give a longer one".into())
            })?,
            count => list[draw.sample % count].clone(),
        };
        let text = format!(" {}", passage.continuation);
        let gold = vec![text.clone()];
        let reply = Reply::Predict { text };
        let ask = Ask { question: passage.context, cue: String::new(), reply, gold };
        filled(draw, CARD.id, &mut rng, vec![ask])
    }

    fn mark(&self, _item: &Item, given: &[Given]) -> Mark {
        let Some(Given::Nats { nats, likeliest }) = given.first() else { return Mark::default() };
        let is_right = !likeliest.is_empty() && likeliest.iter().all(|likeliest| *likeliest);
        let mark = Mark::of(f64::from(u8::from(is_right)));
        if nats.is_empty() {
            return mark;
        }
        mark.with("nll", nats.iter().copied().map(f64::from).sum::<f64>() / nats.len() as f64)
    }

    fn distinct(&self, sources: &Sources) -> Option<usize> {
        Some(sources.continuations().len()).filter(|count| *count > 0)
    }

    fn is_raw(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy;

    #[test]
    fn every_token_must_be_the_likeliest() {
        let item = toy::item("lambada", 512, 0);
        let mark = |likeliest: &[bool]| {
            Lambada.mark(
                &item,
                &[Given::Nats { nats: vec![0.5; likeliest.len()], likeliest: likeliest.to_vec() }],
            )
        };
        let right = mark(&[true, true]);
        assert_eq!((right.score, right.details["nll"]), (1.0, 0.5));
        assert_eq!([mark(&[true, false]).score, mark(&[]).score, Lambada.mark(&item, &[]).score], [0.0; 3]);
    }

    #[test]
    fn passages_of_a_text_end_in_a_word_that_stood_before() {
        let sources = toy::sources();
        let whole = sources.haystack().unwrap().passage(0, 20_000);
        for sample in 0..5 {
            let item = Lambada.draw(&toy::draw(&sources, 1024, sample)).unwrap();
            let ask = toy::only(&item);
            // Sentences of the toy text have 5 words and end in the same one: 8 sentences are 40 words.
            assert_eq!(ask.question.split_whitespace().count(), LEAST - 1);
            assert_eq!(ask.gold, [" slowly"]);
            assert!(ask.question.contains("slowly.") && whole.contains(&format!("{} slowly.", ask.question)));
        }
    }

    #[test]
    fn passages_of_a_file_come_in_turn_after_filler() {
        let lines = "{\"context\": \"She said good\", \"continuation\": \"night\"}\n\
                     {\"context\": \"He said good\", \"continuation\": \"day\"}";
        let sources = toy::sources().replaced_by(Sources::read(&[("lambada.jsonl", lines)]).unwrap());
        let item = Lambada.draw(&toy::draw(&sources, 512, 3)).unwrap();
        assert_eq!(
            (toy::only(&item).question.as_str(), &toy::only(&item).gold[0][..]),
            ("He said good", " day")
        );
        assert!(item.context.starts_with("Traveller") && item.context.ends_with("\n\n"));
        // 7 of overhead, 3 of the question, 1 of the answer: no room for a word and a blank line.
        assert_eq!(Lambada.draw(&toy::draw(&sources, 11, 1)).unwrap().context, "");
        assert!(Lambada.draw(&toy::draw(&sources, 10, 1)).is_err());
    }
}

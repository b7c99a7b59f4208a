//! Two pieces of a text are shown after it, and the model says which came first: memory of order, not of facts.
//!
//! * Paper:    Pink et al., 2024, arXiv 2410.08133, sections 3 and 4; Book-SORT
//! * Equation: score = 1 if mean over both orders of `ln P(right) - ln P(wrong)` > 0; `single_order` = the paper's
//!   score, from the first ask alone; `prefers_a` = mean over both of P(A) / (P(A) + P(B))
//! * Shapes:   an excerpt of n words, two pieces of 20 words, their distance D in one of 4 bins → 2 asks of 2 options
//! * Cost:     one context, two questions
//! * Differs:  wordings are ours; the excerpt is as long as the draw allows; one pair per item, bin sample mod 4; both
//!   orders of showing it are asked, and which is first alternates within each bin; label forms are the space-prefixed
//!   ones; a pair is drawn with equal chance from all that fit the bin, and excerpts without one are drawn again
//! * Oracle:   all pairs of the excerpt, listed; marks by hand

use eunoe_core::{Card, Error, Result};
use fastrand::Rng;

use super::{card, frame};
use crate::fit::largest;
use crate::random::rng;
use crate::{Ask, Draw, Given, Haystack, Item, Mark, Reply, Task, marks};

/// Words of a piece.
const PIECE: usize = 20;
/// Excerpts that are tried.
const TRIES: usize = 16;
const BINS: usize = 4;
const LEAST: usize = 100;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Sort;

static CARD: Card = card(
    "sort",
    "Sequence order recall",
    "Pink 2024, arXiv 2410.08133",
    "two pieces of a text are shown after it, and which came first is asked",
);

/// Edges of the distance bins; a distance is in the bin between two if it is above the left and at most the right.
fn edges(words: usize) -> [usize; BINS + 1] {
    let (far, farthest) = (words / 2, words * 4 / 5);
    match words {
        ..5000 => [PIECE, words / 4, words / 3, far, farthest],
        _ => [PIECE, 1000, words / 4, far, farthest],
    }
}

/// Two sentence starts whose distance is in the bin, each pair with the same chance.
fn pair(rng: &mut Rng, sentences: &[usize], words: usize, bin: usize) -> Option<[usize; 2]> {
    let [left, right] = [edges(words)[bin], edges(words)[bin + 1]];
    let starts = &sentences[..sentences.partition_point(|start| start + PIECE <= words)];
    let partners = |i: &usize| {
        let from = starts.partition_point(|start| start - i.min(start) <= left);
        let to = starts.partition_point(|start| start - i.min(start) <= right);
        &starts[from.min(to)..to]
    };
    let count: usize = starts.iter().map(|i| partners(i).len()).sum();
    let mut chosen = if count > 0 { rng.usize(..count) } else { return None };
    starts.iter().find_map(|i| {
        let found = partners(i).get(chosen).map(|j| [*i, *j]);
        chosen = chosen.saturating_sub(partners(i).len());
        found
    })
}

fn item(draw: &Draw<'_>, hay: &Haystack, words: usize, mut rng: Rng) -> Result<Item> {
    // Starts leave room for the excerpt: a text that begins again has no order.
    let last = hay.len() - words;
    for _ in 0..TRIES {
        let start = hay.next_start(rng.usize(..=last));
        let start = if start > last { 0 } else { start };
        let sentences = hay.sentences(start, words);
        let Some(at) = pair(&mut rng, &sentences, words, draw.sample % BINS) else { continue };
        let (text, mut places) = (hay.words(start, words).join(" "), Vec::new());
        let pieces = at.map(|at| {
            places.push(hay.words(start, at).iter().map(|word| word.len() + 1).sum());
            hay.words(start + at, PIECE).join(" ")
        });
        let (context, depths) = frame(draw, "sort.context", &[], &text, places);
        let is_swapped = draw.sample / BINS % 2 == 1;
        let asks = vec![ask(draw, &pieces, is_swapped), ask(draw, &pieces, !is_swapped)];
        return Ok(Item { context, asks, depths });
    }
    let bin = draw.sample % BINS + 1;
    Err(Error::Invalid(format!("`sort` finds no two sentences in distance bin {bin}; give a longer text or length")))
}

fn ask(draw: &Draw<'_>, [first, second]: &[String; 2], is_swapped: bool) -> Ask {
    let (a, b) = if is_swapped { (second, first) } else { (first, second) };
    let prompts = draw.sources.prompts();
    Ask {
        question: prompts.fill("sort.question", &[("a", a), ("b", b)]),
        cue: prompts.fill("sort.cue", &[]),
        reply: Reply::Choose { options: vec![" A".into(), " B".into()] },
        gold: vec![if is_swapped { " B" } else { " A" }.into()],
    }
}

/// `ln P(A) - ln P(B)`; 0 without an answer.
fn odds(given: Option<&Given>) -> f64 {
    match given {
        Some(Given::Options(ln)) if ln.len() == 2 && marks::argmax(ln).is_some() => {
            // Two impossible options are equal.
            Some(ln[0] - ln[1]).filter(|odds| !odds.is_nan()).unwrap_or(0.0)
        }
        _ => 0.0,
    }
}

impl Task for Sort {
    fn card(&self) -> &Card {
        &CARD
    }

    fn draw(&self, draw: &Draw<'_>) -> Result<Item> {
        let hay = draw.sources.haystack()?;
        if hay.len() < LEAST {
            return Err(Error::Invalid(format!("`sort` needs a text of {LEAST} words or more; give a longer one")));
        }
        let rng = rng(draw, CARD.id);
        let sized = |words| item(draw, hay, words, rng.clone());
        let (words, item) = largest(draw, CARD.id, (LEAST, hay.len()), sized)?;
        super::enough(draw, CARD.id, words, hay.len(), &item)?;
        Ok(item)
    }

    fn mark(&self, item: &Item, given: &[Given]) -> Mark {
        let odds: Vec<f64> = (0..item.asks.len()).map(|i| odds(given.get(i))).collect();
        let right = item.asks.iter().zip(&odds).map(|(ask, odds)| {
            if ask.gold.first().is_some_and(|gold| gold == " A") { *odds } else { -odds }
        });
        let right: Vec<f64> = right.collect();
        let is_above = |odds: f64| f64::from(u8::from(odds > 0.0));
        let prefers = odds.iter().map(|odds| 1.0 / (1.0 + (-odds).exp())).sum::<f64>() / odds.len().max(1) as f64;
        Mark::of(is_above(right.iter().sum()))
            .with("single_order", is_above(right.first().copied().unwrap_or(0.0)))
            .with("prefers_a", prefers)
    }

    fn chance(&self, _item: &Item) -> f64 {
        0.5
    }
}

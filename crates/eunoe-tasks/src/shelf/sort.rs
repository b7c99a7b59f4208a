//! Two pieces of a text are shown after it, and the model says which came first: memory of order, not of
//! facts.
//!
//! * Paper:    Pink et al., 2024, arXiv 2410.08133, sections 3 and 4; Book-SORT
//! * Equation: score = 1 if mean over both orders of `ln P(right) - ln P(wrong)` > 0; `single_order` = the
//!   paper's score, from the first ask alone; `prefers_a` = mean over both of P(A) / (P(A) + P(B))
//! * Shapes:   an excerpt of n words, two pieces of 20 words, their distance D in one of 4 bins → 2 asks of 2
//!   options
//! * Cost:     one context, two questions
//! * Differs:  wordings are ours; the excerpt is as long as the draw allows; one pair per item, bin sample
//!   mod 4; both orders of showing it are asked, and which is first alternates within each bin; label forms
//!   are the space-prefixed ones; a pair is drawn with equal chance from all that fit the bin, and excerpts
//!   without one are drawn again
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
const TRIES: usize = 32;
const BINS: usize = 4;
/// Least words of an excerpt, the paper's.
const LEAST: usize = 250;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Sort;

static CARD: Card = card(
    "sort",
    "Sequence order recall",
    "Pink 2024, arXiv 2410.08133",
    "two pieces of a text are shown after it, and which came first is asked",
);

/// Edges of the distance bins; a distance is in the bin between two if it is above the left and at most the
/// right.
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
    Err(Error::Invalid(format!(
        "`sort` finds no two sentences in distance bin {bin}; give a longer text or length"
    )))
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
            return Err(Error::Invalid(format!(
                "`sort` needs a text of {LEAST} words or more; give a longer one"
            )));
        }
        let rng = rng(draw, CARD.id);
        let sized = |words| item(draw, hay, words, rng.clone());
        let (words, item) = largest(draw, CARD.id, (LEAST, hay.len()), sized)?;
        super::enough(draw, CARD.id, words, hay.len(), &item)?;
        Ok(item)
    }

    fn mark(&self, item: &Item, given: &[Given]) -> Mark {
        let odds: Vec<f64> = (0..item.asks.len()).map(|i| odds(given.get(i))).collect();
        let right =
            item.asks.iter().zip(&odds).map(|(ask, odds)| {
                if ask.gold.first().is_some_and(|gold| gold == " A") { *odds } else { -odds }
            });
        let right: Vec<f64> = right.collect();
        let is_above = |odds: f64| f64::from(u8::from(odds > 0.0));
        let prefers =
            odds.iter().map(|odds| 1.0 / (1.0 + (-odds).exp())).sum::<f64>() / odds.len().max(1) as f64;
        Mark::of(is_above(right.iter().sum()))
            .with("single_order", is_above(right.first().copied().unwrap_or(0.0)))
            .with("prefers_a", prefers)
    }

    fn chance(&self, _item: &Item) -> f64 {
        0.5
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy;

    #[test]
    fn bins_are_those_of_the_paper() {
        assert_eq!(edges(250), [20, 62, 83, 125, 200]);
        assert_eq!(edges(10_000), [20, 1000, 2500, 5000, 8000]);
    }

    #[test]
    fn pairs_are_those_of_the_list() {
        // 100 words, starts at 0, 25, 50, 75, 81: the last leaves 19 words and is out. Bins end at 25, 33,
        // 50, 80: distances 25 (0-25, 25-50, 50-75), none, 50 (0-50, 25-75), 75 (0-75).
        let starts = [0, 25, 50, 75, 81];
        let want: [&[[usize; 2]]; 4] =
            [&[[0, 25], [25, 50], [50, 75]], &[], &[[0, 50], [25, 75]], &[[0, 75]]];
        for (bin, want) in want.into_iter().enumerate() {
            let mut got: Vec<_> =
                (0..200).filter_map(|seed| pair(&mut Rng::with_seed(seed), &starts, 100, bin)).collect();
            got.sort_unstable();
            got.dedup();
            assert_eq!(got, want, "{bin}");
        }
    }

    /// The two pieces that a question shows.
    fn pieces(ask: &Ask) -> [&str; 2] {
        ["Segment A: ", "Segment B: "].map(|label| {
            let from = ask.question.find(label).unwrap() + label.len();
            ask.question[from..].lines().next().unwrap()
        })
    }

    #[test]
    fn the_gold_comes_first_at_a_distance_of_the_bin() {
        let mut shown_first = [0; 4];
        for sample in 0..16 {
            let item = toy::item("sort", 2048, sample);
            let text = item.context.split("\n\n").nth(1).unwrap();
            let word = |piece: &str| text[..text.find(piece).unwrap()].split_whitespace().count();
            let [a, b] = pieces(&item.asks[0]);
            assert_eq!(pieces(&item.asks[1]), [b, a]);
            let (from, to) = (word(a).min(word(b)), word(a).max(word(b)));
            let edges = edges(text.split_whitespace().count());
            assert!(edges[sample % 4] < to - from && to - from <= edges[sample % 4 + 1], "{sample}");
            let right = [" A", " B"].map(|label| vec![label.to_owned()]);
            let is_a = word(a) < word(b);
            let want = if is_a { right.clone() } else { [right[1].clone(), right[0].clone()] };
            assert_eq!([item.asks[0].gold.clone(), item.asks[1].gold.clone()], want);
            shown_first[sample % 4] += usize::from(is_a);
            assert!(
                [a, b]
                    .iter()
                    .all(|piece| piece.starts_with("Traveller") && piece.split(' ').count() == PIECE)
            );
        }
        assert_eq!(shown_first, [2; 4]);
    }

    #[test]
    fn a_preference_for_a_label_decides_nothing() {
        let item = toy::item("sort", 1024, 0);
        let mark = |first: [f64; 2], second: [f64; 2]| {
            Sort.mark(&item, &[Given::Options(first.to_vec()), Given::Options(second.to_vec())])
        };
        // Sample 0: A is right, then B. ln odds for A of 2 and of 2 cancel; of 2 and 1 leave 1 for the truth.
        let bias = 1.0 / (1.0 + (-2.0_f64).exp());
        let always_a = mark([-1.0, -3.0], [-1.0, -3.0]);
        assert_eq!((always_a.score, always_a.details["single_order"]), (0.0, 1.0));
        assert!((always_a.details["prefers_a"] - bias).abs() < 1e-12);
        assert_eq!(mark([-1.0, -3.0], [-1.0, -2.0]).score, 1.0);
        assert_eq!(mark([-3.0, -1.0], [-3.0, -1.5]).score, 0.0);
        assert_eq!(mark([-3.0, -1.0], [-4.0, -1.0]).score, 1.0);
        assert_eq!(mark([f64::NEG_INFINITY; 2], [f64::NAN, 0.0]).score, 0.0);
        assert_eq!(Sort.mark(&item, &[]).score, 0.0);
    }

    #[test]
    fn a_text_that_is_too_short_is_told() {
        let sources =
            crate::Sources::built_in(&"Ten words make up this very short and idle sentence. ".repeat(30));
        let why = Sort.draw(&toy::draw(&sources.unwrap(), 4096, 0)).unwrap_err().to_string();
        assert!(why.contains("needs more than the 300 words"), "{why}");
    }
}

//! A book is read up to some place and its next words predicted: what is lost when the beginning is
//! forgotten?
//!
//! * Paper:    of ours; perplexity behind a full memory is figure 3 of StreamingLLM (2023, arXiv 2309.17453)
//! * Equation: score = exp(-nll), nll = mean of -ln P over the predicted tokens; `nll_1` to `nll_4` over
//!   their quarters
//! * Shapes:   n words, of which the last (at most 256 tokens, at most a quarter of the length) are predicted
//!   → one ask
//! * Cost:     one prompt
//! * Differs:  nothing; a passage starts at a random place and does not begin again at the text's end
//! * Oracle:   context and continuation stand in the text one after the other; means by hand

use eunoe_core::{Card, Result};

use super::{card, enough};
use crate::fit::largest;
use crate::random::rng;
use crate::{Ask, Draw, Given, Haystack, Item, Mark, Reply, Task};

/// Most predicted tokens.
const PREDICTED: usize = 256;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Perplexity;

static CARD: Card = card(
    "perplexity",
    "Perplexity beyond the budget",
    "Xiao 2023, arXiv 2309.17453",
    "a book is read up to some place and its next words predicted",
);

/// A passage of `words` words at the share `place` of where it may start, cut so that what follows the cut is
/// at most `tokens` tokens: what comes before the cut, and what follows it with the space between.
pub(super) fn cut(
    draw: &Draw<'_>,
    hay: &Haystack,
    words: usize,
    place: f64,
    tokens: usize,
) -> (String, String) {
    let start = ((hay.len() - words) as f64 * place) as usize;
    let mut tail = (words - 1).min(tokens);
    let parts = |tail: usize| {
        let context = hay.passage(start, words - tail);
        let text = hay.passage(start, words)[context.len()..].to_owned();
        (context, text)
    };
    loop {
        let (context, text) = parts(tail);
        let count = (draw.count)(&text);
        if count <= tokens || tail == 1 {
            return (context, text);
        }
        tail = (tail * tokens / count).clamp(1, tail - 1);
    }
}

/// The longest passage and its continuation, of at most `tokens` tokens.
pub(super) fn passage(draw: &Draw<'_>, id: &str, tokens: usize, reply: fn(String) -> Reply) -> Result<Item> {
    let hay = draw.sources.haystack()?;
    let place = rng(draw, id).f64();
    let tokens = tokens.min(draw.length / 4);
    let sized = |words| {
        let (context, text) = cut(draw, hay, words, place, tokens);
        let gold = vec![text.clone()];
        let ask = Ask { question: String::new(), cue: String::new(), reply: reply(text), gold };
        Ok(Item { context, asks: vec![ask], depths: Vec::new() })
    };
    let (words, item) = largest(draw, id, (2.min(hay.len()), hay.len()), sized)?;
    enough(draw, id, words, hay.len(), &item)?;
    Ok(item)
}

impl Task for Perplexity {
    fn card(&self) -> &Card {
        &CARD
    }

    fn draw(&self, draw: &Draw<'_>) -> Result<Item> {
        passage(draw, CARD.id, PREDICTED, |text| Reply::Predict { text })
    }

    fn mark(&self, _item: &Item, given: &[Given]) -> Mark {
        let Some(Given::Nats { nats, .. }) = given.first() else { return Mark::default() };
        if nats.is_empty() {
            return Mark::default();
        }
        let mean = |nats: &[f32]| nats.iter().copied().map(f64::from).sum::<f64>() / nats.len() as f64;
        let mut mark = Mark::of((-mean(nats)).exp()).with("nll", mean(nats));
        for quarter in 0..4 {
            let part = &nats[nats.len() * quarter / 4..nats.len() * (quarter + 1) / 4];
            if !part.is_empty() {
                mark = mark.with(format!("nll_{}", quarter + 1), mean(part));
            }
        }
        mark
    }

    fn is_raw(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy;

    fn nats(nats: &[f32]) -> Vec<Given> {
        vec![Given::Nats { nats: nats.to_vec(), likeliest: vec![false; nats.len()] }]
    }

    #[test]
    fn means_by_hand() {
        let item = Item { context: String::new(), asks: Vec::new(), depths: Vec::new() };
        // Mean of 1, 1, 2, 2, 0, 0, 3, 3 is 1.5; quarters 1, 2, 0, 3.
        let mark = Perplexity.mark(&item, &nats(&[1.0, 1.0, 2.0, 2.0, 0.0, 0.0, 3.0, 3.0]));
        assert!((mark.score - (-1.5_f64).exp()).abs() < 1e-12);
        let got: Vec<f64> = mark.details.values().copied().collect();
        assert_eq!(got, [1.5, 1.0, 2.0, 0.0, 3.0]);
        // One token is in the last quarter.
        assert_eq!(Perplexity.mark(&item, &nats(&[2.0])).details.len(), 2);
        assert_eq!(Perplexity.mark(&item, &nats(&[])), Mark::default());
    }

    #[test]
    fn the_continuation_goes_on_from_the_context() {
        let sources = toy::sources();
        let hay = sources.haystack().unwrap();
        let whole = hay.passage(0, hay.len());
        for (length, most) in [(512, 128), (4096, 256)] {
            for sample in 0..4 {
                let item = Perplexity.draw(&toy::draw(&sources, length, sample)).unwrap();
                let Reply::Predict { text } = &toy::only(&item).reply else { unreachable!() };
                assert!(whole.contains(&format!("{}{text}", item.context)));
                assert!(text.starts_with(char::is_whitespace));
                let tokens = toy::tokens(text);
                assert!(tokens <= most && tokens + 8 > most, "{length}: {tokens}");
            }
        }
    }

    #[test]
    fn a_text_that_is_too_short_is_told() {
        let sources = crate::Sources::built_in(&"A word. ".repeat(50)).unwrap();
        let why = Perplexity.draw(&toy::draw(&sources, 4096, 0)).unwrap_err().to_string();
        assert_eq!(
            why,
            "`perplexity` at 4096 tokens needs more than the 100 words of the text; give a longer one"
        );
    }
}

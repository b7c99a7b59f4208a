//! Items as long as a draw allows, found with few counts: a tokenizer is slow.

use eunoe_core::{Error, Result};

use crate::{Ask, Draw, Item, Reply};

/// Tokens of prompt and answer, of the longest ask.
pub(crate) fn tokens(draw: &Draw<'_>, item: &Item) -> usize {
    item.asks.iter().map(|ask| ask_tokens(draw, &item.context, ask)).max().unwrap_or(0)
}

fn ask_tokens(draw: &Draw<'_>, context: &str, ask: &Ask) -> usize {
    let prompt = [context, &ask.question, &ask.cue].concat();
    let answer = match &ask.reply {
        Reply::Write { tokens } => *tokens,
        Reply::Choose { options } => options.iter().map(|option| (draw.count)(option)).max().unwrap_or(0),
        Reply::Predict { text } | Reply::Attend { text } => (draw.count)(text),
    };
    draw.overhead + (draw.count)(&prompt) + answer
}

/// Tokens of the ask with most bytes: what is looked at while sizes are searched.
fn rough(draw: &Draw<'_>, item: &Item) -> usize {
    let bytes = |ask: &&Ask| {
        let answer = match &ask.reply {
            Reply::Write { .. } => 0,
            Reply::Choose { options } => options.iter().map(String::len).max().unwrap_or(0),
            Reply::Predict { text } | Reply::Attend { text } => text.len(),
        };
        ask.question.len() + ask.cue.len() + answer
    };
    item.asks.iter().max_by_key(bytes).map_or(0, |ask| ask_tokens(draw, &item.context, ask))
}

/// The error for a length that holds no item.
pub(crate) fn too_short(draw: &Draw<'_>, id: &str, needs: usize) -> Error {
    let length = draw.length;
    Error::Invalid(format!(
        "`{id}` needs {needs} tokens or more, got a length of {length}; give a greater length"
    ))
}

/// Units above twice a size that must cost more than it; so many may be of another wording, or cost nothing.
const FLAT: usize = 256;

/// The greatest size from `sizes.0` to `sizes.1` whose item fits the length, or one that leaves less room
/// than an average unit takes; and its item. A size without an item does not fit, but the least must have
/// one; where more units no longer cost more, no more are tried.
pub(crate) fn largest(
    draw: &Draw<'_>,
    id: &str,
    sizes: (usize, usize),
    build: impl Fn(usize) -> Result<Item>,
) -> Result<(usize, Item)> {
    let item = build(sizes.0)?;
    let base = rough(draw, &item);
    if base > draw.length {
        return Err(too_short(draw, id, base));
    }
    // The greatest size that fits, the least that does not, and their tokens, which an error has not.
    let mut low = (sizes.0, base, item);
    let mut high: Option<(usize, Option<usize>)> = None;
    // The last size that cost more than all before it.
    let mut top = (sizes.0, base);
    while low.0 < sizes.1 && high.is_none_or(|(size, _)| size > low.0 + 1) {
        if high.is_none() && low.0 / 2 >= top.0 + FLAT / 2 {
            break;
        }
        let room = (draw.length - low.1) as f64;
        let mean = slope((sizes.0, base), (low.0, low.1));
        if mean.is_some_and(|mean| room < mean) {
            break;
        }
        let size = low.0.saturating_add(step((low.0, low.1), high, mean, room)).min(sizes.1);
        match build(size).map(|item| (rough(draw, &item), item)) {
            Ok((cost, item)) if cost <= draw.length => {
                top = if cost > top.1 { (size, cost) } else { top };
                low = (size, cost, item);
            }
            Ok((cost, _)) => high = Some((size, Some(cost))),
            Err(_) => high = Some((size, None)),
        }
    }
    shrink(draw, id, sizes.0, (low.0, low.2), build)
}

/// How many units to add to a size that fits.
fn step(low: (usize, usize), high: Option<(usize, Option<usize>)>, mean: Option<f64>, room: f64) -> usize {
    let unit = match high {
        None => mean,
        Some((size, Some(cost))) => slope(low, (size, cost)),
        Some((size, None)) => return ((size - low.0) / 2).max(1),
    };
    // Without a measure yet, 32 units take it.
    let step = unit.map_or(32, |unit| (room / unit) as usize).max(1);
    high.map_or(step, |(size, _)| step.min(size - 1 - low.0))
}

/// Tokens per unit between two sizes, if they differ.
fn slope(few: (usize, usize), many: (usize, usize)) -> Option<f64> {
    (many.0 > few.0 && many.1 > few.1).then(|| (many.1 - few.1) as f64 / (many.0 - few.0) as f64)
}

/// The item, or the next smaller one whose asks all fit.
fn shrink(
    draw: &Draw<'_>,
    id: &str,
    least: usize,
    (mut size, mut item): (usize, Item),
    build: impl Fn(usize) -> Result<Item>,
) -> Result<(usize, Item)> {
    let mut needs = tokens(draw, &item);
    while needs > draw.length {
        if size <= least {
            return Err(too_short(draw, id, needs));
        }
        size -= 1;
        if let Ok(smaller) = build(size) {
            needs = tokens(draw, &smaller);
            item = smaller;
        }
    }
    Ok((size, item))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::Sources;

    fn item(context: String) -> Item {
        let reply = Reply::Write { tokens: 10 };
        let ask = Ask { question: "why".into(), cue: String::new(), reply, gold: Vec::new() };
        Item { context, asks: vec![ask], depths: Vec::new() }
    }

    #[test]
    fn sizes_are_exact_and_counts_are_few() {
        let sources = Sources::default();
        for length in [40, 41, 100, 999, 8192] {
            let calls = Cell::new(0);
            let count = |text: &str| {
                calls.set(calls.get() + 1);
                text.len()
            };
            let draw = Draw { length, overhead: 5, seed: 0, sample: 0, count: &count, sources: &sources };
            // 5 + 3 + 10 + 7 n <= length.
            let (size, got) =
                largest(&draw, "t", (1, usize::MAX), |n| Ok(item("a river".repeat(n)))).unwrap();
            assert_eq!(size, (length - 18) / 7, "{length}");
            assert!(tokens(&draw, &got) <= length);
            assert!(calls.get() <= 8, "{length}: {}", calls.get());
        }
    }

    #[test]
    fn uneven_units_fit_too() {
        let sources = Sources::default();
        let draw =
            Draw { length: 5000, overhead: 0, seed: 0, sample: 0, count: &str::len, sources: &sources };
        let build = |n: usize| Ok(item((0..n).map(|i| "x".repeat(1 + i * i % 37)).collect()));
        let (size, got) = largest(&draw, "t", (0, usize::MAX), build).unwrap();
        let used = tokens(&draw, &got);
        assert!(used <= 5000 && used + 37 > 5000, "{size}: {used}");
        assert_eq!(largest(&draw, "t", (0, 3), build).unwrap().0, 3);
    }

    #[test]
    fn units_that_cost_nothing_end_the_search() {
        let sources = Sources::default();
        let draw = Draw { length: 999, overhead: 0, seed: 0, sample: 0, count: &str::len, sources: &sources };
        for most in [0, 1, 7, 600] {
            let calls = Cell::new(0);
            let build = |n: usize| {
                calls.set(calls.get() + 1);
                Ok(item("x".repeat(n.min(most))))
            };
            // 3 of the question and 10 of the answer are not the context's.
            let (size, got) = largest(&draw, "t", (0, usize::MAX), build).unwrap();
            assert_eq!((tokens(&draw, &got), size >= most), (13 + most, true));
            assert!(calls.get() <= 12, "{most}: {}", calls.get());
        }
    }

    #[test]
    fn a_size_without_an_item_does_not_fit() {
        let sources = Sources::default();
        let draw = Draw { length: 999, overhead: 0, seed: 0, sample: 0, count: &str::len, sources: &sources };
        for bad in [987, 500, 101, 3] {
            // 13 of question and answer leave 986; from `bad` on, or only there, is no item.
            for end in [bad, usize::MAX] {
                let build = |n: usize| match n {
                    n if (bad..=end).contains(&n) => Err(Error::Invalid("none".into())),
                    n => Ok(item("x".repeat(n))),
                };
                let got = largest(&draw, "t", (1, usize::MAX), build).unwrap().0;
                assert!(got == bad - 1 || end == bad && got == 986, "{bad} to {end}: {got}");
            }
        }
        let none = |_| Err(Error::Invalid("none".into()));
        assert_eq!(largest(&draw, "t", (1, 9), none).unwrap_err().to_string(), "none");
    }

    #[test]
    fn every_ask_fits_though_only_one_is_looked_at() {
        // A digit is three tokens: "a longer one" takes 12 tokens, and "12345", of fewer bytes, 15.
        let sources = Sources::default();
        let count = |text: &str| text.chars().map(|c| if c.is_ascii_digit() { 3 } else { 1 }).sum();
        let draw = Draw { length: 100, overhead: 0, seed: 0, sample: 0, count: &count, sources: &sources };
        let build = |n: usize| {
            let one = item("x".repeat(n));
            let asks = ["a longer one", "12345"]
                .map(|question| Ask { question: question.into(), ..one.asks[0].clone() });
            Ok(Item { asks: asks.into(), ..one })
        };
        // 10 of the answer and 15 of the question leave 75.
        assert_eq!(largest(&draw, "t", (0, usize::MAX), build).unwrap().0, 75);
    }

    #[test]
    fn a_length_that_holds_nothing_is_told() {
        let sources = Sources::default();
        let draw = Draw { length: 20, overhead: 5, seed: 0, sample: 0, count: &str::len, sources: &sources };
        let why = largest(&draw, "t", (1, 9), |n| Ok(item("a river".repeat(n)))).unwrap_err();
        assert_eq!(why.to_string(), "`t` needs 25 tokens or more, got a length of 20; give a greater length");
    }
}

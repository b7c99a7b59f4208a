//! Sources and draws of the pages' tests.

use crate::{Ask, Draw, Item, Mark, Sources, Task, find};

/// Every sentence is another, of five words.
pub(crate) fn sources() -> Sources {
    let text: Vec<String> = (0..4000).map(|i| format!("Traveller {i} walked home slowly.")).collect();
    Sources::built_in(&text.join("\n")).unwrap()
}

/// Four bytes are a token.
pub(crate) fn tokens(text: &str) -> usize {
    text.len().div_ceil(4)
}

/// A draw of these sources.
pub(crate) fn draw(sources: &Sources, length: usize, sample: usize) -> Draw<'_> {
    Draw { length, overhead: 7, seed: 11, sample, count: &tokens, sources }
}

/// A task of the shelf.
pub(crate) fn task(id: &str) -> &'static dyn Task {
    find(id).unwrap()
}

/// An item of a task.
pub(crate) fn item(id: &str, length: usize, sample: usize) -> Item {
    task(id).draw(&draw(&sources(), length, sample)).unwrap()
}

/// What stands at a depth.
pub(crate) fn at(item: &Item, depth: f64) -> &str {
    &item.context[(depth * item.context.len() as f64).round() as usize..]
}

/// The mark for written answers.
pub(crate) fn mark(id: &str, item: &Item, answers: &[&str]) -> Mark {
    let given: Vec<_> = answers.iter().map(|answer| crate::Given::Text((*answer).into())).collect();
    task(id).mark(item, &given)
}

/// The one ask.
pub(crate) fn only(item: &Item) -> &Ask {
    assert_eq!(item.asks.len(), 1);
    &item.asks[0]
}

//! The shelf of tasks: each writes items of any length for any tokenizer, and marks what a model made of them.
//!
//! A task sees texts and answers, never a model. An item is a context, read once, and one or more things to ask after it;
//! the engine decides how the context is remembered.

mod draw;
mod fit;
mod haystack;
mod item;
pub mod ks;
pub mod marks;
mod prompts;
mod random;
pub mod shelf;
pub mod sources;
#[cfg(test)]
mod toy;
mod words;

pub use draw::Draw;
pub use haystack::Haystack;
pub use item::{Ask, Given, Item, Mark, Reply};
pub use prompts::Prompts;
pub use random::seed;
pub use shelf::{GROUPS, Group, LIST, find};
pub use sources::Sources;

use eunoe_core::{Card, Result};

/// One task.
pub trait Task: Sync {
    /// Its entry in every list.
    fn card(&self) -> &Card;

    /// One item; the same draw gives the same item.
    ///
    /// # Errors
    /// [`Error::Invalid`](eunoe_core::Error::Invalid) for a length that holds no item, or sources without what the task
    /// needs; the message says what to give.
    fn draw(&self, draw: &Draw<'_>) -> Result<Item>;

    /// What the answers to an item are worth; one [`Given`] per [`Ask`], in order.
    fn mark(&self, item: &Item, given: &[Given]) -> Mark;

    /// How many different items the sources hold, where that is a number of questions; `None` if they hold
    /// as many as wanted, or none. Items beyond that repeat: item `i` asks what item `i % distinct` asks.
    fn distinct(&self, sources: &Sources) -> Option<usize> {
        let _ = sources;
        None
    }

    /// Score of blind guessing, 0 to 1.
    fn chance(&self, item: &Item) -> f64 {
        let _ = item;
        0.0
    }

    /// The context is text to go on with, not a message: no chat template.
    fn is_raw(&self) -> bool {
        false
    }
}

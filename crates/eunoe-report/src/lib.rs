//! What an evaluation found: the records it writes, the statistics over them, and one HTML page.
//!
//! A folder of results holds `manifest.json` (what was run, enough to run it again), `items.jsonl` (one line
//! per plan, task, length and sample, in any order) and what is made from these two: rows, and the page.

mod html;
mod load;
#[cfg(test)]
mod made_up;
mod markdown;
pub mod records;
mod rows;
pub mod stats;
pub mod svg;
pub mod units;

pub use html::{Extra, document, page, parts};
pub use load::{ITEMS, MANIFEST, lines, load};
pub use markdown::markdown;
pub use records::{Line, Machine, Manifest, ModelInfo, Sample, SourceFile};
pub use rows::{FULL, Row, rows};

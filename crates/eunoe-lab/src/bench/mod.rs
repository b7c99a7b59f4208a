//! Benchmarks of mixers: grids of trainings whose results lie in a folder and outlive a stop.

mod all;
mod folder;
mod grid;
mod merge;
pub mod mqar;
mod page;
pub mod texts;
pub mod throughput;

pub use all::{ALL, AllSettings, NAMES};
pub use folder::{Folder, Manifest};
pub use grid::{Cell, Ended, Progress, Workers};
pub use merge::merge;
pub use page::{Chart, Head, Page, Part, TITLE, open, together, write};

//! Benchmarks of mixers: grids of trainings whose results lie in a folder and outlive a stop.

mod folder;
pub mod mqar;
pub mod throughput;

pub use folder::{Folder, ITEMS, MANIFEST, Manifest};

//! One file per allocator. A new one takes its file and two lines here.

pub mod ada;
pub mod pyramid;
pub mod uniform;

use eunoe_core::{Card, Result};

use crate::{Allocate, Args};

/// An allocator on the shelf.
#[derive(Clone, Copy, Debug)]
pub struct AllocatorEntry {
    /// Its entry in every list.
    pub card: Card,
    /// Makes it from its arguments.
    pub make: fn(&Args) -> Result<Box<dyn Allocate>>,
}

/// Every allocator; the first is what a plan means that names none.
pub static LIST: &[&AllocatorEntry] = &[&uniform::ENTRY, &pyramid::ENTRY, &ada::ENTRY];

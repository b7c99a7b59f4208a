//! Pages that several reservations see until one of them writes: a file in memory without a name holds them, and they are
//! mapped so that a write makes a copy of the page.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{page_bytes, sys};

/// Most pages of an extent.
const EXTENT_PAGES: usize = 16;

/// Where shared pages are. An extent that nobody holds any more takes no memory.
pub struct Arena {
    file: File,
    /// Where the next pages go; no place is used twice.
    next: AtomicU64,
    held: AtomicU64,
}

impl Arena {
    /// An empty one.
    ///
    /// # Errors
    /// The system has no files in memory, or no handle left.
    pub fn new() -> io::Result<Arc<Self>> {
        let (next, held) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Arc::new(Self { file: sys::memory_file()?, next, held }))
    }

    /// Bytes of all pages that something holds.
    pub fn bytes(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Takes a copy of whole pages: extents one behind the other, each small, because who sees a part of one holds all of it.
    pub(super) fn put(self: &Arc<Self>, pages: &[u8]) -> io::Result<Vec<Arc<Extent>>> {
        debug_assert!(pages.len().is_multiple_of(page_bytes()) && !pages.is_empty());
        let mut at = self.next.fetch_add(pages.len() as u64, Ordering::Relaxed);
        self.held.fetch_add(pages.len() as u64, Ordering::Relaxed);
        // made first: what was written in part is given back where the rest has no room
        let extents: Vec<Arc<Extent>> = pages
            .chunks(EXTENT_PAGES * page_bytes())
            .map(|pages| {
                let extent = Extent { arena: Arc::clone(self), at, len: pages.len() as u64 };
                at += extent.len;
                Arc::new(extent)
            })
            .collect();
        sys::write_at(&self.file, pages, extents[0].at)?;
        Ok(extents)
    }
}

/// Pages of an arena; they go when the last holder does.
pub(super) struct Extent {
    arena: Arc<Arena>,
    at: u64,
    len: u64,
}

impl Extent {
    /// The file and where in it the pages begin.
    pub(super) fn place(&self) -> (&File, u64) {
        (&self.arena.file, self.at)
    }

    /// Bytes of its pages.
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether another lies behind it, so that one map serves both.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.arena, &other.arena) && self.at + self.len == other.at
    }

    /// Whether it lies in this arena.
    pub(super) fn is_of(&self, arena: &Arc<Arena>) -> bool {
        Arc::ptr_eq(&self.arena, arena)
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        sys::punch(&self.arena.file, self.at, self.len);
        self.arena.held.fetch_sub(self.len, Ordering::Relaxed);
    }
}

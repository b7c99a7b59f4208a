//! Pages that several reservations see until one of them writes: a file in memory without a name holds them, and they are
//! mapped so that a write makes a copy of the page.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{page_bytes, sys};

/// Where shared pages are. What nobody holds any more takes no memory.
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

    /// Takes a copy of whole pages.
    pub(super) fn put(self: &Arc<Self>, pages: &[u8]) -> io::Result<Arc<Extent>> {
        debug_assert!(pages.len().is_multiple_of(page_bytes()) && !pages.is_empty());
        let len = pages.len() as u64;
        let at = self.next.fetch_add(len, Ordering::Relaxed);
        self.held.fetch_add(len, Ordering::Relaxed);
        // made first: what was written in part is given back where the rest has no room
        let extent = Extent { arena: Arc::clone(self), at, len };
        sys::write_at(&self.file, pages, at)?;
        Ok(Arc::new(extent))
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

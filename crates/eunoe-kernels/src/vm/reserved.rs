//! Address space of one strip: pages of its own, and at its start pages that it shares with others until it writes.

use std::io;
use std::sync::Arc;

use eunoe_core::Result;

use super::arena::{Arena, Extent};
use super::{page_bytes, refused, sys};

/// Most maps for the shared pages of one reservation.
const MOST_PIECES: usize = 4;

/// Reserved address space. It reads as zeros until written; what was released reads as zeros again.
pub struct Reserved {
    region: sys::Region,
    /// Bytes from the start that may have been touched.
    touched: usize,
    /// What is mapped from the first byte on, one after the other: pages and bytes of them.
    shared: Vec<(Arc<Extent>, usize)>,
    /// Bytes from the start that are still what the shared pages hold.
    same: usize,
}

impl Reserved {
    /// Reserves `bytes` of address space and no memory.
    ///
    /// # Errors
    /// [`Error::Limit`](eunoe_core::Error::Limit) when the system refuses.
    pub fn new(bytes: usize) -> Result<Self> {
        let page = page_bytes();
        let rounded = bytes.max(1).checked_next_multiple_of(page).ok_or_else(|| refused(bytes))?;
        let region = sys::Region::new(rounded, false).ok_or_else(|| refused(bytes))?;
        Ok(Self { region, touched: 0, shared: Vec::new(), same: 0 })
    }

    /// The first `len` bytes.
    #[inline]
    pub fn bytes(&self, len: usize) -> &[u8] {
        &self.region.bytes()[..len]
    }

    /// The first `len` bytes, to write from byte `from` on.
    #[inline]
    pub fn bytes_mut(&mut self, from: usize, len: usize) -> &mut [u8] {
        self.touched = self.touched.max(len);
        if from < self.same {
            self.unshare(from);
        }
        &mut self.region.bytes_mut()[..len]
    }

    /// Gives back every whole page from `byte` on.
    pub fn release_from(&mut self, byte: usize) {
        let page = page_bytes();
        let (start, end) = (byte.next_multiple_of(page), self.touched.next_multiple_of(page));
        self.same = self.same.min(byte);
        self.unmap(start);
        // what could not be unmapped is zeros in copies of our own, and would be the file's again
        let start = start.max(self.mapped());
        if start < end {
            // SAFETY: whole pages of our own region, and `&mut self` is the only access to it.
            unsafe { self.region.release(start, end - start) };
        }
        self.touched = self.touched.min(byte);
    }

    /// Moves the whole pages of the first `len` bytes into an arena, where they can be shared; those that are there stay.
    ///
    /// # Errors
    /// There is no memory or no map for it; no byte changes then.
    pub fn share(&mut self, len: usize, arena: &Arc<Arena>) -> io::Result<()> {
        let end = len / page_bytes() * page_bytes();
        // every piece is a map, of which a process may have so many
        let start = if self.pieces() < MOST_PIECES { self.shareable(arena) } else { 0 };
        if start >= end {
            return Ok(());
        }
        // pages of old extents behind are let go of first, or nothing is: they would be the file's again when released
        if !self.own(end) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.same = self.same.min(end);
        let extents = arena.put(&self.region.bytes()[start..end])?;
        let (file, at) = extents[0].place();
        // SAFETY: whole pages of our own region; they hold the same bytes afterwards.
        unsafe { self.region.map(start, end - start, file, at) }?;
        self.keep(start);
        self.shared.extend(extents.into_iter().map(|extent| {
            let len = extent.len();
            (extent, len)
        }));
        self.same = end;
        Ok(())
    }

    /// Another reservation of `bytes` that begins with the first `len` bytes of this one, on the same pages where they are shared.
    ///
    /// # Errors
    /// [`Error::Limit`](eunoe_core::Error::Limit) without address space.
    pub fn fork(&self, bytes: usize, len: usize) -> Result<Self> {
        let mut fork = Self::new(bytes)?;
        let most = self.same.min(len) / page_bytes() * page_bytes();
        let mut at = 0;
        for (extent, len) in &self.shared {
            let (len, (file, place)) = ((*len).min(most - at), extent.place());
            // SAFETY: whole pages of the new region, which nobody has seen yet.
            if len == 0 || unsafe { fork.region.map(at, len, file, place) }.is_err() {
                break; // too many maps: what is left is copied
            }
            fork.shared.push((Arc::clone(extent), len));
            at += len;
        }
        (fork.same, fork.touched) = (at, len);
        fork.region.bytes_mut()[at..len].copy_from_slice(&self.region.bytes()[at..len]);
        Ok(fork)
    }

    /// Whether it holds pages of an arena, in use or not.
    pub fn holds_shared(&self) -> bool {
        !self.shared.is_empty()
    }

    /// Bytes of whole pages that are in an arena and unchanged.
    pub fn shared_bytes(&self) -> usize {
        self.same / page_bytes() * page_bytes()
    }

    /// Physical pages behind this reservation, where the system tells.
    pub fn resident_pages(&self) -> Option<usize> {
        self.region.resident_pages()
    }

    /// Bytes of whole unchanged pages that are in this arena already.
    fn shareable(&self, arena: &Arc<Arena>) -> usize {
        let mapped: usize = self.shared.iter().take_while(|(e, _)| e.is_of(arena)).map(|(_, len)| len).sum();
        mapped.min(self.shared_bytes())
    }

    /// What is written from byte `from` on is ours alone: its pages are let go of.
    fn unshare(&mut self, from: usize) {
        let start = from / page_bytes() * page_bytes();
        self.own(start);
        self.same = self.same.min(start);
    }

    /// As [`Reserved::unmap`], and the bytes stay.
    fn own(&mut self, start: usize) -> bool {
        let end = self.mapped().max(start);
        let kept = self.region.bytes()[start..end].to_vec();
        let unmapped = self.unmap(start);
        self.region.bytes_mut()[start..end].copy_from_slice(&kept);
        unmapped
    }

    /// Maps that the shared pages take.
    fn pieces(&self) -> usize {
        let is_one =
            |two: &[(Arc<Extent>, usize)]| two[0].1 == two[0].0.len() && two[0].0.is_before(&two[1].0);
        let breaks = self.shared.windows(2).filter(|two| !is_one(two)).count();
        breaks + usize::from(!self.shared.is_empty())
    }

    /// Bytes that are mapped from arenas.
    fn mapped(&self) -> usize {
        self.shared.iter().map(|(_, len)| len).sum()
    }

    /// Pages of arenas from byte `start` of a page on are empty and ours again. `false` where the system has no map left: then
    /// they are empty in copies, and stay mapped and in the list until a later try.
    fn unmap(&mut self, start: usize) -> bool {
        let mapped = self.mapped();
        if start >= mapped {
            return true;
        }
        // SAFETY: whole pages of our own region, and `&mut self` is the only access to it.
        let renewed = !tests_refuse() && unsafe { self.region.renew(start, mapped - start) };
        match renewed {
            true => self.keep(start),
            false => self.region.bytes_mut()[start..mapped].fill(0),
        }
        renewed
    }

    /// Lets go of what is mapped from byte `start` of a page on.
    fn keep(&mut self, start: usize) {
        let mut at = 0;
        self.shared.retain_mut(|(_, len)| {
            *len = (*len).min(start.saturating_sub(at));
            at += *len;
            *len > 0
        });
    }
}

/// Whether a test plays a system without maps.
#[cfg(not(test))]
fn tests_refuse() -> bool {
    false
}

#[cfg(test)]
fn tests_refuse() -> bool {
    tests::NO_MAPS.get()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use proptest::prelude::*;

    thread_local!(pub(super) static NO_MAPS: Cell<bool> = const { Cell::new(false) });

    #[test]
    fn without_maps_what_was_released_reads_as_zeros_too() {
        let page = page_bytes();
        let Ok(arena) = Arena::new() else { return };
        let mut first = Reserved::new(64 * page).unwrap();
        first.bytes_mut(0, 8 * page).fill(1);
        first.share(8 * page, &arena).unwrap();
        let mut second = first.fork(64 * page, 8 * page).unwrap();
        NO_MAPS.set(true);
        assert!(second.share(3 * page + 5, &arena).is_ok(), "those pages are shared already");
        second.bytes_mut(2 * page, 8 * page)[2 * page] = 2;
        second.release_from(page);
        assert!(second.bytes(8 * page)[page..].iter().all(|b| *b == 0));
        // new pages in front of old ones that cannot go: refused, and no byte changes
        second.bytes_mut(0, 6 * page).fill(3);
        assert!(second.share(4 * page, &arena).is_err());
        assert!(second.bytes(6 * page).iter().all(|b| *b == 3));
        NO_MAPS.set(false);
        second.share(4 * page, &arena).unwrap();
        assert!(second.bytes(6 * page).iter().all(|b| *b == 3) && second.shared_bytes() == 4 * page);
        second.release_from(0);
        assert!(
            second.bytes(8 * page).iter().all(|b| *b == 0) && first.bytes(8 * page).iter().all(|b| *b == 1)
        );
    }

    #[test]
    fn a_part_of_an_extent_is_a_map_of_its_own() {
        let page = page_bytes();
        let Ok(arena) = Arena::new() else { return };
        let mut memory = Reserved::new(64 * page).unwrap();
        memory.bytes_mut(0, 16 * page).fill(1);
        memory.share(16 * page, &arena).unwrap();
        assert_eq!(memory.pieces(), 1);
        // half of the first extent stays, and what comes next lies behind the other half in the file
        memory.bytes_mut(8 * page, 16 * page)[8 * page] = 2;
        memory.share(16 * page, &arena).unwrap();
        assert_eq!((memory.pieces(), memory.shared_bytes()), (2, 16 * page));
    }

    #[test]
    fn pages_come_with_the_first_touch_and_go_back() {
        let page = page_bytes();
        let mut memory = Reserved::new(1 << 30).expect("1 GiB of address space");
        let Some(untouched) = memory.resident_pages() else { return };
        assert_eq!(untouched, 0);
        memory.bytes_mut(0, 10 * page).fill(7);
        assert_eq!(memory.resident_pages(), Some(10));
        memory.release_from(3 * page + 1);
        assert_eq!(memory.resident_pages(), Some(4), "the page that byte 3p lies in stays");
        assert_eq!(memory.bytes(5 * page)[3 * page], 7);
        assert_eq!(memory.bytes(5 * page)[4 * page], 0);
    }

    #[test]
    fn forks_share_whole_pages_until_they_write() {
        let page = page_bytes();
        let Ok(arena) = Arena::new() else { return };
        let mut first = Reserved::new(64 * page).unwrap();
        first.bytes_mut(0, 4 * page + 10).fill(1);
        first.share(4 * page + 10, &arena).unwrap();
        assert_eq!((arena.bytes(), first.shared_bytes()), (4 * page as u64, 4 * page));
        let mut second = first.fork(32 * page, 3 * page + 5).unwrap();
        assert_eq!((arena.bytes(), second.shared_bytes()), (4 * page as u64, 3 * page), "nothing new");
        second.bytes_mut(page + 1, 3 * page)[page + 1] = 2;
        assert_eq!((second.bytes(3 * page)[page + 1], first.bytes(3 * page)[page + 1]), (2, 1));
        assert_eq!(second.shared_bytes(), page);
        drop(first);
        assert_eq!(arena.bytes(), 4 * page as u64, "the second one still reads them");
        assert!(second.bytes(3 * page + 5)[2 * page..].iter().all(|b| *b == 1));
        second.release_from(0);
        assert_eq!(arena.bytes(), 0);
        assert!(second.bytes(5 * page).iter().all(|b| *b == 0), "what was released reads as zeros");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Any order of appends, writes, cuts, shares and forks: each reservation reads what a vector of its own would hold, and
        /// nothing stays behind.
        #[test]
        fn reservations_are_vectors_of_their_own(steps in prop::collection::vec((0..6u8, 0..8usize, 0..40_000usize), 1..60)) {
            let Ok(arena) = Arena::new() else { return Ok(()) };
            let mut all = vec![(Reserved::new(1 << 20).unwrap(), Vec::new())];
            for (i, (what, which, size)) in steps.into_iter().enumerate() {
                let count = all.len();
                let (memory, model) = &mut all[which % count];
                let len = model.len();
                match what {
                    0 if len + size < 1 << 20 => {
                        memory.bytes_mut(len, len + size)[len..].fill(i as u8);
                        model.resize(len + size, i as u8);
                    }
                    1 if len > 0 => {
                        memory.bytes_mut(size % len, len)[size % len] = i as u8;
                        model[size % len] = i as u8;
                    }
                    2 => {
                        let to = size.min(len);
                        memory.release_from(to);
                        model.truncate(to);
                    }
                    3 => memory.share(len, &arena).unwrap(),
                    4 if count < 8 => {
                        let len = size.min(len);
                        let fork = (memory.fork(1 << 20, len).unwrap(), model[..len].to_vec());
                        all.push(fork);
                    }
                    5 if count > 1 => drop(all.remove(which % count)),
                    _ => {}
                }
                for (memory, model) in &all {
                    prop_assert_eq!(memory.bytes(model.len()), &model[..]);
                }
            }
            drop(all);
            prop_assert_eq!(arena.bytes(), 0);
        }
    }
}

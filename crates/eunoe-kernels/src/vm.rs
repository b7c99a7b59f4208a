//! Virtual memory: address space reserved once, physical pages on first touch, given back when no longer needed.

use std::path::Path;

use eunoe_core::{Error, Result};

/// Reserved address space. It reads as zeros until written; what was released reads as zeros again.
pub struct Reserved {
    region: sys::Region,
    /// Bytes from the start that may have been touched.
    touched: usize,
}

impl Reserved {
    /// Reserves `bytes` of address space and no memory.
    ///
    /// # Errors
    /// [`Error::Limit`] when the system refuses.
    pub fn new(bytes: usize) -> Result<Self> {
        let page = page_bytes();
        let rounded = bytes.max(1).checked_next_multiple_of(page).ok_or_else(|| refused(bytes))?;
        Ok(Self { region: sys::Region::new(rounded).ok_or_else(|| refused(bytes))?, touched: 0 })
    }

    /// The first `len` bytes.
    #[inline]
    pub fn bytes(&self, len: usize) -> &[u8] {
        &self.region.bytes()[..len]
    }

    /// The first `len` bytes, to write.
    #[inline]
    pub fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        self.touched = self.touched.max(len);
        &mut self.region.bytes_mut()[..len]
    }

    /// Gives back every whole page from `byte` on.
    pub fn release_from(&mut self, byte: usize) {
        let page = page_bytes();
        let (start, end) = (byte.next_multiple_of(page), self.touched.next_multiple_of(page));
        if start < end {
            self.region.release(start, end - start);
        }
        self.touched = self.touched.min(byte);
    }

    /// Physical pages behind this reservation, where the system tells.
    pub fn resident_pages(&self) -> Option<usize> {
        self.region.resident_pages()
    }
}

/// Bytes of one page.
pub fn page_bytes() -> usize {
    sys::page_bytes()
}

/// Maps a file for reading.
///
/// # Errors
/// [`Error::Io`] when it cannot be opened or mapped, [`Error::Format`] when it is empty.
pub fn map_file(path: &Path) -> Result<memmap2::Mmap> {
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    if file.metadata().map_err(|e| Error::io(path, e))?.len() == 0 {
        return Err(Error::format(
            format!("`{}`", path.display()),
            0,
            "the file is empty; fetch or copy it again",
        ));
    }
    // SAFETY: the map is read-only and private to us; model files are not rewritten while they are in use, which
    // the user guarantees as with every program that maps its input.
    unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))
}

fn refused(bytes: usize) -> Error {
    Error::Limit {
        what: "virtual address space, bytes".into(),
        asked: bytes as u64,
        have: sys::address_space(),
        hint: "ask for fewer tokens or sessions, or raise `ulimit -v`".into(),
    }
}

#[cfg(unix)]
mod sys {
    use std::ptr::NonNull;
    use std::sync::OnceLock;

    pub(super) struct Region {
        base: NonNull<u8>,
        len: usize,
    }

    // SAFETY: the region owns its mapping and hands it out only through `&self` and `&mut self`.
    unsafe impl Send for Region {}
    // SAFETY: as above.
    unsafe impl Sync for Region {}

    impl Region {
        /// `len` is a whole number of pages, at least one.
        pub(super) fn new(len: usize) -> Option<Self> {
            isize::try_from(len).ok()?;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new anonymous mapping at an address of the system's choice touches no memory of ours.
            let base = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, -1, 0) };
            if base == libc::MAP_FAILED {
                return None;
            }
            // SAFETY: exactly the mapping just made. A kernel without huge pages refuses, and that is fine.
            #[cfg(target_os = "linux")]
            unsafe {
                libc::madvise(base, len, libc::MADV_NOHUGEPAGE);
            }
            Some(Self { base: NonNull::new(base.cast())?, len })
        }

        #[inline]
        pub(super) fn bytes(&self) -> &[u8] {
            // SAFETY: `len` bytes are mapped and readable until drop; writers hold `&mut self`.
            unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
        }

        #[inline]
        pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
            // SAFETY: `len` bytes are mapped and writable until drop, and `&mut self` is the only access.
            unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
        }

        /// Both arguments are whole pages inside the region.
        pub(super) fn release(&mut self, start: usize, len: usize) {
            let part = &mut self.bytes_mut()[start..start + len];
            if cfg!(target_os = "linux") {
                // SAFETY: `part` is whole pages of this private anonymous mapping, borrowed for us alone; they
                // read as zeros afterwards.
                let refused =
                    unsafe { libc::madvise(part.as_mut_ptr().cast(), part.len(), libc::MADV_DONTNEED) };
                debug_assert_eq!(refused, 0, "whole pages of a live mapping");
                return;
            }
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: replaces whole pages of this mapping, borrowed for us alone, by fresh ones in place.
            unsafe { libc::mmap(part.as_mut_ptr().cast(), part.len(), access, flags, -1, 0) };
        }

        #[cfg(target_os = "linux")]
        pub(super) fn resident_pages(&self) -> Option<usize> {
            use std::os::unix::fs::FileExt;
            const PRESENT: u64 = 1 << 63;
            let page = page_bytes();
            let mut entries = vec![0u8; self.len / page * 8];
            let at = (self.base.as_ptr().addr() / page * 8) as u64;
            std::fs::File::open("/proc/self/pagemap").ok()?.read_exact_at(&mut entries, at).ok()?;
            let present = |e: &&[u8; 8]| u64::from_ne_bytes(**e) & PRESENT != 0;
            Some(entries.as_chunks().0.iter().filter(present).count())
        }

        #[cfg(not(target_os = "linux"))]
        pub(super) fn resident_pages(&self) -> Option<usize> {
            None
        }
    }

    impl Drop for Region {
        fn drop(&mut self) {
            // SAFETY: unmaps exactly what `new` mapped, once; no borrow of it outlives `self`.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        }
    }

    pub(super) fn page_bytes() -> usize {
        static BYTES: OnceLock<usize> = OnceLock::new();
        // SAFETY: asks for a constant of the system.
        *BYTES.get_or_init(|| usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096))
    }

    /// The most address space that this process may hold.
    pub(super) fn address_space() -> u64 {
        let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the system fills the struct that we own.
        unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) };
        #[allow(clippy::unnecessary_cast, reason = "the type is signed on some systems")]
        let bytes = limit.rlim_cur as u64;
        bytes.min(1 << 47)
    }
}

#[cfg(not(unix))]
mod sys {
    pub(super) struct Region(Vec<u8>);

    impl Region {
        pub(super) fn new(len: usize) -> Option<Self> {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(len).ok()?;
            bytes.resize(len, 0);
            Some(Self(bytes))
        }

        pub(super) fn bytes(&self) -> &[u8] {
            &self.0
        }

        pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }

        pub(super) fn release(&mut self, start: usize, len: usize) {
            self.0[start..start + len].fill(0);
        }

        pub(super) fn resident_pages(&self) -> Option<usize> {
            None
        }
    }

    pub(super) fn page_bytes() -> usize {
        4096
    }

    pub(super) fn address_space() -> u64 {
        isize::MAX as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_with_the_first_touch_and_go_back() {
        let page = page_bytes();
        let mut memory = Reserved::new(1 << 30).expect("1 GiB of address space");
        let Some(untouched) = memory.resident_pages() else { return };
        assert_eq!(untouched, 0);
        memory.bytes_mut(10 * page).fill(7);
        assert_eq!(memory.resident_pages(), Some(10));
        memory.release_from(3 * page + 1);
        assert_eq!(memory.resident_pages(), Some(4), "the page that byte 3p lies in stays");
        assert_eq!(memory.bytes(5 * page)[3 * page], 7);
        assert_eq!(memory.bytes(5 * page)[4 * page], 0);
    }

    #[test]
    fn what_cannot_be_reserved_says_what_to_do() {
        for bytes in [usize::MAX, 1 << 60] {
            let error = Reserved::new(bytes).err().expect("no machine has that much").to_string();
            assert!(error.contains("fewer tokens"), "{error}");
        }
    }

    #[test]
    fn mapping_names_the_file_at_fault() {
        let missing = map_file(Path::new("/nowhere/model.gguf")).expect_err("missing").to_string();
        assert!(missing.contains("/nowhere/model.gguf"), "{missing}");
        let path = std::env::temp_dir().join(format!("eunoe-empty-{}", std::process::id()));
        std::fs::write(&path, b"").expect("temporary folder");
        let empty = map_file(&path).expect_err("empty").to_string();
        std::fs::write(&path, b"abc").expect("temporary folder");
        let mapped = map_file(&path).expect("three bytes");
        assert_eq!(&mapped[..], b"abc");
        drop(mapped);
        std::fs::remove_file(&path).expect("our own file");
        assert!(empty.contains("empty"), "{empty}");
    }
}

//! Virtual memory: address space reserved once, physical pages on first touch, given back when no longer needed.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use eunoe_core::{Error, Result};

mod arena;
mod reserved;

pub use arena::Arena;
pub use reserved::Reserved;

/// Memory for what is read again and again: zeros at first, aligned to 64 bytes, on 2 MiB pages from the first touch on
/// where the system has them. Reading it misses the TLB hundreds of times less.
///
/// Small ones share slabs, so that a model's matrices lie side by side and few huge pages are partly used. Dropping one
/// gives its whole pages back.
pub struct Huge {
    slab: Arc<Slab>,
    /// Offset in the slab, and bytes; ranges of one slab are disjoint.
    start: usize,
    len: usize,
}

/// Address space that several [`Huge`] share; each byte is handed out once.
struct Slab {
    region: sys::Region,
    /// Offset of the first 2 MiB page, and the end.
    first: usize,
    end: usize,
}

/// The slab that small ones are taken from, and the offset of what is left of it.
static OPEN: Mutex<(Weak<Slab>, usize)> = Mutex::new((Weak::new(), 0));

impl Huge {
    /// Bytes of a huge page.
    pub const PAGE: usize = 2 << 20;
    /// Bytes of a slab; what takes a good part of one gets its own.
    const SLAB: usize = 256 << 20;
    const ALIGN: usize = 64;

    /// `bytes` zeros; pages come with the first touch.
    ///
    /// # Errors
    /// [`Error::Limit`] when the system refuses.
    pub fn new(bytes: usize) -> Result<Self> {
        if bytes >= Self::SLAB / 4 {
            let slab = Arc::new(Slab::new(bytes)?);
            return Ok(Self { start: slab.first, len: bytes, slab });
        }
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let slab = match open.0.upgrade() {
            Some(slab) if slab.end - open.1 >= bytes => slab,
            _ => {
                let slab = Arc::new(Slab::new(Self::SLAB)?);
                *open = (Arc::downgrade(&slab), slab.first);
                slab
            }
        };
        let start = open.1;
        open.1 = (start + bytes).next_multiple_of(Self::ALIGN).min(slab.end);
        Ok(Self { slab, start, len: bytes })
    }
}

impl Slab {
    fn new(bytes: usize) -> Result<Self> {
        let whole = bytes.checked_next_multiple_of(Huge::PAGE);
        let with_slack = whole.and_then(|b| b.checked_add(Huge::PAGE)).ok_or_else(|| refused(bytes))?;
        let region = sys::Region::new(with_slack, true).ok_or_else(|| refused(bytes))?;
        let first = region.base().align_offset(Huge::PAGE).min(Huge::PAGE);
        Ok(Self { region, first, end: first + with_slack - Huge::PAGE })
    }
}

impl Deref for Huge {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `start..start + len` lies in the slab, which lives as long as `self`, and belongs to `self` alone;
        // writers hold `&mut self`.
        unsafe { std::slice::from_raw_parts(self.slab.region.base().add(self.start), self.len) }
    }
}

impl DerefMut for Huge {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is the only access to these bytes.
        unsafe { std::slice::from_raw_parts_mut(self.slab.region.base().add(self.start), self.len) }
    }
}

impl Drop for Huge {
    fn drop(&mut self) {
        if Arc::strong_count(&self.slab) > 1 {
            let page = page_bytes();
            let (start, end) = (self.start.next_multiple_of(page), (self.start + self.len) / page * page);
            if start < end {
                // SAFETY: whole pages inside the range that belongs to `self` alone, which nobody reads any more.
                unsafe { self.slab.region.release(start, end - start) };
            }
        }
    }
}

/// Bytes of one page.
pub fn page_bytes() -> usize {
    sys::page_bytes()
}

/// A file mapped for reading.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl MappedFile {
    /// Gives back the whole pages of a part that is not needed any more. It can still be read: the pages come from the
    /// file again.
    ///
    /// # Panics
    /// When the part is not in the file.
    pub fn release(&self, start: usize, len: usize) {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.0.len()), "part outside the file");
        #[cfg(target_os = "linux")]
        {
            let page = page_bytes();
            let (start, end) = (start.next_multiple_of(page), (start + len) / page * page);
            if start < end {
                // SAFETY: whole pages inside a read-only map of a file: what is read later is the same bytes.
                let _ = unsafe {
                    self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
                };
            }
        }
    }
}

/// Maps a file for reading.
///
/// # Errors
/// [`Error::Io`] when it cannot be opened or mapped, [`Error::Format`] when it is empty.
pub fn map_file(path: &Path) -> Result<MappedFile> {
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
    unsafe { memmap2::Mmap::map(&file) }.map(MappedFile).map_err(|e| Error::io(path, e))
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
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::FileExt as _;
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
        /// `len` is a whole number of pages, at least one; 2 MiB pages are asked for or ruled out.
        pub(super) fn new(len: usize, huge: bool) -> Option<Self> {
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
                libc::madvise(base, len, if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE });
            }
            Some(Self { base: NonNull::new(base.cast())?, len })
        }

        pub(super) fn base(&self) -> *mut u8 {
            self.base.as_ptr()
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

        /// Gives pages back; they read as zeros afterwards.
        ///
        /// # Safety
        /// Both arguments are whole pages inside the region, and nobody else reads or writes them meanwhile.
        pub(super) unsafe fn release(&self, start: usize, len: usize) {
            debug_assert!(start + len <= self.len && len > 0);
            // SAFETY: inside the region, as the caller promises.
            let part = unsafe { self.base.add(start) }.as_ptr().cast();
            if cfg!(target_os = "linux") {
                // SAFETY: whole pages of this private anonymous mapping, which nobody else uses now.
                let refused = unsafe { libc::madvise(part, len, libc::MADV_DONTNEED) };
                debug_assert_eq!(refused, 0, "whole pages of a live mapping");
                return;
            }
            // SAFETY: as the caller promises.
            let renewed = unsafe { self.renew(start, len) };
            debug_assert!(renewed, "pages of a live mapping");
        }

        /// Replaces pages by empty ones in their place; `false`, and nothing changes, where the system has no map left.
        ///
        /// # Safety
        /// As for `release`.
        pub(super) unsafe fn renew(&self, start: usize, len: usize) -> bool {
            debug_assert!(start + len <= self.len && len > 0);
            // SAFETY: inside the region, as the caller promises.
            let part = unsafe { self.base.add(start) }.as_ptr().cast();
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: whole pages of this mapping, which nobody else uses now.
            unsafe {
                let renewed = libc::mmap(part, len, access, flags, -1, 0) != libc::MAP_FAILED;
                #[cfg(target_os = "linux")]
                let _ = renewed && libc::madvise(part, len, libc::MADV_NOHUGEPAGE) == 0;
                renewed
            }
        }

        /// Replaces pages by those of a file, which are copied where they are written.
        ///
        /// # Safety
        /// As for `release`; nobody cuts the file short.
        pub(super) unsafe fn map(&self, start: usize, len: usize, file: &File, at: u64) -> io::Result<()> {
            debug_assert!(start + len <= self.len && len > 0);
            let at = libc::off_t::try_from(at).map_err(io::Error::other)?;
            // SAFETY: inside the region, as the caller promises.
            let part = unsafe { self.base.add(start) }.as_ptr().cast();
            let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED;
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: whole pages of this mapping, which nobody else uses now.
            match unsafe { libc::mmap(part, len, access, flags, file.as_raw_fd(), at) } {
                libc::MAP_FAILED => Err(io::Error::last_os_error()),
                _ => Ok(()),
            }
        }

        #[cfg(target_os = "linux")]
        pub(super) fn resident_pages(&self) -> Option<usize> {
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

    /// A file in memory without a name.
    #[cfg(target_os = "linux")]
    pub(super) fn memory_file() -> io::Result<File> {
        use std::os::fd::FromRawFd as _;
        // SAFETY: a new handle, which is ours alone.
        unsafe {
            match libc::memfd_create(c"eunoe".as_ptr(), libc::MFD_CLOEXEC) {
                -1 => Err(io::Error::last_os_error()),
                handle => Ok(File::from_raw_fd(handle)),
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn memory_file() -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    /// Gives back what a part of a file takes; it reads as zeros afterwards.
    pub(super) fn punch(file: &File, at: u64, len: u64) {
        #[cfg(target_os = "linux")]
        {
            let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // SAFETY: a call on a handle that is open.
            let refused = unsafe { libc::fallocate(file.as_raw_fd(), how, at as i64, len as i64) };
            debug_assert_eq!(refused, 0, "files in memory can have holes");
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (file, at, len);
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
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::fs::File;
    use std::io;
    use std::ptr::NonNull;

    pub(super) struct Region {
        base: NonNull<u8>,
        layout: Layout,
    }

    // SAFETY: the region owns its bytes; who may write them is settled by its users.
    unsafe impl Send for Region {}
    // SAFETY: as above.
    unsafe impl Sync for Region {}

    impl Region {
        pub(super) fn new(len: usize, _huge: bool) -> Option<Self> {
            let layout = Layout::from_size_align(len.max(1), super::Huge::ALIGN).ok()?;
            // SAFETY: the layout is not empty.
            Some(Self { base: NonNull::new(unsafe { alloc_zeroed(layout) })?, layout })
        }

        pub(super) fn base(&self) -> *mut u8 {
            self.base.as_ptr()
        }

        pub(super) fn bytes(&self) -> &[u8] {
            // SAFETY: all bytes are allocated until drop; writers hold `&mut self`.
            unsafe { std::slice::from_raw_parts(self.base(), self.layout.size()) }
        }

        pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
            // SAFETY: as above, and `&mut self` is the only access.
            unsafe { std::slice::from_raw_parts_mut(self.base(), self.layout.size()) }
        }

        /// # Safety
        /// The bytes are inside the region, and nobody else reads or writes them meanwhile.
        pub(super) unsafe fn release(&self, start: usize, len: usize) {
            // SAFETY: as the caller promises.
            unsafe { self.base().add(start).write_bytes(0, len) };
        }

        /// # Safety
        /// As for `release`.
        pub(super) unsafe fn renew(&self, start: usize, len: usize) -> bool {
            // SAFETY: as the caller promises.
            unsafe { self.release(start, len) };
            true
        }

        pub(super) unsafe fn map(
            &self,
            _start: usize,
            _len: usize,
            _file: &File,
            _at: u64,
        ) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn resident_pages(&self) -> Option<usize> {
            None
        }
    }

    pub(super) fn memory_file() -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn write_at(_file: &File, _bytes: &[u8], _at: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn punch(_file: &File, _at: u64, _len: u64) {}

    impl Drop for Region {
        fn drop(&mut self) {
            // SAFETY: allocated in `new` with this layout, freed once.
            unsafe { dealloc(self.base(), self.layout) };
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
    fn huge_memory_is_zero_aligned_and_its_own() {
        let lens = [1, 63, 64, 5000, 3 << 20, Huge::SLAB / 4, 0, 200];
        let mut all: Vec<Huge> = lens.map(|len| Huge::new(len).expect("memory")).into();
        for (i, memory) in all.iter_mut().enumerate() {
            assert_eq!((memory.len(), memory.as_ptr().align_offset(64)), (lens[i], 0));
            assert!(memory.iter().all(|b| *b == 0), "memory {i} is new");
            memory.fill(i as u8 + 1);
        }
        drop(all.remove(4));
        for memory in &all {
            assert!(memory.windows(2).all(|w| w[0] == w[1]), "no byte is shared");
        }
        assert_eq!((all[3][0], all[4][0], all[6][0]), (4, 6, 8), "dropping one leaves its neighbours");
    }

    #[test]
    fn what_cannot_be_reserved_says_what_to_do() {
        for bytes in [usize::MAX, 1 << 60] {
            for error in [Reserved::new(bytes).err(), Huge::new(bytes).err()] {
                let error = error.expect("no machine has that much").to_string();
                assert!(error.contains("fewer tokens"), "{error}");
            }
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
        mapped.release(0, 3);
        assert_eq!(mapped.as_ref(), b"abc", "what was given back can be read again");
        drop(mapped);
        std::fs::remove_file(&path).expect("our own file");
        assert!(empty.contains("empty"), "{empty}");
    }
}

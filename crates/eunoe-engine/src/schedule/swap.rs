//! Sequences that wait outside: their strips go to a file and come back with the same bits.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use eunoe_core::{Error, Result};
use eunoe_kernels::strip::Strip;

use crate::store::Kv;

/// The strips of one sequence in a file without a name.
pub(super) struct Swapped {
    file: File,
    /// Slots of each strip.
    slots: Vec<usize>,
}

impl Swapped {
    /// Writes the strips of a sequence to a file in `folder` and gives their pages back.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be made or written; the sequence is as it was then.
    pub(super) fn out(kv: &mut Kv, folder: &Path) -> Result<Self> {
        let failed = |why| Error::Io { path: folder.to_owned(), why };
        let mut file = tempfile::tempfile_in(folder).map_err(failed)?;
        let mut slots = Vec::new();
        for strip in strips(kv) {
            file.write_all(strip.records(0..strip.len())).map_err(failed)?;
            slots.push(strip.len());
        }
        strips(kv).for_each(|strip| strip.truncate(0));
        Ok(Self { file, slots })
    }

    /// Reads the strips back.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be read; the sequence cannot go on then.
    pub(super) fn back(mut self, kv: &mut Kv) -> Result<()> {
        let failed = |why| Error::Io { path: "the file of a sequence that waits".into(), why };
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        for (strip, slots) in strips(kv).zip(&self.slots) {
            self.file.read_exact(strip.append(*slots)).map_err(failed)?;
        }
        Ok(())
    }
}

/// All strips of a sequence, those of the newest slots in full precision beside theirs.
fn strips(kv: &mut Kv) -> impl Iterator<Item = &mut Strip> {
    let heads = kv.layers.iter_mut().flat_map(|layer| &mut layer.heads);
    heads.flat_map(|head| {
        let newest = head.residual.as_mut().map(|residual| &mut residual.strip);
        std::iter::once(&mut head.strip).chain(newest)
    })
}

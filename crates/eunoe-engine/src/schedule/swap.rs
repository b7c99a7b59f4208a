//! Sequences that wait outside: their strips go to a file and come back with the same bits.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

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
    /// The file cannot be made or written; the sequence is as it was then.
    pub(super) fn out(kv: &mut Kv, folder: &Path) -> io::Result<Self> {
        let mut file = tempfile::tempfile_in(folder)?;
        let mut slots = Vec::new();
        for strip in strips(kv) {
            file.write_all(strip.records(0..strip.len()))?;
            slots.push(strip.len());
        }
        strips(kv).for_each(|strip| strip.truncate(0));
        Ok(Self { file, slots })
    }

    /// Reads the strips back.
    ///
    /// # Errors
    /// They cannot be read; the sequence cannot go on then.
    pub(super) fn back(mut self, kv: &mut Kv) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        for (strip, slots) in strips(kv).zip(&self.slots) {
            self.file.read_exact(strip.append(*slots))?;
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

#[cfg(test)]
#[path = "../../tests/toy/mod.rs"]
mod toy;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_outside_holds_nothing_and_comes_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let engine = toy::LLAMA.open(1, 64);
        for plan in ["full | q8(residual=16)", "a2sf @ 40tok"] {
            let mut session = toy::read(&engine, plan, &toy::text(100));
            let held = |kv: &Kv| kv.bill().heads.iter().map(|head| head.bytes).collect::<Vec<_>>();
            let before = held(&session.kv);
            assert!(before.iter().all(|bytes| *bytes > 0));
            let swapped = Swapped::out(&mut session.kv, folder.path()).unwrap();
            assert!(held(&session.kv).iter().all(|bytes| *bytes == 0), "{plan}");
            swapped.back(&mut session.kv).unwrap();
            assert_eq!(held(&session.kv), before, "{plan}");
        }
    }
}

//! The cold tier of one sequence: blocks of old slots in memory or in a file, and the keys by which they are found.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use eunoe_core::{Error, Result};
use eunoe_kernels::strip::{SlotLayout, Strip};
use eunoe_kv::recall::Sizes;

/// Where blocks wait.
enum Tier {
    /// One piece per block: nothing moves when it grows.
    Memory(Vec<Vec<u8>>),
    /// A file without a name, which is gone with the process; and the folder it was made in.
    Disk(File, std::path::PathBuf),
}

/// Blocks of a sequence. A block has a part for every strip that the policy acts on, layer-major.
pub(crate) struct Cold {
    pub(crate) sizes: Sizes,
    tier: Tier,
    /// Positions of each block.
    pub(crate) blocks: Vec<Range<u32>>,
    /// Where each begins in the tier, in slots of one strip.
    starts: Vec<u64>,
    layers: Vec<Layer>,
    kv_heads: usize,
    slot_bytes: usize,
    /// Per KV head: everything that rows see beyond the newest slots; used by one layer after the other.
    pub(crate) far: Vec<Strip>,
    /// Bytes in the tier, and those that came back so far.
    pub(crate) bytes: u64,
    pub(crate) returned: u64,
}

/// What is known of the blocks in one layer.
#[derive(Default)]
struct Layer {
    /// Blocks that left the strips.
    spilled: usize,
    /// Their keys `[blocks, kv_heads, head_dim]`, as if all stood at position 0; landmarks where they stand.
    keys: Vec<f32>,
}

impl Cold {
    /// An empty tier, with room in front of it for what returns.
    ///
    /// # Errors
    /// [`Error::Io`] where no file can be made, [`Error::Limit`] without address space.
    pub(crate) fn new(
        sizes: Sizes,
        far_slots: u32,
        layers: usize,
        kv_heads: usize,
        layout: SlotLayout,
        folder: &Path,
    ) -> Result<Self> {
        let layout = SlotLayout { column: false, ..layout };
        let tier = match sizes.disk {
            true => Tier::Disk(tempfile::tempfile_in(folder).map_err(|e| fails(folder, &e))?, folder.into()),
            false => Tier::Memory(Vec::new()),
        };
        Ok(Self {
            sizes,
            tier,
            blocks: Vec::new(),
            starts: Vec::new(),
            layers: (0..layers).map(|_| Layer::default()).collect(),
            kv_heads,
            slot_bytes: layout.bytes(),
            far: (0..kv_heads).map(|_| Strip::new(layout, far_slots as usize)).collect::<Result<_>>()?,
            bytes: 0,
            returned: 0,
        })
    }

    /// New blocks end here; their parts come layer by layer.
    ///
    /// # Errors
    /// [`Error::Invalid`] for ends that are none.
    pub(crate) fn cut(&mut self, first: u32, ends: &[u32]) -> Result<()> {
        for end in ends {
            let start = self.blocks.last().map_or(first, |block| block.end);
            if *end <= start || end - start > self.sizes.block {
                return Err(Error::Invalid(format!("a block of {start} to {end} is none")));
            }
            let at = self.starts.last().map_or(0, |at| at + self.blocks.last().map_or(0, |b| b.len() as u64));
            self.starts.push(at);
            self.blocks.push(start..*end);
        }
        Ok(())
    }

    /// Blocks that have not left the strips of a layer.
    pub(crate) fn waiting(&self, layer: usize) -> Range<usize> {
        self.layers[layer].spilled..self.blocks.len()
    }

    /// Takes what the far strip of a KV head holds as its part of block `self.waiting(layer).start`, and the part's key
    /// `[head_dim]`.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk is full or gone.
    pub(crate) fn spill(&mut self, layer: usize, kv_head: usize, key: &[f32]) -> Result<()> {
        let records = self.far[kv_head].records(0..self.far[kv_head].len());
        let block = self.layers[layer].spilled;
        let (at, strips) = (self.at(block, layer, kv_head), self.layers.len() * self.kv_heads);
        match &mut self.tier {
            Tier::Memory(blocks) => {
                if blocks.len() == block {
                    blocks.push(vec![0; records.len() * strips]);
                }
                let from = (layer * self.kv_heads + kv_head) * records.len();
                blocks[block][from..from + records.len()].copy_from_slice(records);
            }
            Tier::Disk(file, folder) => {
                file.write_all_at(records, at).map_err(|e| fails(folder, &e))?;
            }
        }
        self.bytes += records.len() as u64;
        let known = &mut self.layers[layer];
        known.keys.extend_from_slice(key);
        known.spilled += usize::from(kv_head + 1 == self.kv_heads);
        Ok(())
    }

    /// Byte of a file at which a strip's part of a block begins.
    fn at(&self, block: usize, layer: usize, kv_head: usize) -> u64 {
        let strips = (self.layers.len() * self.kv_heads) as u64;
        let part = (layer * self.kv_heads + kv_head) as u64;
        (self.starts[block] * strips + part * self.blocks[block].len() as u64) * self.slot_bytes as u64
    }

    /// Appends the parts of blocks to the far strip of a KV head.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk is gone.
    pub(crate) fn bring_back(&mut self, layer: usize, kv_head: usize, blocks: &[u32]) -> Result<()> {
        for block in blocks.iter().map(|b| *b as usize) {
            let at = self.at(block, layer, kv_head);
            let room = self.far[kv_head].append(self.blocks[block].len());
            match &self.tier {
                Tier::Memory(parts) => {
                    let from = (layer * self.kv_heads + kv_head) * room.len();
                    room.copy_from_slice(&parts[block][from..from + room.len()]);
                }
                Tier::Disk(file, folder) => {
                    file.read_exact_at(room, at).map_err(|e| fails(folder, &e))?;
                }
            }
            self.returned += room.len() as u64;
        }
        Ok(())
    }

    /// The blocks' keys in one strip.
    pub(crate) fn keys(&self, layer: usize, kv_head: usize, head_dim: usize) -> Vec<&[f32]> {
        let blocks = self.layers[layer].keys.chunks_exact(self.kv_heads * head_dim);
        blocks.map(|block| &block[kv_head * head_dim..][..head_dim]).collect()
    }

    /// The dot product of a query `[kv_heads, head_dim]` with each block's key in a layer.
    pub(crate) fn likeness(&self, layer: usize, q: &[f32]) -> Vec<f32> {
        let keys = self.layers[layer].keys.chunks_exact(q.len());
        keys.map(|key| key.iter().zip(q).fold(0.0, |sum, (k, q)| k.mul_add(*q, sum))).collect()
    }

    /// Hot bytes of what returns.
    pub(crate) fn far_bytes(&self) -> u64 {
        self.far.iter().map(|far| (far.capacity() * far.layout().bytes()) as u64).sum()
    }

    /// Bytes of keys, which are no KV memory.
    pub(crate) fn key_bytes(&self) -> u64 {
        self.layers.iter().map(|l| l.keys.len() as u64 * 4).sum()
    }

    /// Slots in the tier, of one strip.
    pub(crate) fn slots(&self, layer: usize) -> u64 {
        self.blocks[..self.layers[layer].spilled].iter().map(|b| b.len() as u64).sum()
    }
}

/// What the system says of the file in `folder`, and the way out.
fn fails(folder: &Path, error: &std::io::Error) -> Error {
    let hint = "the cold tier needs room there; set `TMPDIR` to another folder, or `tier=memory`";
    Error::io(folder, std::io::Error::new(error.kind(), format!("{error}; {hint}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use eunoe_core::Codec;

    const LAYOUT: SlotLayout =
        SlotLayout { codec: eunoe_core::Codecs { k: Codec::F32, v: Codec::F32 }, head_dim: 32, column: true };

    fn sizes(disk: bool) -> Sizes {
        Sizes {
            local: 8,
            slots: 8,
            block: 4,
            pass: 4,
            keys: 1,
            own: false,
            grouped: None,
            surprisal: false,
            cold: None,
            disk,
        }
    }

    #[test]
    fn what_is_spilled_comes_back_from_memory_and_from_disk() {
        let folder = tempfile::tempdir().unwrap();
        for disk in [false, true] {
            let mut cold = Cold::new(sizes(disk), 12, 2, 2, LAYOUT, folder.path()).unwrap();
            let bytes = SlotLayout { column: false, ..LAYOUT }.bytes();
            cold.cut(3, &[7, 9]).unwrap();
            assert!(cold.cut(3, &[20]).is_err(), "longer than a block");
            let record =
                |l: usize, b: usize, h: usize| vec![(1 + 100 * l + 10 * b + h) as u8; [4, 2][b] * bytes];
            for (l, b, h) in (0..8).map(|i| (i / 4, i / 2 % 2, i % 2)) {
                let record = record(l, b, h);
                cold.far[h].reset();
                cold.far[h].append(record.len() / bytes).copy_from_slice(&record);
                cold.spill(l, h, &[(l + b + h) as f32; 32]).unwrap();
            }
            assert_eq!((cold.waiting(0), cold.slots(1), cold.bytes), (2..2, 6, (24 * bytes) as u64));
            assert_eq!(cold.likeness(1, &[1.0; 64]), [32.0 * 3.0, 32.0 * 5.0]);
            for (l, h) in [(1, 0), (0, 1)] {
                cold.far[h].reset();
                cold.bring_back(l, h, &[1, 0]).unwrap();
                assert_eq!(cold.far[h].records(0..2), record(l, 1, h));
                assert_eq!(cold.far[h].records(2..6), record(l, 0, h));
            }
            let left = std::fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(left, 0, "the file has no name, so nothing is left of it");
        }
    }

    #[test]
    fn a_full_or_missing_disk_is_an_error_that_names_it() {
        let gone = Cold::new(sizes(true), 12, 1, 1, LAYOUT, Path::new("/nowhere/at/all")).err().unwrap();
        assert!(gone.to_string().contains("/nowhere/at/all"), "{gone}");
        let mut cold = Cold::new(sizes(false), 12, 1, 1, LAYOUT, Path::new("/")).unwrap();
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        cold.tier = Tier::Disk(full, "/dev/full".into());
        cold.cut(0, &[4]).unwrap();
        cold.far[0].append(4).fill(1);
        let error = cold.spill(0, 0, &[0.0; 32]).unwrap_err().to_string();
        assert!(
            error.contains("/dev/full") && error.contains("No space") && error.contains("TMPDIR"),
            "{error}"
        );
        assert_eq!(error.matches("No space").count(), 1, "{error}");
    }
}

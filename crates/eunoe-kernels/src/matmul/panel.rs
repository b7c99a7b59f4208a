//! Panels: a few blocks of one group of weight rows, unpacked to bytes once and then multiplied with every tile of
//! input rows. One micro-kernel per instruction set, whatever the type in the file.

use super::acts::{Acts, Sums};
use super::pack::{CHUNK, Group, Scales, quant_row};
use super::{BLOCK, LANES, Task, offset, scale};
use crate::Isa;

/// Most blocks of a panel: with a tile of inputs it stays in the first-level cache.
const MOST_BLOCKS: usize = 20;

/// What the quants of types with an offset are shifted to, so that inputs know their correction beforehand.
pub(super) const BIAS: i32 = 128;

/// One block of 32 inputs of 16 rows.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct PanelBlock {
    /// `[4-byte group][row][4]`, unsigned: `q - offset + BIAS` where the type has an offset, else `q`.
    pub(super) quants: [[u8; 4 * LANES]; BLOCK / 4],
    pub(super) scales: Scales,
}

const EMPTY: PanelBlock = PanelBlock { quants: [[0; 4 * LANES]; BLOCK / 4], scales: Scales::NONE };

impl PanelBlock {
    /// Unpacks block `b` of a group.
    #[inline(always)]
    fn unpack<const BITS: usize, const SCALE: u8>(&mut self, group: Group<'_>, b: usize) {
        let chunk = group.chunk(BITS, SCALE, b / CHUNK);
        let block = chunk.block(BITS, b % CHUNK);
        let bias = if offset(BITS, SCALE) == 0 { 0 } else { (BIAS - offset(BITS, SCALE)) as u8 };
        for (g, out) in self.quants.iter_mut().enumerate() {
            quant_row::<BITS>(block, g, out);
            out.iter_mut().for_each(|q| *q += bias);
        }
        self.scales = Scales::read(SCALE, chunk, b % CHUNK);
    }
}

/// The sums of a task, `[group][tile]`; their bits are those of the kernels without panels.
pub(super) fn sums<const BITS: usize, const SCALE: u8>(task: &Task<'_>, out: &mut [Sums]) {
    out.fill(Sums::default());
    let x = task.x;
    let mut panel = [EMPTY; MOST_BLOCKS];
    let step = x.blocks().div_ceil(x.blocks().div_ceil(MOST_BLOCKS));
    for first in (0..x.blocks()).step_by(step) {
        let panel = &mut panel[..step.min(x.blocks() - first)];
        for (g, sums) in task.groups.clone().zip(out.chunks_exact_mut(x.tiles())) {
            let group = task.w.group(g);
            task.isa.run(
                #[inline(always)]
                || {
                    for (b, block) in panel.iter_mut().enumerate() {
                        block.unpack::<BITS, SCALE>(group, first + b);
                    }
                },
            );
            add::<SCALE>(task.isa, panel, x, first, sums);
        }
    }
}

/// Adds a panel's products with blocks `first…` of each tile to that tile's sums.
fn add<const SCALE: u8>(isa: Isa, panel: &[PanelBlock], x: &Acts, first: usize, sums: &mut [Sums]) {
    for (tile, sums) in sums.iter_mut().enumerate() {
        let x = x.quantised(tile).from(first, panel.len());
        match isa {
            // SAFETY: AVX-512 variants are only made where the processor has the features; `x` has the panel's blocks.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => unsafe { super::avx512::panel_sums::<SCALE>(panel, x, sums) },
            // SAFETY: as above for AVX2.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { super::avx2::panel_sums::<SCALE>(panel, x, sums) },
            // SAFETY: as above for AVX2 and AVX-VNNI.
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => unsafe { super::avx2::panel_sums_vnni::<SCALE>(panel, x, sums) },
            _ => super::scalar::panel_sums::<SCALE>(panel, x, sums),
        }
    }
}

/// Whether quants of a kind carry `BIAS`.
pub(super) const fn is_biased(kind: u8) -> bool {
    matches!(kind, scale::PLAIN | scale::HALVES)
}

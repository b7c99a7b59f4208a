//! Which tiles of slots a run's rows look at, head by head: block-sparse attention.

use super::slots::TILE;

/// One bit per head of the group, tile of 64 rows of the run and tile of 64 slots of the strip; a row sees only slots of
/// tiles that are set. Whatever chooses tiles sets them; a tile that is not set costs nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TileMask {
    group: usize,
    row_tiles: usize,
    slot_tiles: usize,
    /// `[group, row_tiles, words]`.
    bits: Vec<u64>,
}

impl TileMask {
    /// No tile set, for `rows` rows of `group` heads over `slots` slots.
    pub fn new(group: usize, rows: usize, slots: usize) -> Self {
        let (row_tiles, slot_tiles) = (rows.div_ceil(TILE), slots.div_ceil(TILE));
        Self { group, row_tiles, slot_tiles, bits: vec![0; group * row_tiles * slot_tiles.div_ceil(64)] }
    }

    /// Tiles of rows.
    pub fn row_tiles(&self) -> usize {
        self.row_tiles
    }

    /// Tiles of slots.
    pub fn slot_tiles(&self) -> usize {
        self.slot_tiles
    }

    /// Sets whether rows `64 row_tile ..` of head `head` of the group look at slots `64 slot_tile ..`.
    ///
    /// # Panics
    /// When there is no such head or tile.
    pub fn set(&mut self, head: usize, row_tile: usize, slot_tile: usize, looks: bool) {
        let (word, bit) = self.place(head, row_tile, slot_tile);
        self.bits[word] = self.bits[word] & !(1 << bit) | u64::from(looks) << bit;
    }

    /// As last set.
    ///
    /// # Panics
    /// When there is no such head or tile.
    pub fn get(&self, head: usize, row_tile: usize, slot_tile: usize) -> bool {
        let (word, bit) = self.place(head, row_tile, slot_tile);
        self.bits[word] >> bit & 1 == 1
    }

    fn place(&self, head: usize, row_tile: usize, slot_tile: usize) -> (usize, usize) {
        assert!(
            head < self.group && row_tile < self.row_tiles && slot_tile < self.slot_tiles,
            "a tile that exists"
        );
        ((head * self.row_tiles + row_tile) * self.words() + slot_tile / 64, slot_tile % 64)
    }

    /// Words of one tile of rows.
    fn words(&self) -> usize {
        self.slot_tiles.div_ceil(64)
    }

    /// One bit per tile of slots, for the rows of the tile that row `row` is in.
    pub(super) fn row(&self, head: usize, row: usize) -> &[u64] {
        &self.bits[(head * self.row_tiles + row / TILE) * self.words()..][..self.words()]
    }

    /// Whether it is made for `rows` rows of `group` heads in slots before `end`.
    pub(super) fn covers(&self, group: usize, rows: usize, end: usize) -> bool {
        self.group == group && self.row_tiles >= rows.div_ceil(TILE) && self.slot_tiles >= end.div_ceil(TILE)
    }
}

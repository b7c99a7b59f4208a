//! The last query rows of one strip's heads, for methods that rank by recent attention.

use serde::{Deserialize, Serialize};

/// Up to `rows` rows of `width` values with their positions, oldest first.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Ring {
    rows: usize,
    width: usize,
    q: Vec<f32>,
    pos: Vec<u32>,
}

impl Ring {
    pub(crate) fn new(rows: usize, width: usize) -> Self {
        Self { rows, width, q: Vec::new(), pos: Vec::new() }
    }

    /// Adds one row; the oldest leaves when there are too many.
    pub(crate) fn push(&mut self, q: &[f32], pos: u32) {
        debug_assert_eq!(q.len(), self.width);
        if self.pos.len() == self.rows {
            self.q.drain(..self.width);
            self.pos.remove(0);
        }
        self.q.extend_from_slice(q);
        self.pos.push(pos);
    }

    /// `[rows, group, head_dim]`
    pub(crate) fn queries(&self) -> &[f32] {
        &self.q
    }

    pub(crate) fn positions(&self) -> &[u32] {
        &self.pos
    }

    /// Whether another is one of the same sizes, and whole.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let is_whole = other.q.len() == other.pos.len() * other.width && other.pos.len() <= other.rows;
        (self.rows, self.width) == (other.rows, other.width) && is_whole
    }

    /// Bytes held now.
    pub(crate) fn bytes(&self) -> usize {
        (self.q.len() + self.pos.len()) * 4
    }

    /// Rows worth pushing when `rows` come at once: earlier ones would leave again.
    pub(crate) fn last_of(&self, rows: usize) -> usize {
        rows.saturating_sub(self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_row_leaves() {
        let mut ring = Ring::new(2, 1);
        for i in 0..5 {
            ring.push(&[i as f32], i);
        }
        assert_eq!((ring.queries(), ring.positions()), (&[3.0, 4.0][..], &[3, 4][..]));
        assert_eq!(ring.last_of(5), 3);
    }
}

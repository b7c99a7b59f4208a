//! Views of matrices.

use super::batch::{Level, MOST_LEVELS};
use eunoe_core::{Error, Result};

/// A matrix to read: element (i, j) at `data[i * row_stride + j * col_stride]`.
#[derive(Debug)]
pub struct Mat<'a, T> {
    pub(super) data: &'a [T],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<T> Clone for Mat<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Mat<'_, T> {}

impl<'a, T> Mat<'a, T> {
    /// A view of `[rows, cols]` elements with these strides, in elements; a stride of 0 repeats.
    ///
    /// # Errors
    /// [`Error::Shape`] where `data` is too short.
    pub fn new(
        data: &'a [T],
        [rows, cols]: [usize; 2],
        [row_stride, col_stride]: [usize; 2],
    ) -> Result<Self> {
        let span = span(&[(rows, row_stride), (cols, col_stride)]);
        match span {
            Some(span) if span <= data.len() => Ok(Self { data, rows, cols, row_stride, col_stride }),
            _ => {
                let want = format!("{rows} x {cols} elements at strides {row_stride}, {col_stride}");
                Err(Error::shape("data of a matrix", want, data.len()))
            }
        }
    }

    /// A view of `[rows, cols]` in row-major order without gaps.
    ///
    /// # Errors
    /// [`Error::Shape`] where `data` is too short.
    pub fn row_major(data: &'a [T], rows: usize, cols: usize) -> Result<Self> {
        Self::new(data, [rows, cols], [cols, 1])
    }

    /// The transposed view.
    #[must_use]
    pub fn t(self) -> Self {
        let Self { data, rows, cols, row_stride, col_stride } = self;
        Self { data, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn check_levels(
        &self,
        what: &str,
        levels: impl Iterator<Item = (usize, usize)>,
    ) -> Result<()> {
        let mut axes = [(1, 0); MOST_LEVELS + 2];
        let own = [(self.rows, self.row_stride), (self.cols, self.col_stride)];
        axes.iter_mut().zip(own.into_iter().chain(levels)).for_each(|(axis, of)| *axis = of);
        match span(&axes) {
            Some(span) if span <= self.data.len() => Ok(()),
            span => Err(Error::shape(format!("data of all {what}"), span, self.data.len())),
        }
    }
}

/// A matrix to write, in row-major order with rows `row_stride` apart, and whether products replace what it holds.
#[derive(Debug)]
pub struct Out<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) row_stride: usize,
    pub(super) add: bool,
}

impl<'a> Out<'a> {
    /// The product replaces what is there.
    pub fn set(data: &'a mut [f32], row_stride: usize) -> Self {
        Self { data, row_stride, add: false }
    }

    /// The product is added to what is there.
    pub fn add(data: &'a mut [f32], row_stride: usize) -> Self {
        Self { data, row_stride, add: true }
    }

    /// That `[rows, cols]` of all levels lie inside, and no element twice.
    pub(super) fn check(&self, rows: usize, cols: usize, levels: &[Level]) -> Result<()> {
        let mut axes = [(1, 0); MOST_LEVELS + 2];
        let own = [(cols, 1), (rows, self.row_stride)].into_iter();
        let all = own.chain(levels.iter().map(|l| (l.count, l.out)));
        axes.iter_mut().zip(all).for_each(|(axis, of)| *axis = of);
        let len = self.data.len();
        if span(&axes).is_none_or(|span| span > len) {
            let want = format!("{rows} x {cols} elements, rows {} apart, and {levels:?}", self.row_stride);
            return Err(Error::shape("outputs", want, len));
        }
        if axes.iter().any(|(count, _)| *count == 0) {
            return Ok(());
        }
        // By ascending stride, each axis must step over all that the axes before it reach.
        axes.sort_unstable_by_key(|(_, stride)| *stride);
        let mut reach = 1;
        for (count, stride) in axes.into_iter().filter(|(count, _)| *count > 1) {
            if stride < reach {
                let want = format!("strides that keep rows of {cols} and products apart");
                return Err(Error::shape("outputs", want, (self.row_stride, levels)));
            }
            reach += (count - 1) * stride;
        }
        Ok(())
    }
}

/// Elements from the first to the last of axes `(count, stride)`; `None` where that is past counting.
fn span(axes: &[(usize, usize)]) -> Option<usize> {
    if axes.iter().any(|(count, _)| *count == 0) {
        return Some(0);
    }
    axes.iter().try_fold(1usize, |sum, (count, stride)| sum.checked_add((count - 1).checked_mul(*stride)?))
}

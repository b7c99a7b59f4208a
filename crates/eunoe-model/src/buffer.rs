//! Rows of f32 whose memory is used again: fresh memory costs a page fault every 4 KiB, more than many operations.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Rows of f32; their memory goes back to where it came from when they are dropped.
#[derive(Default)]
pub struct Buffer {
    data: Vec<f32>,
    len: usize,
    home: Option<Arc<Buffers>>,
}

/// Memory of dropped buffers.
#[derive(Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<f32>>>);

impl Buffers {
    /// `len` values, left over from earlier use (NaN where debug assertions are on).
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = (0..free.len()).rev().filter(|i| free[*i].len() >= len).min_by_key(|i| free[*i].len());
        let found = match fitting {
            Some(i) => Some(free.swap_remove(i)),
            None => {
                free.pop(); // a larger one takes its place, so that the number does not grow
                None
            }
        };
        drop(free);
        let mut data = found.unwrap_or_else(|| vec![0.0; len]);
        if cfg!(debug_assertions) {
            data[..len].fill(f32::NAN);
        }
        Buffer { data, len, home: Some(Arc::clone(self)) }
    }
}

impl Buffer {
    /// Leaves it without values; its memory stays.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(data: Vec<f32>) -> Self {
        Self { len: data.len(), data, home: None }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            let data = std::mem::take(&mut self.data);
            home.0.lock().unwrap_or_else(PoisonError::into_inner).push(data);
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_where_it_is_large_enough() {
        let home = Arc::new(Buffers::default());
        let of = |len: usize| {
            let buffer = home.take(len);
            assert_eq!(buffer.len(), len);
            (buffer.as_ptr(), buffer)
        };
        let ((small, one), (large, two)) = (of(10), of(100));
        assert_ne!(small, large);
        drop((one, two));
        let ((first, one), (second, two)) = (of(7), of(7));
        assert_eq!((first, second), (small, large), "the smallest that is large enough");
        drop((one, two));
        let (_, huge) = of(1000);
        drop(huge);
        assert_eq!(home.0.lock().unwrap().len(), 2, "a larger one took the place of another");
    }
}

//! What grids of trainings have in common: their cells, who is told how they go, and workers that share them.

use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Device;
use eunoe_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::device::Devices;

/// One training of a grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Phrase of the mixer under test.
    pub mixer: String,
    /// The highest learning rate.
    pub lr: f64,
    /// Seed of first weights and examples.
    pub seed: u64,
}

/// Why a training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// All that was asked for is solved.
    Solved,
    /// All steps are taken.
    Steps,
    /// Loss or gradient became no number; the model was measured as it stood.
    Diverged,
}

/// Who is told how a grid goes. Workers tell at the same time.
pub trait Progress: Sync {
    /// Trainings that were done before; told first.
    fn resumed(&self, trainings: usize);
    /// A worker began a training.
    fn begins(&self, worker: usize, cell: &Cell);
    /// It took a step, the first being 1.
    fn step(&self, worker: usize, step: u64, loss: f64);
    /// It measured the model on what is never trained on: what was measured, and the value.
    fn valid(&self, worker: usize, what: &'static str, value: f64);
    /// It read a batch of what it measures the model on.
    fn measures(&self) {}
    /// It ended after `steps` steps, and its lines are kept.
    fn ends(&self, worker: usize, steps: u64);
}

/// A worker's way to tell how its training goes.
#[derive(Clone, Copy)]
pub(super) struct Told<'p> {
    pub worker: usize,
    pub progress: &'p dyn Progress,
}

impl Told<'_> {
    pub(super) fn step(self, step: u64, loss: f64) {
        self.progress.step(self.worker, step, loss);
    }

    pub(super) fn measures(self) {
        self.progress.measures();
    }

    pub(super) fn valid(self, what: &'static str, value: f64) {
        self.progress.valid(self.worker, what, value);
    }
}

/// How many trainings run at a time, and where.
#[derive(Clone, Copy)]
pub struct Workers<'d> {
    /// At a time; one at least.
    pub count: usize,
    /// Their devices, in turn.
    pub devices: &'d Devices,
}

impl<'d> Workers<'d> {
    /// So many, or one per device.
    pub fn new(count: Option<u16>, devices: &'d Devices) -> Self {
        Self { count: count.map_or(devices.count(), usize::from), devices }
    }

    /// Does all of `todo`, some at a time. Where one fails the others finish what they have begun.
    ///
    /// # Errors
    /// The first of `work`, and a device that is not there.
    pub fn share<T: Sync>(
        self,
        todo: &[T],
        work: &(dyn Fn(usize, &Device, &T) -> Result<()> + Sync),
    ) -> Result<()> {
        let next = &AtomicUsize::new(0);
        let all = |worker: usize| -> Result<()> {
            let device = self.devices.of(worker)?;
            while let Some(item) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                work(worker, &device, item)?;
            }
            Ok(())
        };
        let one = &|worker| all(worker).inspect_err(|_| next.store(todo.len(), Ordering::Relaxed));
        std::thread::scope(|scope| {
            let count = self.count.clamp(1, todo.len().max(1));
            let threads: Vec<_> = (0..count).map(|worker| scope.spawn(move || one(worker))).collect();
            let died = |_| Err(Error::Invalid("a training panicked".into()));
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(died))
        })
    }
}

/// Mean, and the sample's standard deviation where there are two values at least.
pub(super) fn mean_sd(values: impl Iterator<Item = f64> + Clone) -> (f64, Option<f64>) {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    let square: f64 = values.map(|value| (value - mean).powi(2)).sum();
    (mean, (n > 1.0).then(|| (square / (n - 1.0)).sqrt()))
}

/// Told of nothing.
#[cfg(test)]
pub(super) struct Silent;

#[cfg(test)]
impl Progress for Silent {
    fn resumed(&self, _: usize) {}
    fn begins(&self, _: usize, _: &Cell) {}
    fn step(&self, _: usize, _: u64, _: f64) {}
    fn valid(&self, _: usize, _: &'static str, _: f64) {}
    fn ends(&self, _: usize, _: u64) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn each_item_is_done_once_and_a_failure_ends_all() {
        let devices = Devices::parse("cpu").unwrap();
        let items: Vec<usize> = (0..40).collect();
        let done = Mutex::new(Vec::new());
        let note = |_: usize, _: &Device, item: &usize| {
            done.lock().unwrap().push(*item);
            if *item == 30 { Err(Error::Invalid("no".into())) } else { Ok(()) }
        };
        Workers { count: 3, devices: &devices }.share(&items[..30], &note).unwrap();
        let mut seen = std::mem::take(&mut *done.lock().unwrap());
        seen.sort_unstable();
        assert_eq!(seen, items[..30]);
        let one = Workers { count: 1, devices: &devices };
        assert!(one.share(&items, &note).unwrap_err().to_string().contains("no"));
        assert_eq!(*done.lock().unwrap(), items[..31]);
    }

    #[test]
    fn means_by_hand() {
        assert_eq!(mean_sd([2.0].into_iter()), (2.0, None));
        // 1 and 3: 2, and √(1 + 1)
        assert_eq!(mean_sd([1.0, 3.0].into_iter()), (2.0, Some(2f64.sqrt())));
    }
}

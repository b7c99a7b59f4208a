//! Counts hot KV bytes where they are allocated, against a cap that is never passed.

use eunoe_core::{Error, Result};

/// The bytes of one sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Most bytes at any moment.
    pub cap: u64,
    /// Bytes now.
    pub live: u64,
    /// Most bytes so far.
    pub peak: u64,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(cap: u64) -> Self {
        Self { cap, live: 0, peak: 0 }
    }

    /// Takes `bytes` before they are written.
    ///
    /// # Errors
    /// [`Error::Limit`] when the cap would be passed: nothing is taken then.
    pub fn take(&mut self, bytes: u64) -> Result<()> {
        let live = self.live + bytes;
        if live > self.cap {
            let hint = "the engine appended without making room: please report this".into();
            return Err(Error::Limit {
                what: "bytes of KV memory".into(),
                asked: live,
                have: self.cap,
                hint,
            });
        }
        self.live = live;
        self.peak = self.peak.max(live);
        Ok(())
    }

    /// Gives `bytes` back.
    pub fn give(&mut self, bytes: u64) {
        self.live -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_is_hard_and_the_peak_remembers() {
        let mut ledger = Ledger::new(10);
        ledger.take(7).unwrap();
        assert!(ledger.take(4).is_err());
        assert_eq!(ledger, Ledger { cap: 10, live: 7, peak: 7 });
        ledger.take(3).unwrap();
        ledger.give(8);
        assert_eq!(ledger, Ledger { cap: 10, live: 2, peak: 10 });
    }
}

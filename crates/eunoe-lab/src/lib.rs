//! Sequence mixers that can be trained, proven and compared: one decoder, one training loop, a shelf of mixers.
//!
//! A [`Mixer`] is what stands between the tokens of a decoder block. Training, prefill and decode are one call,
//! "continue from this state with these tokens", so that what is proven of one holds for all.

pub mod bench;
pub mod bridge;
pub mod device;
pub mod mixers;
pub mod nets;
pub mod ops;
pub mod process;
pub mod streams;
pub mod train;

#[cfg(test)]
mod laws;
mod mixer;

pub use mixer::{Cost, Ctx, Mixer, Probe, Split, State};

/// A result of tensor work.
pub type Result<T> = candle_core::Result<T>;

/// An error of tensor work as one of ours.
fn invalid(error: candle_core::Error) -> eunoe_core::Error {
    eunoe_core::Error::Invalid(error.to_string())
}

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

use serde_json::Value;

pub use mixer::{Cost, Ctx, Mixer, Probe, Split, State};

/// A result of tensor work.
pub type Result<T> = candle_core::Result<T>;

/// An error of tensor work as one of ours.
fn invalid(error: candle_core::Error) -> eunoe_core::Error {
    eunoe_core::Error::Invalid(error.to_string())
}

/// The first thing in which `asked` is not what is `there`.
fn difference(name: &str, there: &Value, asked: &Value) -> Option<String> {
    if let (Value::Object(there), Value::Object(asked)) = (there, asked) {
        let gone = |key: &&String| !asked.contains_key(*key);
        let keys = asked.keys().chain(there.keys().filter(gone));
        let at = |map: &serde_json::Map<String, Value>, key| map.get(key).cloned().unwrap_or(Value::Null);
        return keys.into_iter().find_map(|key| difference(key, &at(there, key), &at(asked, key)));
    }
    (there != asked).then(|| format!("`{name}`: {there} there, {asked} asked for"))
}

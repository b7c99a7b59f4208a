//! The cards of the storage codecs; the kernels hold their code.

use eunoe_core::{Card, Codec, Shelf};

/// A codec on the shelf.
#[derive(Clone, Copy, Debug)]
pub struct CodecEntry {
    /// Its entry in every list.
    pub card: Card,
    /// What it is to the store.
    pub codec: Codec,
}

/// Every codec.
pub static LIST: &[&CodecEntry] = &[
    &entry(Codec::F32, "f32", "Single precision", "stores keys and values in 4 bytes each, as computed"),
    &entry(Codec::F16, "f16", "Half precision", "stores keys and values in 2 bytes each"),
    &entry(Codec::Q8, "q8", "8-bit blocks", "stores 32 values as signed bytes with one f16 scale: 34 bytes"),
];

const fn entry(codec: Codec, id: &'static str, name: &'static str, idea: &'static str) -> CodecEntry {
    CodecEntry { card: Card { id, shelf: Shelf::Codec, name, paper: "", idea, args: &[] }, codec }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_is_listed_under_its_id() {
        assert_eq!(LIST.iter().map(|e| e.codec).collect::<Vec<_>>(), Codec::ALL);
        assert!(LIST.iter().all(|e| e.card.id == e.codec.id()));
    }
}

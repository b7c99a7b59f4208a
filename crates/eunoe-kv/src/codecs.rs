//! The cards of the storage codecs; the kernels hold their code.

use eunoe_core::{Arg, Card, Codec, Kind, Shelf};

use crate::Args;
use crate::common::arg;

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
    &entry(Codec::F32, "f32", "Single precision", "stores keys and values in 4 bytes each, as computed", &[]),
    &entry(Codec::F16, "f16", "Half precision", "stores keys and values in 2 bytes each", &[VALUES]),
    &entry(
        Codec::Q8,
        "q8",
        "8-bit blocks",
        "stores 32 values as signed bytes with one f16 scale: 34 bytes",
        &[VALUES],
    ),
    &entry(
        Codec::Q4,
        "q4",
        "4-bit blocks",
        "stores 32 values as half bytes with an f16 scale and an f16 minimum: 20 bytes",
        &[VALUES],
    ),
];

const VALUES: Arg = arg(
    "v",
    Kind::Choice(&["f16", "q8", "q4"]),
    "as the keys",
    "how values are stored, where not as the keys are",
);

const fn entry(
    codec: Codec,
    id: &'static str,
    name: &'static str,
    idea: &'static str,
    args: &'static [Arg],
) -> CodecEntry {
    CodecEntry { card: Card { id, shelf: Shelf::Codec, name, paper: "", idea, args }, codec }
}

/// How values are stored under an entry with these arguments.
pub(crate) fn of_values(entry: &CodecEntry, args: &Args) -> Codec {
    let named = if entry.card.args.is_empty() { None } else { args.given_word("v") };
    LIST.iter().find(|e| named == Some(e.card.id)).map_or(entry.codec, |e| e.codec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plan;

    #[test]
    fn every_codec_is_listed_under_its_id() {
        assert_eq!(LIST.iter().map(|e| e.codec).collect::<Vec<_>>(), Codec::ALL);
        assert!(LIST.iter().all(|e| e.card.id == e.codec.id()));
    }

    #[test]
    fn values_may_be_stored_in_another_way_than_keys() {
        let codecs = |plan: &str| Plan::parse(plan).map(|plan| (plan.codec.unwrap(), plan.to_string()));
        let (both, text) = codecs("h2o | q4").unwrap();
        assert_eq!((both.k, both.v, text.as_str()), (Codec::Q4, Codec::Q4, "h2o | q4"));
        let (apart, text) = codecs("h2o | q8(v=q4)").unwrap();
        assert_eq!((apart.k, apart.v, text.as_str()), (Codec::Q8, Codec::Q4, "h2o | q8(v=q4)"));
        assert_eq!(codecs("full | q8(v=q8)").unwrap().1, "full | q8");
        for wrong in ["full | f32(v=q8)", "full | q8(v=f32)", "full | q4(k=q8)"] {
            assert!(codecs(wrong).is_err(), "{wrong}");
        }
    }
}

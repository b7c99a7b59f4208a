//! The cards of the storage codecs; the kernels hold their code.

use eunoe_core::{Arg, Card, Codec, Kind, Shelf};

use crate::Args;
use crate::common::{SIZE, arg};

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
        &[VALUES, RESIDUAL],
    ),
    &entry(
        Codec::Q4,
        "q4",
        "4-bit blocks",
        "stores 32 values as half bytes with an f16 scale and an f16 minimum: 20 bytes",
        &[VALUES, RESIDUAL],
    ),
];

const VALUES: Arg = arg(
    "v",
    Kind::Choice(&["f16", "q8", "q4"]),
    "as the keys",
    "how values are stored, where not as the keys are",
);

const RESIDUAL: Arg =
    arg("residual", SIZE, "0", "newest slots that are read from an f16 copy, to be held beside");

const fn entry(
    codec: Codec,
    id: &'static str,
    name: &'static str,
    idea: &'static str,
    args: &'static [Arg],
) -> CodecEntry {
    CodecEntry { card: Card { id, shelf: Shelf::Codec, name, paper: "", idea, args }, codec }
}

/// Newest slots that are held in f16 too.
pub(crate) fn residual(entry: &CodecEntry, args: &Args) -> u32 {
    if entry.card.args.iter().any(|arg| arg.name == RESIDUAL.name) { args.int(RESIDUAL.name) } else { 0 }
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
        for text in ["full | q4(residual=64)", "h2o | q8(v=q4, residual=32) @ 512tok"] {
            assert_eq!(codecs(text).unwrap().1, text);
        }
        for (wrong, why) in [
            ("hip_attention | q4(residual=64)", "chooses or moves slots itself"),
            ("streaming_llm | q4(residual=64)", "chooses or moves slots itself"),
            ("h2o | q4(residual=64) @ 64tok", "68 asked"),
            ("full | f16(residual=1)", "no argument `residual`"),
        ] {
            let error = codecs(wrong).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        for wrong in ["full | f32(v=q8)", "full | q8(v=f32)", "full | q4(k=q8)"] {
            assert!(codecs(wrong).is_err(), "{wrong}");
        }
    }
}

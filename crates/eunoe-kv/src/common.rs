//! What several policies declare and derive alike.

use eunoe_core::{Arg, Error, Kind, Result};

use crate::{Args, Column, Fold, Needs, Place, select};

/// A number of slots or rows, zero allowed.
pub(crate) const SIZE: Kind = Kind::Int { min: 0, max: 1 << 24 };
/// A number of slots or rows.
pub(crate) const COUNT: Kind = Kind::Int { min: 1, max: 1 << 24 };

/// An argument of a card.
pub(crate) const fn arg(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Arg {
    Arg { name, kind, default, help }
}

/// Slots dropped at once; read with [`step`].
pub(crate) const STEP: Arg = arg(
    "step",
    COUNT,
    "slots/16, from 1 to 64",
    "slots dropped at once when a strip is full; 1 is the papers' per-token rule",
);
/// Own or rank positions; read with [`place`].
pub(crate) const POS: Arg = arg(
    "pos",
    Kind::Choice(&["own", "rank"]),
    "own",
    "positions that the model sees: the token's own, or its rank in the strip",
);
/// Streaming or the published mode; read with [`dense`].
pub(crate) const PREFILL: Arg = arg(
    "prefill",
    Kind::Choice(&["streaming", "dense"]),
    "streaming",
    "evict while reading, or see the whole prompt first and trim it at its end, as published",
);
/// What the published mode trims to.
pub(crate) const KEEP: Arg = arg("keep", COUNT, "none", "with prefill=dense: slots kept of the prompt");
/// Whether the published mode goes on evicting.
pub(crate) const EVICT: Arg = arg(
    "evict",
    Kind::Choice(&["on", "off"]),
    "on",
    "with prefill=dense: whether eviction goes on in the answer",
);

/// The first tokens of the text, protected.
pub(crate) const fn sinks(default: &'static str) -> Arg {
    arg("sinks", SIZE, default, "first tokens of the text that are never evicted")
}

/// The newest tokens, protected.
pub(crate) const fn recent(default: &'static str) -> Arg {
    arg("recent", COUNT, default, "newest tokens that are never evicted")
}

/// [`STEP`]: by default a sixteenth of the strip, which costs one more attention run per sixteenth.
pub(crate) fn step(args: &Args, slots: u32) -> u32 {
    args.given_int("step").unwrap_or((slots / 16).clamp(1, 64))
}

fn place(args: &Args) -> Place {
    if args.word("pos") == "rank" { Place::Rank } else { Place::Own }
}

/// [`PREFILL`] and [`KEEP`]: `Some(keep)` in the published mode.
///
/// # Errors
/// One of the two without the other.
pub(crate) fn dense(args: &Args) -> Result<Option<u32>> {
    match (args.word("prefill"), args.given_int("keep")) {
        ("dense", None) => Err(Error::Invalid(
            "`prefill=dense` needs `keep=` (slots kept of the prompt), e.g. `prefill=dense, keep=256`".into(),
        )),
        ("streaming", Some(keep)) => Err(Error::Invalid(format!(
            "`keep={keep}` needs `prefill=dense`; a streaming plan is sized by its budget, e.g. `@ {keep}tok`"
        ))),
        (_, keep) => Ok(keep),
    }
}

/// In the published mode the protected slots must fit into `keep`, with room for a step where eviction goes on.
pub(crate) fn settle(needs: Needs) -> Result<Needs> {
    if let Some(keep) = needs.keep {
        let step = if needs.evicts_in_decode { needs.step } else { 1 };
        select::check_room(&Needs { step, ..needs }, keep)?;
    }
    Ok(needs)
}

/// The arguments beside `alpha` and `recent` of the policies that rank by attention received so far.
pub(crate) fn accumulated(args: &Args, slots: u32, decay: f32, recent: fn(u32) -> u32) -> Result<Needs> {
    let keep = dense(args)?;
    let evicts_in_decode = args.word("evict") == "on";
    if keep.is_none() && !evicts_in_decode {
        return Err(Error::Invalid(
            "`evict=off` needs `prefill=dense`: a streaming plan always evicts".into(),
        ));
    }
    let slots = keep.map_or(slots, |keep| keep.min(slots));
    settle(Needs {
        column: Column::Running { decay },
        fold: Fold::Sum,
        place: place(args),
        sinks: args.int("sinks"),
        recent: args.given_int("recent").unwrap_or_else(|| recent(slots).max(1)),
        step: step(args, slots),
        keep,
        evicts_in_decode,
    })
}

//! What several policies declare and derive alike.

use eunoe_core::{Arg, Error, Kind, Result};

use crate::recall::Sizes;
use crate::{Args, Column, Fold, Needs, Place, select};

/// A number of slots or rows, zero allowed.
pub(crate) const SIZE: Kind = Kind::Int { min: 0, max: 1 << 24 };
/// A number of slots or rows.
pub(crate) const COUNT: Kind = Kind::Int { min: 1, max: 1 << 24 };

/// A number of slots that are protected while one beside them leaves.
pub(crate) const TWO: Kind = Kind::Int { min: 2, max: 1 << 24 };

/// A share of something.
pub(crate) const SHARE: Kind = Kind::Float { min: 0.0, max: 1.0 };

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

/// Newest slots of a policy that recalls blocks; this and the following are read with [`recall`].
pub(crate) const LOCAL: Arg =
    arg("local", COUNT, "1024", "newest tokens that a row sees at their own positions");
/// Slots that come back.
pub(crate) const MEMORY: Arg =
    arg("memory", COUNT, "1024", "most slots that come back from the cold tier at once");
/// Slots of a block.
pub(crate) const BLOCK: Arg = arg("block", Kind::Int { min: 1, max: 1 << 16 }, "128", "tokens of a block");
/// Slots that stand for a block.
pub(crate) const KEYS: Arg =
    arg("keys", COUNT, "4", "slots of a block, those looked at most, whose mean key is searched for");
/// Rows read at once.
pub(crate) const PASS: Arg = arg(
    "pass",
    COUNT,
    "512",
    "tokens of the prompt that are read at once, for which blocks come back together",
);
/// Where far slots seem to be.
pub(crate) const FAR: Arg = arg(
    "far",
    Kind::Choice(&["fixed", "own"]),
    "fixed",
    "positions of what lies beyond `local`: all at its border, or each token's own",
);
/// The cap of the cold tier.
pub(crate) const COLD: Arg =
    arg("cold", Kind::Bytes, "none", "bytes that the cold tier may take; more is refused");
/// Where the cold tier is.
pub(crate) const TIER: Arg = arg(
    "tier",
    Kind::Choice(&["memory", "disk"]),
    "memory",
    "where blocks wait; on disk in a file without a name in the system's temporary folder",
);

/// Sinks, and the sizes of a policy that recalls blocks.
///
/// # Errors
/// Sizes that contradict each other.
pub(crate) fn recall(args: &Args) -> Result<(u32, Sizes)> {
    let sizes = Sizes {
        local: args.int("local"),
        slots: args.int("memory"),
        block: args.int("block"),
        pass: args.int("pass"),
        keys: args.int("keys"),
        own: args.word("far") == "own",
        grouped: None,
        surprisal: false,
        cold: args.given_bytes("cold"),
        disk: args.word("tier") == "disk",
    };
    let Sizes { local, slots, block, pass, keys, .. } = sizes;
    if pass > local {
        return Err(Error::Invalid(format!(
            "`pass={pass}` rows see each other and `local={local}` tokens: at most so many"
        )));
    }
    if slots < block {
        return Err(Error::Invalid(format!("`memory={slots}` holds no block of {block}")));
    }
    if keys > block {
        return Err(Error::Invalid(format!("`keys={keys}` are more than a block of {block} has")));
    }
    Ok((args.int("sinks"), sizes))
}

/// What a policy needs that recalls blocks by the slots that were looked at most.
pub(crate) fn recalls(sinks: u32, sizes: Sizes) -> Needs {
    let column = Column::Running { decay: 1.0 };
    Needs { column, sinks, recent: sizes.local, recall: Some(sizes), ..Needs::PLAIN }
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
        ..Needs::PLAIN
    })
}

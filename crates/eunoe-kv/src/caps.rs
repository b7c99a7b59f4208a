//! From a budget to caps: how many slots each strip may hold, never more than the budget in sum.

use eunoe_core::{Error, Result};

use crate::{Claim, Needs, select};

/// What the strips ask for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Of the policy.
    pub needs: &'a Needs,
    /// One per strip, layer-major (`layer * kv_heads + kv_head`).
    pub claims: &'a [Claim],
    /// One positive weight per strip; those of strips that claim everything are not read.
    pub weights: &'a [f32],
    /// Share of its cap that a strip keeps in any case, below 1: `Allocate::pooled`, else 0.
    pub floor: f32,
    /// Most tokens that the text can come to have: prompt and answer.
    pub longest: u32,
}

/// What there is to share.
#[derive(Clone, Copy, Debug)]
pub enum Room {
    /// Bytes, at so many bytes a slot.
    Bytes {
        /// All that the strips may take together.
        bytes: u64,
        /// Of one slot with everything that travels with it; above 0.
        slot: u64,
    },
    /// Slots per strip, on average.
    Slots(u32),
}

impl Room {
    /// Slots in all, over this many strips.
    fn slots(self, strips: usize) -> u64 {
        match self {
            Self::Bytes { bytes, slot } => bytes / slot.max(1),
            Self::Slots(mean) => u64::from(mean) * strips as u64,
        }
    }

    /// Mean slots per strip, from which policies derive their default sizes.
    pub fn mean(self, strips: usize) -> u32 {
        u32::try_from(self.slots(strips) / strips.max(1) as u64).unwrap_or(u32::MAX)
    }

    /// `asked` slots are more than there are: both numbers in the budget's own unit.
    fn refuse(self, what: &str, asked: u64, strips: usize, hint: &str) -> Error {
        let (unit, asked, have) = match self {
            Self::Bytes { bytes, slot } => ("bytes", asked.saturating_mul(slot), bytes),
            Self::Slots(_) => ("slots", asked, self.slots(strips)),
        };
        Error::Limit { what: format!("{unit} of KV memory for {what}"), asked, have, hint: hint.into() }
    }
}

/// The cap of each strip, layer-major. A strip that claims everything gets `longest`, one that claims a number gets it
/// (at most `longest`). Every other first gets the least with which it can evict, `sinks + recent + step` (and `step`
/// above its floor), then its share of the rest by weight, at most `longest` in all; what it cannot use goes to the
/// others by weight.
///
/// # Errors
/// [`Error::Limit`] if the whole claims or the least slots exceed the room, with both numbers; [`Error::Shape`] if
/// claims and weights differ in number; [`Error::Invalid`] for a weight that is not positive.
pub fn caps(ask: &Ask<'_>, room: Room) -> Result<Vec<u32>> {
    let strips = ask.claims.len();
    if ask.weights.len() != strips {
        return Err(Error::shape("weights of strips", strips, ask.weights.len()));
    }
    let longest = u64::from(ask.longest);
    let sharing: Vec<usize> = (0..strips).filter(|&i| ask.claims[i] == Claim::Share).collect();
    let fixed: Vec<u64> = ask.claims.iter().map(|claim| claimed(*claim, longest)).collect();
    let whole: u64 = fixed.iter().sum();
    let total = room.slots(strips);
    if let Some(few) = ask.claims.iter().find_map(|claim| too_few(ask.needs, *claim)) {
        return Err(few);
    }
    if whole > total {
        let what = match ask.claims.iter().any(|claim| matches!(claim, Claim::Fixed(_))) {
            true => format!("strips that keep all of {longest} tokens, and those of a fixed size"),
            false => format!("strips that keep all of {longest} tokens"),
        };
        let hint = "`eunoe plan` shows what fits: a shorter text, a smaller codec such as `q8`, a policy that \
                    forgets, or a larger budget";
        return Err(room.refuse(&what, whole, strips, hint));
    }
    let least = least(ask)?.min(longest);
    let base = sharing.len() as u64 * least;
    if base > total - whole {
        let what = format!("at least {least} slots in each of {} strips", sharing.len());
        let what = if whole > 0 { format!("{what} beside those that keep everything") } else { what };
        let hint = "`eunoe plan` shows what fits: smaller sinks, recent or step, a smaller codec such as `q8`, or a \
                    larger budget";
        return Err(room.refuse(&what, whole + base, strips, hint));
    }
    let shares = fill(&fixed_point(ask.weights, &sharing)?, total - whole - base, longest - least);
    let mut caps: Vec<u32> = fixed.iter().map(|slots| *slots as u32).collect();
    for (i, share) in sharing.into_iter().zip(shares) {
        caps[i] = (least + share) as u32;
    }
    Ok(caps)
}

/// Slots that a claim names; 0 for a share.
fn claimed(claim: Claim, longest: u64) -> u64 {
    match claim {
        Claim::Share => 0,
        Claim::Fixed(slots) => u64::from(slots).min(longest),
        Claim::Whole => longest,
    }
}

/// The error of a claim with which a strip could not evict.
fn too_few(needs: &Needs, claim: Claim) -> Option<Error> {
    let Claim::Fixed(slots) = claim else { return None };
    select::check_room(needs, slots).err()
}

/// The fewest slots with which a strip can evict and keep its floor: `cap - floor * cap >= step`.
fn least(ask: &Ask<'_>) -> Result<u64> {
    let free = 1.0 - f64::from(ask.floor);
    if !(free > 0.0 && free <= 1.0) {
        return Err(Error::Invalid(format!("a floor of `{}` is not from 0 to below 1", ask.floor)));
    }
    let above_floor = (f64::from(ask.needs.step) / free).ceil() as u64;
    Ok(select::least(ask.needs).max(above_floor))
}

/// Weights as whole numbers, the largest 2^32: exact sums, and the same caps on every machine.
fn fixed_point(weights: &[f32], strips: &[usize]) -> Result<Vec<u64>> {
    let weights: Vec<f64> = strips.iter().map(|&i| f64::from(weights[i])).collect();
    if let Some(bad) = weights.iter().find(|w| !(w.is_finite() && **w > 0.0)) {
        return Err(Error::Invalid(format!("a strip's weight of `{bad}` is not a positive number")));
    }
    let most = weights.iter().copied().fold(0.0, f64::max);
    Ok(weights.into_iter().map(|w| ((w / most * 4_294_967_296.0) as u64).max(1)).collect())
}

/// Shares `slots` by weight, each at most `limit`: whoever would pass it is set to it and leaves, until nobody does.
fn fill(weights: &[u64], mut slots: u64, limit: u64) -> Vec<u64> {
    let mut shares = vec![0; weights.len()];
    let mut open: Vec<usize> = (0..weights.len()).collect();
    loop {
        let sum: u128 = open.iter().map(|&i| u128::from(weights[i])).sum();
        for &i in &open {
            shares[i] = (u128::from(slots) * u128::from(weights[i]) / sum) as u64;
        }
        let before = open.len();
        open.retain(|&i| shares[i] < limit);
        for share in shares.iter_mut().filter(|share| **share > limit) {
            *share = limit;
        }
        if open.len() == before || open.is_empty() {
            return shares;
        }
        slots -= (before - open.len()) as u64 * limit;
    }
}

/// Caps and kept slots of the published mode, which holds the prompt whole before it trims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dense {
    /// The most that each strip ever holds, layer-major.
    pub caps: Vec<u32>,
    /// What each strip is trimmed to at the end of the prompt, by weight; the mean is the plan's `keep`.
    pub keeps: Vec<u32>,
}

/// [`caps`] for a policy that needs `keep`: room for a prompt of `prompt` tokens in every strip.
///
/// # Errors
/// As [`caps`], and [`Error::Limit`] if prompt, and answer where nothing is evicted in it, exceed the room.
pub fn dense(ask: &Ask<'_>, keep: u32, prompt: u32, room: Room) -> Result<Dense> {
    let needs = Needs { step: if ask.needs.evicts_in_decode { ask.needs.step } else { 1 }, ..*ask.needs };
    let keeps = caps(&Ask { needs: &needs, ..*ask }, Room::Slots(keep))?;
    let prompt = prompt.min(ask.longest);
    let peak = |keep: u32| match needs.evicts_in_decode {
        true => keep.max(prompt),
        false => (keep.min(prompt) + (ask.longest - prompt)).max(prompt),
    };
    let caps: Vec<u32> = keeps.iter().map(|&keep| peak(keep)).collect();
    let asked = caps.iter().map(|&cap| u64::from(cap)).sum();
    if asked > room.slots(caps.len()) {
        let what = format!("the whole prompt of {prompt} tokens, as `prefill=dense` reads it");
        let hint = "the streaming mode (without `prefill=dense`) reads it within the budget";
        return Err(room.refuse(&what, asked, caps.len(), hint));
    }
    Ok(Dense { caps, keeps })
}

#[cfg(test)]
mod tests;

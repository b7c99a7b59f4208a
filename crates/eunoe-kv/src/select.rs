//! The guard of every policy: which slots go, given the scores. Protected slots never do.

use std::cmp::Ordering;

use eunoe_core::{Error, Result};

use crate::{Needs, Pos};

/// Whether a slot may never be evicted while `now` is the newest stored position.
pub fn is_protected(needs: &Needs, pos: Pos, now: Pos) -> bool {
    pos < needs.sinks || pos.saturating_add(needs.recent) > now
}

/// The fewest slots with which a strip can evict: `sinks + recent + step`.
pub fn least(needs: &Needs) -> u64 {
    u64::from(needs.sinks) + u64::from(needs.recent) + u64::from(needs.step)
}

/// Checks that a strip of `cap` slots can always give up `step` of them.
///
/// # Errors
/// [`Error::Limit`] if `sinks + recent + step > cap`.
pub fn check_room(needs: &Needs, cap: u32) -> Result<()> {
    let asked = least(needs);
    if asked <= u64::from(cap) {
        return Ok(());
    }
    let Needs { sinks, recent, step, .. } = needs;
    Err(Error::Limit {
        what: format!("slots per strip (sinks {sinks} + recent {recent} + step {step})"),
        asked,
        have: u64::from(cap),
        hint: format!("name smaller sizes in the plan, or give it room for {asked} slots per strip"),
    })
}

/// Writes the indices of the `count` slots to drop into `out`, ascending: those of lowest score that are not
/// protected, of equals the higher position first. NaN ranks lowest.
///
/// # Errors
/// [`Error::Limit`] if fewer than `count` slots are unprotected, which [`check_room`] rules out for a full strip.
pub fn evict(
    needs: &Needs,
    scores: &[f32],
    pos: &[Pos],
    now: Pos,
    count: usize,
    out: &mut Vec<u32>,
) -> Result<()> {
    debug_assert_eq!(scores.len(), pos.len());
    out.clear();
    out.extend((0..pos.len() as u32).filter(|&i| !is_protected(needs, pos[i as usize], now)));
    if out.len() < count {
        return Err(too_few(count, out.len()));
    }
    if count < out.len() {
        out.select_nth_unstable_by(count, |&i, &j| {
            let (i, j) = (i as usize, j as usize);
            goes_first((scores[i], pos[i]), (scores[j], pos[j]))
        });
        out.truncate(count);
    }
    out.sort_unstable();
    Ok(())
}

/// One strip of a layer whose strips share their slots.
#[derive(Clone, Copy, Debug)]
pub struct Pooled<'a> {
    /// One score per slot.
    pub scores: &'a [f32],
    /// Absolute positions, ascending.
    pub pos: &'a [Pos],
    /// The strip's own part of the layer's slots: its cap.
    pub part: u32,
}

/// Slots of its part that a pooled strip keeps in any case.
pub fn floor_slots(part: u32, floor: f32) -> u32 {
    (f64::from(part) * f64::from(floor)) as u32
}

/// As [`evict`], across the strips of one layer: the `count` lowest scores of all go, as long as each strip keeps
/// [`floor_slots`] of its part; of equals the higher position goes first, then the higher strip.
///
/// # Errors
/// [`Error::Limit`] if fewer than `count` slots may go. [`crate::caps::caps`] rules that out for a layer that is full
/// to the sum of its parts and goes down by `step` per strip.
pub fn evict_pooled(
    needs: &Needs,
    strips: &[Pooled<'_>],
    now: Pos,
    floor: f32,
    count: usize,
    out: &mut [Vec<u32>],
) -> Result<()> {
    debug_assert_eq!(strips.len(), out.len());
    let mut order = Vec::new();
    for (s, strip) in strips.iter().enumerate() {
        debug_assert_eq!(strip.scores.len(), strip.pos.len());
        let open = (0..strip.pos.len()).filter(|&i| !is_protected(needs, strip.pos[i], now));
        order.extend(open.map(|i| (s, i)));
    }
    let slot = |(s, i): (usize, usize)| (strips[s].scores[i], strips[s].pos[i]);
    order.sort_unstable_by(|&a, &b| goes_first(slot(a), slot(b)).then(b.0.cmp(&a.0)));

    out.iter_mut().for_each(Vec::clear);
    let mut left = count;
    for (s, i) in order {
        if left == 0 {
            break;
        }
        if strips[s].pos.len() - out[s].len() > floor_slots(strips[s].part, floor) as usize {
            out[s].push(i as u32);
            left -= 1;
        }
    }
    out.iter_mut().for_each(|list| list.sort_unstable());
    if left > 0 { Err(too_few(count, count - left)) } else { Ok(()) }
}

/// `Less`: `a` is dropped before `b`.
fn goes_first(a: (f32, Pos), b: (f32, Pos)) -> Ordering {
    let rank = |score: f32| if score.is_nan() { f32::NEG_INFINITY } else { score };
    rank(a.0).partial_cmp(&rank(b.0)).unwrap_or(Ordering::Equal).then(b.1.cmp(&a.1))
}

fn too_few(count: usize, have: usize) -> Error {
    Error::Limit {
        what: "slots that may be evicted".into(),
        asked: count as u64,
        have: have as u64,
        hint: "name smaller sinks, recent or step in the plan, or give it a larger budget".into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn needs(sinks: u32, recent: u32, step: u32) -> Needs {
        Needs { sinks, recent, step, ..Needs::PLAIN }
    }

    #[test]
    fn the_lowest_unprotected_scores_go() {
        // sinks 1 and recent 2 at now = 7 protect positions 0, 6 and 7. Open: 2 (0.5), 3 (0.1), 5 (0.1), 9 is absent.
        // One goes: of the two 0.1 the higher position, 5 (index 3). Three: all open ones.
        let (pos, scores) = ([0, 2, 3, 5, 6, 7], [0.0, 0.5, 0.1, 0.1, -1.0, -1.0]);
        let mut out = vec![9];
        evict(&needs(1, 2, 1), &scores, &pos, 7, 1, &mut out).unwrap();
        assert_eq!(out, [3]);
        evict(&needs(1, 2, 1), &scores, &pos, 7, 3, &mut out).unwrap();
        assert_eq!(out, [1, 2, 3]);
        evict(&needs(1, 2, 1), &scores, &pos, 7, 0, &mut out).unwrap();
        assert!(out.is_empty());
        assert!(matches!(
            evict(&needs(1, 2, 1), &scores, &pos, 7, 4, &mut out),
            Err(Error::Limit { asked: 4, have: 3, .. })
        ));
    }

    #[test]
    fn nan_goes_first_and_zero_has_no_sign() {
        let mut out = Vec::new();
        evict(&needs(0, 1, 1), &[0.0, f32::NAN, -9.0, 5.0], &[0, 1, 2, 3], 3, 1, &mut out).unwrap();
        assert_eq!(out, [1]);
        // -0.0 equals 0.0: the higher position goes.
        evict(&needs(0, 1, 1), &[-0.0, 0.0, 5.0], &[0, 1, 2], 2, 1, &mut out).unwrap();
        assert_eq!(out, [1]);
    }

    #[test]
    fn room_is_sinks_recent_and_step() {
        assert!(check_room(&needs(4, 3, 2), 9).is_ok());
        let error = check_room(&needs(4, 3, 2), 8).unwrap_err().to_string();
        assert!(error.contains("sinks 4 + recent 3 + step 2): 9 asked, 8 available"), "{error}");
        assert!(check_room(&needs(u32::MAX, u32::MAX, u32::MAX), u32::MAX).is_err(), "no overflow");
    }

    #[test]
    fn a_pool_drops_the_lowest_of_the_layer_down_to_the_floor() {
        // Two strips of part 4, floor 0.5: each keeps 2. Position 3 is recent. Strip 0 has the three lowest scores,
        // but may lose two: 0.1 and 0.2; then 0.5 of strip 1 goes before 0.3 of strip 0.
        let pos = [0, 1, 2, 3];
        let strips = [
            Pooled { scores: &[0.1, 0.2, 0.3, 0.0], pos: &pos, part: 4 },
            Pooled { scores: &[0.9, 0.5, 0.8, 0.0], pos: &pos, part: 4 },
        ];
        let mut out = vec![Vec::new(); 2];
        evict_pooled(&needs(0, 1, 1), &strips, 3, 0.5, 3, &mut out).unwrap();
        assert_eq!(out, [vec![0, 1], vec![1]]);
        evict_pooled(&needs(0, 1, 1), &strips, 3, 0.0, 3, &mut out).unwrap();
        assert_eq!(out, [vec![0, 1, 2], vec![]]);
        assert!(evict_pooled(&needs(0, 1, 1), &strips, 3, 0.5, 5, &mut out).is_err());
    }

    fn strip() -> impl Strategy<Value = (Vec<Pos>, Vec<f32>)> {
        proptest::collection::btree_set(0u32..200, 1..60).prop_flat_map(|pos| {
            let scores =
                proptest::collection::vec(prop_oneof![0f32..1.0, Just(0.5), Just(f32::NAN)], pos.len());
            (Just(pos.into_iter().collect()), scores)
        })
    }

    proptest! {
        #[test]
        fn evict_equals_a_literal_sort((pos, scores) in strip(), sinks in 0u32..9, recent in 1u32..9, count in 0usize..60) {
            let now = *pos.last().unwrap();
            let mut open: Vec<usize> = (0..pos.len()).filter(|&i| pos[i] >= sinks && pos[i] + recent <= now).collect();
            open.sort_by(|&i, &j| {
                let key = |i: usize| if scores[i].is_nan() { -1.0 } else { scores[i] };
                key(i).total_cmp(&key(j)).then(pos[j].cmp(&pos[i]))
            });
            let mut out = Vec::new();
            let result = evict(&needs(sinks, recent, 1), &scores, &pos, now, count, &mut out);
            prop_assert_eq!(result.is_ok(), count <= open.len());
            if result.is_ok() {
                let mut want: Vec<u32> = open[..count].iter().map(|&i| i as u32).collect();
                want.sort_unstable();
                prop_assert_eq!(&out, &want);
                prop_assert!(out.iter().all(|&i| !is_protected(&needs(sinks, recent, 1), pos[i as usize], now)));
            }
        }

        #[test]
        fn a_full_pool_with_room_can_always_step(
            layer in proptest::collection::vec(strip(), 1..4), floor in 0f32..0.9, step in 1u32..4, recent in 1u32..4,
        ) {
            // Parts whose sum is the layer's slots, each with the room that `caps` demands.
            let live: usize = layer.iter().map(|(pos, _)| pos.len()).sum();
            let part = (live / layer.len()) as u32;
            let needs = needs(2, recent, step);
            prop_assume!(u64::from(part) >= least(&needs) && floor_slots(part, floor) + step <= part);
            let now = layer.iter().map(|(pos, _)| *pos.last().unwrap()).max().unwrap();
            let strips: Vec<_> = layer.iter().map(|(pos, scores)| Pooled { scores, pos, part }).collect();
            let mut out = vec![Vec::new(); strips.len()];
            let count = step as usize * strips.len();
            prop_assert!(evict_pooled(&needs, &strips, now, floor, count, &mut out).is_ok());
            prop_assert_eq!(out.iter().map(Vec::len).sum::<usize>(), count);
            for (strip, out) in strips.iter().zip(&out) {
                prop_assert!(out.iter().all(|&i| !is_protected(&needs, strip.pos[i as usize], now)));
                let kept = strip.pos.len() - out.len();
                prop_assert!(out.is_empty() || kept >= floor_slots(part, floor) as usize);
            }
        }

        #[test]
        fn a_pool_of_one_strip_is_evict((pos, scores) in strip(), count in 0usize..20) {
            let now = *pos.last().unwrap();
            let (mut one, mut pool) = (Vec::new(), vec![Vec::new()]);
            let strips = [Pooled { scores: &scores, pos: &pos, part: pos.len() as u32 }];
            let alone = evict(&needs(1, 2, 1), &scores, &pos, now, count, &mut one);
            let pooled = evict_pooled(&needs(1, 2, 1), &strips, now, 0.0, count, &mut pool);
            prop_assert_eq!(alone.is_ok(), pooled.is_ok());
            if alone.is_ok() {
                prop_assert_eq!(&one, &pool[0]);
            }
        }
    }
}

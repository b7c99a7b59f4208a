//! Keeps a random sample of the text: the control that a method of choosing must beat.
//!
//! * Paper:    none; a control of ours (bottom-k sampling)
//! * Equation: score\[k\] = hash(seed, layer, kv_head, pos_k), uniform on \[0, 1)
//! * Shapes:   no column; positions \[t\] → scores \[t\]
//! * Cost:     nothing beside the slots
//! * Differs:  nothing
//! * Oracle:   counts over seeds: every unprotected position is kept equally often

use eunoe_core::{Arg, Card, Kind, Shelf};

use crate::common::{STEP, arg, recent, sinks, step};
use crate::{Needs, Policy, PolicyEntry, Pos, Strip};

const SEED: Arg = arg("seed", Kind::Int { min: 0, max: u32::MAX }, "0", "another seed, another sample");

/// The method's entry.
pub static ENTRY: PolicyEntry = PolicyEntry {
    card: Card {
        id: "random",
        shelf: Shelf::Policy,
        name: "Random control",
        paper: "",
        idea: "keeps the first tokens and a uniform sample of the rest, another one in every KV head",
        args: &[sinks("4"), recent("1"), SEED, STEP],
    },
    make: |args, slots| {
        Ok(Box::new(Random {
            sinks: args.int("sinks"),
            recent: args.int("recent"),
            seed: args.int("seed"),
            step: step(args, slots),
        }))
    },
};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Random {
    sinks: u32,
    recent: u32,
    seed: u32,
    step: u32,
}

impl Policy for Random {
    fn needs(&self) -> Needs {
        Needs { sinks: self.sinks, recent: self.recent, step: self.step, ..Needs::PLAIN }
    }

    fn score(&self, layer: usize, kv_head: usize, strip: Strip<'_>, _now: Pos, out: &mut [f32]) {
        // A score that never changes makes what is kept a sample without replacement, whatever `step` is.
        let stream = [layer as u64, kv_head as u64].into_iter().fold(u64::from(self.seed), |h, x| mix(h ^ x));
        for (out, pos) in out.iter_mut().zip(strip.pos) {
            *out = (mix(stream ^ u64::from(*pos)) >> 40) as f32 / (1 << 24) as f32;
        }
    }
}

/// One step of SplitMix64 (Steele 2014).
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{self, Text};

    #[test]
    fn splitmix_is_the_published_one() {
        // First output of the reference implementation seeded with 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn the_kept_are_the_highest_hashes_of_all_that_came() {
        let text = Text::random(1, 1, 100);
        for (cap, step) in [(9, 1), (20, 7usize)] {
            let policy = sim::policy(&format!("random(sinks=2, recent=3, step={step})"), cap);
            let pos: Vec<Pos> = (0..100).collect();
            let scores = sim::scores(policy.as_ref(), &pos, &[], 99);
            let kept = sim::stream(policy.as_ref(), cap, &text);
            // Judged at the last eviction, before row `last` came: positions up to last - 4, as 3 were recent.
            let last = (1..100).rfind(|&q| kept[q].len() <= kept[q - 1].len()).unwrap();
            let judged = 2..last as u32 - 3;
            let stayed = kept[last].iter().filter(|&p| judged.contains(p)).copied().collect::<Vec<_>>();
            let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
            assert_eq!(stayed.len(), cap as usize - step - 2 - 3);
            assert_eq!(stayed, sim::top(&scores, judged, stayed.len()));
        }
    }

    #[test]
    fn every_position_is_kept_equally_often() {
        // 2000 strips keep 20 of 100 each: a position is kept 400 times, standard deviation sqrt(2000 * 0.2 * 0.8) = 18.
        let policy = sim::policy("random(seed=7)", 64);
        let pos: Vec<Pos> = (0..100).collect();
        let mut counts = [0u32; 100];
        for strip in 0..2000 {
            let mut scores = vec![0.0; 100];
            policy.score(strip / 8, strip % 8, Strip { pos: &pos, column: &[] }, 99, &mut scores);
            let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
            sim::top(&scores, 0..100, 20).into_iter().for_each(|p| counts[p as usize] += 1);
        }
        assert!(counts.iter().all(|n| (400 - 80..400 + 80).contains(n)), "{counts:?}");
        let chi2: f64 = counts.iter().map(|&n| (f64::from(n) - 400.0).powi(2) / 320.0).sum();
        assert!((50.0..160.0).contains(&chi2), "{chi2}");
    }
}

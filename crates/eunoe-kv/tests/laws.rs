//! Laws that every method on the shelf keeps; a new one is tested by being listed.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use eunoe_core::Shape;
use eunoe_kv::{Claim, Column, Needs, Plan, Policy, Profile, Strip, allocators, methods, policies, select};
use proptest::prelude::*;

/// Slots of strips that share a budget, and tokens of a text.
const CAP: u32 = 64;
const LONGEST: u32 = 2048;
const SHAPE: Shape = Shape { layers: 4, heads: 2, kv_heads: 2, head_dim: 64 };

/// Every policy at its defaults, bound to a model, with the slots of its smallest strip.
fn made() -> Vec<(&'static str, Box<dyn Policy>, u32)> {
    let rising: Vec<f32> = (1..=8u8).map(|i| f32::from(i) / 8.0).collect();
    let profile = Profile {
        model: "toy".into(),
        sha256: "0".repeat(64),
        layers: SHAPE.layers,
        heads: SHAPE.heads,
        kv_heads: SHAPE.kv_heads,
        retrieval: rising.clone(),
        induction: rising.clone(),
        echo: rising.clone(),
        sink: rising.clone(),
        streaming: rising,
        found: [1, 1],
    };
    let make = |id: &'static str| {
        let mut policy = Plan::parse(id).and_then(|plan| plan.make_policy(CAP)).expect("defaults hold");
        policy.bind(&SHAPE, Some(&profile)).expect("a profile of this shape");
        let slots = |i: usize| match policy.claim(i / 2, i % 2, LONGEST) {
            Claim::Share => CAP,
            Claim::Fixed(slots) => slots.min(LONGEST),
            Claim::Whole => LONGEST,
        };
        let least = (0..SHAPE.strips()).map(slots).min().unwrap_or(LONGEST);
        (id, policy, least)
    };
    policies::LIST.iter().map(|entry| make(entry.card.id)).collect()
}

fn scores(policy: &dyn Policy, pos: &[u32], column: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; pos.len()];
    policy.score(3, 1, Strip { pos, column }, pos[pos.len() - 1], &mut out);
    out
}

/// Gaps between positions where slots were evicted, and a column, which [`full`] repeats.
fn strip() -> impl Strategy<Value = (Vec<u32>, Vec<f32>)> {
    let len = CAP as usize;
    (proptest::collection::vec(1u32..50, len), proptest::collection::vec(0f32..9.0, len))
}

/// Positions and column of a strip of `slots`, as the policy asked for it.
fn full((gaps, column): &(Vec<u32>, Vec<f32>), slots: u32, needs: &Needs) -> (Vec<u32>, Vec<f32>) {
    let pos = gaps.iter().cycle().scan(0, |next, gap| Some((*next, *next += gap).0));
    let slots = slots as usize;
    let len = if needs.column == Column::None { 0 } else { slots };
    (pos.take(slots).collect(), column.iter().cycle().take(len).copied().collect())
}

proptest! {
    #[test]
    fn scores_are_finite_and_the_same_each_time(strip in strip()) {
        for (id, policy, slots) in made() {
            let (pos, column) = full(&strip, slots, &policy.needs());
            let once = scores(policy.as_ref(), &pos, &column);
            prop_assert!(once.iter().all(|score| score.is_finite()), "{}", id);
            prop_assert_eq!(&once, &scores(policy.as_ref(), &pos, &column), "{}", id);
        }
    }

    #[test]
    fn protected_slots_survive_and_a_full_strip_can_always_step(strip in strip()) {
        for (id, policy, slots) in made() {
            let needs = policy.needs();
            prop_assert!(select::check_room(&needs, slots).is_ok(), "{}", id);
            let (pos, column) = full(&strip, slots, &needs);
            let (scores, now) = (scores(policy.as_ref(), &pos, &column), pos[pos.len() - 1]);
            let mut gone = Vec::new();
            select::evict(&needs, &scores, &pos, now, needs.step as usize, &mut gone).unwrap();
            prop_assert_eq!(gone.len(), needs.step as usize, "{}", id);
            for pos in gone.into_iter().map(|slot| pos[slot as usize]) {
                prop_assert!(pos >= needs.sinks && pos + needs.recent <= now, "{} dropped {}", id, pos);
            }
        }
    }
}

#[test]
fn needs_can_be_met() {
    for (id, policy, _) in made() {
        let Needs { recent, step, keep, column, .. } = policy.needs();
        assert!(recent >= 1 && step >= 1 && keep.is_none(), "{id}");
        if let Column::LastRows { rows } = column {
            assert!(rows <= recent, "{id}: the rows that choose are stored");
        }
    }
}

#[test]
fn allocators_weigh_every_strip() {
    for entry in allocators::LIST {
        for (layers, kv_heads) in [(1, 1), (5, 3), (30, 8)] {
            let shape = Shape { layers, heads: kv_heads * 2, kv_heads, head_dim: 64 };
            let plan = Plan::parse(&format!("h2o | {}", entry.card.id)).unwrap();
            let allocator = plan.make_allocator().unwrap();
            let weights = allocator.weights(&shape);
            assert_eq!(weights.len(), shape.strips(), "{}", entry.card.id);
            assert!(weights.iter().all(|w| w.is_finite() && *w > 0.0), "{}", entry.card.id);
            assert!(allocator.pooled().is_none_or(|floor| (0.0..1.0).contains(&floor)));
            let mean = weights.iter().sum::<f32>() / weights.len() as f32;
            assert!((mean - 1.0).abs() < 1e-4, "{}: mean {mean}", entry.card.id);
        }
    }
}

#[test]
fn every_file_of_a_shelf_is_listed_and_explains_itself() {
    const HEADINGS: [&str; 6] = ["Paper", "Equation", "Shapes", "Cost", "Differs", "Oracle"];
    let policies: HashSet<_> = policies::LIST.iter().map(|entry| entry.card.id).collect();
    let allocators: HashSet<_> = allocators::LIST.iter().map(|entry| entry.card.id).collect();
    for (folder, ids) in [("policies", policies), ("allocators", allocators)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder);
        let mut stems = HashSet::new();
        for file in fs::read_dir(path).unwrap().map(|file| file.unwrap().path()) {
            let stem = file.file_stem().unwrap().to_str().unwrap().to_string();
            if stem == "mod" || file.is_dir() {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            let header: Vec<_> = text.lines().take_while(|line| line.starts_with("//!")).collect();
            assert!(!header[0].starts_with("//! *"), "{stem}: the header begins with a sentence");
            for heading in HEADINGS {
                let start = format!("//! * {heading}:");
                assert!(header.iter().any(|line| line.starts_with(&start)), "{stem}: no `{heading}`");
            }
            stems.insert(stem);
        }
        let ids: HashSet<_> = ids.into_iter().map(String::from).collect();
        assert_eq!(ids, stems, "{folder}");
    }
}

#[test]
fn the_methods_are_all_listed_once() {
    let cards = methods();
    assert_eq!(cards.len(), policies::LIST.len() + allocators::LIST.len() + eunoe_kv::codecs::LIST.len());
    assert_eq!(cards.iter().map(|card| card.id).collect::<HashSet<_>>().len(), cards.len());
    for card in cards {
        assert!(!card.name.is_empty() && !card.idea.is_empty() && !card.idea.ends_with('.'), "{}", card.id);
        assert!(card.args.iter().all(|arg| !arg.help.is_empty() && !arg.default.is_empty()), "{}", card.id);
    }
}

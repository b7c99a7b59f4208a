//! Laws that every method on the shelf keeps; a new one is tested by being listed.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use eunoe_core::Shape;
use eunoe_kv::{Claim, Column, Needs, Plan, Policy, Strip, allocators, methods, policies, select};
use proptest::prelude::*;

const CAP: u32 = 64;

/// Policies whose strips share a budget and evict when it is full.
fn made() -> Vec<(&'static str, Box<dyn Policy>)> {
    let make = |id| (id, Plan::parse(id).and_then(|plan| plan.make_policy(CAP)).expect("defaults hold"));
    let all = policies::LIST.iter().map(|entry| make(entry.card.id));
    all.filter(|(_, policy)| policy.claim(0, 0, u32::MAX) == Claim::Share).collect()
}

fn scores(policy: &dyn Policy, pos: &[u32], column: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; pos.len()];
    policy.score(3, 1, Strip { pos, column }, pos[pos.len() - 1], &mut out);
    out
}

/// Positions of a full strip with gaps where slots were evicted, and a column.
fn strip() -> impl Strategy<Value = (Vec<u32>, Vec<f32>)> {
    let len = CAP as usize;
    (proptest::collection::vec(1u32..50, len), proptest::collection::vec(0f32..9.0, len)).prop_map(
        |(gaps, column)| {
            let mut next = 0;
            let pos = gaps.into_iter().map(|gap| (next, next += gap).0).collect();
            (pos, column)
        },
    )
}

proptest! {
    #[test]
    fn scores_are_finite_and_the_same_each_time((pos, column) in strip()) {
        for (id, policy) in made() {
            let column = if policy.needs().column == Column::None { &[][..] } else { &column };
            let once = scores(policy.as_ref(), &pos, column);
            prop_assert!(once.iter().all(|score| score.is_finite()), "{}", id);
            prop_assert_eq!(&once, &scores(policy.as_ref(), &pos, column), "{}", id);
        }
    }

    #[test]
    fn protected_slots_survive_and_a_full_strip_can_always_step((pos, column) in strip()) {
        for (id, policy) in made() {
            let needs = policy.needs();
            prop_assert!(select::check_room(&needs, CAP).is_ok());
            let column = if needs.column == Column::None { &[][..] } else { &column };
            let (scores, now) = (scores(policy.as_ref(), &pos, column), pos[pos.len() - 1]);
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
    for (id, policy) in made() {
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
            if stem == "mod" {
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

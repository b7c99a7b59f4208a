use std::cell::RefCell;
use std::collections::BTreeMap;

use eunoe_core::{Card, Codec, Kind};
use proptest::prelude::*;
use proptest::sample::select as one_of;
use proptest::test_runner::TestRunner;

use super::*;

fn parse(text: &str) -> Plan {
    Plan::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_plan_is_read_and_printed_in_canonical_form() {
    for (text, canonical) in [
        ("full", "full"),
        ("  full ( ) ", "full"),
        ("full | uniform", "full"),
        ("h2o|q8|pyramid@64MiB", "h2o | pyramid | q8 @ 64MiB"),
        (
            "snapkv(window=32) | pyramid(beta=20.0) | q8 @ 65536 KiB",
            "snapkv(window=32) | pyramid(beta=20) | q8 @ 64MiB",
        ),
        ("a2sf( step = 1 , alpha=.90 ) @ 1024tok", "a2sf(alpha=0.9, step=1) @ 1024tok"),
        ("streaming_llm @ 12.50%", "streaming_llm @ 12.5%"),
        ("h2o | ada(floor=0.3) @ 1.5GiB", "h2o | ada(floor=0.3) @ 1536MiB"),
        ("a2sf(prefill=dense, keep=64, evict=off) | f16", "a2sf(prefill=dense, keep=64, evict=off) | f16"),
    ] {
        let plan = parse(text);
        assert_eq!(plan.to_string(), canonical);
        assert_eq!(parse(canonical), plan);
        assert_eq!(plan.text, text.trim());
    }
    let plan = parse("h2o|q8 @ 2kB");
    assert_eq!((plan.codec, plan.budget), (Some(Codec::Q8.into()), Some(Budget::Bytes(2000))));
    assert_ne!(parse("h2o"), parse("a2sf"));
}

#[test]
fn every_error_points_at_its_character_and_names_the_way_out() {
    for (text, column, why) in [
        ("", 1, "expected a policy, e.g. `full`, got the end"),
        ("  ", 3, "got the end"),
        ("snapvk", 1, "no policy is called `snapvk`; did you mean `snapkv`?; policies: full,"),
        (" ful", 2, "did you mean `full`?"),
        ("q8", 1, "`q8` stands after a policy, as in `h2o | q8`"),
        ("a2sf(alpha=2)", 12, "`alpha`: `2` is outside 0 to 1"),
        ("a2sf(alpha=nan)", 12, "expected a number from 0 to 1, got `nan`"),
        (
            "a2sf(alhpa=1)",
            6,
            "`a2sf` has no argument `alhpa`; did you mean `alpha`?; arguments: alpha, recent",
        ),
        ("a2sf(alpha=1, alpha=1)", 15, "`alpha` is set twice"),
        ("a2sf(pos=rnak)", 10, "expected own or rank, got `rnak`; did you mean `rank`?"),
        ("a2sf(0.9)", 6, "no argument `0.9`"),
        ("a2sf(alpha)", 11, "expected `=` after `alpha`, got `)`"),
        ("a2sf(alpha=)", 12, "expected a value of `alpha`, got `)`"),
        ("a2sf(alpha=1", 13, "expected `,` or `)`, got the end"),
        ("a2sf(alpha=1,)", 14, "expected an argument `name=value`, got `)`"),
        ("full(x=1)", 6, "`full` takes no arguments, got `x`"),
        ("h2o | q8(bits=4)", 10, "`q8` has no argument `bits`"),
        ("full | pyramid", 1, "`pyramid` shares out what a policy may keep, and `full` keeps everything"),
        (
            "streaming_llm | ada",
            1,
            "`ada` compares heads by attention, and `streaming_llm` does not look at it",
        ),
        ("h2o | snapkv", 7, "`snapkv` is a policy and stands first"),
        ("h2o | pyramdi", 7, "no allocator or codec is called `pyramdi`; did you mean `pyramid`?"),
        ("h2o | q8 | f16", 12, "`f16`: a plan has one codec"),
        ("h2o | ada | uniform", 13, "`uniform`: a plan has one allocator"),
        ("h2o | ", 7, "expected an allocator or a codec, got the end"),
        ("h2o q8", 5, "expected `|`, `@` or the end, got `q8`"),
        ("h2o @ 64MiB | q8", 13, "expected the end after the budget, which stands last, got `|`"),
        ("h2o @", 6, "expected a budget, e.g. `64MiB`, got the end"),
        ("h2o @ 0tok", 7, "holds nothing"),
        ("h2o @ 99999999999999999999TiB", 7, "more than can be counted"),
        ("h2o @ 120%", 7, "outside 0%"),
        ("h2o @ 64Mib", 7, "did you mean `MiB`?"),
        ("é(x=1) @ 0tok", 1, "no policy is called `é`"),
        ("h2o(recent=é) @ 1tok", 12, "expected a whole number"),
        ("snapkv(kernel=4)", 1, "`kernel=4` has no middle"),
        ("a2sf(prefill=dense)", 1, "`prefill=dense` needs `keep=`"),
        ("a2sf(keep=9)", 1, "`keep=9` needs `prefill=dense`"),
        ("a2sf(evict=off)", 1, "`evict=off` needs `prefill=dense`"),
        ("snapkv(prefill=dense, keep=32, window=32)", 1, "33 asked, 32 available"),
        ("streaming_llm(sinks=64, step=1) @ 65tok", 35, "66 asked, 65 available"),
        ("h2o(prefill=dense, keep=90) @ 80tok", 31, "a budget below `keep`"),
    ] {
        let Err(Error::Plan { plan, column: at, why: got, .. }) = Plan::parse(text) else {
            panic!("`{text}` is not refused as a plan");
        };
        assert_eq!((plan.as_str(), at), (text, column), "{got}");
        assert!(got.contains(why), "`{text}`: {got}");
    }
}

#[test]
fn default_sizes_follow_the_slots_and_hold_from_eight_on() {
    let sizes = |slots| {
        let needs = parse("h2o").make_policy(slots).unwrap().needs();
        (needs.recent, needs.step)
    };
    assert_eq!((sizes(8), sizes(256), sizes(4096)), ((4, 1), (128, 16), (2048, 64)));
    for entry in policies::LIST {
        for slots in [8, 9, 15, 16, 100, 1000, 65_536, u32::MAX] {
            let policy = (entry.make)(&Args::new(&entry.card), slots).unwrap();
            // strips that name their size do not follow the budget
            let shares = policy.claim(0, 0, u32::MAX) == Claim::Share;
            assert!(
                !shares || select::check_room(&policy.needs(), slots).is_ok(),
                "{} at {slots}",
                entry.card.id
            );
        }
    }
}

#[test]
fn every_default_in_a_card_is_read_and_naming_it_changes_nothing() {
    for entry in policies::LIST {
        let policy = (entry.make)(&Args::new(&entry.card), 256).unwrap();
        for arg in entry.card.args {
            let plan = Plan::parse(&format!("{}({}={})", entry.card.id, arg.name, arg.default));
            let Ok(plan) = plan else {
                assert!(
                    arg.default == "none" || arg.default.contains("slots"),
                    "{}: {}",
                    arg.name,
                    arg.default
                );
                continue;
            };
            assert_eq!(plan.make_policy(256).unwrap().needs(), policy.needs(), "{plan}");
        }
    }
    for entry in allocators::LIST {
        for arg in entry.card.args {
            let plan = parse(&format!("h2o | {}({}={})", entry.card.id, arg.name, arg.default));
            assert!(plan.make_allocator().is_ok());
        }
    }
}

/// Sizes that fit each other are found among the small ones.
fn value(kind: Kind) -> BoxedStrategy<String> {
    match kind {
        Kind::Int { min, max } => {
            let small = min..=max.min(min.saturating_add(64));
            prop_oneof![2 => small, 1 => min..=max].prop_map(|v| v.to_string()).boxed()
        }
        Kind::Bytes => {
            let unit = one_of(&["TiB", "GiB", "MiB", "KiB", "B", "TB", "GB", "MB", "kB", "bytes"][..]);
            (1u64..1 << 20, unit).prop_map(|(n, unit)| format!("{n}{unit}")).boxed()
        }
        Kind::Float { min, max } => (min..=max).prop_map(|v| v.to_string()).boxed(),
        Kind::Choice(words) => one_of(words).prop_map(String::from).boxed(),
    }
}

/// Some of the card's arguments with values in range, in any order.
fn call(card: &'static Card) -> impl Strategy<Value = String> {
    let args: Vec<_> =
        card.args.iter().map(|arg| value(arg.kind).prop_map(|v| format!("{}={v}", arg.name))).collect();
    (args, 0..=card.args.len())
        .prop_flat_map(|(args, count)| proptest::sample::subsequence(args, count).prop_shuffle())
        .prop_map(
            |args| if args.is_empty() { card.id.into() } else { format!("{}({})", card.id, args.join(", ")) },
        )
}

fn plan_text() -> impl Strategy<Value = String> {
    let policy = one_of(policies::LIST).prop_flat_map(|e| call(&e.card));
    let allocator = proptest::option::of(one_of(allocators::LIST).prop_flat_map(|e| call(&e.card)));
    let codec = proptest::option::of(one_of(codecs::LIST).prop_flat_map(|e| call(&e.card)));
    let budget = proptest::option::of(prop_oneof![
        (any::<u32>(), "(TiB|GiB|MiB|KiB|B|TB|GB|MB|kB|bytes|tok)")
            .prop_map(|(n, unit)| format!("{n}{unit}")),
        (0.001f64..100.0).prop_map(|p| format!("{p}%")),
    ]);
    (policy, allocator, codec, budget, any::<bool>()).prop_map(|(policy, allocator, codec, budget, swap)| {
        let mut parts: Vec<String> = [allocator, codec].into_iter().flatten().collect();
        if swap {
            parts.reverse();
        }
        parts.insert(0, policy);
        parts.join(" | ") + &budget.map_or(String::new(), |budget| format!(" @ {budget}"))
    })
}

fn assert_points_into(text: &str, result: Result<Plan>) {
    match result {
        Ok(plan) => assert_eq!(plan.text, text.trim()),
        Err(Error::Plan { column, .. }) => assert!((1..=text.chars().count() + 1).contains(&column)),
        Err(other) => panic!("`{text}`: not a plan error: {other}"),
    }
}

/// What a plan names: its parts (with no argument), and their arguments.
fn named(plan: &Plan) -> Vec<(&'static str, &'static str)> {
    let policy = plan.args.named().map(|(arg, _)| (plan.policy.card.id, arg));
    let allocator = plan.alloc_args.named().map(|(arg, _)| (plan.allocator.card.id, arg));
    let mut all: Vec<_> = policy.chain(allocator).collect();
    all.extend([(plan.policy.card.id, ""), (plan.allocator.card.id, "")]);
    all.extend(plan.codec.map(|codec| (codec.k.id(), "")));
    all.extend(plan.codec.filter(|codec| codec.v != codec.k).map(|codec| (codec.k.id(), "v")));
    all.extend(plan.codec.filter(|_| plan.residual > 0).map(|codec| (codec.k.id(), "residual")));
    all
}

#[test]
fn what_is_read_prints_as_what_it_means() {
    const CASES: u32 = 12_000;
    let counts = RefCell::new(BTreeMap::new());
    let outcome = TestRunner::new(ProptestConfig::with_cases(CASES)).run(&plan_text(), |text| {
        let result = Plan::parse(&text);
        if let Ok(plan) = &result {
            let canonical = plan.to_string();
            let again = parse(&canonical);
            prop_assert_eq!(&again, plan);
            prop_assert_eq!(again.to_string(), canonical);
            let mut counts = counts.borrow_mut();
            named(plan).into_iter().chain([("", "")]).for_each(|part| *counts.entry(part).or_insert(0) += 1);
        }
        assert_points_into(&text, result);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let count = |id, arg| counts.borrow().get(&(id, arg)).copied().unwrap_or(0);
    // about half; a text is mostly refused for sizes that contradict each other
    assert!(count("", "") > CASES / 3, "of {CASES} plans only {} are read", count("", ""));
    for card in crate::methods() {
        for arg in [""].into_iter().chain(card.args.iter().map(|arg| arg.name)) {
            assert!(count(card.id, arg) > 0, "no plan that is read names `{}` with `{arg}`", card.id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>(), marks in "[a-z0-9_(),=|@ .%]{0,40}") {
        assert_points_into(&text, Plan::parse(&text));
        assert_points_into(&marks, Plan::parse(&marks));
    }

    #[test]
    fn a_damaged_plan_is_read_or_refused(text in plan_text(), at: proptest::sample::Index, cut in 0usize..4, add in "[(),=|@é 0-9a-z%.-]{0,3}") {
        let mut chars: Vec<char> = text.chars().collect();
        let at = at.index(chars.len());
        let end = (at + cut).min(chars.len());
        chars.splice(at..end, add.chars());
        let text: String = chars.into_iter().collect();
        assert_points_into(&text, Plan::parse(&text));
    }
}

//! What holds for every task on the shelf; a new one is tested by being listed.

#![allow(clippy::unwrap_used)] // helpers of tests are no tests to clippy

use std::time::Instant;

use eunoe_core::{Error, Result, Shelf};
use eunoe_tasks::{Draw, GROUPS, Given, Item, LIST, Reply, Sources, Task, find, ks};

const LENGTHS: [usize; 3] = [1024, 2048, 4096];
type Count = fn(&str) -> usize;

const COUNTERS: [(&str, Count); 2] = [("bytes", bytes), ("words", words)];

/// Four bytes are a token.
fn bytes(text: &str) -> usize {
    text.len().div_ceil(4)
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

fn story() -> &'static str {
    let file = include_str!("../../eunoe/assets/a-scandal-in-bohemia.txt");
    file.split_once("\n\n").unwrap().1
}

/// The built-in sources, and a question for every kind of file.
fn sources() -> Sources {
    let query = |i: usize| {
        format!("{{\"query\": \"Fact {i} is\", \"choices\": [\"true\", \"false\"], \"gold\": {}}}", i % 2)
    };
    let options = |i: usize| {
        format!(
            "{{\"context_options\": [\"{i} cats\", \"{i} dogs\"], \"continuation\": \"ran.\", \"gold\": {}}}",
            i % 2
        )
    };
    let mut files = Vec::new();
    for kind in eunoe_tasks::sources::CHOICES {
        let line = if kind == "winogrande" { &options as &dyn Fn(usize) -> String } else { &query };
        files.push((format!("{kind}.jsonl"), (0..9).map(line).collect::<Vec<_>>().join("\n")));
    }
    Sources::built_in(story()).unwrap().replaced_by(Sources::read(&files).unwrap())
}

fn draw(task: &dyn Task, sources: &Sources, length: usize, sample: usize) -> Result<Item> {
    task.draw(&Draw { length, overhead: 9, seed: 5, sample, count: &bytes, sources })
}

/// Tokens of prompt and answer of the longest ask.
fn tokens(item: &Item, count: Count) -> usize {
    let ask = |ask: &eunoe_tasks::Ask| {
        let answer = match &ask.reply {
            Reply::Write { tokens } => *tokens,
            Reply::Choose { options } => options.iter().map(|option| count(option)).max().unwrap(),
            Reply::Predict { text } | Reply::Attend { text } => count(text),
        };
        count(&[&item.context, ask.question.as_str(), &ask.cue].concat()) + answer
    };
    item.asks.iter().map(ask).max().unwrap() + 9
}

/// Most tokens that one more unit takes, by what a task is made of; none where the length is not filled.
fn unit(id: &str, sample: usize) -> Option<usize> {
    match id {
        // Fixed by sample 0.
        "qa_1" | "qa_2" if sample > 0 => None,
        // The longest paragraph of the story, and its heading.
        "qa_1" | "qa_1_balanced" => Some(480),
        "qa_2" | "qa_2_balanced" => Some(60),
        // A longer excerpt has other pieces.
        "sort" => Some(120),
        _ => Some(60),
    }
}

#[test]
fn items_are_as_long_as_they_may_be_and_not_longer() {
    let sources = sources();
    for (name, count) in COUNTERS {
        for task in LIST {
            let id = task.card().id;
            for length in LENGTHS {
                for sample in 0..4 {
                    let draw =
                        Draw { length, overhead: 9, seed: 5, sample, count: &count, sources: &sources };
                    let item =
                        task.draw(&draw).unwrap_or_else(|why| panic!("{id} at {length} {name}: {why}"));
                    let used = tokens(&item, count);
                    assert!(used <= length, "{id} at {length} {name}, {sample}: {used}");
                    let least = unit(id, sample).map_or(0, |unit| length - unit);
                    assert!(used >= least, "{id} at {length} {name}, {sample}: only {used}");
                }
            }
        }
    }
}

#[test]
fn the_same_draw_gives_the_same_item_and_another_sample_another() {
    let sources = sources();
    for task in LIST {
        let id = task.card().id;
        let items: Vec<Item> = (0..3).map(|sample| draw(*task, &sources, 1024, sample).unwrap()).collect();
        for (sample, item) in items.iter().enumerate() {
            assert_eq!(*item, draw(*task, &sources, 1024, sample).unwrap(), "{id}");
            assert!(items[..sample].iter().all(|other| other != item), "{id}");
        }
    }
}

#[test]
fn items_repeat_after_the_distinct_ones() {
    let passage = |i: usize| format!("{{\"context\": \"Word {i} is\", \"continuation\": \"said\"}}");
    let passages = (0..5).map(passage).collect::<Vec<_>>().join("\n");
    let given = Sources::read(&[("lambada.jsonl", passages)]).unwrap();
    let sources = sources();
    assert_eq!(find("lambada").unwrap().distinct(&sources), None);
    let sources = sources.replaced_by(given);
    for task in LIST {
        let id = task.card().id;
        let want = match id {
            "lambada" => Some(5),
            "qa_1" | "qa_1_balanced" => Some(45),
            "qa_2" | "qa_2_balanced" => Some(24),
            // Nine of each of six kinds.
            "choice" => Some(54),
            _ => eunoe_tasks::sources::CHOICES.contains(&id).then_some(9),
        };
        assert_eq!(task.distinct(&sources), want, "{id}");
        assert_eq!(task.distinct(&Sources::default()), None, "{id}");
        let asks = |sample| draw(*task, &sources, 1024, sample).unwrap().asks;
        assert!(want.is_none_or(|count| asks(count) == asks(0) && asks(count - 1) != asks(0)), "{id}");
    }
}

#[test]
fn another_seed_gives_another_item() {
    let sources = sources();
    for task in LIST {
        let item = |seed| {
            let draw = Draw { length: 1024, overhead: 9, seed, sample: 1, count: &bytes, sources: &sources };
            task.draw(&draw).unwrap()
        };
        // A passkey's place, and a needle's, are of the sample alone, but not the text around them.
        assert_ne!(item(1), item(2), "{}", task.card().id);
    }
}

#[test]
fn what_is_asked_for_stands_in_the_context() {
    let sources = sources();
    for task in LIST {
        for sample in 0..6 {
            let item = draw(*task, &sources, 2048, sample).unwrap();
            for ask in item.asks.iter().filter(|ask| matches!(ask.reply, Reply::Write { .. })) {
                assert!(!ask.gold.is_empty());
                for gold in &ask.gold {
                    assert!(item.context.contains(gold), "{}, {sample}: {gold}", task.card().id);
                }
            }
        }
    }
}

#[test]
fn depths_are_where_what_is_asked_for_stands() {
    let sources = sources();
    for task in LIST {
        let id = task.card().id;
        for sample in 0..6 {
            let item = draw(*task, &sources, 2048, sample).unwrap();
            assert!(
                item.depths.is_sorted() && item.depths.iter().all(|depth| (0.0..=1.0).contains(depth)),
                "{id}"
            );
            let is_written = item.asks.iter().any(|ask| matches!(ask.reply, Reply::Write { .. }));
            assert!(!is_written || !item.depths.is_empty(), "{id}");
            for depth in &item.depths {
                let at = (depth * item.context.len() as f64).round() as usize;
                let piece: String = item.context[at..].chars().take(200).collect();
                let gold = item.asks.iter().flat_map(|ask| &ask.gold);
                let is_there = match id {
                    "qa_1" | "qa_2" | "qa_1_balanced" | "qa_2_balanced" => piece.starts_with("Document "),
                    "sort" => item.asks[0].question.contains(&piece.chars().take(30).collect::<String>()),
                    _ => gold.into_iter().any(|gold| piece.contains(gold.as_str())),
                };
                assert!(is_there, "{id}, {sample} at {depth}: {piece}");
            }
        }
    }
}

/// What a model that knows everything, or nothing, gives.
fn given(item: &Item, is_right: bool) -> Vec<Given> {
    let nats = |is_right| Given::Nats {
        nats: vec![if is_right { 0.0 } else { 90.0 }; 3],
        likeliest: vec![is_right; 3],
    };
    let has_wrong = item.asks.iter().any(|ask| ask.gold.is_empty());
    let answer = |ask: &eunoe_tasks::Ask| match &ask.reply {
        Reply::Write { .. } if is_right => Given::Text(ask.gold.join(", ")),
        Reply::Write { .. } => Given::Text("xyzzy".into()),
        Reply::Choose { options } => {
            let ln = |option| if ask.gold.contains(option) == is_right { -1.0 } else { -30.0 };
            Given::Options(options.iter().map(ln).collect())
        }
        Reply::Predict { .. } if has_wrong => nats(ask.gold.is_empty() != is_right),
        Reply::Predict { .. } => nats(is_right),
        Reply::Attend { .. } => Given::Share(if is_right { 1.0 } else { 0.0 }),
    };
    item.asks.iter().map(answer).collect()
}

#[test]
fn the_gold_scores_1_and_anything_else_0() {
    let sources = sources();
    for task in LIST {
        let id = task.card().id;
        for sample in 0..8 {
            let item = draw(*task, &sources, 1024, sample).unwrap();
            let mark = task.mark(&item, &given(&item, true));
            assert_eq!(mark.score, 1.0, "{id}");
            assert!(task.mark(&item, &given(&item, false)).score < 1e-9, "{id}");
            assert_eq!(task.mark(&item, &[]).score, 0.0, "{id}");
            let empty = vec![Given::Text(String::new()); item.asks.len()];
            assert_eq!(task.mark(&item, &empty).score, 0.0, "{id}");
            assert!((0.0..1.0).contains(&task.chance(&item)), "{id}");
            let is_ruler = GROUPS.iter().any(|group| group.tasks.contains(&id));
            assert_eq!(is_ruler, mark.details.contains_key("official"), "{id}");
            assert_eq!(is_ruler, mark.details.contains_key("harness"), "{id}");
        }
    }
}

#[test]
fn a_length_that_is_too_short_is_told() {
    let sources = sources();
    for task in LIST {
        let id = task.card().id;
        for length in [0, 1, 5, 10] {
            let why = draw(*task, &sources, length, 1).unwrap_err();
            assert!(
                matches!(&why, Error::Invalid(why) if why.contains(&format!("`{id}` needs"))),
                "{id}: {why}"
            );
        }
        // Whatever the length, an item fits or the error says why not.
        for length in (16..700).step_by(19) {
            match draw(*task, &sources, length, 2) {
                Ok(item) => assert!(tokens(&item, bytes) <= length, "{id} at {length}"),
                Err(Error::Invalid(why)) => assert!(why.contains("give a "), "{id}: {why}"),
                Err(other) => panic!("{id}: {other}"),
            }
        }
    }
}

#[test]
fn missing_sources_are_told() {
    for sources in
        [Sources::default(), Sources::built_in("Word.").unwrap(), Sources::built_in("a b c").unwrap()]
    {
        for task in LIST {
            match draw(*task, &sources, 2048, 0) {
                Ok(item) => assert!(tokens(&item, bytes) <= 2048),
                Err(why) => assert!(
                    why.to_string().contains("give a") || why.to_string().contains("give JSON"),
                    "{why}"
                ),
            }
        }
    }
}

/// Where the text begins in which the answer is spread: behind a worked example, if there is one.
fn begin(id: &str, item: &Item) -> f64 {
    let at = match id {
        "vt_balanced" => item.context.rfind("\n\n"),
        "cwe_balanced" => item.context.rfind("\n1. "),
        _ => Some(0),
    };
    at.unwrap() as f64 / item.context.len() as f64
}

#[test]
fn balanced_answers_are_even_over_depth() {
    let sources = sources();
    for id in GROUPS[1].tasks {
        let task = find(id).unwrap();
        let place = |sample| {
            let item = draw(task, &sources, 4096, sample).unwrap();
            // One place of each item: those of one item are no independent draws.
            let chosen = fastrand::Rng::with_seed(sample as u64).usize(..item.depths.len());
            let begin = begin(id, &item);
            (item.depths[chosen] - begin) / (1.0 - begin)
        };
        let places: Vec<f64> = (0..200).map(place).collect();
        let p = ks::uniform_p(&places);
        assert!(p > 0.05, "{id}: p = {p}");
    }
}

#[test]
fn official_documents_are_not_even_over_depth() {
    let sources = sources();
    let depth = |sample| draw(find("qa_1").unwrap(), &sources, 4096, sample).unwrap().depths[0];
    assert!(ks::uniform_p(&(0..45).map(depth).collect::<Vec<_>>()) < 1e-6);
}

#[test]
fn cards_and_groups_are_whole() {
    for (i, task) in LIST.iter().enumerate() {
        let card = task.card();
        assert_eq!(card.shelf, Shelf::Task);
        assert!(card.args.is_empty() && !card.name.is_empty() && !card.idea.is_empty(), "{}", card.id);
        assert!(card.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
        assert!(!card.idea.ends_with('.') && card.idea.starts_with(char::is_lowercase), "{}", card.idea);
        assert!(LIST[..i].iter().all(|other| other.card().id != card.id && other.card().name != card.name));
        assert_eq!(find(card.id).unwrap().card().id, card.id);
    }
    assert!(find("nothing").is_none());
    for (group, from) in GROUPS.iter().zip([0, 13]) {
        let ids: Vec<&str> = LIST[from..from + 13].iter().map(|task| task.card().id).collect();
        assert_eq!(ids, group.tasks);
    }
    for (official, balanced) in GROUPS[0].tasks.iter().zip(GROUPS[1].tasks) {
        assert_eq!(*balanced, format!("{official}_balanced"));
    }
}

#[test]
fn every_file_of_the_shelf_is_listed() {
    let list = include_str!("../src/shelf/mod.rs");
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/shelf")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let stem = name.trim_end_matches(".rs");
        let is_listed =
            list.contains(&format!("pub mod {stem};")) && list.contains(&format!("    &{stem}::"));
        assert!(stem == "mod" || is_listed, "{name}");
    }
}

#[test]
fn built_in_questions_are_about_the_story() {
    let sources = sources();
    let library = sources.questions().unwrap();
    let paragraphs: Vec<&str> = story().split("\n\n").map(str::trim).collect();
    for question in &library.questions {
        let document = &library.documents[question.gold[0]];
        assert!(paragraphs.contains(&document.as_str()), "{document}");
        assert!(question.answers.iter().all(|answer| document.contains(answer)), "{}", question.text);
    }
    for question in &sources.two_hop().unwrap().questions {
        let holds =
            |document: &usize| sources.two_hop().unwrap().documents[*document].contains(&question.answers[0]);
        assert_eq!((question.gold.len(), question.gold.iter().filter(|gold| holds(gold)).count()), (2, 1));
    }
}

#[test]
fn items_need_few_counts() {
    let sources = sources();
    for task in LIST {
        let counted = std::cell::Cell::new(0);
        let count = |text: &str| {
            counted.set(counted.get() + text.len());
            bytes(text)
        };
        let draw = Draw { length: 6000, overhead: 9, seed: 5, sample: 3, count: &count, sources: &sources };
        let start = Instant::now();
        task.draw(&draw).unwrap();
        // Bytes of all counts against those of the item: a tokenizer reads some 6 MB a second.
        let times = counted.get() as f64 / 24_000.0;
        assert!(times < 20.0, "{}: {times:.1} items counted", task.card().id);
        assert!(start.elapsed().as_secs_f64() < 1.0, "{}", task.card().id);
    }
}

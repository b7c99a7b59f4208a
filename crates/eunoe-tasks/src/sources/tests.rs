//! Files of every kind, good and bad.

use proptest::prelude::*;

use super::*;
use crate::toy;

fn read(name: &str, text: &str) -> Result<Sources> {
    Sources::read(&[(name, text)])
}

fn why(name: &str, bytes: &[u8]) -> String {
    Sources::read(&[(name, bytes)]).unwrap_err().to_string()
}

const SQUAD: &str = r#"{"version": "v2.0", "data": [{"title": "t", "paragraphs": [
  {"context": "Beta has the key. ", "qas": [
    {"question": "Who has it?", "answers": [{"text": "Beta", "answer_start": 0},
      {"text": "Beta", "answer_start": 0}]},
    {"question": "Why?", "answers": [], "is_impossible": true}]},
  {"context": "Alpha sleeps.", "qas": []}]}]}"#;

#[test]
fn squad_is_read_as_published() {
    let sources = read("dev.json", SQUAD).unwrap();
    let library = sources.questions().unwrap();
    // Sorted: Alpha is document 0, Beta 1.
    assert_eq!(library.documents, ["Alpha sleeps.", "Beta has the key."]);
    let want =
        Question { text: "Who has it?".into(), answers: vec!["Beta".into()], gold: vec![1], near: vec![0] };
    assert_eq!(library.questions, [want]);
}

#[test]
fn squad_is_read_as_a_list() {
    // Characters, not bytes: é is one.
    let text = r#"[{"question": "q", "answer": "key", "answer_span": [4, 7], "context": "été Key."},
        {"question": "r", "answer": "lock", "context": "no lock"}]"#;
    let sources = read("flat.json", text).unwrap();
    let library = sources.questions().unwrap();
    assert_eq!(library.questions[0].answers, ["Key"]);
    assert_eq!(
        (&library.questions[1].answers[0], &library.questions[1].gold[..]),
        (&"lock".to_owned(), &[0][..])
    );
    // A span that says something else is one more answer.
    let other = text.replace("[4, 7]", "[0, 3]");
    assert_eq!(read("f", &other).unwrap().questions().unwrap().questions[0].answers, ["été", "key"]);
    assert!(read("f", &text.replace("[4, 7]", "[90, 3]")).is_ok());
}

#[test]
fn hotpot_tells_gold_from_near() {
    let text = r#"[{"question": "q", "answer": "yes", "supporting_facts": [["B", 0], ["A", 1]],
        "context": [["A", ["One.", " Two."]], ["C", ["Three."]], ["B", ["Four."]]]}]"#;
    let sources = read("hotpot.json", text).unwrap();
    let library = sources.two_hop().unwrap();
    assert_eq!(library.documents, ["A\nOne. Two.", "B\nFour.", "C\nThree."]);
    assert_eq!((&library.questions[0].gold[..], &library.questions[0].near[..]), (&[0, 1][..], &[2][..]));
}

#[test]
fn json_lines_are_told_by_their_keys() {
    let lines = "{\"context\": \"a b \", \"continuation\": \" c\"}\n
{\"context\": \"d\", \"continuation\": \"e\"}\n";
    let sources = read("lambada.jsonl", lines).unwrap();
    let continuation = Continuation { context: "a b".into(), continuation: "c".into() };
    assert_eq!((sources.continuations().len(), &sources.continuations()[0]), (2, &continuation));
    let sources =
        read("x/ARC-Easy.jsonl", "{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 1}").unwrap();
    assert_eq!(sources.choices("arc_easy").unwrap().len(), 1);
    assert_eq!(sources.choices(OTHER).unwrap()[0].gold, 1);
    assert!(sources.choices("piqa").unwrap_err().to_string().contains("`piqa.jsonl`"));
    let options = "{\"context_options\": [\"a\", \"b\"], \"continuation\": \"c\", \"gold\": 0}";
    let sources = read("winogrande.jsonl", options).unwrap();
    assert_eq!(sources.choices("winogrande").unwrap()[0].len(), 2);
}

#[test]
fn prose_may_begin_with_a_bracket() {
    for text in ["[Illustration] Once.", "{Once} upon", "Once"] {
        assert!(!read("book.txt", text).unwrap().haystack().unwrap().is_empty(), "{text}");
    }
    let sources = Sources::read(&[("a", "One two."), ("b", "\u{feff}Three.")]).unwrap();
    assert_eq!(sources.haystack().unwrap().passage(0, 3), "One two.\n\nThree.");
}

#[test]
fn wordings_replace_ours() {
    let sources = read("p.json", "{\"prompts\": {\"qa.cue\": \"A:\"}}").unwrap();
    let sources = Sources::built_in("Once.").unwrap().replaced_by(sources);
    assert_eq!((sources.prompts().fill("qa.cue", &[]), sources.questions().is_ok()), ("A:".into(), true));
    let text = "{\"prompts\": {\"qa.cure\": \"A:\"}}";
    assert_eq!(why("p.json", text.as_bytes()), "p.json: no task uses a prompt `qa.cure` (at byte 14)");
}

#[test]
fn bad_files_are_told_with_their_place() {
    assert_eq!(why("a", b" \n"), "a: empty; give plain text, JSON or JSON lines (at byte 0)");
    assert_eq!(why("a", b"ab\xffcd"), "a: not UTF-8; give plain text, JSON or JSON lines (at byte 2)");
    let cut = why("a", &SQUAD.as_bytes()[..100]);
    assert!(cut.starts_with("a: EOF while parsing") && cut.ends_with(" (at byte 99)"), "{cut}");
    let line = "{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 1}\n";
    let bad = format!("{line}{}", line.replace('1', "2"));
    let want = format!(
        "line 2: `gold` is 2 of 2 options; it counts from 0, and there are two or more (at byte {})",
        line.len()
    );
    assert_eq!(why("a", bad.as_bytes()), format!("a: {want}"));
    assert!(why("a", line.replace('1', "-1").as_bytes()).contains("`gold` is -1"));
    let broken = format!("{line}{{\"query\": 3}}\n");
    assert!(
        why("a", broken.as_bytes()).starts_with("a: line 2: invalid type"),
        "{}",
        why("a", broken.as_bytes())
    );
    assert!(why("a", b"{\"x\": 1}").contains("JSON of no known kind"));
    assert!(why("a", b"[]").contains("an empty list"));
    assert!(
        why("a", b"[{\"context\": \"c\", \"question\": \"q\", \"answer\": \" \"}]")
            .contains("`q` has no answer")
    );
    assert!(why("a", b"{\"data\": []}").contains("no question that has an answer"));
    assert!(
        why("a", b"{\"context\": \"c\", \"continuation\": \" \"}")
            .contains("line 1: `continuation` is empty")
    );
    assert!(Sources::built_in(" ").is_err());
}

#[test]
fn what_is_given_replaces_its_kind_only() {
    let built_in = Sources::built_in("Once upon a time.").unwrap();
    assert_eq!(built_in.questions().unwrap().questions.len(), 45);
    assert_eq!(built_in.two_hop().unwrap().questions.len(), 24);
    assert_eq!(built_in.choices(OTHER).unwrap().len(), 40);
    let given = Sources::read(&[
        ("dev.json", SQUAD),
        ("copa.jsonl", "{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 1}"),
    ]);
    let both = built_in.replaced_by(given.unwrap());
    assert_eq!(both.questions().unwrap().questions.len(), 1);
    assert_eq!((both.choices(OTHER).unwrap().len(), both.choices("copa").unwrap().len()), (1, 1));
    assert_eq!((both.two_hop().unwrap().questions.len(), both.haystack().unwrap().len()), (24, 4));
}

#[test]
fn every_asset_is_among_the_built_in_files() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets"));
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort_unstable();
    let mut files = built_in_files();
    files.sort_unstable();
    assert_eq!(files.map(|(name, _)| name).as_slice(), names);
    for (name, contents) in files {
        assert_eq!(contents, std::fs::read_to_string(folder.join(name)).unwrap(), "{name}");
    }
}

#[test]
fn two_files_of_a_kind_count_as_one() {
    let other = SQUAD.replace("Beta", "Aaron").replace("Alpha", "Zoe");
    let sources = Sources::read(&[("a", SQUAD), ("b", other.as_str())]).unwrap();
    let library = sources.questions().unwrap();
    assert_eq!((library.documents.len(), library.questions.len()), (4, 2));
    for question in &library.questions {
        assert!(library.documents[question.gold[0]].contains(&question.answers[0]));
    }
}

proptest! {
    /// Whatever is cut off or changed, a file is read or told, and what was read can be drawn from.
    #[test]
    fn broken_files_never_panic(kind in 0..4_usize, cut in 0..600_usize, at in 0..600_usize, byte: u8) {
        let line = "{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 1}\n";
        let options = "{\"context_options\": [\"a\", \"b\"], \"continuation\": \"c\", \"gold\": 0}\n";
        let hotpot = "[{\"question\": \"q\", \"answer\": \"a\", \"supporting_facts\": [[\"B\", 0]], \
            \"context\": [[\"A\", [\"One.\"]], [\"B\", [\"a.\"]]]}]";
        let mut bytes = [SQUAD, line, options, hotpot][kind].as_bytes().to_vec();
        if let Some(changed) = bytes.get_mut(at) {
            *changed = byte;
        }
        bytes.truncate(bytes.len() - cut.min(bytes.len()) / 4);
        if let Ok(sources) = Sources::read(&[("copa.jsonl", &bytes)]) {
            let sources = toy::sources().replaced_by(sources);
            for id in ["qa_1", "qa_2_balanced", "lambada", "choice", "niah_single_2"] {
                // A text of a few words holds no passage, and a file of gold documents nothing to fill with.
                if let Err(why) = toy::task(id).draw(&toy::draw(&sources, 700, 1)) {
                    let is_told = id.starts_with("qa") && why.to_string().contains("more documents");
                    prop_assert!(id == "lambada" || is_told, "{id}: {why}");
                }
            }
        }
    }
}

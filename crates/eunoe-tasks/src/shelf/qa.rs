//! A question is asked about one or two documents among many.
//!
//! * Paper:    Hsieh et al., 2024, arXiv 2404.06654, section 3; QA on SQuAD (2018, arXiv 1806.03822) and
//!   HotpotQA (2018, arXiv 1809.09600)
//! * Equation: score = 1 if any right answer stands in the reply (`official`); `harness` = share of right
//!   answers that do
//! * Shapes:   n documents, 1 or 2 of them gold → one ask
//! * Cost:     one prompt, 32 new tokens
//! * Differs:  wordings are ours, the built-in questions too. Official: n is searched for sample 0 and
//!   lessened where another sample does not fit, by 10 as there, by 1 from 10 down; documents are shuffled as
//!   by a fresh Python `Random(42)`, which puts the gold one at one place per n; gold documents come first,
//!   those that belong to the question next, then random ones, again from the first when all are used.
//!   Balanced: n is searched per item, gold document k of K stands at `(place + k / K) mod 1`, as near as
//!   whole documents allow, `place` even over samples
//! * Oracle:   places from Python; documents found again by their text

use eunoe_core::{Card, Error, Result};
use fastrand::Rng;

use super::{RULER, card, frame, niah::nearest, write};
use crate::fit::{largest, tokens, too_short};
use crate::random::{even, python_shuffle, rng, strata};
use crate::sources::{Library, Question};
use crate::{Draw, Given, Item, Mark, Sources, Task, marks};

const ANSWER: usize = 32;
/// RULER's seed, and by how many documents it lessens what does not fit.
const SEED: u32 = 42;
const STEP: usize = 10;
/// Bytes of `Document 12:` and the line breaks around it.
const HEADING: usize = 15;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Qa {
    card: Card,
    is_two_hop: bool,
    is_balanced: bool,
}

const ONE: &str = "a question is answered from one document among many";
const TWO: &str = "a question is answered from two documents among many";

/// The official two, then the balanced two.
pub static TABLE: [Qa; 4] = [
    Qa { card: card("qa_1", "QA 1: SQuAD", RULER, ONE), is_two_hop: false, is_balanced: false },
    Qa { card: card("qa_2", "QA 2: HotpotQA", RULER, TWO), is_two_hop: true, is_balanced: false },
    Qa {
        card: card("qa_1_balanced", "QA 1: SQuAD, balanced", RULER, ONE),
        is_two_hop: false,
        is_balanced: true,
    },
    Qa {
        card: card("qa_2_balanced", "QA 2: HotpotQA, balanced", RULER, TWO),
        is_two_hop: true,
        is_balanced: true,
    },
];

/// `count` documents that do not answer the question: its own first, then others at random, again when all
/// are used.
fn others(rng: &mut Rng, library: &Library, question: &Question, count: usize) -> Vec<usize> {
    let mut list = question.near.clone();
    rng.shuffle(&mut list);
    let mut rest: Vec<usize> = (0..library.documents.len()).collect();
    rest.retain(|document| !question.gold.contains(document) && !list.contains(document));
    rng.shuffle(&mut rest);
    list.append(&mut rest);
    list.into_iter().cycle().take(count).collect()
}

impl Qa {
    fn library<'a>(&self, sources: &'a Sources) -> Result<&'a Library> {
        if self.is_two_hop { sources.two_hop() } else { sources.questions() }
    }

    fn question<'a>(&self, draw: &Draw<'a>) -> Result<(&'a Library, &'a Question)> {
        let library = self.library(draw.sources)?;
        Ok((library, &library.questions[draw.sample % library.questions.len()]))
    }

    /// The item of as many documents as fit, and how many.
    fn largest(&self, draw: &Draw<'_>) -> Result<(usize, Item)> {
        let (library, question) = self.question(draw)?;
        let least = self.least();
        // Gold ones are never repeated.
        let most = if library.documents.len() > question.gold.len() { usize::MAX } else { least };
        let (count, item) = largest(draw, self.card.id, (least, most), |count| self.item(draw, count))?;
        self.enough(draw, &item)?;
        Ok((count, item))
    }

    const fn least(&self) -> usize {
        if self.is_two_hop { 2 } else { 1 }
    }

    /// Whether there were documents to fill the length with.
    ///
    /// # Errors
    /// The item takes less than half of it, and not even the shortest document can be added.
    fn enough(&self, draw: &Draw<'_>, item: &Item) -> Result<()> {
        let (id, length, used) = (self.card.id, draw.length, tokens(draw, item));
        if used * 2 >= length {
            return Ok(());
        }
        let (library, question) = self.question(draw)?;
        let others = (0..library.documents.len()).filter(|document| !question.gold.contains(document));
        let shortest = others.map(|document| &library.documents[document]).min_by_key(|text| text.len());
        if shortest.is_some_and(|text| (draw.count)(text) <= length - used) {
            return Ok(());
        }
        let fits = if shortest.is_some() { "no other document fits" } else { "there is no other document" };
        Err(Error::Invalid(format!(
            "`{id}` takes {used} tokens of {length}, and {fits}; give a file with more documents, or a shorter \
             length"
        )))
    }

    /// Documents in the order in which they are shown.
    fn order(&self, draw: &Draw<'_>, library: &Library, gold: &[usize], others: &[usize]) -> Vec<usize> {
        let mut order = [gold, others].concat();
        if !self.is_balanced {
            python_shuffle(SEED, &mut order);
            return order;
        }
        let bytes = |document: &usize| library.documents[*document].len() + HEADING;
        let total: usize = order.iter().map(bytes).sum();
        let places = strata(even(draw, self.card.id), gold.len());
        let mut placed: Vec<(f64, usize)> = places.into_iter().zip(gold.iter().copied()).collect();
        placed.sort_by(|a, b| a.0.total_cmp(&b.0));
        order = others.to_vec();
        for (place, document) in placed {
            let starts = order.iter().map(bytes).scan(0, |at, bytes| {
                *at += bytes;
                Some(*at)
            });
            let starts: Vec<usize> = [0].into_iter().chain(starts).collect();
            let start = nearest(&starts, place * total as f64);
            order.insert(starts.partition_point(|at| *at < start), document);
        }
        order
    }

    fn item(&self, draw: &Draw<'_>, count: usize) -> Result<Item> {
        let (library, question) = self.question(draw)?;
        let count = count.saturating_sub(question.gold.len());
        let others = others(&mut rng(draw, self.card.id), library, question, count);
        let mut text = String::new();
        let mut at = Vec::new();
        for (i, document) in self.order(draw, library, &question.gold, &others).into_iter().enumerate() {
            text.push_str(if i == 0 { "" } else { "\n\n" });
            if question.gold.contains(&document) {
                at.push(text.len());
            }
            let number = (i + 1).to_string();
            let spoken = [("number", number.as_str()), ("text", &library.documents[document])];
            text.push_str(&draw.sources.prompts().fill("qa.document", &spoken));
        }
        let (context, depths) = frame(draw, "qa.context", &[], &text, at);
        let spoken = [("question", question.text.as_str())];
        let asks = vec![write(draw, ["qa.question", "qa.cue"], &spoken, ANSWER, question.answers.clone())];
        Ok(Item { context, asks, depths })
    }
}

impl Task for Qa {
    fn card(&self) -> &Card {
        &self.card
    }

    fn draw(&self, draw: &Draw<'_>) -> Result<Item> {
        if self.is_balanced || draw.sample == 0 {
            return Ok(self.largest(draw)?.1);
        }
        let (mut count, _) = self.largest(&Draw { sample: 0, ..*draw })?;
        loop {
            let item = self.item(draw, count)?;
            let needs = tokens(draw, &item);
            if needs <= draw.length {
                self.enough(draw, &item)?;
                return Ok(item);
            }
            if count <= self.least() {
                return Err(too_short(draw, self.card.id, needs));
            }
            count -= if count > STEP { STEP } else { 1 };
        }
    }

    fn distinct(&self, sources: &Sources) -> Option<usize> {
        self.library(sources).ok().map(|library| library.questions.len())
    }

    fn mark(&self, item: &Item, given: &[Given]) -> Mark {
        marks::ruler_part(item, given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Sources, toy};

    /// Documents of one length, one question each.
    fn sources(count: usize) -> Sources {
        let row = |i: usize| {
            format!(
                "{{\"question\": \"Where?\", \"answer\": \"r{i:04}\", \"context\": \"Item {i:04}: r{i:04}\"}}"
            )
        };
        let text = format!("[{}]", (0..count).map(row).collect::<Vec<_>>().join(","));
        Sources::read(&[("flat.json", text)]).unwrap()
    }

    fn numbers(item: &Item) -> Vec<usize> {
        let number = |depth: &f64| toy::at(item, *depth)[9..].split(':').next().unwrap().parse().unwrap();
        item.depths.iter().map(number).collect()
    }

    #[test]
    fn the_official_gold_stands_where_python_puts_it() {
        // Places from Python, from 0; documents are numbered from 1.
        let sources = sources(900);
        for (count, want) in [(24, 22), (200, 56), (800, 626)] {
            for sample in [0, 5, 77] {
                let item = TABLE[0].item(&toy::draw(&sources, 9, sample), count).unwrap();
                assert_eq!(numbers(&item), [want], "{count}");
                assert_eq!(item.context.matches("Document ").count(), count);
                let document = format!("Item {sample:04}: r{sample:04}");
                assert!(toy::at(&item, item.depths[0]).lines().nth(1).unwrap().contains(&document));
            }
        }
    }

    #[test]
    fn the_official_depth_is_one_value_and_the_balanced_is_not() {
        let sources = sources(900);
        let depths = |row: &Qa| {
            let item = |sample| row.draw(&toy::draw(&sources, 2048, sample)).unwrap();
            let mut depths: Vec<f64> = (0..40).map(|sample| (item(sample).depths[0] * 1e6).round()).collect();
            depths.sort_by(f64::total_cmp);
            depths.dedup();
            depths.len()
        };
        assert_eq!(depths(&TABLE[0]), 1);
        assert!(depths(&TABLE[2]) > 30);
    }

    #[test]
    fn balanced_gold_documents_stand_apart() {
        let sources = toy::sources();
        for sample in 0..6 {
            let item = TABLE[3].draw(&toy::draw(&sources, 4096, sample)).unwrap();
            assert!((item.depths[1] - item.depths[0] - 0.5).abs() < 0.04, "{:?}", item.depths);
        }
    }

    #[test]
    fn documents_come_again_but_not_the_gold() {
        let sources = sources(3);
        for row in [&TABLE[0], &TABLE[2]] {
            let item = row.item(&toy::draw(&sources, 9, 1), 20).unwrap();
            let documents: Vec<&str> = item.context.lines().filter(|line| line.starts_with("Item")).collect();
            assert_eq!(documents.len(), 20);
            assert_eq!(documents.iter().filter(|line| line.contains("0001")).count(), 1);
        }
    }

    #[test]
    fn too_few_documents_are_told() {
        let why = |sources: &Sources, id: &str, sample| {
            toy::task(id).draw(&toy::draw(sources, 2048, sample)).map(|_| ()).unwrap_err().to_string()
        };
        // Gold covers every document; a longer file has others for its second question, not for its first.
        let row = |gold: &str| {
            format!(
                "{{\"question\": \"q\", \"answer\": \"1\", \"supporting_facts\": [{gold}], \"context\": \
                 [[\"A\", [\"1\"]], [\"B\", [\"2\"]], [\"C\", [\"3\"]]]}}"
            )
        };
        let all = row("[\"A\", 0], [\"B\", 0], [\"C\", 0]");
        let one = sources(1);
        let three = Sources::read(&[("hotpot.json", format!("[{all}]"))]).unwrap();
        let both = Sources::read(&[("hotpot.json", format!("[{all},{}]", row("[\"A\", 0]")))]).unwrap();
        let is_told = |why: &str| why.contains("there is no other document; give a file with more documents");
        for (sources, id, sample) in [
            (&one, "qa_1", 3),
            (&one, "qa_1_balanced", 0),
            (&three, "qa_2", 0),
            (&three, "qa_2_balanced", 5),
            (&both, "qa_2", 1),
            (&both, "qa_2_balanced", 0),
        ] {
            assert!(is_told(&why(sources, id, sample)), "{id}: {}", why(sources, id, sample));
        }
        // Where one other document is, it comes again and again.
        let two = sources(2);
        let filled = [(&two, "qa_1", 1), (&two, "qa_1_balanced", 0), (&both, "qa_2_balanced", 1)];
        for (sources, id, sample) in filled {
            let draw = toy::draw(sources, 2048, sample);
            let used = tokens(&draw, &toy::task(id).draw(&draw).unwrap());
            assert!((2000..=2048).contains(&used), "{id}: {used}");
        }
    }

    #[test]
    fn a_document_longer_than_the_room_is_told() {
        let row = |text: &str| format!("{{\"question\": \"q\", \"answer\": \"a\", \"context\": \"{text}\"}}");
        let text = format!("[{},{}]", row("a short one"), row(&"a longer one ".repeat(700)));
        let sources = Sources::read(&[("flat.json", text)]).unwrap();
        let draw = |length| TABLE[2].draw(&toy::draw(&sources, length, 0));
        // Its 9100 bytes are 2275 tokens.
        assert!(draw(2048).unwrap_err().to_string().contains("no other document fits"));
        assert!(tokens(&toy::draw(&sources, 4096, 0), &draw(4096).unwrap()) > 2275);
    }

    #[test]
    fn near_documents_come_first() {
        let (documents, question) = (
            (0..9).map(|i| i.to_string()).collect(),
            Question { gold: vec![4], near: vec![7, 2], ..Question::default() },
        );
        let library = Library { documents, questions: Vec::new() };
        let got = others(&mut Rng::with_seed(1), &library, &question, 10);
        assert!(got[..2] == [7, 2] || got[..2] == [2, 7]);
        assert_eq!(got[..2], got[8..]);
        assert!(!got.contains(&4));
    }

    #[test]
    fn samples_that_do_not_fit_lose_documents() {
        // Sample 0 is short, the others are long.
        let row = |i: usize| {
            let text = "x".repeat(if i == 0 { 10 } else { 200 });
            format!("{{\"question\": \"Where?\", \"answer\": \"{i}\", \"context\": \"{i} {text}\"}}")
        };
        let text = format!("[{}]", (0..30).map(row).collect::<Vec<_>>().join(","));
        let sources = Sources::read(&[("flat.json", text)]).unwrap();
        let count = |sample| {
            let item = TABLE[0].draw(&toy::draw(&sources, 1024, sample)).unwrap();
            item.context.matches("Document ").count()
        };
        assert!(count(0) > STEP);
        assert!(count(1) == count(0) || count(1) == count(0) - STEP);
    }

    #[test]
    fn one_alias_is_enough_officially() {
        let mut item = toy::item("qa_1", 2048, 0);
        item.asks[0].gold = vec!["Rome".into(), "the city of Rome".into()];
        let mark = toy::mark("qa_1", &item, &["In Rome."]);
        assert_eq!((mark.score, mark.details["official"], mark.details["harness"]), (1.0, 1.0, 0.5));
    }
}

//! Which of some ways to go on is the likeliest: short questions of plain knowledge that a memory should not
//! harm.
//!
//! * Paper:    ARC (2018, arXiv 1803.05457), OpenBookQA (2018, arXiv 1809.02789), PIQA (2019, arXiv
//!   1911.11641), COPA (2011), WinoGrande (2019, arXiv 1907.10641)
//! * Equation: score = 1 if argmax over options of sum ln P(token) is right; `normalised` the same of ln P
//!   per byte
//! * Shapes:   n words of filler, then a question → one ask of all options; WinoGrande, whose options come
//!   before what is scored: one ask of the same continuation per option, gold in the right one only
//! * Cost:     one context, one short question per option
//! * Differs:  book text that has nothing to do with the question fills the length before it, so that memory
//!   is cut (none if the length holds only the question); no worked examples; `Answer:` follows where the
//!   query says `Question:`; the built-in questions of `choice` are ours
//! * Oracle:   marks by hand

use eunoe_core::{Card, Result};

use super::{card, filled};
use crate::random::rng;
use crate::sources::Choice;
use crate::{Ask, Draw, Given, Item, Mark, Reply, Sources, Task, marks};

/// One kind of multiple choice.
#[derive(Clone, Copy, Debug)]
pub struct MultipleChoice {
    card: Card,
}

const fn row(
    id: &'static str,
    name: &'static str,
    paper: &'static str,
    idea: &'static str,
) -> MultipleChoice {
    MultipleChoice { card: card(id, name, paper, idea) }
}

/// The generic one, then one per kind of file.
pub static TABLE: [MultipleChoice; 7] = [
    row("choice", "Multiple choice", "", "the likeliest of some answers to a short question is taken"),
    row("arc_easy", "ARC easy", "Clark 2018, arXiv 1803.05457", "easy questions of school science"),
    row("arc_challenge", "ARC challenge", "Clark 2018, arXiv 1803.05457", "hard questions of school science"),
    row("openbook_qa", "OpenBookQA", "Mihaylov 2018, arXiv 1809.02789", "questions of elementary science"),
    row("piqa", "PIQA", "Bisk 2019, arXiv 1911.11641", "which of two ways to do something works"),
    row("copa", "COPA", "Roemmele 2011", "which of two things is the cause or the effect"),
    row("winogrande", "WinoGrande", "Sakaguchi 2019, arXiv 1907.10641", "whom or what a pronoun means"),
];

/// As it follows a text.
fn spaced(text: &str) -> String {
    if text.starts_with(char::is_whitespace) { text.to_owned() } else { format!(" {text}") }
}

fn asks(draw: &Draw<'_>, choice: &Choice) -> Vec<Ask> {
    if let [query] = &choice.contexts[..] {
        let options: Vec<String> = choice.continuations.iter().map(|option| spaced(option)).collect();
        let gold = options.get(choice.gold).cloned().into_iter().collect();
        let cue = if query.starts_with("Question:") {
            draw.sources.prompts().fill("choice.cue", &[])
        } else {
            String::new()
        };
        let reply = Reply::Choose { options };
        return vec![Ask { question: query.trim_end().to_owned(), cue, reply, gold }];
    }
    let text = choice.continuations.first().map(|text| spaced(text)).unwrap_or_default();
    let options = choice.contexts.iter().enumerate();
    let ask = |(i, context): (usize, &String)| Ask {
        question: context.trim_end().to_owned(),
        cue: String::new(),
        reply: Reply::Predict { text: text.clone() },
        gold: (i == choice.gold).then(|| text.clone()).into_iter().collect(),
    };
    options.map(ask).collect()
}

/// Per option `ln P`, its bytes, and whether it is right; none without an answer to every ask.
fn options(item: &Item, given: &[Given]) -> Option<Vec<(f64, usize, bool)>> {
    let bytes = |option: &str| option.trim_start().len().max(1);
    if let (Some(Ask { reply: Reply::Choose { options }, gold, .. }), Some(Given::Options(ln))) =
        (item.asks.first(), given.first())
    {
        let row = |(option, ln): (&String, &f64)| (*ln, bytes(option), gold.contains(option));
        return (options.len() == ln.len()).then(|| options.iter().zip(ln).map(row).collect());
    }
    let row = |(i, ask): (usize, &Ask)| match (&ask.reply, given.get(i)) {
        (Reply::Predict { text }, Some(Given::Nats { nats, .. })) => {
            let ln = -nats.iter().copied().map(f64::from).sum::<f64>();
            Some((ln, bytes(text), !ask.gold.is_empty()))
        }
        _ => None,
    };
    item.asks.iter().enumerate().map(row).collect()
}

impl Task for MultipleChoice {
    fn card(&self) -> &Card {
        &self.card
    }

    fn draw(&self, draw: &Draw<'_>) -> Result<Item> {
        let list = draw.sources.choices(self.card.id)?;
        let choice = list[draw.sample % list.len()];
        filled(draw, self.card.id, &mut rng(draw, self.card.id), asks(draw, choice))
    }

    fn mark(&self, item: &Item, given: &[Given]) -> Mark {
        let Some(rows) = options(item, given) else { return Mark::default().with("normalised", 0.0) };
        let is_right = |values: Vec<f64>| marks::argmax(&values).is_some_and(|best| rows[best].2);
        let number = |is_right| f64::from(u8::from(is_right));
        let sums = rows.iter().map(|(ln, ..)| *ln).collect();
        let means = rows.iter().map(|(ln, bytes, _)| ln / *bytes as f64).collect();
        Mark::of(number(is_right(sums))).with("normalised", number(is_right(means)))
    }

    fn distinct(&self, sources: &Sources) -> Option<usize> {
        sources.choices(self.card.id).ok().map(|list| list.len())
    }

    fn chance(&self, item: &Item) -> f64 {
        let options = match item.asks.first().map(|ask| &ask.reply) {
            Some(Reply::Choose { options }) => options.len(),
            _ => item.asks.len(),
        };
        1.0 / options.max(1) as f64
    }

    fn is_raw(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy;

    #[test]
    fn sums_and_means_may_disagree() {
        // Options of 1 and 8 bytes: sums -2 and -4; per byte -2 and -0.5.
        let line = "{\"query\": \"Question: Which?\\n\", \"choices\": [\"a\", \"b c d ef\"], \"gold\": 1}";
        let sources = Sources::read(&[("piqa.jsonl", line)]).unwrap();
        let item = toy::task("piqa").draw(&toy::draw(&sources, 512, 9)).unwrap();
        let ask = toy::only(&item);
        assert_eq!(
            (ask.question.as_str(), ask.cue.as_str(), &ask.gold[0][..]),
            ("Question: Which?", "\nAnswer:", " b c d ef")
        );
        assert_eq!(item.context, "");
        let mark = |ln: &[f64]| TABLE[4].mark(&item, &[Given::Options(ln.to_vec())]);
        assert_eq!((mark(&[-2.0, -4.0]).score, mark(&[-2.0, -4.0]).details["normalised"]), (0.0, 1.0));
        assert_eq!(
            (mark(&[-4.0, -2.0]).score, mark(&[-0.1]).score, TABLE[4].mark(&item, &[]).score),
            (1.0, 0.0, 0.0)
        );
        assert_eq!(TABLE[4].chance(&item), 0.5);
    }

    #[test]
    fn options_that_come_first_are_asks_of_the_same_words() {
        let line =
            "{\"context_options\": [\"Ann\", \"Bo\", \"Cy\"], \"continuation\": \"won.\", \"gold\": 2}";
        let sources = toy::sources().replaced_by(Sources::read(&[("winogrande.jsonl", line)]).unwrap());
        let task = toy::task("winogrande");
        let item = task.draw(&toy::draw(&sources, 512, 0)).unwrap();
        let questions: Vec<&str> = item.asks.iter().map(|ask| ask.question.as_str()).collect();
        assert_eq!(questions, ["Ann", "Bo", "Cy"]);
        assert!(item.context.len() > 1500);
        let given = |nats: [f32; 3]| {
            nats.map(|nats| Given::Nats { nats: vec![nats, 1.0], likeliest: vec![false; 2] })
        };
        assert_eq!(task.mark(&item, &given([3.0, 2.0, 1.0])).score, 1.0);
        assert_eq!(task.mark(&item, &given([3.0, 0.5, 1.0])).score, 0.0);
        assert_eq!(task.mark(&item, &given([3.0, 2.0, 1.0])[..2]).score, 0.0);
        assert!((task.chance(&item) - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn the_generic_kind_has_them_all() {
        let item = toy::item("choice", 256, 0);
        assert!(toy::only(&item).question.contains("wool") && item.context.len() > 500);
        let sources = toy::sources();
        let why = toy::task("arc_easy").draw(&toy::draw(&sources, 512, 0)).unwrap_err().to_string();
        assert!(why.contains("`arc_easy.jsonl`"), "{why}");
    }
}

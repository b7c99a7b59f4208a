//! Rules by which answers are marked.

use crate::{Given, Item, Mark};

/// A written answer as RULER cleans it: control characters become line breaks, space around it goes. Empty
/// for an answer that is missing or not text.
pub fn text(given: Option<&Given>) -> String {
    match given {
        Some(Given::Text(text)) => clean(text),
        _ => String::new(),
    }
}

/// Control characters become line breaks, space around the text goes.
pub fn clean(text: &str) -> String {
    text.trim().replace(|c: char| c < ' ', "\n").trim().to_owned()
}

/// Share of `gold` that stands somewhere in the answer, whatever the case; 0 if there is none.
pub fn match_all(answer: &str, gold: &[String]) -> f64 {
    let answer = answer.to_lowercase();
    let found = gold.iter().filter(|gold| answer.contains(&gold.to_lowercase())).count();
    found as f64 / gold.len().max(1) as f64
}

/// 1 if any of `gold` stands somewhere in the answer, whatever the case.
pub fn match_part(answer: &str, gold: &[String]) -> f64 {
    f64::from(u8::from(match_all(answer, gold) > 0.0))
}

/// Share of `words` that are words of the answer, whatever the case and the punctuation.
pub fn keyword_recall(answer: &str, words: &[String]) -> f64 {
    let answer = answer.to_lowercase();
    let said: Vec<&str> = answer.split(|c: char| !c.is_alphanumeric()).collect();
    let found = words.iter().filter(|word| said.contains(&word.to_lowercase().as_str())).count();
    found as f64 / words.len().max(1) as f64
}

/// The first run of digits as a number.
pub fn first_integer(answer: &str) -> Option<u64> {
    let from = answer.find(|c: char| c.is_ascii_digit())?;
    let digits = answer[from..].split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// RULER's `string_match_all`: score and both details are the share of references found.
pub(crate) fn ruler_all(item: &Item, given: &[Given]) -> Mark {
    let score = item.asks.first().map_or(0.0, |ask| match_all(&text(given.first()), &ask.gold));
    Mark::of(score).with("official", score).with("harness", score)
}

/// RULER's `string_match_part`: officially one alias is enough; the evaluation harness counts the share of
/// aliases.
pub(crate) fn ruler_part(item: &Item, given: &[Given]) -> Mark {
    let Some(ask) = item.asks.first() else { return Mark::default() };
    let answer = text(given.first());
    let official = match_part(&answer, &ask.gold);
    Mark::of(official).with("official", official).with("harness", match_all(&answer, &ask.gold))
}

/// Where the greatest number stands; the first of equals; none for an empty list or one with a number that is
/// none.
pub(crate) fn argmax(values: &[f64]) -> Option<usize> {
    let is_number = values.iter().all(|value| !value.is_nan());
    let best = (0..values.len()).reduce(|best, i| if values[i] > values[best] { i } else { best });
    best.filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ask, Reply};

    fn gold(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn item(words: &[&str]) -> Item {
        let reply = Reply::Write { tokens: 32 };
        let ask = Ask { question: String::new(), cue: String::new(), reply, gold: gold(words) };
        Item { context: String::new(), asks: vec![ask], depths: Vec::new() }
    }

    #[test]
    fn two_libraries_give_two_numbers_for_the_same_answers() {
        // Shares of aliases found: 1/1, 1/3, 2/2, 0/1. Any alias: 1, 1, 1, 0 of 4 = 75.0;
        // shares: (1 + 1/3 + 1 + 0) / 4 = 7/12 = 58.33.
        let answers = [
            (item(&["Rollo"]), "It was rollo."),
            (item(&["the Seine", "River Seine", "Seine valley"]), "by the Seine"),
            (item(&["1066", "in 1066"]), "in 1066"),
            (item(&["France"]), "Normandy"),
        ];
        let marks: Vec<Mark> =
            answers.iter().map(|(item, answer)| ruler_part(item, &[Given::Text((*answer).into())])).collect();
        let mean = |of: &dyn Fn(&Mark) -> f64| 100.0 * marks.iter().map(of).sum::<f64>() / 4.0;
        assert_eq!(format!("{:.1}", mean(&|mark| mark.score)), "75.0");
        assert_eq!(format!("{:.1}", mean(&|mark| mark.details["official"])), "75.0");
        assert_eq!(format!("{:.2}", mean(&|mark| mark.details["harness"])), "58.33");
    }

    #[test]
    fn references_are_counted() {
        let names = gold(&["ABCDE", "FGHIJ"]);
        assert_eq!(match_all("abcde and fghij", &names), 1.0);
        assert_eq!(match_all("ABCDE only", &names), 0.5);
        assert_eq!((match_all("", &names), match_all("x", &[])), (0.0, 0.0));
        assert_eq!((match_part("FGHIJ", &names), match_part("none", &names)), (1.0, 0.0));
    }

    #[test]
    fn false_hits_of_substrings_are_known() {
        // Each answer is wrong, and each is counted right by RULER's rule.
        let wrong = [("12345678", "1234567"), ("he meant anyone", "any"), ("not Paris", "Paris")];
        let hits = wrong.iter().filter(|(answer, right)| match_all(answer, &gold(&[right])) == 1.0).count();
        assert_eq!(hits, 3);
        // Whole words and integers do not fall for the first two.
        assert_eq!(keyword_recall("12345678", &gold(&["1234567"])), 0.0);
        assert_eq!(keyword_recall("he meant anyone", &gold(&["any"])), 0.0);
        assert_ne!(first_integer("12345678"), Some(1_234_567));
    }

    #[test]
    fn answers_are_cleaned_as_ruler_does() {
        assert_eq!(clean(" a\tb\u{1}c \n"), "a\nb\nc");
        assert_eq!(clean("\u{1}\u{2}"), "");
        assert_eq!((text(None), text(Some(&Given::Share(1.0)))), (String::new(), String::new()));
    }

    #[test]
    fn words_and_numbers_are_read() {
        assert_eq!(
            keyword_recall("The Heron, painted BLUE!", &gold(&["heron", "blue", "red", "paint"])),
            0.5
        );
        assert_eq!(first_integer("key 04711, not 5"), Some(4711));
        assert_eq!((first_integer("none"), first_integer(&"9".repeat(30))), (None, None));
        assert_eq!((argmax(&[-3.0, -1.0, -1.0]), argmax(&[]), argmax(&[f64::NAN])), (Some(1), None, None));
    }
}

//! Secrets are noted somewhere in a long text, and the model is asked for some of them.
//!
//! * Paper:    Hsieh et al., 2024, arXiv 2404.06654, sections 3 and appendix B; NIAH tasks
//! * Equation: score = share of the asked values that stand in the answer, whatever the case
//! * Shapes:   n units (essay: words, else lines), keys * values needles → one ask of queries * values
//!   answers
//! * Cost:     one prompt, 128 new tokens
//! * Differs:  wordings, words and essay are ours or the user's; the size is searched per item to the unit,
//!   so that the increments of 500 words and 25 lines are not needed. Balanced: needle k of K stands at
//!   `(place + k / K) mod 1`, those asked for first, `place` even over samples; the essay begins at a random
//!   word
//! * Oracle:   needles found again by their own sentence; places by hand

use std::borrow::Cow;
use std::collections::HashSet;

use eunoe_core::{Card, Result};
use fastrand::Rng;

use super::{RULER, card, frame, listed, write};
use crate::fit::largest;
use crate::haystack::weave;
use crate::random::{even, rng, strata, uuid};
use crate::{Draw, Given, Item, Mark, Task, marks, words};

const ANSWER: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Hay {
    Noise,
    Essay,
    Needles,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Words,
    Numbers,
    Uuids,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Niah {
    card: Card,
    hay: Hay,
    key: Kind,
    value: Kind,
    /// Keys, values per key, keys asked for.
    counts: [usize; 3],
    is_balanced: bool,
}

const SINGLE: &str = "one secret is noted in a long text and asked for";
const KEYS: &str = "a secret is asked for among others that look like it";
const MANY: &str = "several secrets are noted in a long text and all asked for";

const SINGLE_1: Niah = row("niah_single_1", "NIAH single 1: repeated noise", SINGLE, [1, 1, 1]);
const SINGLE_2: Niah =
    Niah { hay: Hay::Essay, ..row("niah_single_2", "NIAH single 2: essay", SINGLE, [1, 1, 1]) };
const SINGLE_3: Niah = Niah {
    hay: Hay::Essay,
    value: Kind::Uuids,
    ..row("niah_single_3", "NIAH single 3: UUIDs in an essay", SINGLE, [1, 1, 1])
};
const MULTIKEY_1: Niah =
    Niah { hay: Hay::Essay, ..row("niah_multikey_1", "NIAH multikey 1: four keys", KEYS, [4, 1, 1]) };
const MULTIKEY_2: Niah = Niah {
    hay: Hay::Needles,
    ..row("niah_multikey_2", "NIAH multikey 2: nothing but needles", KEYS, [1, 1, 1])
};
const MULTIKEY_3: Niah = Niah {
    hay: Hay::Needles,
    key: Kind::Uuids,
    value: Kind::Uuids,
    ..row("niah_multikey_3", "NIAH multikey 3: nothing but UUID needles", KEYS, [1, 1, 1])
};
const MULTIVALUE: Niah = Niah {
    hay: Hay::Essay,
    ..row("niah_multivalue", "NIAH multivalue: four values of a key", MANY, [1, 4, 1])
};
const MULTIQUERY: Niah = Niah {
    hay: Hay::Essay,
    ..row("niah_multiquery", "NIAH multiquery: four keys asked for", MANY, [4, 1, 4])
};

/// The official eight, then the balanced eight.
pub static TABLE: [Niah; 16] = [
    SINGLE_1,
    SINGLE_2,
    SINGLE_3,
    MULTIKEY_1,
    MULTIKEY_2,
    MULTIKEY_3,
    MULTIVALUE,
    MULTIQUERY,
    SINGLE_1.balanced("niah_single_1_balanced", "NIAH single 1, balanced"),
    SINGLE_2.balanced("niah_single_2_balanced", "NIAH single 2, balanced"),
    SINGLE_3.balanced("niah_single_3_balanced", "NIAH single 3, balanced"),
    MULTIKEY_1.balanced("niah_multikey_1_balanced", "NIAH multikey 1, balanced"),
    MULTIKEY_2.balanced("niah_multikey_2_balanced", "NIAH multikey 2, balanced"),
    MULTIKEY_3.balanced("niah_multikey_3_balanced", "NIAH multikey 3, balanced"),
    MULTIVALUE.balanced("niah_multivalue_balanced", "NIAH multivalue, balanced"),
    MULTIQUERY.balanced("niah_multiquery_balanced", "NIAH multiquery, balanced"),
];

const fn row(id: &'static str, name: &'static str, idea: &'static str, counts: [usize; 3]) -> Niah {
    let card = card(id, name, RULER, idea);
    Niah { card, hay: Hay::Noise, key: Kind::Words, value: Kind::Numbers, counts, is_balanced: false }
}

/// A needle: its sentence, and whether it is asked for.
type Needle = (String, bool);

/// A haystack in units.
struct Units<'a> {
    pieces: Vec<Cow<'a, str>>,
    /// What joins them.
    sep: &'static str,
    /// Before which of them a needle may go; the last is behind all.
    ends: Vec<usize>,
}

impl Niah {
    const fn balanced(self, id: &'static str, name: &'static str) -> Self {
        let card = Card { id, name, ..self.card };
        Self { card, is_balanced: true, ..self }
    }

    fn needle(&self, draw: &Draw<'_>, key: &str, value: &str) -> String {
        let kind = self.value.name();
        draw.sources.prompts().fill("niah.needle", &[("kind", kind), ("key", key), ("value", value)])
    }

    /// Where each needle goes, in order of the places.
    fn places(&self, rng: &mut Rng, place: f64, ends: &[usize], needles: &[Needle]) -> Vec<(usize, usize)> {
        let (units, last) = (ends.len() - 1, ends[ends.len() - 1]);
        let at: Vec<usize> = if self.is_balanced {
            strata(place, needles.len()).iter().map(|t| nearest(ends, t * last as f64)).collect()
        } else if self.hay == Hay::Essay {
            // 40 depths from 0 to 100 %, in whole per cents.
            let depth = |i: usize| (100.0 * i as f64 / 39.0).round() as usize;
            let chosen = rng.choose_multiple(0..40, needles.len());
            chosen.into_iter().map(|i| ends[units * depth(i) / 100]).collect()
        } else {
            rng.choose_multiple(0..units, needles.len())
        };
        let mut places: Vec<(usize, usize)> = at.into_iter().zip(0..).collect();
        places.sort_unstable();
        places
    }

    fn item(&self, draw: &Draw<'_>, mut rng: Rng, units: usize) -> Result<Item> {
        let [keys, values, queries] = self.counts;
        let mut seen = HashSet::new();
        let names: Vec<String> = (0..keys).map(|_| self.key.fresh(&mut rng, &mut seen)).collect();
        let mut gold = Vec::new();
        let mut needles: Vec<Needle> = Vec::new();
        for (i, name) in names.iter().enumerate() {
            for _ in 0..values {
                let value = self.value.fresh(&mut rng, &mut seen);
                needles.push((self.needle(draw, name, &value), i < queries));
                gold.extend((i < queries).then_some(value));
            }
        }
        let hay = self.units(draw, &mut rng, &mut seen, units)?;
        let places = self.places(&mut rng, even(draw, self.card.id), &hay.ends, &needles);
        let inserts: Vec<(usize, &str)> =
            places.iter().map(|(at, k)| (*at, needles[*k].0.as_str())).collect();
        let pieces: Vec<&str> = hay.pieces.iter().map(AsRef::as_ref).collect();
        let (text, at) = weave(&pieces, hay.sep, &inserts);
        let asked = places.iter().zip(at).filter(|((_, k), _)| needles[*k].1).map(|(_, at)| at);
        let (kind, kinds) = (self.value.name(), format!("{}s", self.value.name()));
        let spoken = [("kind", kind), ("kinds", &kinds), ("keys", &listed(&names[..queries]))];
        let (context, depths) = frame(draw, "niah.context", &spoken, &text, asked);
        let wordings = if gold.len() == 1 {
            ["niah.question_one", "niah.cue_one"]
        } else {
            ["niah.question_many", "niah.cue_many"]
        };
        let asks = vec![write(draw, wordings, &spoken, ANSWER, gold)];
        Ok(Item { context, asks, depths })
    }

    /// `count` units of haystack.
    fn units<'a>(
        &self,
        draw: &Draw<'a>,
        rng: &mut Rng,
        seen: &mut HashSet<String>,
        count: usize,
    ) -> Result<Units<'a>> {
        let start = rng.usize(..);
        let lines = |pieces| Units { pieces, sep: "\n", ends: (0..=count).collect() };
        Ok(match self.hay {
            Hay::Noise => lines(vec![draw.sources.prompts().fill("noise", &[]).into(); count]),
            Hay::Needles => {
                let mut other = || {
                    let (key, value) = (self.key.fresh(rng, seen), self.value.fresh(rng, seen));
                    self.needle(draw, &key, &value).into()
                };
                lines((0..count).map(|_| other()).collect())
            }
            Hay::Essay => {
                let hay = draw.sources.haystack()?;
                let start = if self.is_balanced { start % hay.len() } else { 0 };
                let mut ends = hay.sentences(start, count);
                ends.push(count);
                let pieces = hay.words(start, count).into_iter().map(Cow::Borrowed).collect();
                Units { pieces, sep: " ", ends }
            }
        })
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Words => "word",
            Self::Numbers => "number",
            Self::Uuids => "uuid",
        }
    }

    /// One that has not been seen.
    fn fresh(self, rng: &mut Rng, seen: &mut HashSet<String>) -> String {
        loop {
            let word = match self {
                Self::Words => words::pair(rng),
                Self::Numbers => rng.u32(1_000_000..10_000_000).to_string(),
                Self::Uuids => uuid(rng),
            };
            if seen.insert(word.clone()) {
                return word;
            }
        }
    }
}

/// Of places in order, the one nearest to `to`.
pub(super) fn nearest(places: &[usize], to: f64) -> usize {
    let after = places.partition_point(|place| (*place as f64) < to).min(places.len() - 1);
    let before = places[after.saturating_sub(1)];
    if to - before as f64 <= places[after] as f64 - to { before } else { places[after] }
}

impl Task for Niah {
    fn card(&self) -> &Card {
        &self.card
    }

    fn draw(&self, draw: &Draw<'_>) -> Result<Item> {
        let rng = rng(draw, self.card.id);
        let least = self.counts[0] * self.counts[1];
        let (_, item) =
            largest(draw, self.card.id, (least, usize::MAX), |units| self.item(draw, rng.clone(), units))?;
        Ok(item)
    }

    fn mark(&self, item: &Item, given: &[Given]) -> Mark {
        marks::ruler_all(item, given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy;

    #[test]
    fn places_by_hand() {
        assert_eq!([0.0, 4.9, 5.1, 12.0, 99.0].map(|to| nearest(&[0, 10, 13], to)), [0, 0, 10, 13, 13]);
        // Sentences start at words 0, 5, .., 95 of 100. The last of 40 depths is 100 %, the text's end; depth
        // 1 of 39 is 3 %: sentence 20 * 3 / 100 = 0; depth 20 is 51 %: sentence 10, word 50.
        let ends: Vec<usize> = (0..=20).map(|i| 5 * i).collect();
        let needles = vec![(String::new(), true); 40];
        let places = MULTIKEY_1.places(&mut Rng::with_seed(1), 0.0, &ends, &needles);
        let at: Vec<usize> = places.iter().map(|(at, _)| *at).collect();
        assert_eq!((at[1], at[20], at[39]), (0, 50, 100));
        // Balanced: 0.3, 0.8 of 100 words.
        let row = SINGLE_2.balanced("a", "b");
        assert_eq!(row.places(&mut Rng::with_seed(1), 0.3, &ends, &needles[..2]), [(30, 0), (80, 1)]);
        assert_eq!(row.places(&mut Rng::with_seed(1), 0.8, &ends, &needles[..2]), [(30, 1), (80, 0)]);
    }

    /// Key and value of every needle, by their wording.
    fn needles(item: &Item) -> Vec<(String, String)> {
        let parts = item.context.split("Note this: a secret ").skip(1);
        let read = |part: &str| {
            let words: Vec<&str> = part.split_whitespace().take(5).collect();
            (words[2].to_owned(), words[4].trim_end_matches('.').to_owned())
        };
        parts.map(read).collect()
    }

    #[test]
    fn needles_are_as_many_as_the_table_says_and_hold_the_gold() {
        for (id, count, gold) in [
            ("niah_single_1", 1, 1),
            ("niah_single_2", 1, 1),
            ("niah_single_3_balanced", 1, 1),
            ("niah_multikey_1", 4, 1),
            ("niah_multivalue", 4, 4),
            ("niah_multivalue_balanced", 4, 4),
            ("niah_multiquery", 4, 4),
        ] {
            for sample in 0..3 {
                let item = toy::item(id, 2048, sample);
                let (ask, needles) = (toy::only(&item), needles(&item));
                assert_eq!((needles.len(), ask.gold.len(), item.depths.len()), (count, gold, gold), "{id}");
                let asked = needles.iter().filter(|(key, _)| ask.question.contains(key));
                let mut values: Vec<&String> = asked.map(|(_, value)| value).collect();
                let mut want: Vec<&String> = ask.gold.iter().collect();
                values.sort();
                want.sort();
                assert_eq!(values, want, "{id}");
            }
        }
    }

    #[test]
    fn a_haystack_of_needles_has_no_key_twice() {
        for id in ["niah_multikey_2", "niah_multikey_3_balanced"] {
            let item = toy::item(id, 4096, 0);
            let needles = needles(&item);
            let keys: HashSet<&String> = needles.iter().map(|(key, _)| key).collect();
            assert!(needles.len() > 100 && keys.len() == needles.len(), "{id}");
            let at = toy::at(&item, item.depths[0]);
            assert!(at.lines().next().unwrap().contains(&toy::only(&item).gold[0]));
        }
    }

    #[test]
    fn balanced_needles_stand_a_quarter_apart() {
        for sample in 0..5 {
            let depths = toy::item("niah_multiquery_balanced", 4096, sample).depths;
            assert!(depths.windows(2).all(|pair| (pair[1] - pair[0] - 0.25).abs() < 0.02), "{depths:?}");
        }
    }

    #[test]
    fn official_essays_are_the_first_words() {
        let item = toy::item("niah_single_2", 2048, 3);
        let text = item.context.split("\n\n").nth(1).unwrap();
        assert!(text.starts_with("Traveller 0 walked home slowly. ") || item.depths[0] < 0.1);
        assert_ne!(toy::item("niah_single_2_balanced", 2048, 3).context.find("Traveller 0 "), Some(0));
    }

    #[test]
    fn half_of_the_values_is_half_a_score() {
        let item = toy::item("niah_multivalue", 1024, 0);
        let gold = &toy::only(&item).gold;
        assert_eq!(toy::mark("niah_multivalue", &item, &[&gold[..2].join(" and ")]).score, 0.5);
    }
}

//! Plain English words that keys are made of.

use std::collections::HashSet;
use std::sync::LazyLock;

use fastrand::Rng;

/// The file of lists. Written for Eunoe.
pub(crate) const FILE: &str = include_str!("../assets/words.txt");

static WORDS: LazyLock<[Vec<&'static str>; 3]> = LazyLock::new(|| {
    let list = |name| {
        let part = FILE.split("# ").find_map(|part: &'static str| part.strip_prefix(name));
        part.unwrap_or_default().split_whitespace().collect()
    };
    ["nouns", "adjectives", "verbs"].map(list)
});

/// An adjective and a noun, joined by a hyphen.
pub(crate) fn pair(rng: &mut Rng) -> String {
    let [nouns, adjectives, _] = &*WORDS;
    format!("{}-{}", adjectives[rng.usize(..adjectives.len())], nouns[rng.usize(..nouns.len())])
}

/// A noun.
pub(crate) fn noun(rng: &mut Rng) -> &'static str {
    WORDS[0][rng.usize(..WORDS[0].len())]
}

/// `count` distinct words in random order; beyond the list, pairs. More words begin with the fewer ones.
pub(crate) fn distinct(rng: &mut Rng, count: usize) -> Vec<String> {
    let mut list: Vec<String> = WORDS.iter().flatten().map(|word| (*word).to_owned()).collect();
    rng.shuffle(&mut list);
    let mut seen = HashSet::new();
    while list.len() < count {
        let word = pair(rng);
        if seen.insert(word.clone()) {
            list.push(word);
        }
    }
    list.truncate(count);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_stands_twice() {
        let [nouns, adjectives, verbs] = &*WORDS;
        assert!(nouns.len() >= 200 && adjectives.len() >= 150 && verbs.len() >= 150);
        let all: HashSet<&&str> = WORDS.iter().flatten().collect();
        assert_eq!(all.len(), nouns.len() + adjectives.len() + verbs.len());
        assert!(all.iter().all(|word| word.bytes().all(|b| b.is_ascii_lowercase())));
    }

    #[test]
    fn more_words_begin_with_the_fewer() {
        let few = distinct(&mut Rng::with_seed(1), 900);
        let many = distinct(&mut Rng::with_seed(1), 2000);
        assert_eq!(few, many[..900]);
        assert_eq!(many.iter().collect::<HashSet<_>>().len(), 2000);
    }
}

//! Text in which things are hidden: its words, and where its sentences start.

/// Words before whose end no sentence ends.
const SHORTENED: [&str; 9] = ["Mr.", "Mrs.", "Ms.", "Dr.", "St.", "Prof.", "No.", "Capt.", "Col."];

/// Words of one or more texts, one after the other; reading on after the last begins again with the first.
#[derive(Clone, Debug, Default)]
pub struct Haystack {
    text: String,
    /// Byte ranges of the words.
    words: Vec<(usize, usize)>,
    /// Per word, whether a sentence starts with it.
    starts: Vec<bool>,
}

impl Haystack {
    /// From texts in this order.
    pub fn new(texts: &[&str]) -> Self {
        let text = texts.iter().map(|text| text.trim()).collect::<Vec<_>>().join("\n\n");
        let mut words: Vec<(usize, usize)> = Vec::new();
        let mut starts = Vec::new();
        for word in text.split_whitespace() {
            let begin = word.as_ptr() as usize - text.as_ptr() as usize;
            let is_start = words.last().is_none_or(|&(from, to)| {
                text[to..begin].matches('\n').count() > 1 || (ends(&text[from..to]) && begins(word))
            });
            starts.push(is_start);
            words.push((begin, begin + word.len()));
        }
        Self { text, words, starts }
    }

    /// Number of words.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there is no word.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The word at `i`, which may lie beyond the end.
    pub fn word(&self, i: usize) -> &str {
        let (from, to) = self.words[i % self.words.len()];
        &self.text[from..to]
    }

    /// Whether a sentence starts with the word at `i`.
    pub fn is_start(&self, i: usize) -> bool {
        self.starts[i % self.starts.len()]
    }

    /// The words from `start` on.
    pub fn words(&self, start: usize, count: usize) -> Vec<&str> {
        (start..start + count).map(|i| self.word(i)).collect()
    }

    /// Where sentences start among the words from `start` on, counted from `start`; 0 is always among them.
    pub fn sentences(&self, start: usize, count: usize) -> Vec<usize> {
        (0..count).filter(|i| *i == 0 || self.is_start(start + i)).collect()
    }

    /// The words from `start` on, with the line breaks of the text.
    pub fn passage(&self, start: usize, count: usize) -> String {
        let mut parts = Vec::new();
        let (mut at, mut left) = (start, count);
        while left > 0 {
            let from = at % self.len();
            let taken = left.min(self.len() - from);
            parts.push(&self.text[self.words[from].0..self.words[from + taken - 1].1]);
            (at, left) = (at + taken, left - taken);
        }
        parts.join("\n\n")
    }

    /// The sentence start at the word `i` or next after it; the first word if none follows.
    pub fn next_start(&self, i: usize) -> usize {
        let i = i.min(self.len());
        self.starts[i..].iter().position(|start| *start).map_or(0, |k| i + k)
    }
}

fn ends(word: &str) -> bool {
    let bare = word.trim_end_matches(['”', '’', '"', '\'', ')', ']', '_']);
    let is_initial = bare.chars().count() == 2 && bare.starts_with(char::is_uppercase);
    bare.ends_with(['.', '!', '?', '…']) && !is_initial && !SHORTENED.contains(&bare)
}

fn begins(word: &str) -> bool {
    word.chars().find(|c| c.is_alphanumeric()).is_some_and(|c| c.is_uppercase() || c.is_numeric())
}

/// Pieces and what is put between them: each insert goes before the piece at its index, and all are joined by
/// `sep`. Inserts are in order of their index. The text, and the byte at which each insert begins.
pub(crate) fn weave(pieces: &[&str], sep: &str, inserts: &[(usize, &str)]) -> (String, Vec<usize>) {
    let mut text = String::new();
    let mut at = Vec::with_capacity(inserts.len());
    let mut rest = inserts.iter().peekable();
    for i in 0..=pieces.len() {
        while let Some((_, insert)) = rest.next_if(|(index, _)| *index <= i || i == pieces.len()) {
            add(&mut text, sep, insert);
            at.push(text.len() - insert.len());
        }
        if let Some(piece) = pieces.get(i) {
            add(&mut text, sep, piece);
        }
    }
    (text, at)
}

fn add(text: &mut String, sep: &str, piece: &str) {
    if !text.is_empty() {
        text.push_str(sep);
    }
    text.push_str(piece);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_start_after_a_full_stop_and_after_a_blank_line() {
        let hay = Haystack::new(&["I\n\nMr. Fog came. “Why?” he asked. At 5 he\nleft", "The end."]);
        // I | Mr. Fog came. | “Why?” he asked. | At 5 he left | The end.
        assert_eq!(hay.sentences(0, hay.len()), [0, 1, 4, 7, 11]);
        assert_eq!(hay.len(), 13);
        assert_eq!(hay.sentences(2, 6), [0, 2, 5]);
        assert_eq!((hay.next_start(5), hay.next_start(12)), (7, 0));
    }

    #[test]
    fn reading_on_begins_again() {
        let hay = Haystack::new(&["One two.\n\nThree"]);
        assert_eq!(hay.passage(1, 4), "two.\n\nThree\n\nOne two.");
        assert_eq!(hay.words(2, 3), ["Three", "One", "two."]);
        assert_eq!(hay.passage(0, 0), "");
        assert!(Haystack::new(&[" \n"]).is_empty());
    }

    #[test]
    fn inserts_stand_before_their_piece_and_are_found_again() {
        let (text, at) = weave(&["a", "b"], " ", &[(0, "X"), (1, "Y"), (1, "Z"), (9, "W")]);
        assert_eq!(text, "X a Y Z b W");
        assert_eq!(at, [0, 4, 6, 10]);
        assert_eq!(weave(&[], "\n", &[(3, "X")]), ("X".to_owned(), vec![0]));
    }
}

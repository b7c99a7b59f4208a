//! Pre-tokenizers: the cuts that byte-level merges never cross.
//!
//! Each follows llama.cpp's regular expressions of the same name, written out as scanners: `split` hands out
//! consecutive pieces that together are the text.

use eunoe_core::{Error, Result};
use unicode_properties::{GeneralCategory as G, UnicodeGeneralCategory};

/// The supported pre-tokenizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pre {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// `\p{N}`, then [`Pre::Gpt2`] on what is between.
    Smollm,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    Qwen2,
    /// [`Pre::Qwen2`] with `\p{N}{1,3}`.
    Llama3,
    /// Runs of `[\p{P}$+<=>^~|]`, then [`Pre::Gpt2`], `\p{N}+` and `[0-9]{3}`, each within the cuts before it.
    Default,
}

impl Pre {
    const NAMES: [(&'static str, Self); 8] = [
        ("default", Self::Default),
        ("gpt-2", Self::Gpt2),
        ("smollm", Self::Smollm),
        ("qwen2", Self::Qwen2),
        ("deepseek-r1-qwen", Self::Qwen2),
        ("llama-bpe", Self::Llama3),
        ("llama3", Self::Llama3),
        ("llama-v3", Self::Llama3),
    ];

    /// The pre-tokenizer behind `tokenizer.ggml.pre`.
    pub(super) fn named(name: &str) -> Result<Self> {
        let found = Self::NAMES.iter().find(|(n, _)| *n == name);
        found.map(|&(_, pre)| pre).ok_or_else(|| {
            let known = Self::NAMES.map(|(n, _)| n).join(", ");
            Error::Unsupported(format!("pre-tokenizer `{name}` is not supported; supported: {known}"))
        })
    }

    /// Whether a piece that is a token stays whole whatever the merges say.
    pub(super) fn ignores_merges(self) -> bool {
        self == Self::Llama3
    }

    /// Calls `piece` with each piece of `text`, in order.
    pub(super) fn split<'a>(self, text: &'a str, piece: &mut dyn FnMut(&'a str)) {
        match self {
            Self::Gpt2 => each(text, gpt2, piece),
            Self::Qwen2 => each(text, |s| llama3(s, 1), piece),
            Self::Llama3 => each(text, |s| llama3(s, 3), piece),
            Self::Smollm => each(text, |s| single_or_run(s, is_number), &mut |part| each(part, gpt2, piece)),
            Self::Default => each(text, |s| run_or_run(s, is_mark), &mut |part| {
                each(part, gpt2, &mut |word| {
                    each(word, |s| run_or_run(s, is_number), &mut |part| each(part, ascii_triple, piece));
                });
            }),
        }
    }
}

/// Cuts `text` by asking `next` for the length of its first piece again and again.
fn each<'a>(mut text: &'a str, next: impl Fn(&str) -> usize, piece: &mut dyn FnMut(&'a str)) {
    while !text.is_empty() {
        let (head, tail) = text.split_at(next(text));
        piece(head);
        text = tail;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

fn class(c: char) -> Class {
    if c.is_ascii() {
        return match c {
            'a'..='z' | 'A'..='Z' => Class::Letter,
            '0'..='9' => Class::Number,
            ' ' | '\t'..='\r' => Class::Space,
            _ => Class::Other,
        };
    }
    match c.general_category() {
        G::UppercaseLetter | G::LowercaseLetter | G::TitlecaseLetter | G::ModifierLetter | G::OtherLetter => {
            Class::Letter
        }
        G::DecimalNumber | G::LetterNumber | G::OtherNumber => Class::Number,
        _ if c.is_whitespace() => Class::Space,
        _ => Class::Other,
    }
}

fn is_letter(c: char) -> bool {
    class(c) == Class::Letter
}

fn is_number(c: char) -> bool {
    class(c) == Class::Number
}

fn is_space(c: char) -> bool {
    class(c) == Class::Space
}

fn is_other(c: char) -> bool {
    class(c) == Class::Other
}

fn is_newline(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

/// `[\p{P}$+<=>^~|]`
fn is_mark(c: char) -> bool {
    matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
        || matches!(
            c.general_category(),
            G::ConnectorPunctuation
                | G::DashPunctuation
                | G::OpenPunctuation
                | G::ClosePunctuation
                | G::InitialPunctuation
                | G::FinalPunctuation
                | G::OtherPunctuation
        )
}

/// Bytes of the longest start of `s` whose characters are all `like`.
fn run(s: &str, like: impl Fn(char) -> bool) -> usize {
    s.find(|c| !like(c)).unwrap_or(s.len())
}

/// A run that is `like`, or the run before the next such.
fn run_or_run(s: &str, like: impl Fn(char) -> bool) -> usize {
    match run(s, &like) {
        0 => run(s, |c| !like(c)),
        n => n,
    }
}

/// One character that is `like`, or the run before the next such.
fn single_or_run(s: &str, like: impl Fn(char) -> bool) -> usize {
    match s.chars().next() {
        Some(c) if like(c) => c.len_utf8(),
        _ => run(s, |c| !like(c)),
    }
}

/// Three ASCII digits, or everything before the next three.
fn ascii_triple(s: &str) -> usize {
    let is_triple = |w: &[u8]| w.iter().all(u8::is_ascii_digit);
    match s.as_bytes().windows(3).position(is_triple) {
        Some(0) => 3,
        Some(n) => n,
        None => s.len(),
    }
}

/// Bytes of an English contraction's ending, `'s` to `'ll`, at the start of `s`.
fn contraction(s: &str, fold_case: bool) -> Option<usize> {
    let fold = |b: u8| if fold_case { b.to_ascii_lowercase() } else { b };
    match *s.as_bytes() {
        [b'\'', a, ..] if matches!(fold(a), b's' | b't' | b'm' | b'd') => Some(2),
        [b'\'', a, b, ..] if matches!([fold(a), fold(b)], [b'r', b'e'] | [b'v', b'e'] | [b'l', b'l']) => {
            Some(3)
        }
        _ => None,
    }
}

/// `\s+(?!\S)|\s+`: white space leaves its last character to the word after it.
fn white(s: &str) -> usize {
    let n = run(s, is_space);
    let last = s[..n].chars().next_back().map_or(0, char::len_utf8);
    if n == s.len() || n == last { n } else { n - last }
}

fn gpt2(s: &str) -> usize {
    if let Some(n) = contraction(s, false) {
        return n;
    }
    let space = usize::from(s.starts_with(' '));
    let word = &s[space..];
    space
        + match word.chars().next().map(class) {
            Some(Class::Letter) => run(word, is_letter),
            Some(Class::Number) => run(word, is_number),
            Some(Class::Other) => run(word, is_other),
            Some(Class::Space) | None => return white(s),
        }
}

/// `digits` is how many numbers make one piece.
fn llama3(s: &str, digits: usize) -> usize {
    if let Some(n) = contraction(s, true) {
        return n;
    }
    let mut chars = s.chars();
    let Some(first) = chars.next() else { return 0 };
    let lead = if is_letter(first) || is_newline(first) || is_number(first) { 0 } else { first.len_utf8() };
    match run(&s[lead..], is_letter) {
        0 => {}
        n => return lead + n,
    }
    if is_number(first) {
        return s.chars().take(digits).take_while(|&c| is_number(c)).map(char::len_utf8).sum();
    }
    let space = usize::from(first == ' ');
    match run(&s[space..], is_other) {
        0 => {}
        n => return space + n + run(&s[space + n..], is_newline),
    }
    let blank = &s[..run(s, is_space)];
    blank.rfind(is_newline).map_or_else(|| white(s), |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(pre: Pre, text: &str) -> Vec<&str> {
        let mut out = Vec::new();
        pre.split(text, &mut |p| out.push(p));
        out
    }

    #[test]
    fn gpt2_keeps_a_space_with_its_word() {
        assert_eq!(pieces(Pre::Gpt2, "I'll go  on 12345"), ["I", "'ll", " go", " ", " on", " 12345"]);
        assert_eq!(pieces(Pre::Gpt2, "it'S \n\n x "), ["it", "'", "S", " \n\n", " x", " "]);
    }

    #[test]
    fn smollm_takes_digits_one_by_one() {
        assert_eq!(pieces(Pre::Smollm, "a  12.5"), ["a", "  ", "1", "2", ".", "5"]);
        assert_eq!(pieces(Pre::Smollm, "٣٤ x"), ["٣", "٤", " x"]);
    }

    #[test]
    fn qwen2_folds_contractions_and_joins_newlines() {
        assert_eq!(pieces(Pre::Qwen2, "IT'S (ok);\r\n  y"), ["IT", "'S", " (", "ok", ");\r\n", " ", " y"]);
        assert_eq!(pieces(Pre::Qwen2, "a \n \n  b12"), ["a", " \n \n", " ", " b", "1", "2"]);
        assert_eq!(pieces(Pre::Qwen2, "\u{a0}x\tfoo\u{a0}"), ["\u{a0}x", "\tfoo", "\u{a0}"]);
    }

    #[test]
    fn llama3_takes_three_digits() {
        assert_eq!(pieces(Pre::Llama3, "12345 678"), ["123", "45", " ", "678"]);
        assert_eq!(pieces(Pre::Llama3, " '"), [" '"]);
    }

    #[test]
    fn default_cuts_punctuation_first() {
        assert_eq!(pieces(Pre::Default, "x=1234, y"), ["x", "=", "123", "4", ",", " y"]);
        assert_eq!(pieces(Pre::Default, "a 12"), ["a", " ", "12"]);
    }

    #[test]
    fn pieces_are_the_text_and_none_is_empty() {
        let texts = ["", " ", "\0", "'", "'l", "a\u{301}\u{200d}\n", "\r\n\t ١٢٣ 漢字\u{3000}!", "🧑🏽‍🚀'RE"];
        for (text, (_, pre)) in texts.iter().flat_map(|t| Pre::NAMES.map(|p| (t, p))) {
            let parts = pieces(pre, text);
            assert_eq!(parts.concat(), *text, "{pre:?}");
            assert!(parts.iter().all(|p| !p.is_empty()));
        }
    }

    #[test]
    fn unicode_is_the_version_of_llama_cpp() {
        assert_eq!(unicode_properties::UNICODE_VERSION, (15, 1, 0));
        assert_eq!([class('\u{2ebf0}'), class('\u{10d4a}')], [Class::Letter, Class::Other]);
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let e = Pre::named("tekken").unwrap_err().to_string();
        assert!(e.contains("`tekken`") && e.contains("smollm, qwen2"), "{e}");
    }
}

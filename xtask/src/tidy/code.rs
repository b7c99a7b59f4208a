//! `unsafe` stands in the kernels only; everywhere else not even the lint may be lifted.

use super::tree::Tree;

const KERNELS: &str = "crates/eunoe-kernels/";

pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in tree.sources().filter(|(path, _)| !path.starts_with(KERNELS)) {
        for (at, line) in blank(text).lines().enumerate() {
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.into_iter().any(|word| word == "unsafe" || word == "unsafe_code") {
                complaints.push(format!("{path}:{}: `unsafe` belongs in eunoe-kernels", at + 1));
            }
        }
    }
    complaints
}

/// The code with comments, strings and character literals blanked; line numbers stay.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let len = skipped(rest, out.chars().last());
        let (part, tail) = rest.split_at(if len == 0 { c.len_utf8() } else { len });
        match len {
            0 => out.push(c),
            _ => out.extend(part.chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
        }
        rest = tail;
    }
    out
}

/// Bytes of the comment or literal at the start of `text`; 0 if code stands there. `before` is the character before.
fn skipped(text: &str, before: Option<char>) -> usize {
    let to = |end: Option<usize>| end.unwrap_or(text.len());
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if text.starts_with("//") {
        return to(text.find('\n'));
    }
    if text.starts_with("/*") {
        return to(text.find("*/").map(|at| at + 2));
    }
    if text.starts_with('r') && !in_word {
        let hashes = text[1..].bytes().take_while(|b| *b == b'#').count();
        let close = format!("\"{}", "#".repeat(hashes));
        return match text[1 + hashes..].strip_prefix('"') {
            Some(body) => to(body.find(&close).map(|at| 2 + hashes + at + close.len())),
            None => 0,
        };
    }
    if let Some(body) = text.strip_prefix('"') {
        return to(closing(body, '"').map(|at| at + 2));
    }
    // A lifetime is a quote without a second one after a single character.
    let literal = text.strip_prefix('\'').and_then(|body| {
        let first = body.chars().next()?;
        let end = if first == '\\' { closing(body, '\'')? } else { first.len_utf8() };
        body[end..].starts_with('\'').then_some(end + 2)
    });
    literal.unwrap_or(0)
}

/// Where a literal ends, escapes respected.
fn closing(body: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    body.char_indices().find_map(|(at, c)| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_code_is_found_outside_the_kernels_only() {
        let code = "fn f() {\n    unsafe { g() }\n}\n";
        let tree = Tree::of(&[("crates/eunoe-kernels/src/a.rs", code), ("crates/eunoe-kv/src/a.rs", code)]);
        assert_eq!(check(&tree), ["crates/eunoe-kv/src/a.rs:2: `unsafe` belongs in eunoe-kernels"]);
        let allowed = Tree::of(&[("xtask/src/a.rs", "#![allow(unsafe_code)]\n")]);
        assert_eq!(check(&allowed).len(), 1);
    }

    #[test]
    fn words_in_comments_strings_and_names_are_not_code() {
        for text in [
            "// unsafe",
            "/* unsafe\n unsafe */",
            "let s = \"\\\" unsafe\";",
            "let s = r#\"\" unsafe\"#;",
            "let unsafely = 1;",
            "let c = '\"'; // unsafe \"",
            "fn f<'a>(x: &'a str) {} // 'unsafe",
            "let c = '\\''; // unsafe",
        ] {
            assert!(check(&Tree::of(&[("xtask/src/a.rs", text)])).is_empty(), "{text}");
        }
        for text in ["let c = '\"'; unsafe {}", "fn f<'a>() { unsafe {} }", "let s = r\"\\\"; unsafe {}"] {
            assert_eq!(check(&Tree::of(&[("xtask/src/a.rs", text)])).len(), 1, "{text}");
        }
    }
}

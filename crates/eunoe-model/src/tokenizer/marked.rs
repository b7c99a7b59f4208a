//! Untrusted text inside a text that spells control tokens: a mark breaks the names that the untrusted part spells, and is
//! taken out again before anything is merged, so that all else has the tokens it always had.

use std::borrow::Cow;

use super::{Encoder, Tokenizer};

impl Tokenizer {
    /// `text` with `mark` in every name of a control token, and at its end where a name may have begun. A name of one
    /// character cannot be broken and stays.
    pub(crate) fn mark_names<'a>(&self, text: &'a str, mark: char) -> Cow<'a, str> {
        let mut out = Cow::Borrowed(text);
        // A broken name can uncover another that it overlapped, so this ends when none is left.
        loop {
            let found = self.control.find(&out);
            if found.is_empty() {
                break;
            }
            let first = |at: usize| out[at..].chars().next().map_or(0, char::len_utf8);
            let mut broken = String::with_capacity(out.len() + found.len() * mark.len_utf8());
            let mut at = 0;
            for name in found {
                let cut = name.start + first(name.start);
                broken.push_str(&out[at..cut]);
                broken.push(mark);
                at = cut;
            }
            broken.push_str(&out[at..]);
            out = Cow::Owned(broken);
        }
        // Templates trim: what follows may then stand right behind the last word.
        let end = out.trim_end().len();
        let tail = &out.as_bytes()[..end];
        let begins = (1..=end.min(self.control.longest())).any(|n| self.control.begins(&tail[end - n..]));
        if begins {
            out.to_mut().insert(end, mark);
        }
        out
    }

    /// [`Tokenizer::encode_special`] of a text in which [`Tokenizer::mark_names`] set marks.
    pub(crate) fn encode_marked(&self, text: &str, mark: char) -> Vec<u32> {
        let mut encoder = Encoder::new(&self.model);
        let mut at = 0;
        let plain = |encoder: &mut Encoder<'_>, text: &str| match text.contains(mark) {
            true => self.encode_into(encoder, &text.replace(mark, ""), &self.user),
            false => encoder.text(text),
        };
        for found in self.special.find(text) {
            plain(&mut encoder, &text[at..found.start]);
            encoder.out.push(found.id);
            at = found.end;
        }
        plain(&mut encoder, &text[at..]);
        encoder.out
    }
}

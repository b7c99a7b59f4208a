//! What is said to a model, in wordings of ours; a user's file may replace each by its name.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Our wordings, in the form of a user's file. Written for Eunoe.
pub(crate) const FILE: &str = include_str!("../assets/prompts.json");

static OURS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let file: Option<File> = serde_json::from_str(FILE).ok();
    file.map(|file| file.prompts).unwrap_or_default()
});

/// A file of wordings. `{name}` stands for what a task puts in; a line break at the end of a context or at
/// the start of a question parts the two.
#[derive(serde::Deserialize)]
pub(crate) struct File {
    /// By name.
    pub(crate) prompts: BTreeMap<String, String>,
}

/// The wordings in use.
#[derive(Clone, Debug, Default)]
pub struct Prompts {
    given: BTreeMap<String, String>,
}

impl Prompts {
    /// Whether tasks use a wording of this name.
    pub fn is_known(name: &str) -> bool {
        OURS.contains_key(name)
    }

    /// Uses another wording.
    pub fn set(&mut self, name: impl Into<String>, wording: impl Into<String>) {
        self.given.insert(name.into(), wording.into());
    }

    /// The wordings that replace ours.
    pub fn given(&self) -> &BTreeMap<String, String> {
        &self.given
    }

    /// The wording with what stands for each `{name}`; empty for a name that no task uses.
    pub(crate) fn fill(&self, name: &str, values: &[(&str, &str)]) -> String {
        let mut rest = self.given.get(name).or_else(|| OURS.get(name)).map_or("", String::as_str);
        let mut text = String::new();
        // One pass: braces in a value are text.
        while let Some(open) = rest.find('{') {
            text.push_str(&rest[..open]);
            rest = &rest[open..];
            let slot = values.iter().find_map(|(name, value)| {
                let tail = rest[1..].strip_prefix(name)?.strip_prefix('}')?;
                Some((value, tail))
            });
            let (value, tail) = slot.unwrap_or((&"{", &rest[1..]));
            text.push_str(value);
            rest = tail;
        }
        text + rest
    }

    /// The wording of a context, before and after its `{haystack}`.
    pub(crate) fn around(&self, name: &str, values: &[(&str, &str)]) -> (String, String) {
        const SLOT: &str = "{haystack}";
        let text = self.fill(name, values);
        let (before, after) = text.split_once(SLOT).unwrap_or((&text, ""));
        (before.to_owned(), after.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_take_their_places_once() {
        let mut prompts = Prompts::default();
        prompts.set("vt.first", "{name}: {value} {x} {");
        assert_eq!(prompts.fill("vt.first", &[("name", "{value}"), ("value", "5")]), "{value}: 5 {x} {");
        assert_eq!(prompts.fill("vt.next", &[("name", "A"), ("from", "B")]), "VAR A = VAR B");
        assert_eq!(prompts.fill("nothing", &[]), "");
        prompts.set("sort.context", "no place");
        assert_eq!(prompts.around("sort.context", &[]), ("no place".into(), String::new()));
    }

    #[test]
    fn contexts_have_a_place_for_the_text() {
        assert!(OURS.len() > 30);
        for (name, wording) in OURS.iter() {
            assert_eq!(name.ends_with(".context"), wording.contains("{haystack}"), "{name}");
        }
    }
}

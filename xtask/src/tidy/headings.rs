//! A method's page starts with one sentence and the six headings.

use super::tree::Tree;

/// Folders in which every file is one method.
const SHELVES: [&str; 4] = [
    "crates/eunoe-kv/src/policies/",
    "crates/eunoe-kv/src/allocators/",
    "crates/eunoe-tasks/src/shelf/",
    "crates/eunoe-lab/src/mixers/",
];
const HEADINGS: [&str; 6] = ["Paper:", "Equation:", "Shapes:", "Cost:", "Differs:", "Oracle:"];

pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let is_method = |path: &str| {
        let file = SHELVES.iter().find_map(|shelf| path.strip_prefix(shelf));
        file.is_some_and(|file| !file.contains('/') && file != "mod.rs")
    };
    tree.sources()
        .filter(|(path, _)| is_method(path))
        .flat_map(|(path, text)| complaints(path, text))
        .collect()
}

fn complaints(path: &str, text: &str) -> Vec<String> {
    let header: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let found = header.iter().filter_map(|line| {
        let heading = line.strip_prefix("* ")?;
        HEADINGS.into_iter().find(|name| heading.starts_with(name) && heading.len() > name.len())
    });
    let mut complaints = Vec::new();
    if found.collect::<Vec<_>>() != HEADINGS {
        let all = HEADINGS.join(" ");
        complaints.push(format!("{path}: the header must have, in this order and with text: {all}"));
    }
    if header.first().is_none_or(|line| line.is_empty() || line.starts_with('*')) {
        complaints.push(format!("{path}: the header must start with a sentence that a newcomer understands"));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "//! Keeps all.\n//!\n//! * Paper:    none\n//! * Equation: 1\n//! * Shapes:   \\[t\\]\n\
                        //! * Cost:     none\n//!   more\n//! * Differs:  nothing\n//! * Oracle:   by hand\n\nuse x;\n";

    fn of(path: &str, text: &str) -> Vec<String> {
        check(&Tree::of(&[(path, text)]))
    }

    #[test]
    fn a_method_without_its_headings_is_told() {
        let path = "crates/eunoe-kv/src/policies/a.rs";
        assert!(of(path, GOOD).is_empty());
        assert_eq!(of(path, &GOOD.replace("//! * Oracle:   by hand\n", "")).len(), 1);
        assert_eq!(of(path, &GOOD.replace("Cost:     none", "Cost:")).len(), 1);
        assert_eq!(of(path, &GOOD.replace("//! Keeps all.\n//!\n", "")).len(), 1);
        assert_eq!(of(path, "fn f() {}").len(), 2);
    }

    #[test]
    fn other_files_need_none() {
        for path in [
            "crates/eunoe-kv/src/policies/mod.rs",
            "crates/eunoe-kv/src/policies/a/tests.rs",
            "xtask/src/a.rs",
        ] {
            assert!(of(path, "fn f() {}").is_empty(), "{path}");
        }
    }
}

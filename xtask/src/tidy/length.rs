//! A file has at most 500 lines.

use super::tree::Tree;

const LIMIT: usize = 500;

/// Files that may be longer: path, limit, reason.
const EXCEPTIONS: [(&str, usize, &str); 0] = [];

pub(crate) fn check(tree: &Tree) -> Vec<String> {
    complaints(tree, &EXCEPTIONS)
}

fn complaints(tree: &Tree, exceptions: &[(&str, usize, &str)]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in tree.sources() {
        let lines = text.lines().count();
        let limit = exceptions.iter().find(|(file, ..)| *file == path).map_or(LIMIT, |(_, limit, _)| *limit);
        if lines > limit {
            complaints.push(format!("{path}: {lines} lines, at most {limit}; split it"));
        }
    }
    for (path, limit, reason) in exceptions {
        let lines = tree.get(path).map_or(0, |text| text.lines().count());
        if lines <= LIMIT {
            complaints
                .push(format!("{path}: the exception of {limit} lines ({reason}) is not needed any more"));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_needs_an_exception_and_an_exception_needs_a_long_file() {
        let long = "x\n".repeat(501);
        let tree = Tree::of(&[("a.rs", &long), ("b.rs", &long[2..])]);
        assert_eq!(complaints(&tree, &[]), ["a.rs: 501 lines, at most 500; split it"]);
        assert!(complaints(&tree, &[("a.rs", 501, "a table")]).is_empty());
        let stale =
            complaints(&tree, &[("a.rs", 501, "a table"), ("b.rs", 600, "was long"), ("c.rs", 600, "gone")]);
        assert_eq!(stale.len(), 2);
        assert!(stale[0].starts_with("b.rs: the exception of 600 lines (was long)"));
    }
}

//! Every source file is named by a `mod` line: an unlisted file is neither compiled nor tested.

use super::tree::Tree;

pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let unlisted = |(path, _): &(&str, &str)| !is_root(path) && !is_listed(tree, path);
    let complaint = |(path, _): (&str, &str)| format!("{path}: no `mod` line names this file");
    tree.sources().filter(unlisted).map(complaint).collect()
}

/// Files that Cargo finds by itself.
fn is_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        [.., "src", "lib.rs" | "main.rs"] | [.., "src", "bin", _] | [.., "build.rs"] => true,
        [.., "tests" | "benches" | "examples" | "fuzz_targets", _] => !parts.contains(&"src"),
        _ => false,
    }
}

fn is_listed(tree: &Tree, path: &str) -> bool {
    let Some((folder, file)) = path.rsplit_once('/') else { return false };
    // `a/mod.rs` is the module `a` of the folder above.
    let (folder, name) = match (file, folder.rsplit_once('/')) {
        ("mod.rs", Some(above)) => above,
        _ => (folder, file.trim_end_matches(".rs")),
    };
    let mut parents: Vec<String> =
        ["lib.rs", "main.rs", "mod.rs"].iter().map(|parent| format!("{folder}/{parent}")).collect();
    parents.push(format!("{folder}.rs"));
    // Integration tests share modules: any test beside the folder may name it.
    if folder.ends_with("/tests") {
        let beside = tree.sources().filter(|(p, _)| p.rsplit_once('/').is_some_and(|(f, _)| f == folder));
        parents.extend(beside.map(|(p, _)| p.to_owned()));
    }
    let names = |text: &str| text.lines().any(|line| names_module(line, name));
    parents.iter().any(|parent| tree.get(parent).is_some_and(names))
}

/// Whether a line is `mod name;`, with any visibility.
fn names_module(line: &str, name: &str) -> bool {
    let Some((item, _)) = line.split_once(';') else { return false };
    let words: Vec<&str> = item.split_whitespace().collect();
    words.ends_with(&["mod", name]) && (words.len() == 2 || words[0].starts_with("pub"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlisted_file_is_told() {
        let tree = Tree::of(&[
            ("crates/a/src/lib.rs", "mod b;\npub mod c;\npub(crate) mod d;\n// mod e;\nmod ff;"),
            ("crates/a/src/b.rs", "mod inner;"),
            ("crates/a/src/b/inner.rs", ""),
            ("crates/a/src/c/mod.rs", "#[cfg(test)]\nmod tests;"),
            ("crates/a/src/c/tests.rs", ""),
            ("crates/a/src/c/lost.rs", ""),
            ("crates/a/src/d.rs", ""),
            ("crates/a/src/e.rs", ""),
            ("crates/a/src/f.rs", ""),
            ("crates/a/tests/whole.rs", "mod common;"),
            ("crates/a/tests/common/mod.rs", ""),
            ("crates/a/tests/other/mod.rs", ""),
        ]);
        let lost = ["src/c/lost.rs", "src/e.rs", "src/f.rs", "tests/other/mod.rs"];
        assert_eq!(check(&tree), lost.map(|path| format!("crates/a/{path}: no `mod` line names this file")));
    }

    #[test]
    fn visibilities_are_understood() {
        for line in ["mod a;", "pub mod a;", "pub(crate) mod a;", "pub(in crate::x) mod a;", "    mod a;"] {
            assert!(names_module(line, "a"), "{line}");
        }
        for line in ["mod ab;", "mod a {", "// mod a;", "use a;"] {
            assert!(!names_module(line, "a"), "{line}");
        }
    }
}

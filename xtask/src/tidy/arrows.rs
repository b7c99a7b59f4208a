//! Arrows between crates go down only, and every crate inherits the workspace's lints.

use super::tree::Tree;

/// A crate's folder and the crates of ours that it may use, development dependencies included.
const ARROWS: [(&str, &[&str]); 11] = [
    ("crates/eunoe-core", &[]),
    ("crates/eunoe-kernels", &["eunoe-core"]),
    ("crates/eunoe-kv", &["eunoe-core"]),
    ("crates/eunoe-model", &["eunoe-core", "eunoe-kernels"]),
    ("crates/eunoe-engine", &["eunoe-core", "eunoe-kernels", "eunoe-kv", "eunoe-model"]),
    ("crates/eunoe-tasks", &["eunoe-core"]),
    ("crates/eunoe-report", &["eunoe-core"]),
    ("crates/eunoe-lab", &["eunoe-core", "eunoe-kernels", "eunoe-model", "eunoe-report"]),
    ("crates/eunoe-server", &["eunoe-core", "eunoe-kv", "eunoe-model", "eunoe-engine"]),
    (
        "crates/eunoe",
        &[
            "eunoe-core",
            "eunoe-kernels",
            "eunoe-kv",
            "eunoe-model",
            "eunoe-engine",
            "eunoe-tasks",
            "eunoe-report",
            "eunoe-server",
        ],
    ),
    ("xtask", &["eunoe"]),
];

/// Crates above it that a crate's tests alone may use, with the reason.
const OF_TESTS: [(&str, &[&str], &str); 1] = [(
    "crates/eunoe-lab",
    &["eunoe-kv", "eunoe-engine"],
    "the engine is what exported and loaded models must match",
)];

pub(crate) fn check(tree: &Tree) -> Vec<String> {
    tree.manifests().flat_map(|(folder, manifest)| complaints(folder, manifest)).collect()
}

fn complaints(folder: &str, manifest: &str) -> Vec<String> {
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == folder) else {
        return vec![format!("{folder}: unknown crate; say in xtask/src/tidy/arrows.rs what it may use")];
    };
    let of_tests = OF_TESTS.iter().find(|(name, ..)| *name == folder).map_or(&[][..], |(_, names, _)| names);
    let upward = ours(manifest).filter(|(dependency, is_of_tests)| {
        !allowed.contains(dependency) && (!is_of_tests || !of_tests.contains(dependency))
    });
    let mut complaints: Vec<_> = upward
        .map(|(dependency, _)| format!("{folder}/Cargo.toml: `{dependency}` is not below this crate"))
        .collect();
    if !manifest.contains("[lints]\nworkspace = true") {
        complaints
            .push(format!("{folder}/Cargo.toml: lints are not inherited; add `[lints] workspace = true`"));
    }
    complaints
}

/// The crates of ours in any table of dependencies, and whether the table is that of tests.
fn ours(manifest: &str) -> impl Iterator<Item = (&str, bool)> {
    let (mut in_table, mut of_tests) = (false, false);
    manifest.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            in_table = table.ends_with("dependencies");
            of_tests = table.contains("dev-dependencies");
            // `[dependencies.eunoe-kv]` is a dependency by itself.
            let (_, name) = table.rsplit_once("dependencies.")?;
            return Some((name, of_tests)).filter(|_| is_ours(name));
        }
        let name = line.split(['=', '.', ' ']).next().unwrap_or("").trim_matches('"');
        Some((name, of_tests)).filter(|_| in_table && is_ours(name))
    })
}

fn is_ours(name: &str) -> bool {
    name == "eunoe" || name.starts_with("eunoe-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINTS: &str = "[package]\nname = \"x\"\n\n[lints]\nworkspace = true\n";

    fn of(folder: &str, rest: &str) -> Vec<String> {
        check(&Tree::of(&[(&format!("{folder}/Cargo.toml"), &format!("{LINTS}\n{rest}"))]))
    }

    #[test]
    fn a_shelf_may_use_the_core_but_not_the_engine() {
        assert!(
            of("crates/eunoe-kv", "[dependencies]\neunoe-core = { workspace = true }\nstrsim = \"1\"")
                .is_empty()
        );
        let complaint = "crates/eunoe-kv/Cargo.toml: `eunoe-engine` is not below this crate";
        for rest in [
            "[dependencies]\neunoe-engine = { workspace = true }",
            "[dev-dependencies]\neunoe-engine.workspace = true",
            "[target.'cfg(unix)'.dependencies]\n\"eunoe-engine\" = \"1\"",
            "[dependencies.eunoe-engine]\npath = \"..\"",
        ] {
            assert_eq!(of("crates/eunoe-kv", rest), [complaint], "{rest}");
        }
    }

    #[test]
    fn tests_of_the_lab_alone_may_use_the_engine() {
        let engine = "eunoe-engine = { workspace = true }";
        let complaint = "crates/eunoe-lab/Cargo.toml: `eunoe-engine` is not below this crate";
        assert!(of("crates/eunoe-lab", &format!("[dev-dependencies]\n{engine}")).is_empty());
        for rest in
            [&*format!("[dependencies]\n{engine}"), &format!("[dev-dependencies]\n[dependencies]\n{engine}")]
        {
            assert_eq!(of("crates/eunoe-lab", rest), [complaint], "{rest}");
        }
        assert!(!of("crates/eunoe-lab", "[dev-dependencies]\neunoe = \"1\"").is_empty());
    }

    #[test]
    fn an_unknown_crate_and_missing_lints_are_told() {
        assert!(of("crates/eunoe-new", "")[0].contains("unknown crate"));
        let bare = check(&Tree::of(&[("crates/eunoe-core/Cargo.toml", "[package]\n")]));
        assert!(bare[0].contains("lints are not inherited"));
    }
}

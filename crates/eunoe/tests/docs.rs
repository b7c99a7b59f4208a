//! Generated documentation is what the code says.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

#[test]
fn generated_documentation_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (path, expected) in eunoe::docs::generated(&root).unwrap() {
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(there == expected, "`{}` is out of date: run `cargo xtask docs`", path.display());
    }
}

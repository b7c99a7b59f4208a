//! Generated documentation is what the code says.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

#[test]
fn the_page_of_mixers_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/mixers.md");
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let how = "run `cargo run -p eunoe-lab -- list methods --markdown > docs/mixers.md`";
    assert!(there == eunoe_lab::mixers::markdown(), "`docs/mixers.md` is out of date: {how}");
}

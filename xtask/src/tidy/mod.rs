//! House rules that no compiler knows. Each check takes the tree and returns complaints, one line each.

mod arrows;
mod code;
mod headings;
mod length;
mod modules;
mod tree;

use std::path::Path;

use anyhow::Result;

use tree::Tree;

/// Every complaint about the tree under `root`.
///
/// # Errors
/// A file or folder cannot be read.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let tree = Tree::read(root)?;
    let checks = [arrows::check, code::check, headings::check, length::check, modules::check];
    Ok(checks.iter().flat_map(|check| check(&tree)).collect())
}

//! Real models, for tests that can use them.

use std::path::PathBuf;

/// The file of a model in the user's model folder; tests that need one pass when it is absent.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = var("EUNOE_HOME")
        .or_else(|| Some(var("XDG_CACHE_HOME")?.join("eunoe")))
        .or_else(|| Some(var("HOME")?.join(".cache/eunoe")))?;
    let path = home.join("models").join(format!("{name}.gguf"));
    path.is_file().then_some(path)
}

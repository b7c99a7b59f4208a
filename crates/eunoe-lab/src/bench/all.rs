//! Every benchmark in one folder, each in a folder of its own.

use std::path::Path;

use eunoe_core::{Error, Result};
use eunoe_report::ITEMS;
use serde::{Deserialize, Serialize};

/// The name of it in a manifest; its lines are the names of those benchmarks that have ended.
pub const ALL: &str = "all";

/// The benchmarks, which are the names of their folders: what must be alone on the machine first.
pub const NAMES: [&str; 5] = ["throughput", "mqar", "books", "sinks", "chorales"];

/// What all of them depend on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct AllSettings {
    /// Whether each is in its smallest form.
    pub quick: bool,
}

/// Those that have ended, in their order.
pub(super) fn ordered(dir: &Path, ended: &[String]) -> Result<Vec<&'static str>> {
    let at = || format!("`{}`", dir.join(ITEMS).display());
    if let Some(name) = ended.iter().find(|name| !NAMES.contains(&name.as_str())) {
        return Err(Error::Invalid(format!("{}: `{name}` is none of {}", at(), NAMES.join(", "))));
    }
    if ended.is_empty() {
        return Err(Error::Invalid(format!("{}: no benchmark has ended", at())));
    }
    Ok(NAMES.into_iter().filter(|name| ended.iter().any(|line| line == name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Folder, Manifest, Workers, together, write};
    use crate::device::Devices;

    #[test]
    fn a_folder_of_folders_tells_those_that_ended_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let devices = Devices::parse("cpu").unwrap();
        let all = Manifest::here(ALL, AllSettings { quick: true }, Workers { count: 1, devices: &devices });
        let (folder, ..) = Folder::open::<_, String>(dir.path(), all).unwrap();
        let told = || write(dir.path()).unwrap_err().to_string();
        assert!(told().contains("items.jsonl`: no benchmark has ended"), "{}", told());
        folder.add(&["sinks", "mqar", "sinks"]).unwrap();
        let lines = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(ordered(dir.path(), &lines(&["sinks", "mqar", "sinks"])).unwrap(), ["mqar", "sinks"]);
        assert!(told().contains("mqar/manifest.json`: No such file"), "{}", told());
        for name in ["..", "books/..", "", "/", "all"] {
            std::fs::write(dir.path().join(ITEMS), format!("{name:?}\n")).unwrap();
            let error = together("All", &[dir.path().to_owned()]).unwrap_err().to_string();
            assert!(
                error.contains(&format!("items.jsonl`: `{name}` is none of throughput, mqar")),
                "{error}"
            );
        }
    }
}

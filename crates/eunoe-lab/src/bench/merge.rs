//! Parts of one grid put together: what was trained on several machines, or by a process per card.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use eunoe_core::{Error, Result};
use eunoe_report::{ITEMS, MANIFEST};
use serde_json::Value;

use super::folder::{on_card, read};
use super::texts::Settings;
use crate::difference;
use crate::train::write_whole;

/// A part as it lies on disk.
struct Part {
    manifest: Value,
    lines: Vec<Value>,
}

/// Writes the grid that `parts` are of into the new folder `out`: theirs may differ in the list of mixers alone. A training
/// that several have must have gone the same way in all.
///
/// # Errors
/// [`Error::Invalid`] for a folder that is not new, and for parts that are of no grid, or not of one; [`Error::Io`].
pub fn merge(parts: &[PathBuf], out: &Path) -> Result<()> {
    let wrong = |why: String| Err(Error::Invalid(why));
    if fs::read_dir(out).is_ok_and(|mut there| there.next().is_some()) {
        return wrong(format!("`{}` is not empty: give a new folder", out.display()));
    }
    let Some((first, others)) = parts.split_first() else { return wrong("no parts are named".into()) };
    let mut all = open(first)?;
    let list = match all.manifest["benchmark"].as_str() {
        Some("mqar") => "mixers",
        Some("texts") => "patterns",
        _ => return wrong(format!("`{}` holds no grid of trainings", first.display())),
    };
    for dir in others {
        let part = open(dir)?;
        if let Some(what) = apart(&all.manifest, &part.manifest, list) {
            return wrong(format!(
                "`{}` and `{}` are not of one grid ({what})",
                first.display(),
                dir.display()
            ));
        }
        let names = part.manifest["settings"]["grid"][list].as_array().cloned().unwrap_or_default();
        let own = all.manifest.pointer_mut(&format!("/settings/grid/{list}"));
        if let Some(own) = own.and_then(Value::as_array_mut) {
            let new: Vec<Value> = names.into_iter().filter(|name| !own.contains(name)).collect();
            own.extend(new);
        }
        all.lines.extend(part.lines);
    }
    if list == "patterns" {
        equally_large(&all)?;
    }
    let lines = once(all.lines)?;
    fs::create_dir_all(out).map_err(|error| Error::io(out, error))?;
    let told = |error: serde_json::Error| Error::Invalid(error.to_string());
    let manifest = serde_json::to_string_pretty(&all.manifest).map_err(told)? + "\n";
    write_whole(
        &out.join(ITEMS),
        lines.iter().map(|line| format!("{line}\n")).collect::<String>().as_bytes(),
    )?;
    write_whole(&out.join(MANIFEST), manifest.as_bytes())
}

fn open(dir: &Path) -> Result<Part> {
    let file = |name: &str| {
        let path = dir.join(name);
        fs::read(&path).map_err(|error| Error::io(&path, error))
    };
    let manifest = serde_json::from_slice(&file(MANIFEST)?);
    let manifest =
        manifest.map_err(|error| Error::Invalid(format!("`{}`: {error}", dir.join(MANIFEST).display())))?;
    Ok(Part { manifest, lines: read(&file(ITEMS)?, &dir.join(ITEMS))? })
}

/// Why two manifests are not of one grid.
fn apart(a: &Value, b: &Value, list: &str) -> Option<String> {
    let grid = |manifest: &Value| {
        let mut settings = manifest["settings"].clone();
        for lists in [format!("/grid/{list}"), "/model/mixers".into()] {
            settings.pointer_mut(&lists).map(Value::take);
        }
        serde_json::json!({
            "benchmark": manifest["benchmark"], "version": manifest["version"], "settings": settings,
            "cuda": on_card(manifest),
        })
    };
    difference("grid", &grid(a), &grid(b))
}

/// Refuses lines of models that are not as large as the first pattern of the whole grid: a part with another first pattern
/// may have widened its MLPs to that one's size.
fn equally_large(all: &Part) -> Result<()> {
    let wrong = |why: String| Error::Invalid(why);
    let grid = serde_json::from_value(all.manifest["settings"]["grid"].clone());
    let grid: Settings =
        grid.map_err(|error| wrong(format!("the grid of the parts cannot be read: {error}")))?;
    grid.check()?;
    for pattern in &grid.patterns {
        let want = grid.model_of(pattern)?.d_ff;
        let of_it = |line: &&Value| line["mixer"].as_str() == Some(pattern) && line["d_ff"] != want;
        if let Some(line) = all.lines.iter().find(of_it) {
            return Err(wrong(format!(
                "`{pattern}` was trained with `d_ff` {} where {want} makes it as large as `{}`: name that first in each part",
                line["d_ff"], grid.patterns[0],
            )));
        }
    }
    Ok(())
}

/// Lines, each once.
fn once(lines: Vec<Value>) -> Result<Vec<Value>> {
    let key = |line: &Value| ["mixer", "lr", "seed", "t", "pairs"].map(|name| line[name].to_string());
    let found = |line: &Value| {
        let mut line = line.clone();
        for timed in ["seconds", "tokens_per_s"] {
            line.get_mut(timed).map(Value::take);
        }
        line
    };
    let mut seen: HashMap<[String; 5], usize> = HashMap::new();
    let mut all: Vec<Value> = Vec::new();
    for line in lines {
        match seen.get(&key(&line)) {
            Some(at) if found(&all[*at]) == found(&line) => {}
            Some(_) => {
                let [mixer, lr, seed, ..] = key(&line);
                let why =
                    format!("two parts trained {mixer} at rate {lr}, seed {seed}, and it went differently");
                return Err(Error::Invalid(why));
            }
            None => {
                seen.insert(key(&line), all.len());
                all.push(line);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn part(dir: &Path, mixers: &[&str], change: impl Fn(&mut Value), lines: &[Value]) -> PathBuf {
        let mut manifest = json!({
            "benchmark": "mqar", "version": "1",
            "settings": { "grid": { "mixers": mixers, "vocab": 8 }, "model": { "mixers": [mixers[0]] } },
            "machine": { "isa": "avx2" },
        });
        change(&mut manifest);
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join(MANIFEST), manifest.to_string()).unwrap();
        fs::write(dir.join(ITEMS), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        dir.to_owned()
    }

    fn line(mixer: &str, t: u64, accuracy: f64, seconds: f64) -> Value {
        json!({ "mixer": mixer, "lr": 0.1, "seed": 0, "t": t, "pairs": 4, "accuracy": accuracy, "seconds": seconds })
    }

    #[test]
    fn parts_become_one_grid_in_which_each_training_is_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let a = part(&at("a"), &["x", "y"], |_| {}, &[line("x", 16, 0.5, 1.0), line("y", 16, 0.25, 2.0)]);
        let other = |manifest: &mut Value| manifest["machine"]["isa"] = "avx512".into();
        let b = part(&at("b"), &["y", "z"], other, &[line("y", 16, 0.25, 9.0), line("z", 16, 1.0, 3.0)]);
        merge(&[a.clone(), b], &at("all")).unwrap();
        let all = open(&at("all")).unwrap();
        assert_eq!(all.manifest["settings"]["grid"], json!({ "mixers": ["x", "y", "z"], "vocab": 8 }));
        let want = [line("x", 16, 0.5, 1.0), line("y", 16, 0.25, 2.0), line("z", 16, 1.0, 3.0)];
        assert_eq!(all.lines, want);

        let error = merge(std::slice::from_ref(&a), &at("all")).unwrap_err().to_string();
        assert!(error.contains("is not empty: give a new folder"), "{error}");
        let differs = |what: &str, mixers: &[&str], change: &dyn Fn(&mut Value), lines: &[Value]| {
            let b = part(&at(what), mixers, change, lines);
            let error = merge(&[a.clone(), b], &at("none")).unwrap_err().to_string();
            assert!(!at("none").exists());
            error
        };
        let error = differs("b1", &["y"], &|_| {}, &[line("y", 16, 0.5, 1.0)]);
        assert!(
            error.contains(r#"two parts trained "y" at rate 0.1, seed 0, and it went differently"#),
            "{error}"
        );
        let error = differs("b2", &["y"], &|m| m["settings"]["grid"]["vocab"] = 9.into(), &[]);
        assert!(error.contains("are not of one grid (`vocab`: 8 there, 9 asked for)"), "{error}");
        let error = differs("b3", &["y"], &|m| m["machine"]["isa"] = "cuda".into(), &[]);
        assert!(error.contains("are not of one grid (`cuda`: false there, true asked for)"), "{error}");
    }

    #[test]
    fn language_models_are_as_large_as_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let tiny = Settings::books().quick();
        let texts = |name: &str, patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|name| (*name).to_owned()).collect();
            let grid = Settings { patterns: patterns.clone(), ..tiny.clone() };
            let width = |pattern: &String| grid.model_of(pattern).unwrap().d_ff;
            let line =
                |pattern: &String| json!({ "mixer": pattern, "lr": 0.1, "seed": 0, "d_ff": width(pattern) });
            let lines: Vec<Value> = patterns.iter().map(line).collect();
            let change = |m: &mut Value| {
                m["benchmark"] = "texts".into();
                m["settings"] = json!({ "grid": grid });
            };
            part(&dir.path().join(name), &["-"], change, &lines)
        };
        let a = texts("a", &["softmax_attention", "delta_rule"]);
        // by itself it keeps its `d_ff`, which is what it has beside softmax attention too
        let b = texts("b", &["softmax_attention(window=8)"]);
        merge(&[a.clone(), b.clone()], &dir.path().join("all")).unwrap();
        assert_eq!(open(&dir.path().join("all")).unwrap().lines.len(), 3);
        let c = texts("c", &["delta_rule", "softmax_attention(window=8)"]);
        let error = merge(&[b.clone(), c], &dir.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("makes it as large as `softmax_attention(window=8)`"), "{error}");
        assert!(!dir.path().join("none").exists());
        let d = part(&dir.path().join("d"), &["x"], |_| {}, &[]);
        assert!(merge(&[d, b], &dir.path().join("none")).unwrap_err().to_string().contains("`benchmark`"));
        // what has nothing of a grid is no reason to panic
        let odd = |name: &str, settings: Value| {
            part(&dir.path().join(name), &["x"], |m| m["settings"] = settings.clone(), &[json!(5), json!([])])
        };
        let parts = [odd("e", json!(null)), odd("f", json!(7))];
        assert!(merge(&parts, &dir.path().join("odd")).is_err());
        merge(&[odd("g", json!({ "grid": [] }))], &dir.path().join("odd")).unwrap_err();
        let speed = part(&dir.path().join("c"), &["-"], |m| m["benchmark"] = "throughput".into(), &[]);
        let error = merge(&[speed], &dir.path().join("odd")).unwrap_err().to_string();
        assert!(error.contains("holds no grid of trainings"), "{error}");
    }
}

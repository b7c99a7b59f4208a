//! What the model read, and how to run it again.

use eunoe_core::{Error, Result};
use serde::Serialize;

use crate::Manifest;
use crate::units::count;

use super::Extra;
use super::data::Data;
use super::parts::{Section, render};

/// Longer prompts are cut in the middle.
const SHOWN: usize = 12_000;

#[derive(Serialize)]
struct Prompt<'a> {
    task: &'a str,
    length: String,
    tokens: String,
    bos: String,
    answer_tokens: String,
    gold: &'a [String],
    head: String,
    /// Characters between head and tail.
    cut: String,
    tail: String,
}

#[derive(Serialize)]
struct Prompts<'a> {
    prompts: Vec<Prompt<'a>>,
}

#[derive(Serialize)]
struct Again {
    json: String,
    command: String,
    /// The command is the one that was run, not one made from the manifest.
    is_own: bool,
}

pub(super) fn prompts(data: &Data<'_>) -> Result<Option<Section>> {
    let prompts: Vec<Prompt<'_>> = data
        .manifest
        .first
        .iter()
        .map(|sample| {
            let (head, cut, tail) = cut(&sample.prompt);
            Prompt {
                task: &sample.task,
                length: count(sample.length),
                tokens: count(sample.tokens.len()),
                bos: match sample.bos {
                    0 => "no token that begins a text".into(),
                    1 => "one token that begins a text".into(),
                    more => format!("{more} tokens that begin a text"),
                },
                answer_tokens: count(sample.answer_tokens),
                gold: &sample.gold,
                head,
                cut: if cut == 0 { String::new() } else { count(cut) },
                tail,
            }
        })
        .collect();
    if prompts.is_empty() {
        return Ok(None);
    }
    let body = render("prompts.html", &Prompts { prompts })?;
    Ok(Some(Section { id: "prompts".into(), title: "What the model read".into(), body }))
}

/// Head, characters left out, tail.
fn cut(prompt: &str) -> (String, usize, String) {
    let chars = prompt.chars().count();
    if chars <= SHOWN {
        return (prompt.to_string(), 0, String::new());
    }
    let half = SHOWN / 2;
    let head = prompt.chars().take(half).collect();
    (head, chars - 2 * half, prompt.chars().skip(chars - half).collect())
}

pub(super) fn manifest(data: &Data<'_>, extra: &Extra) -> Result<Option<Section>> {
    let shown = Manifest { first: Vec::new(), ..data.manifest.clone() };
    let json =
        serde_json::to_string_pretty(&shown).map_err(|why| Error::Invalid(format!("the manifest: {why}")))?;
    let command = extra.command.clone().unwrap_or_else(|| command(data.manifest));
    let again = Again { json, command, is_own: extra.command.is_some() };
    let body = render("manifest.html", &again)?;
    Ok(Some(Section { id: "again".into(), title: "Run it again".into(), body }))
}

/// The command that a manifest stands for.
fn command(manifest: &Manifest) -> String {
    let lengths: Vec<String> = manifest.lengths.iter().map(ToString::to_string).collect();
    let mut command = format!(
        "eunoe eval -m {} --tasks {} --lengths {} --kv {} --samples {} --seed {}",
        quoted(&manifest.model.name),
        quoted(&manifest.tasks.join(",")),
        lengths.join(","),
        quoted(&manifest.plans.join("; ")),
        manifest.samples,
        manifest.seed,
    );
    for source in manifest.sources.iter().filter(|source| source.name != "built in") {
        command.push_str(&format!(" --file {}", quoted(&source.name)));
    }
    if manifest.audit {
        command.push_str(" --audit");
    }
    command
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SourceFile;
    use crate::made_up;

    #[test]
    fn a_command_by_hand() {
        let mut manifest =
            made_up::manifest(&["full", "h2o(a=1) @ 25%"], &["needle", "sort"], &[100, 200], 4);
        manifest.audit = true;
        manifest.sources.push(SourceFile { name: "it's.txt".into(), sha256: String::new() });
        assert_eq!(
            command(&manifest),
            "eunoe eval -m qwen3-0.6b-q8_0 --tasks needle,sort --lengths 100,200 --kv 'full; h2o(a=1) @ 25%' \
             --samples 4 --seed 7 --file 'it'\\''s.txt' --audit"
        );
    }

    #[test]
    fn long_prompts_are_cut_in_the_middle() {
        let prompt = format!("{}{}{}", "a".repeat(6000), "ä".repeat(7), "z".repeat(6000));
        assert_eq!(cut(&prompt), ("a".repeat(6000), 7, "z".repeat(6000)));
        assert_eq!(cut("short"), ("short".into(), 0, String::new()));
    }
}

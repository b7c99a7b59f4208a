//! A compact table for docs.

use crate::units::{count, score, signed};
use crate::{FULL, Manifest, Row};

/// Per length a table: plans down, tasks across; score, and below full memory the difference with its 95 %
/// interval. `≈` marks tasks whose full-memory score may be no better than guessing.
pub fn markdown(manifest: &Manifest, rows: &[Row]) -> String {
    let mut lengths: Vec<usize> = rows.iter().map(|row| row.length).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let tables: Vec<String> = lengths.iter().map(|length| table(manifest, rows, *length)).collect();
    let near = rows.iter().any(|row| row.near_chance == Some(true));
    let foot = if near { "\n≈ the full-memory score may be no better than guessing\n" } else { "" };
    tables.join("\n") + foot
}

fn table(manifest: &Manifest, rows: &[Row], length: usize) -> String {
    let here: Vec<&Row> = rows.iter().filter(|row| row.length == length).collect();
    let (plans, tasks) = (distinct(&here, |row| &row.plan), distinct(&here, |row| &row.task));
    let name = escape(&manifest.model.name);
    let mut out = format!("**{name}, {} tokens, n = {}**\n\n| plan |", count(length), items(&here));
    for task in &tasks {
        out.push_str(&format!(" {} |", escape(task)));
    }
    out.push_str(&format!("\n|---|{}\n", "---|".repeat(tasks.len())));
    for plan in plans {
        out.push_str(&format!("| {} |", escape(plan)));
        for task in &tasks {
            let row = here.iter().find(|row| row.plan == plan && row.task == **task);
            out.push_str(&format!(" {} |", row.map_or("–".to_string(), |row| cell(row))));
        }
        out.push('\n');
    }
    out
}

/// Items per cell: `25`, or `20 to 25`.
fn items(rows: &[&Row]) -> String {
    let n = rows.iter().map(|row| row.n);
    match (n.clone().min().unwrap_or(0), n.max().unwrap_or(0)) {
        (least, most) if least == most => least.to_string(),
        (least, most) => format!("{least} to {most}"),
    }
}

fn distinct<'a>(rows: &[&'a Row], of: fn(&Row) -> &String) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for row in rows {
        let value = of(row).as_str();
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

fn cell(row: &Row) -> String {
    let flag = if row.near_chance == Some(true) { " ≈" } else { "" };
    match (row.diff, row.ci) {
        (Some(diff), Some([low, high])) if row.plan != FULL => {
            format!("{} ({}, {} to {}){flag}", score(row.score), signed(diff), signed(low), signed(high))
        }
        _ => format!("{}{flag}", score(row.score)),
    }
}

/// Text as it stands in a cell: plans hold `|`, and nothing may become a tag, a link or a new line.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            c if c.is_control() => out.push(' '),
            c if r"\|`*_[]~".contains(c) => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn a_table_by_hand() {
        let (manifest, lines) = made_up::small();
        let text = markdown(&manifest, &crate::rows(&manifest, &lines));
        assert_eq!(
            text,
            "**qwen3-0.6b-q8\\_0, 100 tokens, n = 4**\n\n| plan | needle |\n|---|---|\n| full | 1.00 |\n| \
             h2o @ 50% | 0.75 (−0.25, −0.75 to 0.00) |\n"
        );
        assert_eq!(markdown(&manifest, &[]), "");
    }

    #[test]
    fn plans_stay_in_their_cells() {
        assert_eq!(escape("a | q8\n<b>[x](y)"), "a \\| q8 &lt;b&gt;\\[x\\](y)");
    }

    #[test]
    fn ceilings_near_chance_are_flagged_and_gaps_shown() {
        let (mut manifest, mut lines) = made_up::small();
        manifest.tasks.push("sort".into());
        lines.iter_mut().for_each(|line| line.chance = 0.6);
        lines.push(made_up::line(FULL, "sort", 100, 0, 1.0));
        let text = markdown(&manifest, &crate::rows(&manifest, &lines));
        assert!(
            text.contains("| full | 1.00 ≈ | 1.00 |\n| h2o @ 50% | 0.75 (−0.25, −0.75 to 0.00) ≈ | – |\n"),
            "{text}"
        );
        assert!(text.ends_with("guessing\n") && text.contains("n = 1 to 4"));
    }
}

use super::*;
use crate::made_up;
use crate::{FULL, rows};

fn page_of(manifest: &Manifest, lines: &[Line]) -> String {
    page(manifest, &rows(manifest, lines), lines, &Extra::default()).unwrap()
}

/// Numbers are numbers, and nothing is fetched.
fn assert_sound(page: &str) {
    for word in ["NaN", "inf", "undefined"] {
        let at = page.find(word);
        assert!(at.is_none(), "{word}: {:?}", at.map(|at| &page[at.saturating_sub(60)..at + 20]));
    }
    for word in ["http://", "https://", "src=", "url(", "@import", "<link", "<img", "<iframe"] {
        assert!(!page.contains(word), "{word}");
    }
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    for tag in ["section", "details", "table", "figure", "svg", "tr", "td", "p", "ul", "g", "title", "text"] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "<{tag}>");
    }
}

#[test]
fn a_small_page_says_what_was_found() {
    let (manifest, lines) = made_up::small();
    let page = page_of(&manifest, &lines);
    assert_sound(&page);
    for text in [
        "was given 4 items per task and length, under 2 plans, at 100 tokens",
        "It ran on Imaginary Processor 9000 (avx512, 2 items at a time, 4 threads each).",
        "full memory scores 1.00 of 1, mean of 1 task that counts, and takes 1000 B of KV memory.",
        "With 50 % of full memory&#x27;s bytes (up to 500 B):",
        "the only plan does not surely.",
        "too few items to show any difference on a single task",
        "--samples 4 --seed 7",
        "one token that begins a text",
    ] {
        assert!(page.contains(text), "{text}");
    }
    for id in
        ["findings", "how", "ranking", "pareto", "tasks", "depth", "retention", "speed", "prompts", "again"]
    {
        assert!(
            page.contains(&format!("<section id=\"{id}\"")) && page.contains(&format!("href=\"#{id}\"")),
            "{id}"
        );
    }
    assert!(!page.contains("id=\"audit\""));
}

#[test]
fn the_same_records_give_the_same_page() {
    let (manifest, lines) = made_up::large(2);
    assert_eq!(page_of(&manifest, &lines), page_of(&manifest, &lines));
}

#[test]
fn a_large_page_is_sound_and_keeps_its_size() {
    let (manifest, lines) = made_up::large(4);
    let page = page_of(&manifest, &lines);
    assert_sound(&page);
    // 57 plans: a map each on two tasks, 14 charts of lag, 14 of reading and of writing, two fronts per
    // length.
    assert_eq!(page.matches("by length and depth\"").count(), 2 * 57);
    assert_eq!(page.matches("aria-label=\"Score by lag: ").count(), 14);
    assert_eq!(page.matches("time relative to full memory: ").count(), 28);
    assert_eq!(page.matches("aria-label=\"Quality against ").count(), 8);
    assert!(page.contains("Is the risk right?") && page.contains("qa_1"));
    assert!(page.len() < 8_000_000, "{} bytes", page.len());
}

#[test]
fn nothing_of_a_user_becomes_markup() {
    let evil = "</script></style><img src=x onerror=\"alert(1)\" '&amp;{{ 7777*7777 }}>";
    let (mut manifest, mut lines) = made_up::small();
    let name = |name: &str| format!("{name}{evil}");
    manifest.eunoe = name("v");
    manifest.model.name = name("m");
    manifest.model.sha256 = Some(name("h"));
    (manifest.model.layers, manifest.model.kv_heads) = (2, 1);
    manifest.plans = vec![FULL.into(), name("p @ ")];
    manifest.tasks = vec![name("t")];
    manifest.sources[0] = crate::SourceFile { name: name("f"), sha256: name("s") };
    (manifest.machine.cpu, manifest.machine.isa) = (name("c"), name("i"));
    for sample in &mut manifest.first {
        (sample.task, sample.prompt, sample.gold) = (name("t"), name("q"), vec![name("g")]);
    }
    for line in &mut lines {
        line.task = name("t");
        line.given = vec![name("a")];
        line.details = [(name("d"), 1.0)].into();
        line.audit =
            Some(serde_json::json!({"risk": 0.5, "verdict": name("w"), "kl_mean": 0.1, "x": name("x")}));
        if line.plan != FULL {
            line.plan = name("p @ ");
        }
    }
    let extra = Extra { title: Some(name("T")), command: Some(name("C")), notes: vec![name("N")] };
    let rows = rows(&manifest, &lines);
    let page = page(&manifest, &rows, &lines, &extra).unwrap();
    assert!(!page.contains("<img") && !page.contains("onerror=\"") && !page.contains("60481729"));
    assert_eq!((page.matches("</script>").count(), page.matches("</style>").count()), (1, 1));
    assert_eq!((page.matches("<script>").count(), page.matches("<style>").count()), (1, 1));
    // Once shown as written, in each place a user can reach.
    for mark in ["v", "m", "p @ ", "t", "f", "c", "i", "q", "g", "T", "C", "N", "w"] {
        assert!(
            page.contains(&format!("{mark}&lt;/script&gt;"))
                || page.contains(&format!("{mark}&lt;&#x2f;script&gt;")),
            "{mark}"
        );
    }
    let table = crate::markdown(&manifest, &rows);
    assert!(!table.contains('<'));
}

#[test]
fn empty_results_have_a_page() {
    let (manifest, _) = made_up::small();
    let page = page_of(&manifest, &[]);
    assert_sound(&page);
    assert!(page.contains("There are no results yet.") && page.contains("under 0 plans"));
    let bare = Manifest {
        plans: vec![],
        tasks: vec![],
        lengths: vec![],
        sources: vec![],
        first: vec![],
        samples: 0,
        ..manifest
    };
    assert_sound(&page_of(&bare, &[]));
}

#[test]
fn one_plan_alone_has_a_page() {
    let (manifest, lines) = made_up::small();
    let full = page_of(&manifest, &lines[..4]);
    let other = page_of(&manifest, &lines[4..]);
    assert_sound(&full);
    assert_sound(&other);
    assert!(other.contains("Full memory was not measured") && other.contains("comparisons are missing"));
    assert!(!other.contains("id=\"pareto\"") && !full.contains("id=\"speed\""));
}

#[test]
fn endpoints_and_single_items_have_a_page() {
    let (mut manifest, mut lines) = made_up::small();
    (manifest.model.layers, manifest.model.kv_heads, manifest.model.token_bytes) = (0, 0, 0);
    for line in &mut lines {
        line.kept = Vec::new();
        line.depths = Vec::new();
        (line.peak_bytes, line.hot_bytes, line.budget_bytes) = (0, 0, None);
        (line.prefill_s, line.decode_s) = (0.0, 0.0);
    }
    for n in [1, 5, 8] {
        let page = page_of(&manifest, &lines[..n]);
        assert_sound(&page);
        assert!(page.contains("an endpoint, whose memory cannot be seen"));
        assert!(!page.contains("id=\"heads\"") && !page.contains("id=\"depth\""));
    }
}

#[test]
fn ceilings_near_guessing_are_named() {
    let (manifest, mut lines) = made_up::small();
    lines.iter_mut().for_each(|line| line.score = 0.0);
    let page = page_of(&manifest, &lines);
    assert_sound(&page);
    assert!(page.contains("Left out of the ranking") && page.contains("No task counts"));
}

#[test]
fn absurd_lines_are_refused() {
    let (manifest, mut lines) = made_up::small();
    lines[2].score = f64::NAN;
    let why = page(&manifest, &[], &lines, &Extra::default()).unwrap_err().to_string();
    assert_eq!(why, "line 3 of the results: `score` must be from 0 to 1, got NaN");
}

/// Writes pages to look at into the folder named by EUNOE_LOOK.
#[test]
#[ignore = "writes files to look at"]
fn pages_to_look_at() {
    let Some(dir) = std::env::var_os("EUNOE_LOOK").map(std::path::PathBuf::from) else { return };
    let (manifest, lines) = made_up::large(25);
    std::fs::write(dir.join("large.html"), page_of(&manifest, &lines)).unwrap();
    let (manifest, lines) = made_up::small();
    std::fs::write(dir.join("small.html"), page_of(&manifest, &lines)).unwrap();
}

use super::*;
use crate::made_up::{self, line};

/// Rows of `plans` on one task at one length.
fn rows_of(plans: &[&str], lines: &[Line]) -> Vec<Row> {
    rows(&made_up::manifest(plans, &["needle"], &[100], 4), lines)
}

#[test]
fn a_row_by_hand() {
    let (manifest, lines) = made_up::small();
    let rows = rows(&manifest, &lines);
    assert_eq!(rows.len(), 2);
    // 3 of 4 against 4 of 4: -1/4, one item differs, so p = 1; 2.5 % tails of Binomial(4, 1/4) / 4: P(0) =
    // 0.316, P(>= 4) = 0.004, P(>= 3) = 0.051. Too few items for an exact test: nothing can be shown.
    let plan = &rows[1];
    assert_eq!((plan.plan.as_str(), plan.n, plan.score, plan.ceiling), ("h2o @ 50%", 4, 0.75, Some(1.0)));
    assert_eq!((plan.diff, plan.ci, plan.p), (Some(-0.25), Some([-0.75, 0.0]), Some(1.0)));
    assert_eq!((plan.near_chance, plan.resolves, plan.same_as_full), (Some(false), None, Some(0.75)));
    assert_eq!(
        (plan.kv_bytes, plan.hot_bytes, plan.peak_bytes, plan.budget_bytes),
        (500, 400, 500, Some(500))
    );
    // Strips 1000 and 250 thousandths: mean 0.625.
    assert_eq!(
        (plan.kept, plan.attended_tokens, plan.prefill_s, plan.decode_s),
        (Some(0.625), 8.0, 2.0, 1.0)
    );
    assert_eq!(plan.details, BTreeMap::from([("official".to_string(), 0.75)]));
    let full = &rows[0];
    assert_eq!(
        (full.diff, full.ci, full.p, full.budget_bytes),
        (Some(0.0), Some([0.0, 0.0]), Some(1.0), None)
    );
    assert_eq!(
        (full.same_as_full, full.resolves, full.score_ci),
        (Some(1.0), None, crate::stats::wilson(4, 4))
    );
}

#[test]
fn rows_stand_in_the_order_of_the_manifest() {
    let manifest = made_up::manifest(&["b", FULL], &["sort", "needle"], &[200, 100], 1);
    let mut lines = Vec::new();
    for (plan, task) in [("extra", "needle"), (FULL, "needle"), ("b", "needle"), ("b", "sort")] {
        lines.extend([100, 200].map(|length| line(plan, task, length, 0, 1.0)));
    }
    let rows = rows(&manifest, &lines);
    let order: Vec<_> = rows.iter().map(|row| (row.plan.as_str(), row.task.as_str(), row.length)).collect();
    let want = [("b", "sort"), ("b", "needle"), (FULL, "needle"), ("extra", "needle")];
    let want: Vec<_> =
        want.iter().flat_map(|(plan, task)| [(*plan, *task, 200), (*plan, *task, 100)]).collect();
    assert_eq!(order, want);
}

#[test]
fn pairs_are_made_by_sample_and_the_last_counts() {
    let lines = [
        line(FULL, "needle", 100, 0, 0.0),
        line(FULL, "needle", 100, 1, 1.0),
        line("b", "needle", 100, 1, 0.0),
        line("b", "needle", 100, 2, 1.0),
        line("b", "needle", 100, 1, 1.0),
        line(FULL, "needle", 100, 0, 1.0),
    ];
    // Sample 1 of `b` is 1 in its last line and equals full; sample 2 has no pair: n 2, score 1, ceiling over
    // sample 1.
    let rows = rows_of(&[FULL, "b"], &lines);
    assert_eq!((rows[0].n, rows[0].score), (2, 1.0));
    assert_eq!((rows[1].n, rows[1].score, rows[1].ceiling, rows[1].diff), (2, 1.0, Some(1.0), Some(0.0)));
}

#[test]
fn without_full_there_is_nothing_to_compare() {
    let lines = [line("b", "needle", 100, 0, 1.0), line("b", "needle", 100, 1, 0.0)];
    let row = &rows_of(&["b"], &lines)[0];
    assert_eq!((row.ceiling, row.diff, row.ci, row.p), (None, None, None, None));
    assert_eq!((row.near_chance, row.resolves, row.same_as_full), (None, None, None));
}

#[test]
fn scores_between_have_no_mcnemar() {
    let lines: Vec<Line> = (0..40)
        .flat_map(|i| {
            [
                line(FULL, "needle", 100, i, 0.8),
                line("b", "needle", 100, i, if i % 2 == 0 { 0.8 } else { 0.6 }),
            ]
        })
        .collect();
    let row = &rows_of(&[FULL, "b"], &lines)[1];
    assert_eq!(row.p, None);
    // Differences 0 and -0.2, half each: sd = sqrt(40 / 39) * 0.1; 2.80158 * 0.101274 / sqrt(40) = 0.044861.
    assert!((row.diff.unwrap() + 0.1).abs() < 1e-12);
    assert!((row.resolves.unwrap() - 0.044_861).abs() < 1e-6);
    let [low, high] = row.ci.unwrap();
    assert!((low + 0.13).abs() < 0.006 && (high + 0.07).abs() < 0.006, "{low} {high}");
}

#[test]
fn a_ceiling_near_chance_is_flagged() {
    let with_hits = |hits: usize, chance: f64| {
        let mut lines: Vec<Line> =
            (0..20).map(|i| line(FULL, "needle", 100, i, f64::from(u8::from(i < hits)))).collect();
        lines.iter_mut().for_each(|line| line.chance = chance);
        rows_of(&[FULL], &lines)[0].near_chance
    };
    // Wilson's lower end: 8 of 20 is 0.219, 9 of 20 is 0.258, against 0.2 + 0.05.
    assert_eq!((with_hits(8, 0.2), with_hits(9, 0.2)), (Some(true), Some(false)));
    assert_eq!((with_hits(0, 0.0), with_hits(20, 0.0)), (Some(true), Some(false)));
}

#[test]
fn a_probability_per_token_is_not_near_chance_though_it_is_small() {
    let mut lines: Vec<Line> = (0..20).map(|i| line(FULL, "perplexity", 100, i, 0.04)).collect();
    assert_eq!(rows_of(&[FULL], &lines)[0].near_chance, Some(true));
    lines.iter_mut().for_each(|line| line.details = [("nll".to_string(), 3.2)].into());
    assert_eq!(rows_of(&[FULL], &lines)[0].near_chance, Some(false));
}

#[test]
fn endpoints_and_gaps_leave_fields_empty() {
    let mut lines = [line(FULL, "needle", 100, 0, 1.0), line(FULL, "needle", 100, 1, 1.0)];
    lines.iter_mut().for_each(|line| line.kept = Vec::new());
    lines[0].budget_bytes = Some(10);
    lines[1].details = [("nll".to_string(), 2.5)].into();
    let row = &rows_of(&[FULL], &lines)[0];
    assert_eq!((row.kept, row.budget_bytes), (None, None));
    // Each detail over the one item that has it.
    assert_eq!(row.details, BTreeMap::from([("nll".to_string(), 2.5), ("official".to_string(), 1.0)]));
}

#[test]
fn no_lines_give_no_rows_and_absurd_ones_do_not_count() {
    assert!(rows_of(&[FULL], &[]).is_empty());
    let lines = [line(FULL, "needle", 100, 0, f64::NAN), line(FULL, "needle", 100, 1, 1.0)];
    assert_eq!(rows_of(&[FULL], &lines)[0].n, 1);
}

#[test]
fn a_row_reads_back_from_json_with_its_fields() {
    let (manifest, lines) = made_up::small();
    let row = rows(&manifest, &lines).remove(1);
    let json = serde_json::to_value(&row).unwrap();
    assert_eq!(serde_json::from_value::<Row>(json.clone()).unwrap(), row);
    let mut fields: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    let want = "attended attended_tokens budget_bytes ceiling chance ci cold_bytes decode_s details diff \
                hot_bytes kept kv_bytes length n near_chance p peak_bytes plan prefill_s resolves \
                same_as_full score score_ci task";
    assert_eq!(fields, want.split(' ').collect::<Vec<_>>());
    assert!(json["resolves"].is_null());
}

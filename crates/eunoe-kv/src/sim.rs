//! A strip in small for the policies' tests: random attention streamed through it, and the same by literal sums.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::policies::random::mix;
use crate::{Column, Fold, Needs, Plan, Policy, Pos, Strip, select};

/// Attention of one query row over the slots that it saw, folded over the query heads.
pub(crate) type Row = BTreeMap<Pos, f64>;

/// What the model would attend to: `weights[h][q][k]` before normalisation, and one surprisal per token.
pub(crate) struct Text {
    weights: Vec<Vec<Vec<f64>>>,
    fold: Fold,
    pub(crate) surprisal: Vec<f32>,
}

impl Text {
    /// Random attention of `heads` query heads over `rows` tokens.
    pub(crate) fn random(seed: u64, heads: usize, rows: usize) -> Self {
        let mut state = mix(seed);
        let mut uniform = || {
            state = mix(state);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut row = |q: usize| (0..=q).map(|_| (4.0 * uniform()).exp()).collect();
        let weights = (0..heads).map(|_| (0..rows).map(&mut row).collect()).collect();
        let surprisal = (0..rows).map(|_| -(uniform().max(1e-9) as f32).ln()).collect();
        Self { weights, fold: Fold::Sum, surprisal }
    }

    /// One head with these rows.
    pub(crate) fn of(rows: &[&[f64]]) -> Self {
        let weights = vec![rows.iter().map(|row| row.to_vec()).collect()];
        Self { weights, fold: Fold::Sum, surprisal: vec![0.0; rows.len()] }
    }

    pub(crate) fn folded(self, fold: Fold) -> Self {
        Self { fold, ..self }
    }

    fn len(&self) -> usize {
        self.surprisal.len()
    }

    /// Softmax of row `q` over the live positions up to it, folded over the heads.
    fn row(&self, q: usize, live: &[Pos]) -> Row {
        let seen: Vec<Pos> = live.iter().copied().filter(|&k| k as usize <= q).collect();
        let mut row: Row = seen.iter().map(|&k| (k, 0.0)).collect();
        for head in &self.weights {
            let total: f64 = seen.iter().map(|&k| head[q][k as usize]).sum();
            for (&k, mass) in &mut row {
                let attn = head[q][k as usize] / total;
                *mass = if self.fold == Fold::Max { mass.max(attn) } else { *mass + attn };
            }
        }
        row
    }

    /// The first `n` rows, each over what of `live` it sees.
    pub(crate) fn rows_over(&self, n: usize, live: &[Pos]) -> Vec<Row> {
        (0..n).map(|q| self.row(q, live)).collect()
    }
}

/// The policy of a plan, made for `slots` per strip.
pub(crate) fn policy(plan: &str, slots: u32) -> Box<dyn Policy> {
    Plan::parse(plan).and_then(|plan| plan.make_policy(slots)).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn scores(policy: &dyn Policy, pos: &[Pos], column: &[f32], now: Pos) -> Vec<f32> {
    let mut out = vec![f32::NAN; pos.len()];
    policy.score(0, 0, Strip { pos, column }, now, &mut out);
    out
}

/// A strip as the engine keeps it: the column travels with its slot.
struct Live<'a> {
    text: &'a Text,
    needs: Needs,
    pos: Vec<Pos>,
    column: Vec<f32>,
}

impl<'a> Live<'a> {
    fn new(text: &'a Text, needs: Needs) -> Self {
        assert_eq!(text.fold, needs.fold, "the test folds as the policy asks");
        Self { text, needs, pos: Vec::new(), column: Vec::new() }
    }

    fn append(&mut self, q: usize) {
        self.pos.push(q as Pos);
        match self.needs.column {
            Column::None => {}
            Column::Surprisal => self.column.push(self.text.surprisal[q]),
            Column::Running { decay } => {
                self.column.push(0.0);
                let row = self.text.row(q, &self.pos);
                for (column, mass) in self.column.iter_mut().zip(row.values()) {
                    *column = decay * *column + *mass as f32;
                }
            }
            Column::LastRows { .. } => self.column.push(f32::NAN),
        }
    }

    fn evict(&mut self, policy: &dyn Policy, count: usize) {
        let Some(&now) = self.pos.last() else { return };
        if let Column::LastRows { rows } = self.needs.column {
            self.column = vec![0.0; self.pos.len()];
            for q in (now + 1).saturating_sub(rows)..=now {
                let row = self.text.row(q as usize, &self.pos);
                self.column.iter_mut().zip(row.values()).for_each(|(column, mass)| *column += *mass as f32);
            }
        }
        let mut out = Vec::new();
        let scores = scores(policy, &self.pos, &self.column, now);
        select::evict(&self.needs, &scores, &self.pos, now, count, &mut out).unwrap();
        for &slot in out.iter().rev() {
            self.pos.remove(slot as usize);
            if self.needs.column != Column::None {
                self.column.remove(slot as usize);
            }
        }
    }
}

/// The positions kept after each row of a strip of `cap` slots.
pub(crate) fn stream(policy: &dyn Policy, cap: u32, text: &Text) -> Vec<Vec<Pos>> {
    let mut live = Live::new(text, policy.needs());
    let mut kept = Vec::new();
    for q in 0..text.len() {
        if live.pos.len() == cap as usize {
            live.evict(policy, live.needs.step as usize);
        }
        live.append(q);
        assert!(live.pos.len() <= cap as usize);
        kept.push(live.pos.clone());
    }
    kept
}

/// The published mode: the whole text first, then down to `keep`.
pub(crate) fn trim(policy: &dyn Policy, keep: usize, text: &Text) -> Vec<Pos> {
    let mut live = Live::new(text, policy.needs());
    (0..text.len()).for_each(|q| live.append(q));
    live.evict(policy, text.len() - keep);
    live.pos
}

/// [`stream`] by literal sums: `equation` scores the live slots from the rows seen so far, each over the slots that were
/// live then; the `step` lowest unprotected go, of equals the higher position.
pub(crate) fn literal(
    text: &Text,
    cap: u32,
    step: usize,
    sinks: u32,
    recent: u32,
    equation: impl Fn(&[Row], &[Pos]) -> Vec<f64>,
) -> Vec<Vec<Pos>> {
    let (mut live, mut rows, mut kept) = (Vec::<Pos>::new(), Vec::new(), Vec::new());
    for q in 0..text.len() {
        if live.len() == cap as usize {
            let scores = equation(&rows, &live);
            let mut open: Vec<(f64, Pos)> = scores.into_iter().zip(live.iter().copied()).collect();
            open.retain(|&(_, k)| k >= sinks && k + recent < q as u32);
            open.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
            live.retain(|k| !open[..step].iter().any(|(_, gone)| gone == k));
        }
        live.push(q as Pos);
        rows.push(text.row(q, &live));
        kept.push(live.clone());
    }
    kept
}

/// [`literal`] with every row taken again over the slots that are live now.
pub(crate) fn literal_afresh(
    text: &Text,
    cap: u32,
    step: usize,
    sinks: u32,
    recent: u32,
    equation: impl Fn(&[Row], &[Pos]) -> Vec<f64>,
) -> Vec<Vec<Pos>> {
    literal(text, cap, step, sinks, recent, |rows, live| equation(&text.rows_over(rows.len(), live), live))
}

/// The indices in `among` of the `count` highest scores, ascending; of equals the lower.
pub(crate) fn top(scores: &[f64], among: Range<u32>, count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = among.collect();
    order.sort_by(|&i, &j| scores[j as usize].total_cmp(&scores[i as usize]).then(i.cmp(&j)));
    order.truncate(count);
    order.sort_unstable();
    order
}

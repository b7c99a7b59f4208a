//! Kept sets of the engine against a literal simulation. In a one-layer model queries and keys do not depend on what
//! is kept, so an f64 oracle can replay attention, columns and evictions row by row from the equations.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod toy;

use eunoe_engine::{Arithmetic, Length};
use eunoe_kv::{Column, Fold, Policy, select};
use eunoe_model::probe::{Point, Probe, Site};
use toy::{HEAD_DIM, Toy, kept, plan, text};

/// Collects rotated queries and keys.
#[derive(Default)]
struct Reader {
    q: Vec<Vec<f64>>,
    k: Vec<Vec<f64>>,
}

impl Probe for Reader {
    const ACTIVE: bool = true;

    fn wants(&self, point: Point, _layer: usize) -> bool {
        matches!(point, Point::QRot | Point::KRot)
    }

    fn visit(&mut self, site: Site, x: &mut [f32]) {
        let row = x.iter().map(|v| f64::from(*v)).collect();
        if site.point == Point::QRot { self.q.push(row) } else { self.k.push(row) }
    }
}

/// Probabilities of query row `q`, head `h`, over the keys of `slots`.
fn attn(reader: &Reader, q: usize, h: usize, kv: usize, slots: &[u32]) -> Vec<f64> {
    let d = HEAD_DIM as usize;
    let dot = |k: &u32| -> f64 {
        let (q, k) = (&reader.q[q][h * d..][..d], &reader.k[*k as usize][kv * d..][..d]);
        q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / (d as f64).sqrt()
    };
    let scores: Vec<f64> = slots.iter().map(dot).collect();
    let top = scores.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
    scores.iter().map(|s| (s - top).exp() / sum).collect()
}

/// Group-folded probabilities of one row.
fn folded(reader: &Reader, toy: Toy, fold: Fold, q: usize, kv: usize, slots: &[u32]) -> Vec<f64> {
    let group = (toy.heads / toy.kv_heads) as usize;
    let heads: Vec<Vec<f64>> =
        (kv * group..(kv + 1) * group).map(|h| attn(reader, q, h, kv, slots)).collect();
    let over = |j: usize| heads.iter().map(move |p| p[j]);
    (0..slots.len())
        .map(|j| match fold {
            Fold::Sum => over(j).sum(),
            Fold::Max => over(j).fold(0.0, f64::max),
        })
        .collect()
}

/// The kept positions of one strip after the whole text.
fn replay(reader: &Reader, toy: Toy, policy: &dyn Policy, kv: usize, cap: usize) -> Vec<u32> {
    let needs = policy.needs();
    let (mut slots, mut column) = (Vec::<u32>::new(), Vec::<f64>::new());
    for row in 0..reader.q.len() {
        if slots.len() == cap {
            let now = row as u32 - 1;
            let mass = match needs.column {
                Column::LastRows { rows } => {
                    let mut mass = vec![0.0; slots.len()];
                    for q in row.saturating_sub(rows as usize)..row {
                        let seen = slots.partition_point(|p| *p <= q as u32);
                        let p = folded(reader, toy, needs.fold, q, kv, &slots[..seen]);
                        p.iter().enumerate().for_each(|(j, p)| mass[j] += p);
                    }
                    mass
                }
                _ => column.clone(),
            };
            let mass: Vec<f32> = mass.iter().map(|m| *m as f32).collect();
            let mut score = vec![0.0; slots.len()];
            policy.score(0, kv, eunoe_kv::Strip { pos: &slots, column: &mass }, now, &mut score);
            // drop `step` slots one by one: lowest score, of equals the highest position
            for _ in 0..needs.step {
                let open = (0..slots.len()).filter(|i| !select::is_protected(&needs, slots[*i], now));
                let worst = open.reduce(|a, b| if score[b] <= score[a] { b } else { a }).unwrap();
                slots.remove(worst);
                column.remove(worst);
                score.remove(worst);
            }
        }
        slots.push(row as u32);
        column.push(0.0);
        if let Column::Running { decay } = needs.column {
            for (c, p) in column.iter_mut().zip(folded(reader, toy, needs.fold, row, kv, &slots)) {
                *c = f64::from(decay) * *c + p;
            }
        }
    }
    slots
}

#[test]
fn kept_sets_are_those_of_the_equations() {
    for (heads, kv_heads) in [(2, 2), (6, 2), (6, 1), (7, 1)] {
        let toy = Toy { arch: "llama", layers: 1, heads, kv_heads, context: 4096 };
        let engine = toy.open_as(2, 33, Arithmetic::Exact);
        let tokens = text(301);
        let length = Length { prompt: 301, longest: 301 };
        let mut reader = Reader::default();
        let mut session = engine.session(&plan("full"), length).unwrap();
        engine.step(&mut [(&mut session, &tokens)], &mut reader).unwrap();
        for (plan_text, slots) in [
            ("h2o", 37),
            ("a2sf(alpha=0.5, step=1, recent=2)", 24),
            ("a2sf(alpha=0.95, recent=7, step=5, sinks=3)", 41),
            ("snapkv(window=9, kernel=5, pooling=avg, step=3)", 40),
            ("snapkv(window=4, fold=max)", 50),
            ("streaming_llm(step=1)", 19),
            ("random", 30),
        ] {
            let plan = plan(&format!("{plan_text} @ {slots}tok"));
            let mut session = engine.session(&plan, length).unwrap();
            engine.read(&mut session, &tokens, &mut |_| true).unwrap();
            let policy = plan.make_policy(slots).unwrap();
            for (kv, kept) in kept(&engine, &session).iter().enumerate() {
                let want = replay(&reader, toy, policy.as_ref(), kv, slots as usize);
                assert_eq!(*kept, want, "{plan_text}, {heads} heads on {kv_heads}, KV head {kv}");
            }
        }
    }
}

#[test]
fn a_reading_probe_changes_nothing() {
    let toy = toy::LLAMA;
    let (engine, tokens) = (toy.open(2, 512), text(70));
    let mut session = engine.session(&plan("full"), Length { prompt: 70, longest: 70 }).unwrap();
    engine.step(&mut [(&mut session, &tokens)], &mut Reader::default()).unwrap();
    assert_eq!(toy::bits(&session), toy::bits(&toy::read(&engine, "full", &tokens)));
}

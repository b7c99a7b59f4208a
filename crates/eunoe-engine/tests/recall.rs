//! Policies whose old slots wait in a cold tier, against attention written down: in a one-layer model queries, keys and
//! values do not depend on what is kept, so an f64 oracle knows every output.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod toy;

use std::ops::Range;

use eunoe_engine::{Arithmetic, Engine, Length, Session};
use eunoe_kv::Plan;
use eunoe_model::probe::{NoProbe, Point, Probe, Site};
use toy::{
    GEMMA, HEAD_DIM, LLAMA, RECALLS, TOKENS, Toy, WIDE_RECALLS, assert_within, bits, kept, plan, text,
};

const D: usize = HEAD_DIM as usize;
const LEN: usize = 150;

/// Collects queries and keys before rotation, values, and what attention makes of them.
#[derive(Default)]
struct Reader {
    q: Vec<Vec<f64>>,
    k: Vec<Vec<f64>>,
    v: Vec<Vec<f64>>,
    z: Vec<Vec<f64>>,
}

impl Probe for Reader {
    const ACTIVE: bool = true;

    fn wants(&self, point: Point, _layer: usize) -> bool {
        matches!(point, Point::Q | Point::K | Point::V | Point::Z)
    }

    fn visit(&mut self, site: Site, x: &mut [f32]) {
        let row = x.iter().map(|v| f64::from(*v)).collect();
        match site.point {
            Point::Q => self.q.push(row),
            Point::K => self.k.push(row),
            Point::V => self.v.push(row),
            _ => self.z.push(row),
        }
    }
}

/// A head turned on by `pos` positions: neighbours are pairs, base 10000.
fn turned(x: &[f64], pos: f64) -> Vec<f64> {
    let mut out = x.to_vec();
    for i in 0..D / 2 {
        let (sin, cos) = (pos * 10_000f64.powf(-2.0 * i as f64 / D as f64)).sin_cos();
        (out[2 * i], out[2 * i + 1]) =
            (x[2 * i] * cos - x[2 * i + 1] * sin, x[2 * i] * sin + x[2 * i + 1] * cos);
    }
    out
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The sizes of a plan, once more.
#[derive(Clone, Copy)]
struct Plain {
    sinks: usize,
    local: usize,
    pass: usize,
    keys: usize,
    own: bool,
}

/// Everything that rows of one KV head have seen so far.
struct Oracle<'a> {
    reader: &'a Reader,
    plain: Plain,
    heads: usize,
    kv_heads: usize,
    /// Mass per KV head and position, from rows to which it was near.
    mass: Vec<Vec<f64>>,
}

impl Oracle<'_> {
    fn head<'a>(&self, x: &'a [Vec<f64>], row: usize, head: usize) -> &'a [f64] {
        &x[row][head * D..][..D]
    }

    /// The mean key of the slots looked at most.
    fn key(&self, kv: usize, block: &Range<usize>) -> Vec<f64> {
        let mut order: Vec<usize> = block.clone().collect();
        order.sort_by(|a, b| self.mass[kv][*b].total_cmp(&self.mass[kv][*a]).then(a.cmp(b)));
        order.truncate(self.plain.keys);
        let sum = |i: usize| order.iter().map(|j| self.head(&self.reader.k, *j, kv)[i]).sum::<f64>();
        (0..D).map(|i| sum(i) / order.len() as f64).collect()
    }

    /// Dot products of blocks with the mean query of rows.
    fn likeness(&self, rows: &Range<usize>, blocks: &[Range<usize>]) -> Vec<f64> {
        let group = self.heads / self.kv_heads;
        let query = |row: usize, h: usize| {
            let at = if self.plain.own { row } else { self.plain.local - 1 };
            turned(self.head(&self.reader.q, row, h), at as f64)
        };
        let mean = |h: usize| -> Vec<f64> {
            let all: Vec<Vec<f64>> = rows.clone().map(|row| query(row, h)).collect();
            (0..D).map(|i| all.iter().map(|q| q[i]).sum::<f64>() / rows.len() as f64).collect()
        };
        let means: Vec<Vec<f64>> = (0..self.heads).map(mean).collect();
        let of =
            |block: &Range<usize>| (0..self.heads).map(|h| dot(&means[h], &self.key(h / group, block))).sum();
        blocks.iter().map(of).collect()
    }

    /// Attention of a row and head: probabilities of the positions it sees, given the blocks that came back.
    fn attn(&self, row: usize, h: usize, far: &[usize]) -> Vec<(usize, f64)> {
        let Plain { local, own, .. } = self.plain;
        let kv = h / (self.heads / self.kv_heads);
        let near = (row + 1).saturating_sub(local)..row + 1;
        let score = |j: usize| {
            let distance = if j >= near.start || own { row - j } else { local - 1 };
            let q = turned(self.head(&self.reader.q, row, h), distance as f64);
            dot(&q, self.head(&self.reader.k, j, kv)) / (D as f64).sqrt()
        };
        let far = far.iter().copied().filter(|j| *j < near.start);
        let scores: Vec<(usize, f64)> = far.chain(near.clone()).map(|j| (j, score(j))).collect();
        let top = scores.iter().map(|s| s.1).fold(f64::MIN, f64::max);
        let sum: f64 = scores.iter().map(|s| (s.1 - top).exp()).sum();
        scores.into_iter().map(|(j, s)| (j, (s - top).exp() / sum)).collect()
    }

    /// Runs every pass; `blocks(end)` are all blocks up to there, `choose(likeness)` those that come back.
    fn check(
        &mut self,
        prompt: usize,
        blocks: &dyn Fn(usize) -> Vec<Range<usize>>,
        choose: &dyn Fn(&[f64]) -> Vec<usize>,
        name: &str,
    ) {
        let Plain { sinks, local, pass, .. } = self.plain;
        let mut start = 0;
        while start < LEN {
            let end = if start < prompt { ((start / pass + 1) * pass).min(prompt) } else { start + 1 };
            let rows = start..end;
            let cold = blocks((start + 1).saturating_sub(local));
            let back = choose(&self.likeness(&rows, &cold));
            let gone = cold.last().map_or(sinks, |block| block.end);
            let mut far: Vec<usize> = (0..sinks.min(end)).collect();
            far.extend(back.iter().flat_map(|b| cold[*b].clone()));
            far.extend(gone.max(sinks)..end);
            for row in rows {
                for h in 0..self.heads {
                    let kv = h / (self.heads / self.kv_heads);
                    let attn = self.attn(row, h, &far);
                    for i in 0..D {
                        let want: f64 =
                            attn.iter().map(|(j, p)| p * self.head(&self.reader.v, *j, kv)[i]).sum();
                        let error = (want - self.reader.z[row][h * D + i]).abs();
                        assert!(error < 3e-5, "{name}: row {row}, head {h}: {error}");
                    }
                    for (j, p) in attn.into_iter().filter(|(j, _)| row - j < local) {
                        self.mass[kv][j] += p;
                    }
                }
            }
            start = end;
        }
    }
}

/// Reads a text in a one-layer model of every shape, and hands what it saw to `check`.
fn shapes(text_plan: &str, prompt: usize, plain: Plain, mut check: impl FnMut(&mut Oracle<'_>, &str)) {
    let tokens = text(LEN);
    for (heads, kv_heads) in [(2, 2), (6, 2), (6, 1), (7, 1)] {
        let toy = Toy { arch: "llama", layers: 1, heads, kv_heads, context: 4096 };
        let engine = toy.open_as(2, 33, Arithmetic::Exact);
        // lengths are told in tokens, and landmarks stand between them
        let sizes = plan(text_plan).make_policy(9).unwrap().needs().recall.unwrap();
        let told = |positions: usize| (1..).find(|n| sizes.positions(*n) == positions as u32).unwrap();
        let length = Length { prompt: told(prompt), longest: told(LEN) };
        let (mut reader, mut session) =
            (Reader::default(), engine.session(&plan(text_plan), length).unwrap());
        let mut at = 0;
        while at < LEN {
            let end = if at < prompt { ((at / plain.pass + 1) * plain.pass).min(prompt) } else { at + 1 };
            engine.step(&mut [(&mut session, &tokens[at..end])], &mut reader).unwrap();
            at = end;
        }
        let (heads, kv_heads) = (heads as usize, kv_heads as usize);
        let mass = vec![vec![0.0; LEN]; kv_heads];
        let name = format!("{text_plan}, {heads} heads on {kv_heads}");
        check(&mut Oracle { reader: &reader, plain, heads, kv_heads, mass }, &name);
    }
}

#[test]
fn inf_llm_sees_what_the_description_says() {
    for (far, prompt) in [("fixed", 120), ("own", 150)] {
        let plain = Plain { sinks: 5, local: 24, pass: 16, keys: 3, own: far == "own" };
        let text_plan = format!("inf_llm(sinks=5, local=24, pass=16, block=8, memory=20, keys=3, far={far})");
        shapes(&text_plan, prompt, plain, |oracle, name| {
            let blocks = |end: usize| (0..end.saturating_sub(5) / 8).map(|i| 5 + 8 * i..13 + 8 * i).collect();
            let choose = |likeness: &[f64]| {
                let mut order: Vec<usize> = (0..likeness.len()).collect();
                order.sort_by(|a, b| likeness[*b].total_cmp(&likeness[*a]).then(a.cmp(b)));
                order.truncate(2);
                order.sort_unstable();
                order
            };
            oracle.check(prompt, &blocks, &choose, name);
        });
    }
}

/// Checks every row and head of a model against the two-level softmax over blocks of 16, of which 3 come back. Trained
/// landmarks stand last in their blocks.
fn two_levels(oracle: &Oracle<'_>, prompt: usize, weight: f64, trained: bool, name: &str) {
    let (r, group) = (oracle.reader, oracle.heads / oracle.kv_heads);
    let scale = 1.0 / (D as f64).sqrt();
    let query = |row: usize, h: usize| turned(oracle.head(&r.q, row, h), row as f64);
    let key = |j: usize, kv: usize| turned(oracle.head(&r.k, j, kv), j as f64);
    let landmark = |b: usize, kv: usize| -> Vec<f64> {
        let all = if trained { b * 16 + 15..b * 16 + 16 } else { b * 16..b * 16 + 16 };
        let n = all.len() as f64;
        let mean = |i: usize| all.clone().map(|j| oracle.head(&r.k, j, kv)[i]).sum::<f64>() / n;
        turned(&(0..D).map(mean).collect::<Vec<_>>(), (b * 16 + 15) as f64)
    };
    let gate = |row, h, b| dot(&query(row, h), &landmark(b, h / group)) * scale + weight;
    for row in 0..LEN {
        let first = if row < prompt { row / 16 * 16 } else { row };
        let pass = first..if row < prompt { (first + 16).min(prompt) } else { row + 1 };
        for h in 0..oracle.heads {
            let (kv, blocks) = (h / group, first / 16);
            let mut most = vec![0.0f64; blocks];
            for (row, h) in pass.clone().flat_map(|row| (kv * group..(kv + 1) * group).map(move |h| (row, h)))
            {
                let gates: Vec<f64> = (0..blocks).map(|b| gate(row, h, b)).collect();
                let sum: f64 = gates.iter().map(|g| g.exp()).sum();
                most.iter_mut().zip(&gates).for_each(|(most, g)| *most = most.max(g.exp() / sum));
            }
            let mut order: Vec<usize> = (0..blocks).collect();
            order.sort_by(|a, b| most[*b].total_cmp(&most[*a]).then(a.cmp(b)));
            order.truncate(3);
            let score = |j: usize| dot(&query(row, h), &key(j, kv)) * scale;
            // the unfinished block, without a landmark's own row
            let end = row + usize::from(!trained || row % 16 < 15);
            let mut weights: Vec<(usize, f64)> = (row / 16 * 16..end).map(|j| (j, score(j).exp())).collect();
            for b in order {
                let inside = b * 16..b * 16 + 16 - usize::from(trained);
                let sum: f64 = inside.clone().map(|j| score(j).exp()).sum();
                weights.extend(inside.map(|j| (j, gate(row, h, b).exp() * score(j).exp() / sum)));
            }
            let sum: f64 = weights.iter().map(|w| w.1).sum();
            for i in 0..D {
                let want: f64 = weights.iter().map(|(j, w)| w / sum * oracle.head(&r.v, *j, kv)[i]).sum();
                let error = (want - r.z[row][h * D + i]).abs();
                assert!(error < 3e-5, "{name}: row {row}, head {h}: {error}");
            }
        }
    }
}

#[test]
fn landmark_attention_is_the_two_level_softmax() {
    let plain = Plain { sinks: 0, local: 16, pass: 16, keys: 16, own: true };
    for (args, prompt, weight, trained) in [
        ("gate=weighted", 131, 16f64.ln(), false),
        ("gate=plain", 90, 0.0, false),
        ("token=5", 111, 0.0, true),
    ] {
        let text_plan = format!("landmark_attention(block=16, blocks=3, {args})");
        shapes(&text_plan, prompt, plain, |oracle, name| two_levels(oracle, prompt, weight, trained, name));
    }
}

#[test]
fn landmark_tokens_are_put_at_the_end_of_every_block_and_never_written() {
    let engine = LLAMA.open(2, 64);
    let tokens = text(100);
    let plan = plan("landmark_attention(block=16, blocks=2, token=5)");
    let length = |n| Length { prompt: 80, longest: n };
    let mut by_engine = engine.session(&plan, length(100)).unwrap();
    assert_eq!(by_engine.longest(), 106, "99 tokens before the last: 6 landmarks");
    let mut seen = 0;
    engine
        .read_rows(&mut by_engine, &tokens, &mut |_| true, &mut |row, _| {
            assert_eq!(row, seen);
            seen += 1;
        })
        .unwrap();
    assert_eq!(seen, 100);
    // the same with the landmarks put by hand
    let mut by_hand = engine.session(&plan, length(100)).unwrap();
    let mut stream: Vec<u32> = tokens.chunks(15).flat_map(|block| block.iter().copied().chain([5])).collect();
    stream.truncate(106);
    let prompt = 80 + 79 / 15;
    for rows in stream[..prompt].chunks(16).chain(stream[prompt..].chunks(1)) {
        engine.step(&mut [(&mut by_hand, rows)], &mut NoProbe).unwrap();
    }
    assert_eq!(bits(&by_engine), bits(&by_hand));
    assert_eq!(by_engine.logits()[5], f32::NEG_INFINITY);
}

#[test]
fn with_memory_for_all_blocks_and_own_positions_it_is_full_memory() {
    let engine = LLAMA.open_as(2, 64, Arithmetic::Exact);
    let tokens = text(300);
    let logits = |text_plan: &str| read(&engine, &plan(text_plan), &tokens, 260).logits().to_vec();
    let full = logits("full");
    for id in ["inf_llm", "em_llm(least=1)", "em_llm(refine=modularity)"] {
        let (id, args) = id.split_once('(').unwrap_or((id, ")"));
        let args =
            format!("sinks=4, local=64, pass=32, block=16, memory=300, far=own, {args}").replace(", )", ")");
        let got = logits(&format!("{id}({args}"));
        let error = full.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error < 1e-4, "{id}: {error}");
    }
}

fn read(engine: &Engine, plan: &Plan, tokens: &[u32], prompt: u32) -> Session {
    let mut session = engine.session(plan, Length { prompt, longest: tokens.len() as u32 }).unwrap();
    engine.read(&mut session, tokens, &mut |_| true).unwrap();
    session
}

#[test]
fn chunks_threads_company_and_tiers_change_nothing_and_the_bill_is_true() {
    for toy in [LLAMA, GEMMA] {
        let engines: Vec<_> = [(1, 1), (2, 7), (1, 64), (2, 512)].map(|(t, chunk)| toy.open(t, chunk)).into();
        let tokens = text(TOKENS);
        for own in &RECALLS {
            let text_plan = own.plan;
            let first = read(&engines[0], &plan(text_plan), &tokens, 220);
            let other_tier = match text_plan.contains("tier=disk") {
                true => text_plan.replace("tier=disk", "tier=memory"),
                false => text_plan.replace('(', "(tier=disk, "),
            };
            for (engine, text_plan) in engines.iter().flat_map(|e| [(e, text_plan), (e, other_tier.as_str())])
            {
                let session = read(engine, &plan(text_plan), &tokens, 220);
                assert_eq!(bits(&session), bits(&first), "{text_plan} on {}", toy.arch);
                assert_eq!(kept(engine, &session), kept(&engines[0], &first), "{text_plan}");
                let bill = session.bill();
                assert_within(&session, toy.own_budget(own), text_plan);
                assert_eq!(bill.seen, bill.kept + bill.cold, "{text_plan}: all is hot or cold");
                assert!(bill.cold > 0 && bill.returned_bytes > 0 && bill.evicted == 0, "{text_plan}");
                let slot = bill.cold_bytes as f64 / bill.cold as f64;
                assert_eq!(slot, if text_plan.contains("q8") { 72.0 } else { 132.0 }, "{text_plan}");
                assert!(bill.attended < 1.0, "{text_plan}");
            }
            let (mut a, mut b) = {
                let session = || {
                    engines[1]
                        .session(&plan(text_plan), Length { prompt: 220, longest: TOKENS as u32 })
                        .unwrap()
                };
                (session(), session())
            };
            let refused =
                engines[1].step(&mut [(&mut a, &tokens[..5])], &mut NoProbe).err().unwrap().to_string();
            assert!(refused.contains("whole passes"), "{refused}");
            let pass = plan(text_plan).make_policy(9).unwrap().needs().recall.unwrap().pass as usize;
            let mut at = 0;
            while at < TOKENS {
                let end = if at < 220 { ((at / pass + 1) * pass).min(220) } else { at + 1 };
                let rows = &tokens[at..end];
                engines[1].step(&mut [(&mut a, rows), (&mut b, rows)], &mut NoProbe).unwrap();
                at = end;
            }
            assert_eq!((bits(&a), bits(&b)), (bits(&first), bits(&first)), "{text_plan} in company");
        }
    }
}

#[test]
fn a_text_within_the_window_is_full_memory_bit_for_bit() {
    let (engine, tokens) = (LLAMA.open(2, 64), text(150));
    let full = read(&engine, &plan("full"), &tokens, 100);
    for text_plan in WIDE_RECALLS {
        let session = read(&engine, &plan(text_plan), &tokens, 100);
        assert_eq!(bits(&session), bits(&full), "{text_plan}");
        assert_eq!((session.bill().cold, session.bill().attended), (0, 1.0), "{text_plan}");
    }
}

#[test]
fn hot_bytes_stay_where_they_are_and_a_cold_tier_too_small_is_refused() {
    let engine = LLAMA.open(2, 64);
    let text_plan = "inf_llm(sinks=4, local=64, pass=32, block=16, memory=32)";
    let peak = |len: usize| read(&engine, &plan(text_plan), &text(len), len as u32).bill().peak_bytes;
    assert_eq!(peak(600), peak(2400), "hot bytes do not grow with the text");
    // (600 - 68) slots of 132 bytes in 6 strips
    let small = text_plan.replace("sinks", "cold=100KiB, sinks");
    let refused =
        engine.session(&plan(&small), Length { prompt: 600, longest: 600 }).err().unwrap().to_string();
    assert!(refused.contains("421344") && refused.contains("102400"), "{refused}");
    let refused =
        engine.session(&plan(&format!("{text_plan} @ 100tok")), Length { prompt: 600, longest: 600 });
    assert!(refused.err().unwrap().to_string().contains("slots of KV memory"));
}

//! Policies that say what rows see, that split heads or fold what they drop, against attention written down: in a
//! one-layer model queries, keys and values do not depend on what is kept, so an f64 oracle knows every output.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod toy;

use std::ops::Range;
use std::sync::Arc;

use eunoe_engine::{Arithmetic, Engine, Length, Session};
use eunoe_kv::{Plan, Profile};
use eunoe_model::probe::{NoProbe, Point, Probe, Site};
use toy::{GEMMA, HEAD_DIM, LLAMA, TOKENS, Toy, VIEWS, WIDE_VIEWS, assert_within, bits, kept, text};

const D: usize = HEAD_DIM as usize;

/// Collects rotated queries and keys, values, and what attention makes of them.
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
        matches!(point, Point::QRot | Point::KRot | Point::V | Point::Z)
    }

    fn visit(&mut self, site: Site, x: &mut [f32]) {
        let row = x.iter().map(|v| f64::from(*v)).collect();
        match site.point {
            Point::QRot => self.q.push(row),
            Point::KRot => self.k.push(row),
            Point::V => self.v.push(row),
            _ => self.z.push(row),
        }
    }
}

/// A key and value with the weight that it has beside the others.
type Entry = (Vec<f64>, Vec<f64>, f64);

impl Reader {
    fn entry(&self, kv: usize, j: usize) -> Entry {
        (self.k[j][kv * D..][..D].to_vec(), self.v[j][kv * D..][..D].to_vec(), 1.0)
    }

    /// Weighted softmax of row `q`, head `h`, over `entries`: probabilities.
    fn attn(&self, q: usize, h: usize, entries: &[Entry]) -> Vec<f64> {
        let dot = |k: &[f64]| self.q[q][h * D..][..D].iter().zip(k).map(|(q, k)| q * k).sum::<f64>();
        let scores: Vec<f64> = entries.iter().map(|e| dot(&e.0) / (D as f64).sqrt() + e.2.ln()).collect();
        let top = scores.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        scores.iter().map(|s| (s - top).exp() / sum).collect()
    }

    /// The largest difference of a head's output from attention over `entries`.
    fn error(&self, q: usize, h: usize, entries: &[Entry]) -> f64 {
        let attn = self.attn(q, h, entries);
        let out = |i: usize| attn.iter().zip(entries).map(|(p, e)| p * e.1[i]).sum::<f64>();
        (0..D).map(|i| (out(i) - self.z[q][h * D + i]).abs()).fold(0.0, f64::max)
    }
}

/// Heads that score higher the later they come.
fn profile(toy: Toy) -> Profile {
    let n = (toy.layers * toy.heads) as usize;
    let rising: Vec<f32> = (0..n).map(|i| (i + 1) as f32 / n as f32).collect();
    Profile {
        model: "toy".into(),
        sha256: "0".repeat(64),
        layers: toy.layers as usize,
        heads: toy.heads as usize,
        kv_heads: toy.kv_heads as usize,
        retrieval: rising.clone(),
        induction: rising.clone(),
        echo: rising.clone(),
        sink: rising.clone(),
        streaming: rising,
        found: [1, 1],
    }
}

fn plan(toy: Toy, text: &str) -> Plan {
    Plan { profile: Some(Arc::new(profile(toy))), ..toy::plan(text) }
}

/// Reads a text of which the first `prompt` tokens are the prompt.
fn read(engine: &Engine, plan: &Plan, tokens: &[u32], prompt: u32) -> Session {
    let mut session = engine.session(plan, Length { prompt, longest: tokens.len() as u32 }).unwrap();
    engine.read(&mut session, tokens, &mut |_| true).unwrap();
    session
}

const SHAPES: [(u64, u64); 4] = [(2, 2), (6, 2), (6, 1), (7, 1)];

fn one_layer((heads, kv_heads): (u64, u64)) -> Toy {
    Toy { arch: "llama", layers: 1, heads: heads as _, kv_heads: kv_heads as _, context: 4096 }
}

/// Runs a plan in a one-layer model of every shape; `entries(reader, row, head, kv_head)` is what a row sees.
fn agrees(
    text_plan: &str,
    prompt: usize,
    entries: impl Fn(&Reader, usize, usize, usize, usize) -> Vec<Entry>,
) {
    let tokens = text(150);
    for shape in SHAPES {
        let toy = one_layer(shape);
        let engine = toy.open_as(2, 33, Arithmetic::Exact);
        let length = Length { prompt: prompt as u32, longest: 150 };
        let (mut reader, mut session) =
            (Reader::default(), engine.session(&plan(toy, text_plan), length).unwrap());
        for tokens in tokens.chunks(10) {
            engine.step(&mut [(&mut session, tokens)], &mut reader).unwrap();
        }
        let (heads, kv_heads) = (toy.heads as usize, toy.kv_heads as usize);
        for row in 0..150 {
            for h in 0..heads {
                let kv = h / (heads / kv_heads);
                let error = reader.error(row, h, &entries(&reader, row, h, kv, kv_heads));
                assert!(error < 2e-5, "{text_plan}, {shape:?}: row {row}, head {h}: {error}");
            }
        }
    }
}

#[test]
fn duo_attention_gives_the_outputs_of_its_mask() {
    // Scores rise with the head: of two KV heads the second is full, of one the only one (0.5 rounds up).
    agrees("duo_attention(sinks=3, recent=9, step=1)", 150, |reader, row, _, kv, kv_heads| {
        let full = kv + 1 == kv_heads;
        let sees = |j: &usize| full || *j < 3 || row - j < 9;
        (0..=row).filter(sees).map(|j| reader.entry(kv, j)).collect()
    });
    agrees("duo_attention(ratio=0, sinks=5, recent=20, step=1)", 100, |reader, row, _, kv, _| {
        (0..=row).filter(|j| *j < 5 || row - j < 20).map(|j| reader.entry(kv, j)).collect()
    });
}

#[test]
fn razor_attention_sees_the_mean_of_what_it_dropped_with_its_weight() {
    for (compensation, weighted) in [("weighted", Some(true)), ("plain", Some(false)), ("off", None)] {
        let text = format!(
            "razor_attention(induction=0, echo=0, sinks=2, least=12, share=1000, step=1, compensation={compensation})"
        );
        agrees(&text, 150, |reader, row, _, kv, _| {
            let stays = |j: &usize| *j < 2 || row - j < 12;
            let mut entries: Vec<Entry> = (0..=row).filter(stays).map(|j| reader.entry(kv, j)).collect();
            let gone: Vec<Entry> = (0..=row).filter(|j| !stays(j)).map(|j| reader.entry(kv, j)).collect();
            if let Some(weighted) = weighted.filter(|_| !gone.is_empty()) {
                let n = gone.len() as f64;
                let mean = |of: fn(&Entry) -> &Vec<f64>| -> Vec<f64> {
                    (0..D).map(|i| gone.iter().map(|e| of(e)[i]).sum::<f64>() / n).collect()
                };
                entries.push((mean(|e| &e.0), mean(|e| &e.1), if weighted { n } else { 1.0 }));
            }
            entries
        });
    }
}

#[test]
fn s2_attention_gives_the_outputs_of_its_pattern() {
    for sink in ["on", "off"] {
        let text = format!("s2_attention(block=8, window=2, stride=3, dense_layers=0, sink_block={sink})");
        agrees(&text, 110, |reader, row, _, kv, kv_heads| {
            let shift = (3 / kv_heads).max(1);
            let sees = |j: &usize| {
                let (i, j) = (row / 8, j / 8);
                i - j < 2 || (j + kv * shift).is_multiple_of(3) || (sink == "on" && j == 0)
            };
            (0..=row).filter(sees).map(|j| reader.entry(kv, j)).collect()
        });
    }
}

/// The list of recycled attention, row by row, from its description.
fn recycled(
    reader: &Reader,
    row: usize,
    kv: usize,
    heads: usize,
    kv_heads: usize,
    (prompt, k, every): (usize, usize, usize),
) -> Vec<usize> {
    let group = heads / kv_heads;
    let (mut list, mut ranked): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    for q in prompt..=row {
        if (q - prompt).is_multiple_of(every) {
            if q == row {
                return (0..=row).collect();
            }
            let all: Vec<Entry> = (0..=q).map(|j| reader.entry(kv, j)).collect();
            let heads: Vec<Vec<f64>> =
                (kv * group..(kv + 1) * group).map(|h| reader.attn(q, h, &all)).collect();
            let most = |j: usize| heads.iter().map(|p| p[j]).fold(0.0, f64::max);
            let pooled = |j: usize| (j.saturating_sub(3)..=(j + 3).min(q)).map(most).fold(0.0, f64::max);
            ranked = (0..=q).collect();
            ranked.sort_by(|a, b| pooled(*b).total_cmp(&pooled(*a)).then(a.cmp(b)));
            ranked.truncate(k);
            list.clone_from(&ranked);
        } else {
            if q == row {
                list.push(q);
                list.sort_unstable();
                return list;
            }
            let gone = ranked.pop().unwrap();
            list.retain(|j| *j != gone);
            list.push(q);
        }
    }
    (0..=row).collect()
}

#[test]
fn recycled_attention_reads_its_list_between_full_rows() {
    agrees("recycled_attention(k=20, every=6)", 90, |reader, row, _, kv, kv_heads| {
        let heads = reader.q[0].len() / D;
        let seen = if row < 90 {
            (0..=row).collect()
        } else {
            recycled(reader, row, kv, heads, kv_heads, (90, 20, 6))
        };
        seen.into_iter().map(|j| reader.entry(kv, j)).collect()
    });
}

/// What one row of HiP finds between sinks and window for heads that share a mask: intervals in a plain list, halved
/// and sorted by score.
fn hip(
    reader: &Reader,
    row: usize,
    heads: Range<usize>,
    kv: usize,
    (k, block, window, sinks): (usize, usize, usize, usize),
) -> Vec<usize> {
    let span = row - window - sinks;
    let (count, blocks) = (k / block, span.div_ceil(block));
    let keys = |b: usize| (sinks + b * block)..(sinks + (b + 1) * block).min(sinks + span);
    let dot = |h: usize, j: usize| -> f64 {
        reader.q[row][h * D..][..D].iter().zip(&reader.k[j][kv * D..][..D]).map(|(q, k)| q * k).sum()
    };
    let most = |j: usize| heads.clone().map(|h| dot(h, j)).fold(f64::MIN, f64::max);
    let mut parts: Vec<(usize, usize)> =
        (0..count).map(|i| (blocks * i / count, blocks * (i + 1) / count)).collect();
    let mut rounds = blocks as f64 / count as f64;
    while rounds > 1.0 {
        let mut halves: Vec<(f64, usize, usize)> = Vec::new();
        for (from, to) in parts {
            let middle = from + (to - from) / 2;
            for (from, to) in [(from, middle), (middle, to)].into_iter().filter(|(a, b)| a < b) {
                let centre = from + (to - from) / 2;
                halves.push((keys(centre).map(most).fold(f64::MIN, f64::max), from, to));
            }
        }
        halves.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        parts = halves[..count.min(halves.len())].iter().map(|x| (x.1, x.2)).collect();
        parts.sort_unstable();
        rounds /= 2.0;
    }
    parts.into_iter().flat_map(|(from, _)| keys(from)).collect()
}

#[test]
fn hip_attention_reads_what_its_search_finds() {
    for mask in ["query_head", "kv_head"] {
        let text = format!(
            "hip_attention(k=16, block=2, window=10, sinks=4, rows=8, refresh=4, dense_layers=0, mask={mask})"
        );
        agrees(&text, 100, |reader, row, h, kv, kv_heads| {
            let first = if row < 100 { row / 8 * 8 } else { row / 4 * 4 };
            if first <= 30 {
                // the block's first row sees everything, and the others with it
                return (0..=row).map(|j| reader.entry(kv, j)).collect();
            }
            let group = reader.q[0].len() / D / kv_heads;
            let heads = if mask == "kv_head" { kv * group..(kv + 1) * group } else { h..h + 1 };
            let found = hip(reader, first, heads, kv, (16, 2, 10, 4));
            let seen = (0..4).chain(found).chain(first - 10..=row);
            seen.map(|j| reader.entry(kv, j)).collect()
        });
    }
}

#[test]
fn chunks_threads_and_company_change_nothing_and_the_bill_is_true() {
    for toy in [LLAMA, GEMMA] {
        let engines: Vec<_> = [(1, 1), (2, 7), (1, 64), (2, 512)].map(|(t, chunk)| toy.open(t, chunk)).into();
        let tokens = text(TOKENS);
        let global = Toy { layers: if toy.arch == "gemma3" { 1 } else { toy.layers }, ..toy };
        for own in &VIEWS {
            let text_plan = own.plan;
            let plan = plan(global, text_plan);
            let first = read(&engines[0], &plan, &tokens, 220);
            for engine in &engines {
                let session = read(engine, &plan, &tokens, 220);
                assert_eq!(bits(&session), bits(&first), "{text_plan} on {}", toy.arch);
                assert_eq!(kept(engine, &session), kept(&engines[0], &first), "{text_plan}");
                let (bill, ledger) = (session.bill(), session.kv.ledger());
                assert_within(&session, toy.own_budget(own), text_plan);
                assert_eq!(ledger.live, bill.heads.iter().map(|h| h.bytes).sum::<u64>(), "{text_plan}");
                assert_eq!(bill.seen, bill.kept + bill.evicted, "{text_plan}");
            }
            let mut pair = [&tokens[..], &tokens[40..]].map(|tokens| {
                let length = Length { prompt: 220, longest: tokens.len() as u32 };
                (engines[1].session(&plan, length).unwrap(), tokens)
            });
            for at in (0..TOKENS).step_by(5) {
                let mut rows: Vec<_> = pair
                    .iter_mut()
                    .filter(|(_, tokens)| at < tokens.len())
                    .map(|(session, tokens)| (session, &tokens[at..(at + 5).min(tokens.len())]))
                    .collect();
                engines[1].step(&mut rows, &mut NoProbe).unwrap();
            }
            assert_eq!(bits(&pair[0].0), bits(&first), "{text_plan} in company");
        }
    }
}

#[test]
fn with_sizes_beyond_the_text_all_are_full_memory() {
    let (toy, tokens) = (LLAMA, text(150));
    let engine = toy.open(2, 64);
    let full = read(&engine, &plan(toy, "full"), &tokens, 100);
    for text_plan in WIDE_VIEWS {
        let session = read(&engine, &plan(toy, text_plan), &tokens, 100);
        assert_eq!(bits(&session), bits(&full), "{text_plan}");
        assert_eq!(session.bill().evicted, 0, "{text_plan}");
    }
}

#[test]
fn bytes_are_those_of_the_formulas() {
    let (toy, tokens) = (LLAMA, text(400));
    let engine = toy.open(2, 64);
    let (strips, n) = (toy.layers * toy.kv_heads, 400);
    let slot = 2 * 2 * D as u64 + 4;
    let half = strips.div_ceil(2);
    for (text_plan, want) in [
        ("duo_attention(sinks=4, recent=60, step=1)", (half * n + (strips - half) * 64) * slot),
        (
            "razor_attention(induction=0, echo=0, sinks=4, least=10, share=8, step=1)",
            strips * (54 * slot + (2 * D as u64 + 1) * 4),
        ),
        ("recycled_attention(k=9)", strips * n * slot),
        ("hip_attention(k=8)", strips * n * slot),
    ] {
        let session = read(&engine, &plan(toy, text_plan), &tokens, 380);
        assert_eq!(session.bill().live_bytes, want, "{text_plan}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let toy = LLAMA;
    let engine = toy.open(1, 64);
    let length = Length { prompt: 500, longest: 500 };
    let refused = |plan: &Plan| engine.session(plan, length).err().unwrap().to_string();
    assert!(refused(&toy::plan("duo_attention")).contains("eunoe probe"));
    let other = Toy { heads: toy.heads * 2, ..toy };
    assert!(refused(&plan(other, "razor_attention")).contains("a profile of this model's heads"));
    for free in ["recycled_attention @ 64tok", "hip_attention @ 25%", "duo_attention @ 64tok"] {
        let why = refused(&plan(toy, free));
        assert!(why.contains("strips that keep all of 500 tokens"), "{free}: {why}");
    }
    for text in ["duo_attention | pyramid", "s2_attention | ada @ 64tok", "hip_attention | pyramid"] {
        assert!(Plan::parse(text).is_err(), "{text}");
    }
}

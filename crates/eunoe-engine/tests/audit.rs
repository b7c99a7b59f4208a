//! What an audit finds, against full memory written down: divergence row by row, attention to what is gone, copies of a
//! sequence.

#![allow(clippy::unwrap_used, reason = "tests")]

mod toy;

use eunoe_core::Error;
use eunoe_engine::{Audit, AuditSettings, Engine, Length, Session, Subject, Verdict, log_prob, log_sum_exp};
use toy::{GEMMA, LLAMA, RECALLS, TOKENS, VIEWS, bits, plan, plans, text};

const PROMPT: usize = 200;
const ANSWER: usize = 9;
const LENGTH: Length = Length { prompt: PROMPT as u32, longest: (PROMPT + ANSWER) as u32 };

fn audit(engine: &Engine, plan_text: &str, samples: usize) -> Audit {
    audit_as(engine, plan_text, AuditSettings { samples, ..AuditSettings::default() })
}

fn audit_as(engine: &Engine, plan_text: &str, settings: AuditSettings) -> Audit {
    let whole = text(PROMPT + ANSWER);
    let (tokens, answer) = whole.split_at(PROMPT);
    let prompt = "A sentence is here. ".repeat(10);
    let subject = Subject { prompt: &prompt, content: 0..prompt.len(), tokens, answer, length: LENGTH };
    engine.audit(&plan(plan_text), &subject, &settings, &mut |_| true).unwrap()
}

/// Logits of every row of prompt and answer but the last.
fn rows(engine: &Engine, plan_text: &str) -> Vec<Vec<f32>> {
    let tokens = text(PROMPT + ANSWER);
    let length = Length { prompt: PROMPT as u32, longest: (PROMPT + ANSWER) as u32 };
    let mut session = engine.session(&plan(plan_text), length).unwrap();
    let mut rows = Vec::new();
    let read = &tokens[..tokens.len() - 1];
    engine.read_rows(&mut session, read, &mut |_| true, &mut |_, l| rows.push(l.to_vec())).unwrap();
    rows
}

#[test]
fn divergence_is_that_of_all_rows_when_all_are_looked_at() {
    let engine = LLAMA.open(2, 64);
    let full = rows(&engine, "full");
    for plan_text in
        ["streaming_llm @ 32tok", "a2sf | ada @ 48tok", "full | q8", "recycled_attention(k=24, every=5)"]
    {
        let ours = rows(&engine, plan_text);
        let kl = |(f, p): (&Vec<f32>, &Vec<f32>)| -> f64 {
            (0..f.len() as u32)
                .map(|t| (log_prob(f, t), log_prob(p, t)))
                .map(|(f, p)| f64::from(f.exp() * (f - p)))
                .sum()
        };
        let kls: Vec<f64> = full.iter().zip(&ours).map(kl).collect();
        let mean = |kls: &[f64]| kls.iter().sum::<f64>() / kls.len() as f64;
        let got = audit(&engine, plan_text, usize::MAX);
        assert_eq!((got.whole.rows, got.whole.sampled), (PROMPT + ANSWER - 1, PROMPT + ANSWER - 1));
        // f32 logarithms here, f64 there
        assert!(
            (got.whole.kl_mean - mean(&kls)).abs() < 1e-5,
            "{plan_text}: {} {}",
            got.whole.kl_mean,
            mean(&kls)
        );
        assert!((got.answer.kl_mean - mean(&kls[PROMPT - 1..])).abs() < 1e-5, "{plan_text}");
        assert_eq!(got.whole.kl_ci, [got.whole.kl_mean; 2], "{plan_text}");
        let best = |l: &[f32]| (0..l.len()).rev().max_by(|a, b| l[*a].total_cmp(&l[*b]));
        let agree = full.iter().zip(&ours).filter(|(f, p)| best(f) == best(p)).count();
        assert!((got.whole.top1_agreement - agree as f64 / full.len() as f64).abs() < 1e-12, "{plan_text}");
        let answer = text(PROMPT + ANSWER)[PROMPT..].to_vec();
        let log_probs: Vec<f64> = ours[PROMPT - 1..]
            .iter()
            .zip(&answer)
            .map(|(l, t)| f64::from(l[*t as usize]) - log_sum_exp(l))
            .collect();
        assert!((got.outlook.log_prob_mean - log_probs.iter().sum::<f64>() / ANSWER as f64).abs() < 1e-9);
    }
}

#[test]
fn full_memory_differs_from_itself_in_nothing() {
    for toy in [LLAMA, GEMMA] {
        let engine = toy.open(2, 64);
        for same in ["full", "a2sf @ 209tok", "h2o | pyramid @ 999tok"] {
            let got = audit(&engine, same, 32);
            assert_eq!(
                (got.whole.kl_mean, got.whole.top1_agreement, got.forgotten_mass),
                (0.0, 1.0, 0.0),
                "{same}"
            );
            assert_eq!((got.risk, got.verdict), (0.0, Verdict::Harmless), "{same}");
            assert!(got.passages.is_empty(), "{same}");
            assert_eq!(got.canaries.unwrap().survived, 1.0, "{same}");
        }
    }
}

#[test]
fn a_sample_says_so_and_holds_the_whole_in_its_interval() {
    let engine = LLAMA.open(2, 64);
    let all = audit(&engine, "streaming_llm @ 32tok", usize::MAX);
    let some = audit(&engine, "streaming_llm @ 32tok", 40);
    assert_eq!((some.whole.sampled, some.whole.rows), (40 + 64 + ANSWER, all.whole.rows));
    let [lo, hi] = some.whole.kl_ci;
    assert!(lo < all.whole.kl_mean && all.whole.kl_mean < hi, "{} in {lo} … {hi}", all.whole.kl_mean);
    assert!(lo < some.whole.kl_mean && some.whole.kl_mean < hi);
    assert_eq!(some.answer, all.answer, "rows of the answer are looked at all");
    let settings = AuditSettings { samples: 40, exact: true, ..AuditSettings::default() };
    let both = audit_as(&engine, "streaming_llm @ 32tok", settings);
    assert_eq!(both.whole, some.whole);
    let exact = both.exact.unwrap();
    assert!((exact.kl_mean - all.whole.kl_mean).abs() < 1e-12 && exact.sampled == all.whole.sampled);
}

/// Attention to each position of a prompt of the rows after it, by strip: what `h2o` adds up while nothing is evicted.
fn mass_by_columns(engine: &Engine, tokens: &[u32], next: &[u32]) -> Vec<Vec<f64>> {
    let longest = (tokens.len() + next.len()) as u32;
    let length = Length { prompt: tokens.len() as u32, longest };
    let mut session = engine.session(&plan(&format!("h2o | f32 @ {longest}tok")), length).unwrap();
    let columns = |session: &Session| -> Vec<Vec<f32>> {
        let c = engine.config();
        let strips = (0..c.layers).flat_map(|l| (0..c.kv_heads).map(move |h| (l, h)));
        let global = strips.filter(|(l, _)| !c.is_sliding(*l));
        global.map(|(l, h)| (0..tokens.len()).map(|i| session.kv.strip(l, h).column(i)).collect()).collect()
    };
    engine.read(&mut session, tokens, &mut |_| true).unwrap();
    let before = columns(&session);
    engine.read(&mut session, next, &mut |_| true).unwrap();
    let sub = |(a, b): (&Vec<f32>, &Vec<f32>)| {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect()
    };
    columns(&session).iter().zip(&before).map(sub).collect()
}

fn recall(engine: &Engine, plan_text: &str, tokens: &[u32], next: &[u32]) -> (f64, Session) {
    let length = Length { prompt: tokens.len() as u32, longest: (tokens.len() + next.len()) as u32 };
    let mut session = engine.session(&plan(plan_text), length).unwrap();
    engine.read(&mut session, tokens, &mut |_| true).unwrap();
    (engine.mass_recall(&session, tokens, next, &mut |_| true).unwrap(), session)
}

#[test]
fn recalled_mass_is_that_of_columns_of_attention() {
    for toy in [LLAMA, GEMMA] {
        let engine = toy.open(2, 64);
        let whole = text(PROMPT + 12);
        let (tokens, next) = whole.split_at(PROMPT);
        let mass = mass_by_columns(&engine, tokens, next);
        for plan_text in
            ["streaming_llm | f32 @ 64tok", "a2sf | ada | f32 @ 40tok", "random | f32 @ 100tok", "full | f32"]
        {
            let (share, session) = recall(&engine, plan_text, tokens, next);
            let held = toy::kept(&engine, &session);
            let c = engine.config();
            let global: Vec<&Vec<u32>> = held
                .iter()
                .enumerate()
                .filter(|(i, _)| !c.is_sliding(i / c.kv_heads))
                .map(|(_, h)| h)
                .collect();
            let on: f64 = mass
                .iter()
                .zip(global)
                .map(|(m, held)| held.iter().map(|p| m[*p as usize]).sum::<f64>())
                .sum();
            let want = on / mass.iter().flatten().sum::<f64>();
            // f16 keys under full memory there, f32 here; bf16 products
            assert!((share - want).abs() < 0.01, "{plan_text}: {share} {want}");
        }
        let (all, _) = recall(&engine, "full", tokens, next);
        assert!((all - 1.0).abs() < 1e-12);
    }
}

#[test]
fn forgotten_passages_are_gone_and_add_up_to_no_more_than_all() {
    let engine = LLAMA.open(2, 64);
    let got = audit(&engine, "streaming_llm @ 32tok", 16);
    let sum: f64 = got.passages.iter().map(|p| p.mass).sum();
    assert!(got.forgotten_mass > 0.1 && sum <= got.forgotten_mass + 1e-9, "{sum} of {}", got.forgotten_mass);
    assert!(got.passages.is_sorted_by(|a, b| a.mass >= b.mass));
    for p in &got.passages {
        assert_eq!(p.text, engine.tokenizer.decode(&text(PROMPT)[p.from..p.to]));
    }
    // 7 passages of at most 32 tokens are all there are
    let settings = AuditSettings { samples: 4, passages: 99, canaries: 0, ..AuditSettings::default() };
    let whole = text(PROMPT + ANSWER);
    let (tokens, answer) = whole.split_at(PROMPT);
    let subject = Subject { prompt: "x", content: 0..1, tokens, answer, length: LENGTH };
    let all = engine.audit(&plan("streaming_llm @ 32tok"), &subject, &settings, &mut |_| true).unwrap();
    let sum: f64 = all.passages.iter().map(|p| p.mass).sum();
    assert!(
        all.passages.len() <= 7 && (sum - all.forgotten_mass).abs() < 1e-9,
        "{sum} {}",
        all.forgotten_mass
    );
    assert_eq!((&all.canaries, &all.canaries_note), (&None, &None));
}

#[test]
fn a_copy_of_a_sequence_goes_on_as_the_sequence_does() {
    let more = text(40);
    for toy in [LLAMA, GEMMA] {
        let engine = toy.open(2, 64);
        let mut texts = plans("32tok");
        texts.extend(["full", "full | q4(residual=64)", "snapkv(prefill=dense, keep=40)"].map(String::from));
        for plan_text in texts {
            let length = Length { prompt: PROMPT as u32, longest: (PROMPT + 80) as u32 };
            let mut session = engine.session(&plan(&plan_text), length).unwrap();
            engine.read(&mut session, &text(PROMPT), &mut |_| true).unwrap();
            let mut copy =
                engine.fork(&session).unwrap().unwrap_or_else(|| panic!("{plan_text} has no copy"));
            assert_eq!(bits(&copy), bits(&session), "{plan_text}");
            // what the copy reads is nothing to the sequence
            engine.read(&mut copy, &more, &mut |_| true).unwrap();
            let mut second = engine.fork(&session).unwrap().unwrap();
            engine.read(&mut session, &more, &mut |_| true).unwrap();
            engine.read(&mut second, &more, &mut |_| true).unwrap();
            assert_eq!(bits(&copy), bits(&session), "{plan_text}");
            assert_eq!(bits(&second), bits(&session), "{plan_text}");
            assert_eq!(copy.bill(), session.bill(), "{plan_text}");
        }
    }
}

#[test]
fn a_policy_that_itself_remembers_has_no_copy() {
    let engine = LLAMA.open(1, 64);
    let remembers = |text: &&str| {
        let needs = plan(text).make_policy(64).unwrap().needs();
        needs.view.is_some() || needs.recall.is_some()
    };
    for plan_text in VIEWS.iter().chain(&RECALLS).map(|own| own.plan).filter(remembers) {
        let session = toy::read(&engine, plan_text, &text(TOKENS));
        assert!(engine.fork(&session).unwrap().is_none(), "{plan_text}");
    }
}

#[test]
fn an_audit_stands_where_full_memory_has_no_room_for_planted_sentences() {
    let engine = LLAMA.open(2, 512);
    let whole = text(4096);
    let (tokens, answer) = whole.split_at(4090);
    let prompt = "A sentence is here. ".repeat(204);
    let length = Length { prompt: 4090, longest: 4096 };
    let subject = Subject { prompt: &prompt, content: 0..prompt.len(), tokens, answer, length };
    let settings = AuditSettings { samples: 4, ..AuditSettings::default() };
    // rank positions know no window; full memory ends at 4096
    let got = engine.audit(&plan("streaming_llm @ 32tok"), &subject, &settings, &mut |_| true).unwrap();
    assert!(got.canaries.is_none() && got.canaries_note.unwrap().contains("4096"));
    assert!(got.risk >= 0.15 && !got.outlook.is_planted, "doubt at least");
}

#[test]
fn what_cannot_be_audited_is_refused() {
    let engine = LLAMA.open(1, 64);
    let settings = AuditSettings::default();
    let of = |tokens: &[u32], answer: &[u32], go_on: bool| {
        let length = Length { prompt: tokens.len() as u32, longest: (tokens.len() + answer.len()) as u32 };
        let subject = Subject { prompt: "x", content: 0..1, tokens, answer, length };
        engine.audit(&plan("a2sf @ 16tok"), &subject, &settings, &mut |_| go_on).unwrap_err()
    };
    assert!(matches!(of(&[], &[1], true), Error::Invalid(_)));
    assert!(matches!(of(&[1], &[], true), Error::Invalid(_)));
    assert!(matches!(of(&[1; 9], &[1], false), Error::Interrupted));
    assert!(matches!(of(&[9999; 9], &[1], true), Error::Invalid(_)));
    assert!(matches!(of(&[1; 5000], &[1], true), Error::Limit { .. }));
}

//! The laws of memory, over every policy of the shelf: a hard budget, a true bill, full memory as the same code path,
//! one answer per row.

mod toy;

use eunoe_engine::{Length, full_bytes};
use eunoe_model::probe::NoProbe;
use toy::{
    GEMMA, LLAMA, RECALLS, Toy, VIEWS, WIDE_RECALLS, WIDE_VIEWS, assert_within, bits, kept, plan, plans,
    read, shared, text,
};

const SLOTS: usize = 32;
const BUDGET: &str = "32tok";

#[test]
fn every_policy_of_the_shelf_is_under_laws() {
    let check = |own: Vec<&str>, lists: &str| {
        let ids: Vec<_> = own.into_iter().map(|text| plan(text).policy.card.id).chain(shared()).collect();
        for id in eunoe_kv::policies::LIST.iter().map(|entry| entry.card.id) {
            assert!(
                ids.contains(&id),
                "the strips of `{id}` share no budget, so no law runs over it by itself: add a plan of it to {lists} \
                 in crates/eunoe-engine/tests/toy/mod.rs"
            );
        }
    };
    let sized = VIEWS.iter().chain(&RECALLS).map(|own| own.plan);
    check(sized.collect(), "`VIEWS`, or to `RECALLS` where blocks come back,");
    let wide = WIDE_VIEWS.iter().chain(&WIDE_RECALLS).copied();
    check(wide.collect(), "`WIDE_VIEWS`, or to `WIDE_RECALLS` where blocks come back,");
}

#[test]
fn bytes_never_pass_the_cap_and_chunks_change_nothing() {
    for toy in [LLAMA, GEMMA] {
        let engines: Vec<_> = [1, 7, 64, 512].iter().map(|chunk| toy.open(2, *chunk)).collect();
        for plan in plans(BUDGET) {
            for len in [5, SLOTS, 4 * SLOTS, 32 * SLOTS] {
                let tokens = text(len);
                let first = read(&engines[0], &plan, &tokens);
                for engine in &engines {
                    let session = read(engine, &plan, &tokens);
                    let (bill, ledger) = (session.bill(), session.kv.ledger());
                    assert_within(&session, toy.budget(&plan, len), &format!("{plan} on {len}"));
                    assert_eq!(
                        ledger.live,
                        bill.heads.iter().map(|h| h.bytes).sum::<u64>(),
                        "{plan} on {len}"
                    );
                    assert_eq!(bill.seen, bill.kept + bill.evicted, "{plan} on {len}");
                    assert!(len < 4 * SLOTS || bill.evicted > 0, "{plan} forgets nothing of {len}");
                    assert_eq!(bits(&session), bits(&first), "{plan} on {len}: logits");
                    assert_eq!(
                        kept(engine, &session),
                        kept(&engines[0], &first),
                        "{plan} on {len}: kept sets"
                    );
                }
            }
        }
    }
}

#[test]
fn a_budget_in_bytes_is_used_and_never_passed() {
    // neither is a whole number of slots; the six sliding strips of GEMMA take 137 280 bytes in f32
    for (toy, bytes) in [(LLAMA, 25_001), (GEMMA, 150_001)] {
        let engines = [toy.open(2, 7), toy.open(2, 512)];
        for plan in plans(&format!("{bytes}B")) {
            for engine in &engines {
                let session = read(engine, &plan, &text(1000));
                assert_within(&session, bytes, &plan);
                let (bill, ledger) = (session.bill(), session.kv.ledger());
                assert_eq!(bill.budget_bytes, Some(bytes), "{plan}");
                // of what a strip has room for at most a step is free
                let used = ledger.peak as f64 / bytes as f64;
                assert!(toy.arch == "gemma3" || used > 0.8, "{plan}: {used} of the budget");
            }
        }
    }
}

#[test]
fn resident_pages_agree_with_the_ledger_within_a_page_per_strip() {
    let engine = LLAMA.open(2, 64);
    for plan in plans("200tok") {
        let session = read(&engine, &plan, &text(1500));
        for (l, h) in (0..3).flat_map(|l| [(l, 0), (l, 1)]) {
            let strip = session.kv.strip(l, h);
            let Some(pages) = strip.resident_pages() else { return };
            let want = strip.bytes().div_ceil(eunoe_kernels::vm::page_bytes());
            assert!(pages.abs_diff(want) <= 1, "{plan}: {pages} pages for {} bytes", strip.bytes());
        }
    }
}

#[test]
fn a_budget_that_holds_the_text_is_full_memory_bit_for_bit() {
    for toy in [LLAMA, GEMMA] {
        let (engine, tokens) = (toy.open(2, 64), text(150));
        for codec in ["f16", "f32", "q8"] {
            let full = read(&engine, &format!("full | {codec}"), &tokens);
            for id in shared().into_iter().chain(["full"]) {
                for allocator in ["uniform", "pyramid", "ada"] {
                    let plan = format!("{id} | {allocator} | {codec} @ 4096tok");
                    if eunoe_kv::Plan::parse(&plan).is_err() {
                        continue; // an allocator that could change nothing under this policy
                    }
                    let session = read(&engine, &plan, &tokens);
                    assert_eq!(bits(&session), bits(&full), "{plan}");
                    assert_eq!(session.bill().evicted, 0, "{plan}");
                }
            }
        }
    }
}

#[test]
fn a_row_has_one_answer_on_any_threads_and_in_any_company() {
    let (one, two) = (LLAMA.open(1, 64), LLAMA.open(2, 64));
    let texts = [text(90), text(140)[40..].to_vec(), text(77)];
    let mut all = plans(BUDGET);
    all.push("full".into());
    for plan_text in all {
        let alone: Vec<_> = texts.iter().map(|t| bits(&read(&one, &plan_text, t))).collect();
        let mut sessions: Vec<_> = texts
            .iter()
            .map(|t| {
                let length = Length { prompt: t.len() as u32, longest: t.len() as u32 };
                two.session(&plan(&plan_text), length).unwrap()
            })
            .collect();
        let mut at = 0;
        while at < 100 {
            // pieces of 5 rows stay within what a surprisal policy may read at once
            let mut rows: Vec<_> = sessions
                .iter_mut()
                .zip(&texts)
                .filter(|(_, t)| at < t.len())
                .map(|(s, t)| (s, &t[at..t.len().min(at + 5)]))
                .collect();
            two.step(&mut rows, &mut NoProbe).unwrap();
            at += 5;
        }
        for (session, alone) in sessions.iter().zip(&alone) {
            assert_eq!(bits(session), *alone, "{plan_text}");
        }
    }
}

#[test]
fn the_published_mode_sees_the_prompt_whole_and_trims_it_at_its_end() {
    let (engine, tokens) = (LLAMA.open(2, 16), text(110));
    let length = Length { prompt: 100, longest: 110 };
    let full = read(&engine, "full", &tokens[..100]);
    for (plan_text, kept_after, kept_at_end) in [
        ("a2sf(prefill=dense, keep=40, step=1, recent=4)", 40, 40),
        ("h2o(prefill=dense, keep=40, evict=off)", 40, 50),
        ("snapkv(prefill=dense, keep=40, window=8)", 40, 50),
    ] {
        let mut session = engine.session(&plan(plan_text), length).unwrap();
        engine.read(&mut session, &tokens[..100], &mut |_| true).unwrap();
        assert_eq!(bits(&session), bits(&full), "{plan_text}: the prompt is read under full memory");
        assert!(kept(&engine, &session).iter().all(|k| k.len() == kept_after), "{plan_text}");
        engine.read(&mut session, &tokens[100..], &mut |_| true).unwrap();
        assert!(kept(&engine, &session).iter().all(|k| k.len() == kept_at_end), "{plan_text}");
        assert_eq!(session.bill().mode, "dense");
        let refused =
            engine.session(&plan(&format!("{plan_text} @ 60tok")), length).err().unwrap().to_string();
        assert!(
            refused.contains("600") && refused.contains("360"),
            "both numbers (slots of 6 strips): {refused}"
        );
    }
}

#[test]
fn the_published_mode_trims_where_the_prompt_ends_in_any_chunks_and_shares() {
    let (one, all, tokens) = (LLAMA.open(2, 1), LLAMA.open(2, 512), text(110));
    let length = Length { prompt: 100, longest: 110 };
    for (plan_text, per_layer) in [
        ("snapkv(prefill=dense, keep=40, window=8) | ada", 100),
        ("snapkv(prefill=dense, keep=40, window=39) | ada", 100),
        ("h2o(prefill=dense, keep=40, evict=off) | pyramid", 0),
        ("a2sf(prefill=dense, keep=40, step=1, recent=4) | ada", 80),
        ("h2o(prefill=dense, keep=40)", 0),
    ] {
        let [a, b] = [&one, &all].map(|engine| {
            let mut session = engine.session(&plan(plan_text), length).unwrap();
            engine.read(&mut session, &tokens, &mut |_| true).unwrap();
            session
        });
        assert_eq!((bits(&a), kept(&one, &a)), (bits(&b), kept(&all, &b)), "{plan_text}");
        for layer in kept(&one, &a).chunks(2).filter(|_| per_layer > 0) {
            assert_eq!(layer.iter().map(Vec::len).sum::<usize>(), per_layer, "{plan_text}");
        }
    }
}

#[test]
fn what_a_sequence_cannot_take_at_once_is_refused() {
    let engine = LLAMA.open(1, 512);
    let tokens = text(200);
    let length = Length { prompt: 200, longest: 210 };
    for (plan_text, rows) in [("sirllm @ 64tok", 17), ("h2o(prefill=dense, keep=40)", 201), ("full", 211)] {
        let mut session = engine.session(&plan(plan_text), length).unwrap();
        let many: Vec<u32> = tokens.iter().copied().cycle().take(rows).collect();
        assert!(engine.step(&mut [(&mut session, &many)], &mut NoProbe).is_err(), "{plan_text}");
        assert!(engine.step(&mut [(&mut session, &[])], &mut NoProbe).is_err(), "{plan_text}");
        assert!(engine.step(&mut [(&mut session, &[9999])], &mut NoProbe).is_err(), "{plan_text}");
        engine.step(&mut [(&mut session, &many[..5])], &mut NoProbe).unwrap();
    }
    assert!(engine.step(&mut [], &mut NoProbe).unwrap().is_empty());
    let dense =
        engine
            .score(&plan("h2o(prefill=dense, keep=9)"), &tokens, eunoe_engine::Windows::Whole, &mut |_| true);
    assert!(dense.unwrap_err().to_string().contains("streaming"));
    let wide = "a2sf(pos=rank) | ada @ 4096tok";
    assert!(
        engine.session(&plan(wide), Length { prompt: 9000, longest: 9000 }).is_err(),
        "a strip may grow past the window"
    );
}

#[test]
fn what_cannot_hold_is_refused_with_both_numbers() {
    let engine = LLAMA.open(1, 64);
    let length = |n| Length { prompt: n, longest: n };
    let refused = |text: &str, n| engine.session(&plan(text), length(n)).err().unwrap().to_string();
    let full = full_bytes(engine.config(), 1000);
    let error = refused("full @ 64KiB", 1000);
    assert!(error.contains(&full.to_string()) && error.contains("65536"), "{error}");
    let error = refused("h2o @ 64tok", 5000);
    assert!(error.contains("5000") && error.contains("4096") && error.contains("streaming_llm"), "{error}");
    assert!(engine.session(&plan("a2sf(pos=rank) @ 64tok"), length(5000)).is_ok());
    assert!(refused("a2sf @ 1B", 100).contains("1 available"));
    assert!(engine.session(&plan("full @ 10TiB"), length(100)).is_ok());
}

#[test]
fn a_hundred_percent_is_what_full_memory_takes() {
    let (engine, tokens) = (LLAMA.open(1, 64), text(64));
    let half = read(&engine, "streaming_llm @ 50%", &tokens).bill();
    let full = read(&engine, "full", &tokens).bill();
    assert_eq!(full.live_bytes, full_bytes(engine.config(), 64));
    assert_eq!(half.budget_bytes, Some(full.live_bytes / 2));
    assert!(half.peak_bytes <= full.live_bytes / 2 && half.peak_bytes > full.live_bytes * 4 / 10);
    assert_eq!(full.mass_evicted, None);
}

#[test]
fn sliding_layers_hold_their_window_and_are_no_forgetting() {
    let engine = GEMMA.open(2, 16);
    let bill = read(&engine, "full", &text(300)).bill();
    assert_eq!((bill.evicted, bill.mode), (0, "full"));
    for head in &bill.heads {
        // layers 0 to 4 and 6 slide (window 24, dropped 64 at a time), layer 5 is global
        assert_eq!(head.sliding, head.layer != 5);
        assert!(if head.sliding { head.kept <= 24 + 64 } else { head.kept == 300 });
    }
}

#[test]
fn what_is_rewound_never_was() {
    for (toy, limit) in [(LLAMA, 300), (GEMMA, 60)] {
        let (engine, tokens) = (toy.open(2, 16), text(limit));
        let plain = read(&engine, "full", &tokens);
        let mut session = read(&engine, "full", &tokens);
        for to in [limit - 1, 40, 1, 0] {
            assert!(session.rewind(to as u32), "{to}");
            assert_eq!((session.kv.seen(), session.logits().len()), (to as u32, 0));
            engine.read(&mut session, &tokens[to..], &mut |_| true).unwrap();
            assert_eq!(bits(&session), bits(&plain), "from {to} on");
            assert_eq!((session.kv.ledger(), session.bill()), (plain.kv.ledger(), plain.bill()));
        }
        assert!(!session.rewind(limit as u32 + 1), "what has not come cannot be kept");
    }
    let mut slid = read(&GEMMA.open(2, 16), "full", &text(300));
    assert!(!slid.rewind(299), "slots have left the window");
    for plan in plans(BUDGET) {
        let mut session = read(&LLAMA.open(2, 16), &plan, &text(4 * SLOTS));
        let before = (session.kv.ledger(), session.bill());
        assert!(!session.rewind(8), "{plan} has forgotten");
        assert_eq!((session.kv.ledger(), session.bill()), before);
    }
}

#[test]
fn every_token_but_the_first_is_scored_once_in_any_windows() {
    use eunoe_engine::Windows::{Sliding, Whole};
    let (engine, tokens) = (LLAMA.open(1, 16), text(60));
    let want: Vec<usize> = (1..60).collect();
    for windows in [
        Whole,
        Sliding { ctx: 16, stride: 16 },
        Sliding { ctx: 16, stride: 5 },
        Sliding { ctx: 90, stride: 90 },
    ] {
        let scores = engine.score(&plan("full"), &tokens, windows, &mut |_| true).unwrap();
        let scored: Vec<usize> = scores.nll.iter().map(|(token, _)| *token).collect();
        assert_eq!(scored, want, "{windows:?}");
    }
}

#[test]
fn the_newest_slots_in_full_precision_are_what_rows_see() {
    let tokens = text(300);
    let engines: Vec<_> = [(1, 1), (2, 7), (1, 64), (2, 512)].map(|(t, chunk)| LLAMA.open(t, chunk)).into();
    let full = bits(&read(&engines[1], "full", &tokens));
    assert_eq!(bits(&read(&engines[1], "full | q4(residual=400)", &tokens)), full, "nothing else is seen");
    let logits = |plan: &str| read(&engines[1], plan, &tokens).logits().to_vec();
    let exact = logits("full");
    let error =
        |plan: &str| logits(plan).iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
    let errors = [error("full | q4"), error("full | q4(residual=100)"), error("full | q4(residual=250)")];
    assert!(errors.is_sorted_by(|a, b| a > b) && errors[2] > 0.0, "{errors:?}");
    for plan in [
        "full | q4(residual=50)",
        "h2o | q8(v=q4, residual=20) @ 90tok",
        "a2sf | ada | q4(residual=9) @ 64tok",
    ] {
        let first = read(&engines[0], plan, &tokens);
        for engine in &engines {
            let session = read(engine, plan, &tokens);
            assert_eq!(bits(&session), bits(&first), "{plan}");
            let (bill, ledger) = (session.bill(), session.kv.ledger());
            assert_within(&session, LLAMA.budget(plan, 300), plan);
            assert_eq!(ledger.live, bill.heads.iter().map(|h| h.bytes).sum::<u64>(), "{plan}");
        }
    }
}

#[test]
fn where_both_strips_hold_the_same_every_slot_is_seen_once() {
    let engine = Toy { layers: 1, ..LLAMA }.open_as(2, 64, eunoe_engine::Arithmetic::Exact);
    for (len, residual) in [(65, 50), (110, 50), (110, 64), (300, 10)] {
        let tokens = text(len);
        let whole = read(&engine, "full | f16", &tokens);
        let apart = eunoe_kv::Plan { residual, ..plan("full | f16") };
        let mut session = engine.session(&apart, Length { prompt: len as u32, longest: len as u32 }).unwrap();
        engine.read(&mut session, &tokens, &mut |_| true).unwrap();
        let pairs = session.logits().iter().zip(whole.logits());
        let error = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // logits go up to 40, and weights are rounded to 8 bits within each part
        assert!(error < 0.02, "{residual} of {len}: {error}");
    }
}

#[test]
fn an_answer_is_scored_after_its_prompt_and_published_modes_trim_between() {
    use eunoe_engine::Windows::{Answer, Whole};
    let (engine, tokens) = (LLAMA.open(1, 16), text(60));
    let score = |plan_text: &str, windows| engine.score(&plan(plan_text), &tokens, windows, &mut |_| true);
    let whole = score("full", Whole).unwrap();
    let answer = score("full", Answer { prompt: 40 }).unwrap();
    assert_eq!(answer.nll, whole.nll[39..], "tokens 40 to 59");
    assert_eq!(answer.attended, 1.0);
    let trimmed = score("h2o(prefill=dense, keep=20)", Answer { prompt: 40 }).unwrap();
    assert_eq!(trimmed.nll[0], answer.nll[0], "the prompt's last row has seen all of it");
    assert!(trimmed.nll[1..].iter().zip(&answer.nll[1..]).any(|(a, b)| a != b) && trimmed.attended < 1.0);
    for prompt in [0, 59, 60] {
        let refused = score("full", Answer { prompt }).unwrap_err().to_string();
        assert!(refused.contains("two tokens after it"), "{refused}");
    }
}

#[test]
fn surprisals_in_the_slots_sum_to_the_loss_of_the_text() {
    let (engine, tokens) = (LLAMA.open(1, 16), text(60));
    let session = read(&engine, "sirllm @ 4096tok", &tokens);
    let strip = session.kv.strip(2, 1);
    let sum: f32 = (1..60).map(|i| strip.column(i)).sum();
    let scores = engine.score(&plan("full"), &tokens, eunoe_engine::Windows::Whole, &mut |_| true).unwrap();
    let nll: f32 = scores.nll.iter().map(|(_, n)| n).sum();
    assert!((sum - nll).abs() <= 1e-4 * nll, "{sum} {nll}");
    assert_eq!(strip.column(0), f32::INFINITY, "nothing predicts the first token");
}

//! A memory as bytes: what is read back goes on with the same bits, and what is damaged is refused.

#![allow(clippy::unwrap_used, reason = "tests")]

mod toy;

use std::ops::Range;

use eunoe_engine::{Engine, Length, Session};
use proptest::prelude::*;
use toy::{GEMMA, LLAMA, RECALLS, VIEWS, plan, plans, text};

const LENGTH: Length = Length { prompt: 100, longest: 300 };

struct Saved {
    state: Vec<u8>,
    parts: Vec<Range<u32>>,
    /// Part by part, layer by layer.
    records: Vec<Vec<Vec<u8>>>,
}

fn save(session: &Session, earlier: Option<Saved>) -> Saved {
    let to = session.kv.seen();
    let mut saved = earlier.filter(|_| session.keeps_records()).unwrap_or_else(|| Saved {
        state: Vec::new(),
        parts: Vec::new(),
        records: Vec::new(),
    });
    let from = saved.parts.last().map_or(0, |part| part.end);
    saved.state = session.state().unwrap();
    saved.parts.push(from..to);
    saved.records.push((0..session.layers()).map(|layer| session.records(layer, from)).collect());
    saved
}

fn restore(engine: &Engine, plan_text: &str, saved: &Saved) -> eunoe_core::Result<Session> {
    engine.restore(&plan(plan_text), LENGTH, &saved.state, &saved.parts, &mut |part, layer| {
        Ok(saved.records[part][layer].clone())
    })
}

fn read(engine: &Engine, session: &mut Session, tokens: &[u32]) -> Vec<f32> {
    engine.read(session, tokens, &mut |_| true).unwrap();
    session.logits().to_vec()
}

#[test]
fn what_is_read_back_goes_on_with_the_same_bits() {
    for toy in [LLAMA, GEMMA] {
        let engine = toy.open(2, 32);
        for plan_text in plans("40tok") {
            let mut session = engine.session(&plan(&plan_text), LENGTH).unwrap();
            let tokens = text(250);
            read(&engine, &mut session, &tokens[..100]);
            if plan(&plan_text).make_policy(40).unwrap().needs().keep.is_none() {
                read(&engine, &mut session, &tokens[100..130]);
            }
            let first = save(&session, None);
            let mut back = restore(&engine, &plan_text, &first).unwrap();
            let bill = |session: &Session| {
                let mut bill = session.bill();
                bill.reused_bytes = 0;
                bill
            };
            assert_eq!(bill(&back), bill(&session), "{plan_text}");
            let at = session.kv.seen() as usize;
            let want = read(&engine, &mut session, &tokens[at..at + 40]);
            assert_eq!(read(&engine, &mut back, &tokens[at..at + 40]), want, "{plan_text}");
            // once more, with only the new rows where the old ones are what they were
            let second = save(&back, Some(first));
            let mut again = restore(&engine, &plan_text, &second).unwrap();
            let want = read(&engine, &mut session, &tokens[at + 40..at + 60]);
            assert_eq!(read(&engine, &mut again, &tokens[at + 40..at + 60]), want, "{plan_text}");
        }
    }
}

#[test]
fn policies_that_remember_themselves_are_not_saved() {
    let engine = LLAMA.open(1, 64);
    for own in VIEWS.iter().chain(&RECALLS) {
        let needs = plan(own.plan).make_policy(64).unwrap().needs();
        if needs.profile || (needs.view.is_none() && needs.recall.is_none()) {
            continue;
        }
        let session = toy::read(&engine, own.plan, &text(90));
        assert!(!session.is_saveable());
        assert!(session.state().unwrap_err().to_string().contains("saving a memory"), "{}", own.plan);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Bytes changed or cut anywhere, parts of other sizes: refused, or a sequence that can be read on; never a panic.
    #[test]
    fn damage_is_refused_or_harmless(which in 0..4usize, at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<bool>()) {
        let engine = LLAMA.open(1, 32);
        let plan_text = ["full", "h2o @ 40tok", "snapkv @ 40tok", "full | q8(residual=16)"][which];
        let mut session = engine.session(&plan(plan_text), LENGTH).unwrap();
        read(&engine, &mut session, &text(100));
        let mut saved = save(&session, None);
        if cut {
            let len = at.index(saved.state.len());
            saved.state.truncate(len);
        } else {
            let at = at.index(saved.state.len());
            saved.state[at] = value;
        }
        if let Ok(mut back) = restore(&engine, plan_text, &saved) {
            engine.read(&mut back, &[1, 2, 3], &mut |_| true).ok();
        }
        let mut saved = save(&session, None);
        let layer = &mut saved.records[0][0];
        let at = at.index(layer.len());
        if cut { layer.truncate(at) } else { layer[at] = value }
        if let Ok(mut back) = restore(&engine, plan_text, &saved) {
            prop_assert!(!cut);
            engine.read(&mut back, &[1, 2, 3], &mut |_| true).ok();
        }
    }
}

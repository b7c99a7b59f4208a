//! Many answers at a time: the tokens of each are those that it gets alone, memory is never passed, and nothing is left.

#![allow(clippy::unwrap_used, reason = "tests")]

mod toy;

use std::path::Path;
use std::sync::{Arc, Mutex};

use eunoe_core::Error;
use eunoe_engine::schedule::{Limits, MEMORY, News, Schedule, Standing, Task};
use eunoe_engine::{Engine, Request, Sampling, log_prob};
use toy::{GEMMA, LLAMA, RECALLS, VIEWS, plan, plans, text};

/// What became of a task.
#[derive(Clone, Debug, Default, PartialEq)]
struct Fate {
    tokens: Option<Vec<u32>>,
    error: Option<String>,
    parked: u32,
    cached: usize,
    echo: Vec<f32>,
}

type Fates = Arc<Mutex<Vec<Fate>>>;

fn request(tokens: usize) -> Request {
    let sampling = Sampling { temperature: 0.8, seed: tokens as u64, ..Sampling::default() };
    Request { max_tokens: tokens, sampling, ..Request::default() }
}

/// A task whose fate is written down; it is given up after `patience` pieces of news.
fn task(fates: &Fates, plan_text: &str, prompt: &[u32], tokens: usize, patience: usize) -> Task {
    let fates = Arc::clone(fates);
    let index = {
        let mut all = fates.lock().unwrap();
        all.push(Fate::default());
        all.len() - 1
    };
    let mut heard = 0;
    let hear = move |news: News<'_, '_>| {
        let fate = &mut fates.lock().unwrap()[index];
        match news {
            News::Done(done) => {
                fate.tokens = Some(done.answer.tokens.clone());
                (fate.parked, fate.cached) = (done.parked, done.cached);
                fate.echo = done.echo.iter().map(|e| e.logprob).collect();
            }
            News::Failed(e) => fate.error = Some(e.to_string()),
            News::Read(..) | News::Wrote(..) => heard += 1,
            News::Waits => {}
        }
        heard < patience
    };
    Task {
        plan: plan(plan_text),
        prompt: prompt.to_vec(),
        start: None,
        request: request(tokens),
        guide: None,
        echo: None,
        pool: false,
        hear: Box::new(hear),
    }
}

fn limits(memory: u64, folder: &Path) -> Limits {
    Limits { memory, prefixes: memory / 2, running: 8, rows: 48, folder: folder.to_owned() }
}

/// Runs to the end; memory is within its cap at every step, and nothing is left.
fn run(schedule: &mut Schedule<'_>, memory: u64) -> Standing {
    for steps in 0.. {
        if schedule.is_idle() {
            break;
        }
        assert!(steps < 20_000, "nobody goes on: {:?}", schedule.standing());
        schedule.step().into_iter().for_each(|ended| ended.tell());
        let Standing { live_bytes, cached_bytes, .. } = schedule.standing();
        assert!(live_bytes + cached_bytes <= memory, "{:?}", schedule.standing());
    }
    let standing = schedule.standing();
    assert_eq!((standing.live_bytes, standing.running, standing.parked, standing.waiting), (0, 0, 0, 0));
    assert!(standing.peak_bytes <= memory);
    standing
}

fn alone(engine: &Engine, plan_text: &str, prompt: &[u32], tokens: usize) -> Vec<u32> {
    let length =
        eunoe_engine::Length { prompt: prompt.len() as u32, longest: (prompt.len() + tokens) as u32 };
    let mut session = engine.session(&plan(plan_text), length).unwrap();
    engine.read(&mut session, prompt, &mut |_| true).unwrap();
    engine.generate(&mut session, prompt, &request(tokens), &mut |_| true).unwrap().tokens
}

/// Prompts of several lengths under every plan that needs no profile of heads.
fn mixture() -> Vec<(String, Vec<u32>, usize)> {
    let mut all = plans("40tok");
    all.extend(VIEWS.iter().chain(&RECALLS).map(|own| own.plan.to_owned()));
    all.retain(|text| !plan(text).make_policy(64).unwrap().needs().profile);
    let of = |(i, plan): (usize, String)| (plan, text(150 + 37 * (i % 5)), 12 + 9 * (i % 4));
    all.into_iter().enumerate().map(of).collect()
}

fn mixed(engine: &Engine, memory: u64, folder: &Path) -> (Standing, Vec<Fate>) {
    let fates = Fates::default();
    let mut schedule = Schedule::new(engine, limits(memory, folder));
    for (plan_text, prompt, tokens) in mixture() {
        schedule.submit(task(&fates, &plan_text, &prompt, tokens, usize::MAX));
    }
    let standing = run(&mut schedule, memory);
    let fates = fates.lock().unwrap().clone();
    (standing, fates)
}

#[test]
fn tokens_are_those_of_a_task_alone_in_plenty_and_in_want() {
    let folder = tempfile::tempdir().unwrap();
    for toy in [LLAMA, GEMMA] {
        let engine = toy.open(2, 64);
        let want: Vec<_> = mixture().iter().map(|(p, t, n)| alone(&engine, p, t, *n)).collect();
        // bytes that two of the longest take under full memory, and what twenty do
        let one = eunoe_engine::full_bytes(engine.config(), 340);
        for memory in [2 * one, 20 * one] {
            let (_, fates) = mixed(&engine, memory, folder.path());
            for ((fate, want), (plan_text, ..)) in fates.iter().zip(&want).zip(mixture()) {
                assert_eq!(
                    fate.tokens.as_ref(),
                    Some(want),
                    "{plan_text} in {memory} bytes: {:?}",
                    fate.error
                );
            }
        }
    }
}

/// Short prompts that grow long: more than memory holds at the end, and so some wait outside.
fn growing(engine: &Engine, folder: &Path) -> (Standing, Vec<Fate>) {
    let memory = eunoe_engine::full_bytes(engine.config(), 500);
    let fates = Fates::default();
    let mut schedule = Schedule::new(engine, limits(memory, folder));
    for i in 0..4 {
        schedule.submit(task(
            &fates,
            ["full", "full | q8(residual=16)"][i % 2],
            &text(20 + i),
            300,
            usize::MAX,
        ));
    }
    let standing = run(&mut schedule, memory);
    let fates = fates.lock().unwrap().clone();
    (standing, fates)
}

#[test]
fn who_has_no_room_waits_outside_and_comes_back_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let engine = LLAMA.open(2, 64);
    let want: Vec<_> = (0..4)
        .map(|i| alone(&engine, ["full", "full | q8(residual=16)"][i % 2], &text(20 + i), 300))
        .collect();
    for folder in [folder.path(), Path::new("/nonexistent")] {
        let (standing, fates) = growing(&engine, folder);
        assert!(standing.preemptions > 0);
        assert_eq!(fates[0].parked, 0, "the oldest never waits");
        assert!(fates.iter().any(|fate| fate.parked > 0));
        for (fate, want) in fates.iter().zip(&want) {
            assert_eq!(fate.tokens.as_ref(), Some(want), "{:?}", fate.error);
        }
    }
}

#[test]
fn who_is_not_heard_any_more_gives_its_memory_back() {
    let folder = tempfile::tempdir().unwrap();
    let engine = LLAMA.open(2, 64);
    let memory = eunoe_engine::full_bytes(engine.config(), 2000);
    let fates = Fates::default();
    let mut schedule = Schedule::new(&engine, limits(memory, folder.path()));
    schedule.submit(task(&fates, "full", &text(300), 50, 2));
    schedule.submit(task(&fates, "full", &text(30), 50, 5));
    schedule.submit(task(&fates, "full", &text(31), 10, usize::MAX));
    run(&mut schedule, memory);
    let fates = fates.lock().unwrap();
    assert_eq!((&fates[0], &fates[1]), (&Fate::default(), &Fate::default()));
    assert_eq!(fates[2].tokens, Some(alone(&engine, "full", &text(31), 10)));
}

#[test]
fn what_cannot_fit_is_refused_with_both_numbers_and_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let engine = LLAMA.open(1, 64);
    let memory = eunoe_engine::full_bytes(engine.config(), 100);
    let fates = Fates::default();
    let large = task(&fates, "full", &text(90), 20, usize::MAX);
    match Schedule::check(&engine, &large, memory) {
        Err(Error::Limit { what, asked, have, .. }) => {
            assert_eq!((what.as_str(), have), (MEMORY, memory));
            assert_eq!(asked, eunoe_engine::full_bytes(engine.config(), 110));
        }
        other => panic!("{other:?}"),
    }
    let mut schedule = Schedule::new(&engine, limits(memory, folder.path()));
    schedule.submit(large);
    schedule.submit(task(&fates, "full", &[1, 2, 300], 5, usize::MAX)); // 300 is no token
    schedule.submit(task(&fates, "full", &text(40), 5, usize::MAX));
    run(&mut schedule, memory);
    let fates = fates.lock().unwrap();
    assert!(fates[0].error.as_ref().unwrap().contains(MEMORY));
    assert!(fates[1].error.as_ref().unwrap().contains("token 300 is not one of the model's"));
    assert_eq!(fates[2].tokens, Some(alone(&engine, "full", &text(40), 5)));
}

#[test]
fn the_prompt_is_scored_where_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let engine = LLAMA.open(2, 64);
    let prompt = text(130);
    let fates = Fates::default();
    let mut schedule = Schedule::new(&engine, limits(1 << 30, folder.path()));
    for tokens in [0, 1] {
        schedule.submit(Task { echo: Some(0), ..task(&fates, "full", &prompt, tokens, usize::MAX) });
    }
    run(&mut schedule, 1 << 30);
    let length = eunoe_engine::Length { prompt: 130, longest: 131 };
    let mut session = engine.session(&plan("full"), length).unwrap();
    let mut want = Vec::new();
    let mut each = |row: usize, logits: &[f32]| {
        want.extend(prompt.get(row + 1).map(|token| log_prob(logits, *token)));
    };
    engine.read_rows(&mut session, &prompt, &mut |_| true, &mut each).unwrap();
    for (fate, tokens) in fates.lock().unwrap().iter().zip([0, 1]) {
        assert_eq!((fate.echo.len(), fate.tokens.as_ref().unwrap().len()), (129, tokens));
        assert_eq!(fate.echo, want);
    }
}

/// The tokens of one task after the other, and how many of each prompt were not read again.
fn in_turn(schedule: &mut Schedule<'_>, plan_text: &str, prompts: &[Vec<u32>], memory: u64) -> Vec<Fate> {
    let fates = Fates::default();
    for prompt in prompts {
        schedule.submit(task(&fates, plan_text, prompt, 20, usize::MAX));
        run(schedule, memory);
    }
    fates.lock().unwrap().clone()
}

#[test]
fn what_was_read_before_is_not_read_again_and_the_tokens_are_the_same() {
    let (folder, memory) = (tempfile::tempdir().unwrap(), 1 << 26);
    for (toy, has_no_window) in [(LLAMA, true), (GEMMA, false)] {
        let engine = toy.open(2, 64);
        for (plan_text, beginning, _) in mixture() {
            // two questions to one text, the first once more, and one that goes on from its answer
            let ask = |n: u32| [&beginning[..], &(n..n + 30).collect::<Vec<_>>()].concat();
            let mut prompts = vec![ask(3), ask(70), ask(3)];
            let answer = alone(&engine, &plan_text, &prompts[0], 20);
            prompts.push([&prompts[0][..], &answer, &[5, 6, 7]].concat());
            let mut schedule = Schedule::new(&engine, limits(memory, folder.path()));
            let fates = in_turn(&mut schedule, &plan_text, &prompts, memory);
            for (prompt, fate) in prompts.iter().zip(&fates) {
                assert_eq!(fate.error, None, "{plan_text}");
                let want = alone(&engine, &plan_text, prompt, 20);
                assert_eq!(fate.tokens.as_ref(), Some(&want), "{plan_text}");
            }
            let cached: Vec<usize> = fates.iter().map(|fate| fate.cached).collect();
            let needs = plan(&plan_text).make_policy(40).unwrap().needs();
            let never = needs.view.is_some() || needs.recall.is_some();
            match plan_text.as_str() {
                "full" if has_no_window => {
                    let (text, asked) = (beginning.len(), prompts[0].len());
                    assert_eq!(cached, [0, text, asked - 1, asked + answer.len() - 1], "{plan_text}");
                }
                "full" => {
                    // a window has slid: whole states serve, and a longer text has room after them
                    assert_eq!(cached[3], prompts[0].len() + answer.len() - 1, "{plan_text}: {cached:?}");
                }
                _ if never => assert_eq!(cached, [0; 4], "{plan_text}"),
                _ => assert!(cached[0] == 0 && cached[2] + 1 >= prompts[0].len(), "{plan_text}: {cached:?}"),
            }
        }
    }
}

#[test]
fn those_that_come_together_read_what_they_share_once() {
    let folder = tempfile::tempdir().unwrap();
    let engine = LLAMA.open(2, 64);
    let beginning = text(600);
    for plan_text in ["full", "full | q8", "streaming_llm @ 200tok"] {
        let fates = Fates::default();
        let mut schedule = Schedule::new(&engine, limits(1 << 26, folder.path()));
        let prompts: Vec<Vec<u32>> = (0..6).map(|i| [&beginning[..], &[i, i + 1, 2]].concat()).collect();
        prompts.iter().for_each(|prompt| schedule.submit(task(&fates, plan_text, prompt, 20, usize::MAX)));
        let standing = run(&mut schedule, 1 << 26);
        for (prompt, fate) in prompts.iter().zip(fates.lock().unwrap().iter()) {
            assert_eq!(fate.tokens, Some(alone(&engine, plan_text, prompt, 20)), "{plan_text}");
        }
        let read = standing.tokens[0];
        if plan_text != "streaming_llm @ 200tok" {
            assert!(read < 2 * 600, "{plan_text}: {read} rows of prompts were read");
        }
        // one more begins where they began
        schedule.submit(task(&fates, plan_text, &[&beginning[..], &[99]].concat(), 3, usize::MAX));
        let last = run(&mut schedule, 1 << 26);
        assert!(last.prefixes[1] - standing.prefixes[1] >= 500, "{plan_text}: {last:?}");
    }
}

#[test]
fn what_is_kept_makes_room_for_what_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let engine = LLAMA.open(2, 64);
    // exact arithmetic stores f32: twice the bytes of f16
    let one = 2 * eunoe_engine::full_bytes(engine.config(), 400);
    let memory = 2 * one;
    let fates = Fates::default();
    let mut schedule = Schedule::new(&engine, limits(memory, folder.path()));
    for i in 0..12 {
        let prompt: Vec<u32> = text(330).iter().map(|t| (t + i) % 90).collect();
        schedule.submit(task(
            &fates,
            if i % 2 == 0 { "full" } else { "a2sf @ 200tok" },
            &prompt,
            20,
            usize::MAX,
        ));
        if i % 3 == 2 {
            assert_eq!(run(&mut schedule, memory).parked, 0);
        }
    }
    let standing = schedule.standing();
    assert!(standing.cached_bytes > 0 && standing.cached_bytes <= memory / 2, "{standing:?}");
    assert!(fates.lock().unwrap().iter().all(|fate| fate.tokens.is_some()));
}

#[test]
fn what_is_kept_is_never_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    for toy in [LLAMA, GEMMA] {
        let engine = toy.open(2, 64);
        // exact arithmetic stores f32: twice the bytes of f16
        let memory = 2 * eunoe_engine::full_bytes(engine.config(), 400);
        let beginning = text(190);
        for (plan_text, same, rest, tokens) in [
            ("full", 20, 350, 20),
            ("full", 170, 200, 20),
            ("streaming_llm @ 380tok", 180, 400, 20),
            ("streaming_llm @ 390tok", 180, 150, 100),
        ] {
            let other: Vec<u32> = (0..rest as u32).map(|i| (i * 7 + 3) % 90).collect();
            let second = [&beginning[..same], &other].concat();
            let fates = Fates::default();
            let mut schedule = Schedule::new(&engine, limits(memory, folder.path()));
            schedule.submit(task(&fates, plan_text, &beginning, 5, usize::MAX));
            run(&mut schedule, memory);
            // twice at a time: the second waits, or goes outside
            for _ in 0..2 {
                schedule.submit(task(&fates, plan_text, &second, tokens, usize::MAX));
            }
            run(&mut schedule, memory);
            let want = alone(&engine, plan_text, &second, tokens);
            let fates = fates.lock().unwrap();
            assert!(fates[1..].iter().all(|fate| fate.tokens.as_ref() == Some(&want)), "{plan_text} {same}");
        }
    }
}

//! What outlives a request: prefixes that are not read again, and sessions that go on after a crash.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
mod server;
#[path = "../../eunoe-engine/tests/toy/mod.rs"]
mod toy;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use common::Bench;
use serde_json::{Value, json};
use server::{Server, ask, prompt};

const TEMPLATE: &str = "{% for m in messages %}[{{ m.role }}] {{ m.content }} \n{% endfor %}\
                        {% if add_generation_prompt %}[assistant] {% endif %}";

fn gguf() -> Vec<u8> {
    toy::LLAMA.gguf_with(Some(TEMPLATE))
}

fn serve(file: &Path) -> Server {
    Server::of(&gguf(), &["--sessions", file.to_str().unwrap()])
}

/// What a turn is answered with.
fn turn(server: &Server, name: &str, words: usize, memory: &Value) -> (u16, Value) {
    let mut memory = memory.clone();
    memory["session"] = name.into();
    let messages = json!([{ "role": "user", "content": prompt(words) }]);
    let body =
        json!({ "messages": messages, "max_tokens": 12, "temperature": 0.7, "seed": 3, "memory": memory });
    server.post("/v1/chat/completions", &body)
}

/// The text and all of the memory's record that does not depend on where it was.
fn told((status, answer): (u16, Value)) -> (Value, Value) {
    assert_eq!(status, 200, "{answer}");
    let mut memory = answer["memory"].clone();
    memory.as_object_mut().unwrap().remove("reused_bytes");
    (answer["choices"][0]["message"]["content"].clone(), memory)
}

#[test]
fn a_session_goes_on_after_a_kill_with_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    for (i, plan) in
        ["full", "h2o @ 64tok", "full | q8(residual=16)", "sirllm @ 96tok"].into_iter().enumerate()
    {
        let (killed, whole) =
            (folder.path().join(format!("killed{i}")), folder.path().join(format!("whole{i}")));
        let first = json!({ "plan": plan });
        let other = serve(&whole);
        let want: Vec<_> = [(60, &first), (7, &json!({})), (30, &json!({}))]
            .map(|(words, memory)| told(turn(&other, "a", words, memory)))
            .into();
        let mut server = serve(&killed);
        assert_eq!(told(turn(&server, "a", 60, &first)), want[0], "{plan}");
        for (words, want) in [(7, &want[1]), (30, &want[2])] {
            server.child.kill().unwrap();
            server.child.wait().unwrap(); // it has the file until it is gone
            server = serve(&killed);
            let (status, session) = server.get("/eunoe/sessions/a");
            assert_eq!((status, &session["plan"]), (200, &json!(plan)), "{session}");
            assert_eq!(told(turn(&server, "a", words, &json!({}))), *want, "{plan}");
        }
        let (_, list) = server.get("/eunoe/sessions");
        assert_eq!((&list["data"][0]["name"], &list["data"][0]["turns"]), (&json!("a"), &json!(3)));
        assert_eq!(server.get("/eunoe/memory").1["live_bytes"], 0);
    }
}

#[test]
fn a_stream_tells_that_its_turn_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(&folder.path().join("store"));
    let body = json!({ "messages": [{ "role": "user", "content": "x" }], "max_tokens": 5, "stream": true, "memory": { "session": "s" } });
    let (status, _, bytes) = server.send("POST", "/v1/chat/completions", "", body.to_string().as_bytes());
    let text = String::from_utf8(bytes).unwrap();
    let last: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let memory: Value = serde_json::from_str(last[last.len() - 2]).unwrap();
    assert_eq!((status, &memory["memory"]["session"]["saved"]), (200, &json!(true)), "{text}");
    assert_eq!(server.get("/eunoe/sessions/s").1["turns"], 1);
}

#[test]
fn what_cannot_go_on_is_refused_with_a_reason_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let refused = |(status, answer): (u16, Value), code: u16, part: &str| {
        assert!(status == code && answer["error"]["message"].as_str().unwrap().contains(part), "{answer}");
    };
    {
        let server = serve(&store);
        told(turn(&server, "a", 20, &json!({ "plan": "h2o @ 64tok" })));
        refused(turn(&server, "a", 3, &json!({ "plan": "full" })), 400, "remembers by `h2o @ 64tok`");
        refused(turn(&server, "a b", 3, &json!({})), 400, "letters, digits");
        refused(turn(&server, "a", 3, &json!({ "audit": true })), 400, "not audited");
        refused(turn(&server, "v", 3, &json!({ "plan": "recycled_attention" })), 400, "many of both");
        refused(turn(&server, "v", 3, &json!({ "plan": "s2_attention" })), 400, "saving a memory under");
        refused(
            server.post("/v1/completions", &json!({ "prompt": "x", "memory": { "session": "a" } })),
            400,
            "chat",
        );
        let long = json!({ "messages": [{ "role": "user", "content": "x" }], "max_tokens": 100_000, "memory": { "session": "a" } });
        let (status, answer) = server.post("/v1/chat/completions", &long);
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("context_length_exceeded")), "{answer}");
        assert_eq!(server.get("/eunoe/sessions/a").1["turns"], 1, "what was refused changed nothing");
        refused(server.get("/eunoe/sessions/b"), 404, "no session `b`");
        let (status, _, _) = server.send("DELETE", "/eunoe/sessions/b", "", b"");
        assert_eq!(status, 404);
        told(turn(&server, "gone", 3, &json!({})));
        assert_eq!(server.send("DELETE", "/eunoe/sessions/gone", "", b"").0, 204);
        assert_eq!(server.get("/eunoe/sessions").1["data"].as_array().unwrap().len(), 1);
    }
    // another model of the same shape
    let mut other = gguf();
    let last = other.len() - 1;
    other[last] ^= 1;
    let server = Server::of(&other, &["--sessions", store.to_str().unwrap()]);
    refused(turn(&server, "a", 3, &json!({})), 400, "of another model");
    assert_eq!(server.get("/eunoe/sessions/a").1["usable"], false);
    // two servers cannot write to one file, and a file of something else is not one
    let bench = Bench::new();
    fs::write(bench.path("toy.gguf"), gguf()).unwrap();
    let model = bench.path("toy.gguf");
    let fails = |file: &Path| {
        let mut command = bench.eunoe(&["serve", "--port", "0", "-m"]);
        let output = command.arg(&model).arg("--sessions").arg(file).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(fails(&store).contains("another process has it open"));
    let text = folder.path().join("text");
    fs::write(&text, "something else".repeat(1000)).unwrap();
    assert!(fails(&text).contains("cannot open the sessions"), "{}", fails(&text));
    assert_eq!(fs::read_to_string(&text).unwrap(), "something else".repeat(1000));
    drop(server);
    // a changed byte of the memory is noticed
    let mut bytes = fs::read(&store).unwrap();
    let said = b"word 0 ";
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(said)).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| bytes[*at] ^= 1);
    fs::write(&store, bytes).unwrap();
    assert!(fails(&store).contains("cannot open the sessions"), "{}", fails(&store));
}

#[test]
fn chat_goes_on_in_the_same_file() {
    let bench = Bench::new();
    fs::write(bench.path("toy.gguf"), gguf()).unwrap();
    let talk = |store: &str, lines: &str, more: &[&str]| {
        let mut command = bench.eunoe(&["chat", "-n", "6", "--json", "-m"]);
        command.arg(bench.path("toy.gguf")).arg("--session").arg(bench.path(store)).args(more);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let texts: Vec<Value> =
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].clone()).collect();
        (texts, String::from_utf8(output.stderr).unwrap())
    };
    let (want, _) = talk("whole", "hello there\nword 3 word 4\n", &[]);
    let (first, _) = talk("parts", "hello there\n", &[]);
    let (second, said) = talk("parts", "word 3 word 4\n", &[]);
    assert_eq!([first, second].concat(), want);
    assert!(said.contains("session `chat` goes on after 1 turns"), "{said}");
    assert!(talk("parts", "x\n", &["--kv", "h2o @ 64tok"]).1.contains("leave --kv out"));
    assert!(talk("parts", "x\n", &["--system", "s"]).1.contains("leave --system out"));
    assert!(talk("parts", "x\n", &["--name", "a b"]).1.contains("letters, digits"));
    let server = serve(&bench.path("parts"));
    let (status, session) = server.get("/eunoe/sessions/chat");
    assert_eq!((status, &session["turns"], &session["usable"]), (200, &json!(2), &json!(true)), "{session}");
    assert_eq!(turn(&server, "chat", 4, &json!({})).0, 200);
}

#[test]
fn a_prefix_is_read_once_and_the_text_is_the_same() {
    let server = Server::start(&[]);
    let without = Server::start(&["--prefix-cache", "0"]);
    for plan in ["full", "full | q8", "h2o @ 200tok", "streaming_llm @ 100tok"] {
        for tokens in [12, 20] {
            let body = ask(plan, 150, tokens);
            let (first, again, cold) =
                (server.complete(&body), server.complete(&body), without.complete(&body));
            let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
            assert!(cached(&again) > Some(140) && cached(&cold) == Some(0), "{plan}: {}", again["usage"]);
            for answer in [&first, &again] {
                assert_eq!(answer["choices"][0]["text"], cold["choices"][0]["text"], "{plan}");
                assert_eq!(answer["memory"]["evicted"], cold["memory"]["evicted"], "{plan}");
            }
            assert!(again["memory"]["reused_bytes"].as_u64() > Some(0));
        }
    }
    let (_, memory) = server.get("/eunoe/memory");
    assert!(memory["live_bytes"] == 0 && memory["cached_bytes"].as_u64() > Some(0), "{memory}");
    assert_eq!(without.get("/eunoe/memory").1["cached_bytes"], 0);
    // several answers to one prompt read it once
    let many = server.complete(&json!({ "prompt": prompt(90), "max_tokens": 4, "n": 4, "seed": 1 }));
    assert_eq!(many["choices"].as_array().unwrap().len(), 4);
    let (_, _, metrics) = server.send("GET", "/metrics", "", b"");
    assert!(String::from_utf8(metrics).unwrap().contains("vllm:prefix_cache_hits_total"));
}

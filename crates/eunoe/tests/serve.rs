//! `serve` on a toy model over real sockets: answers, streams, errors, company, hang-ups.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
mod server;
#[path = "../../eunoe-engine/tests/toy/mod.rs"]
mod toy;

use std::io::Write as _;
use std::net::TcpStream;
use std::thread;

use serde_json::{Value, json};
use server::{Server, ask, prompt};

#[test]
fn an_answer_is_that_of_run_with_the_same_memory_record() {
    let server = Server::start(&[]);
    for plan in ["full", "a2sf @ 64tok", "full | q8"] {
        let answer = server.complete(&ask(plan, 40, 20));
        let mut run = server.bench.eunoe(&["run", "--json", "--raw", "-n", "20", "--kv", plan, "-m"]);
        let output = run.arg(server.bench.path("toy.gguf")).arg(prompt(40)).output().unwrap();
        let run: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["choices"][0]["text"], run["text"], "{plan}");
        assert_eq!(answer["choices"][0]["finish_reason"], run["finish_reason"]);
        assert_eq!(answer["usage"]["prompt_tokens"], run["usage"]["prompt_tokens"]);
        assert_eq!(answer["usage"]["completion_tokens"], run["usage"]["completion_tokens"]);
        for key in
            ["plan_used", "mode", "budget_bytes", "peak_bytes", "live_bytes", "seen", "kept", "evicted"]
        {
            assert_eq!(answer["memory"][key], run["memory"][key], "{plan}: {key}");
        }
        assert_eq!(answer["memory"]["heads"].as_array().unwrap().len(), 6);
    }
}

#[test]
fn a_stream_says_the_same_piece_by_piece() {
    let server = Server::start(&[]);
    let body =
        json!({ "prompt": prompt(30), "max_tokens": 30, "temperature": 0.9, "seed": 5, "logprobs": 2 });
    let whole = server.complete(&body);
    let with = |extra: Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        server.stream(&body)
    };
    let plain = with(json!({ "stream": true }));
    let text =
        |chunks: &[Value]| chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect::<String>();
    assert_eq!(text(&plain), whole["choices"][0]["text"]);
    assert!(plain.iter().all(|chunk| chunk["usage"].is_null()));
    assert_eq!(plain.last().unwrap()["memory"], whole["memory"]);
    let tokens: Vec<&Value> = plain
        .iter()
        .filter_map(|c| c["choices"][0]["logprobs"]["token_logprobs"].as_array())
        .flatten()
        .collect();
    let want = whole["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
    assert_eq!(tokens, want.iter().collect::<Vec<_>>());

    let extra =
        json!({ "stream": true, "stream_options": { "include_usage": true }, "memory": { "live": true } });
    let rich = with(extra);
    assert_eq!(text(&rich), whole["choices"][0]["text"]);
    let last = rich.last().unwrap();
    assert_eq!((&last["usage"], &last["choices"]), (&whole["usage"], &json!([])));
    let shares = last["memory"]["tokens"].as_array().unwrap();
    assert_eq!(shares.len() as u64, whole["usage"]["prompt_tokens"].as_u64().unwrap());
    assert!(shares.iter().all(|token| token["kept"] == 1.0), "full memory holds all");
    assert!(
        rich.iter().any(|chunk| chunk["memory"]["live"]["heads"].as_array().is_some_and(|h| h.len() == 6))
    );
}

#[test]
fn the_prompt_comes_back_scored_and_lists_are_answered_in_order() {
    let server = Server::start(&[]);
    let body = json!({ "prompt": [[65, 66, 67], [70, 71]], "max_tokens": 1, "echo": true, "logprobs": 1, "temperature": 0 });
    let answer = server.complete(&body);
    let of = |i: usize| answer["choices"][i]["logprobs"]["token_logprobs"].as_array().unwrap().clone();
    assert_eq!((of(0).len(), of(1).len()), (4, 3));
    assert!(of(0)[0].is_null() && of(0)[1].as_f64().unwrap() < 0.0);
    let mut logits = server.bench.eunoe(&["logits", "--json", "--tokens", "65,66", "--top", "257", "-m"]);
    let output = logits.arg(server.bench.path("toy.gguf")).output().unwrap();
    let logits: Value = serde_json::from_slice(&output.stdout).unwrap();
    let top = logits["top"].as_array().unwrap();
    let want = top.iter().find(|t| t["token"] == 67).unwrap()["logprob"].as_f64().unwrap();
    assert_eq!(of(0)[2].as_f64().unwrap() as f32, want as f32);
}

#[test]
fn tokens_are_counted_as_they_are_read_and_written() {
    let server = Server::start(&[]);
    let usage = server.complete(&ask("full", 40, 20))["usage"].clone();
    let (_, _, text) = server.send("GET", "/metrics", "", b"");
    let text = String::from_utf8(text).unwrap();
    for (name, count) in [("prompt", &usage["prompt_tokens"]), ("generation", &usage["completion_tokens"])] {
        let line = format!("vllm:{name}_tokens_total {count}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
}

#[test]
fn an_answer_that_is_not_there_in_time_is_given_up() {
    let server = Server::start(&["--timeout", "1"]);
    // 32 answers of 4000 tokens, the stop token forbidden: more than a second's work anywhere
    let mut body = json!({ "prompt": [65], "max_tokens": 4000, "n": 32, "logit_bias": { "256": -100 } });
    let (status, answer) = server.post("/v1/completions", &body);
    assert_eq!((status, answer["error"]["code"].as_str()), (408, Some("timeout")), "{answer}");
    body["stream"] = json!(true);
    let (status, _, bytes) = server.send("POST", "/v1/completions", "", body.to_string().as_bytes());
    let text = String::from_utf8(bytes).unwrap();
    assert!(status == 200 && text.contains("--timeout") && !text.contains("[DONE]"), "{status}");
    server.until("all are given up", || server.get("/eunoe/memory").1["running"] == 0);
}

#[test]
fn company_changes_nothing_and_memory_is_given_back() {
    // about as much as four of the longest under full memory
    let server = Server::start(&["--memory", "3MiB", "--running", "6"]);
    let asks: Vec<Value> = (0..12)
        .map(|i| ask(["full", "a2sf @ 64tok", "snapkv @ 25%", "full | q8"][i % 4], 20 + 9 * i, 10 + 6 * i))
        .collect();
    let alone: Vec<Value> =
        asks.iter().map(|ask| server.complete(ask)["choices"][0]["text"].clone()).collect();
    thread::scope(|scope| {
        let together: Vec<_> = asks.iter().map(|ask| scope.spawn(|| server.complete(ask))).collect();
        for (answer, want) in together.into_iter().zip(&alone) {
            assert_eq!(&answer.join().unwrap()["choices"][0]["text"], want);
        }
    });
    let memory = server.get("/eunoe/memory").1;
    let of = |key: &str| memory[key].as_u64().unwrap();
    assert!(of("peak_bytes") <= of("cap_bytes") && of("peak_bytes") > 0, "{memory}");
    assert_eq!((of("live_bytes"), of("running"), of("waiting"), of("parked")), (0, 0, 0, 0), "{memory}");
    let (_, _, text) = server.send("GET", "/metrics", "", b"");
    let text = String::from_utf8(text).unwrap();
    for name in ["vllm:num_requests_running 0", "vllm:generation_tokens_total", "eunoe:kv_bytes_cap 3145728"]
    {
        assert!(text.contains(name), "{name}: {text}");
    }
}

#[test]
fn an_audit_is_that_of_run_and_lets_others_go_on() {
    let server = Server::start(&[]);
    let mut body = ask("a2sf @ 64tok", 60, 8);
    body["memory"]["audit"] = json!(true);
    let audit = &server.complete(&body)["memory"]["audit"];
    let args = ["run", "--json", "--raw", "--audit", "-n", "8", "--kv", "a2sf @ 64tok", "-m"];
    let output =
        server.bench.eunoe(&args).arg(server.bench.path("toy.gguf")).arg(prompt(60)).output().unwrap();
    let run: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(audit["kl_mean"].as_f64().unwrap() > 0.0, "{audit}");
    assert_eq!(audit, &run["audit"]);
    thread::scope(|scope| {
        let audited = scope.spawn(|| server.complete(&body));
        let others: Vec<_> = (0..4).map(|i| scope.spawn(move || (i, ask("full", 20 + i, 5)))).collect();
        for other in others {
            let (_, ask) = other.join().unwrap();
            assert_eq!(server.complete(&ask)["choices"][0]["finish_reason"], "length");
        }
        assert_eq!(&audited.join().unwrap()["memory"]["audit"], audit, "company changes nothing");
    });
    let small = Server::start(&["--memory", "256KiB"]);
    let note = &small.complete(&body)["memory"]["audit"]["note"];
    assert!(note.as_str().unwrap().contains("full memory too"), "{note}");
}

#[test]
fn who_hangs_up_gives_the_memory_back() {
    let server = Server::start(&[]);
    let body =
        json!({ "prompt": prompt(30), "max_tokens": 3000, "temperature": 1, "stream": true }).to_string();
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let head = format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).unwrap();
    let running = || server.get("/eunoe/memory").1["running"].as_u64().unwrap();
    server.until("it runs", || running() == 1);
    drop(stream);
    server.until("it is given up", || running() == 0);
    assert_eq!(server.get("/eunoe/memory").1["live_bytes"], 0);
}

#[test]
fn what_cannot_be_meant_is_refused_by_name_and_in_openais_form() {
    let server = Server::start(&["--memory", "1MiB", "--max-body", "20000"]);
    let of = |body: Value| {
        let (status, answer) = server.post("/v1/completions", &body);
        let error = &answer["error"];
        assert!(error["message"].is_string() && error["type"].is_string(), "{answer}");
        (
            status,
            error["param"].as_str().unwrap_or("").to_owned(),
            error["code"].as_str().unwrap_or("").to_owned(),
        )
    };
    let refused = |param: &str| (400, param.to_owned(), String::new());
    for (param, value) in [
        ("foo", json!(1)),
        ("n", json!(0)),
        ("temperature", json!(-1)),
        ("top_p", json!(0)),
        ("stop", json!([""])),
        ("logprobs", json!(21)),
        ("stream_options", json!({ "include_usage": true })),
    ] {
        let mut body = json!({ "prompt": "x", "max_tokens": 1 });
        body[param] = value;
        assert_eq!(of(body), refused(param));
    }
    assert_eq!(of(json!({ "max_tokens": 1 })), refused("prompt"));
    assert_eq!(of(json!({ "prompt": [] })), refused("prompt"));
    assert_eq!(of(json!({ "prompt": [1, 999] })), refused("prompt"));
    assert_eq!(of(json!({ "prompt": "x", "memory": { "plan": "a2fs @ 64tok" } })), refused("memory.plan"));
    let long = json!({ "prompt": "x", "max_tokens": 5000 });
    assert_eq!(of(long), (400, "prompt".into(), "context_length_exceeded".into()));
    let large = json!({ "prompt": "x", "max_tokens": 4000 });
    assert_eq!(of(large), (400, "memory.plan".into(), "memory_budget_exceeded".into()));
    assert_eq!(
        of(json!({ "model": "other", "prompt": "x" })),
        (404, String::new(), "model_not_found".into())
    );
    assert_eq!(of(json!({ "prompt": "x".repeat(30_000) })).0, 413);
    // a body that does not say how long it is
    let chunk = format!("{:x}\r\n{}\r\n0\r\n\r\n", 30_000, " ".repeat(30_000));
    let head =
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let (status, _, answer) = server.raw([head.as_bytes(), chunk.as_bytes()].concat().as_slice());
    assert_eq!(status, 413, "{}", String::from_utf8_lossy(&answer));
    let chat =
        server.post("/v1/chat/completions", &json!({ "messages": [{ "role": "user", "content": "x" }] }));
    assert!(chat.0 == 400 && chat.1.to_string().contains("no chat template"), "{}", chat.1);

    for body in [&b"{"[..], b"[1]", b"\xff\xfe", b"", b"{\"prompt\": \"\xff\"}"] {
        let (status, _, answer) = server.send("POST", "/v1/completions", "", body);
        assert_eq!(status, 400, "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(server.get("/v1/nothing").0, 404);
    assert_eq!(server.get("/v1/completions").0, 405);
    assert_eq!(server.get("/v1/models/../../etc/passwd").0, 404);
    assert_eq!(server.raw(b"nonsense\r\n\r\n").0, 400);
    assert_eq!(server.get("/health").0, 200, "and nobody else is harmed");
}

#[test]
fn keys_let_in_and_the_pages_need_none() {
    let server = Server::start(&["--api-key", "secret"]);
    let models = |headers: &str| server.send("GET", "/v1/models", headers, b"");
    assert_eq!(models("").0, 401);
    assert_eq!(models("authorization: Bearer wrong\r\n").0, 401);
    let (status, head, body) = models("authorization: Bearer secret\r\nx-request-id: mine\r\n");
    assert!(status == 200 && head.contains("x-request-id: mine"), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("\"toy\""));
    assert_eq!(models("authorization: Bearer secret\r\norigin: http://x\r\n").0, 200, "the page itself");
    assert_eq!(models("authorization: Bearer secret\r\norigin: https://elsewhere.org\r\n").0, 403);
    let (status, head, body) = server.send("GET", "/", "", b"");
    assert!(status == 200 && head.contains("default-src 'self'") && body.starts_with(b"<!"), "{head}");
}

#[test]
fn tokens_embeddings_and_lists() {
    let server = Server::start(&[]);
    let tokens = server.post("/tokenize", &json!({ "prompt": "AB", "add_special_tokens": false })).1;
    let back = server.post("/detokenize", &json!({ "tokens": tokens["tokens"] })).1;
    assert_eq!((back["prompt"].as_str(), tokens["max_model_len"].as_u64()), (Some("AB"), Some(4096)));
    let of = |input: Value| server.post("/v1/embeddings", &json!({ "input": input })).1["data"].clone();
    let two = of(json!(["one text", "another"]));
    let vector = |value: &Value| {
        value["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>()
    };
    let (a, b) = (vector(&two[0]), vector(&two[1]));
    assert_eq!((a.len(), b.len()), (64, 64));
    assert!((a.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5 && a != b);
    assert_eq!(vector(&of(json!("one text"))[0]), a, "company changes nothing");
}

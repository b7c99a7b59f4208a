//! `serve` in a crowd: many connections, slow ones, endless ones, ones that go away. Others are answered, memory is bounded,
//! and what was taken is given back.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
mod server;
#[path = "../../eunoe-engine/tests/toy/mod.rs"]
mod toy;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use server::{Server, answer, ask};

/// Bytes that a server may take beside what it took before, whatever comes.
const GROWTH: u64 = 96 << 20;
const HEAD: &str = "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";

/// Bytes of memory that the server's process has now.
fn resident(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// It answers as it should, nothing is left over, and nothing broke.
fn assert_calm(server: &Server) {
    server.until("all is given back", || {
        let memory = server.get("/eunoe/memory").1;
        ["live_bytes", "running", "waiting", "parked"].iter().all(|key| memory[key] == 0)
    });
    assert_eq!(server.complete(&ask("full", 10, 4))["usage"]["completion_tokens"], 4);
    assert!(!server.errors().contains("panicked"), "{}", server.errors());
}

/// A request whose answer is streamed.
fn stream_of(body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!("{HEAD}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// As many file handles as the system gives, or so many; tests beside this one have them too.
fn handles(wanted: u64) -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX).min(wanted);
    if limit.current.is_some_and(|now| now < most) {
        limit.current = Some(most);
        setrlimit(Resource::Nofile, limit).ok();
    }
    getrlimit(Resource::Nofile).current.unwrap_or(wanted)
}

#[test]
#[allow(clippy::print_stdout, reason = "it says where the system's limit makes it a smaller test")]
fn ten_thousand_connections_are_answered_or_told_that_there_is_no_room() {
    const PLACES: usize = 200;
    let count = handles(12_000).saturating_sub(PLACES as u64 + 1000).min(10_000) as usize;
    if count < 10_000 {
        println!("the system's limit of file handles allows {count} connections, not 10000");
    }
    let server = Server::start(&["--connections", &PLACES.to_string(), "--arrival", "600"]);
    let before = resident(&server);
    let mut running = server.connect();
    let body =
        json!({ "prompt": [65], "max_tokens": 4000, "n": 2, "stream": true, "logit_bias": { "256": -100 } });
    running.write_all(&stream_of(&body)).unwrap();
    let mut first = [0; 1];
    running.read_exact(&mut first).unwrap();
    // places whose holders say nothing, or not all
    let mut silent: Vec<TcpStream> = (1..PLACES).map(|_| server.connect()).collect();
    silent.iter_mut().step_by(2).for_each(|half| half.write_all(b"GET /health HTT").unwrap());
    // a connection that asked whether the model is there may have had a place still
    server.until("all places are taken", || {
        silent.push(server.connect());
        server.get("/health").0 == 503
    });
    let mut crowd: Vec<TcpStream> = Vec::new();
    for _ in 0..count {
        let mut one = server.connect();
        one.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").ok();
        crowd.push(one);
    }
    let told = crowd.iter_mut().filter(|one| {
        let mut one = &**one;
        let (status, head, body) = answer(&mut one.try_clone().unwrap());
        one.flush().unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        status == 503 && head.contains("retry-after") && body["error"]["code"] == "busy"
    });
    assert_eq!(told.count(), count, "each is told");
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < GROWTH, "{grown} bytes more");
    let mut rest = String::new();
    running.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "who was there first is answered to the end");
    drop((silent, crowd));
    assert_calm(&server);
}

#[test]
fn bodies_without_an_end_are_refused_early_and_take_no_memory() {
    let server = Server::start(&["--max-body", "1MiB"]);
    let before = resident(&server);
    let zeros = vec![b' '; 64 << 10];
    let chunk = [format!("{:x}\r\n", zeros.len()).as_bytes(), &zeros, b"\r\n"].concat();
    for (head, piece) in [("content-length: 1073741824", &zeros), ("transfer-encoding: chunked", &chunk)] {
        let mut stream = server.connect();
        stream.write_all(format!("{HEAD}{head}\r\n\r\n").as_bytes()).unwrap();
        let mut reader = stream.try_clone().unwrap();
        let reader = thread::spawn(move || answer(&mut reader));
        let mut sent = 0;
        while sent < 1 << 30 && !reader.is_finished() && stream.write_all(piece).is_ok() {
            sent += piece.len();
        }
        let (status, _, body) = reader.join().unwrap();
        assert_eq!(status, 413, "{head}: {}", String::from_utf8_lossy(&body));
        let grown = resident(&server).saturating_sub(before);
        assert!(grown < GROWTH, "{head}: {grown} bytes more");
    }
    assert_calm(&server);
}

#[test]
fn large_bodies_share_a_room_and_small_ones_need_none() {
    let server = Server::start(&["--arrival", "600"]);
    let before = resident(&server);
    // 16 MiB each, the last byte missing: sixteen of them fill the room
    let body = " ".repeat((16 << 20) - 1);
    let open = format!("{HEAD}content-length: {}\r\n\r\n", 16 << 20);
    let send = || {
        let mut stream = server.connect();
        stream.write_all(open.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).ok();
        stream
    };
    let mut held: Vec<TcpStream> = (0..20).map(|_| send()).collect();
    // which of them have no room depends on whose bytes come first
    let is_answered = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        stream.peek(&mut [0]).is_ok_and(|bytes| bytes > 0)
    };
    let mut refused = Vec::new();
    server.until("those without room are refused", || {
        refused.extend(held.extract_if(.., is_answered));
        refused.len() >= 4
    });
    for mut stream in refused {
        stream.set_read_timeout(Some(server::PATIENCE)).unwrap();
        let (status, _, body) = answer(&mut stream);
        assert_eq!(status, 503, "{}", String::from_utf8_lossy(&body));
    }
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < (512 << 20) + GROWTH, "{grown} bytes more");
    assert_eq!(server.complete(&ask("full", 10, 4))["usage"]["completion_tokens"], 4);
    let many = format!("{{\"prompt\": [{}1]}}", "1,".repeat(4 << 20));
    let (status, _, text) = server.send("POST", "/v1/completions", "", many.as_bytes());
    assert!([413, 503].contains(&status), "{}", String::from_utf8_lossy(&text));
    drop(held);
    server.until("the room is given back", || {
        let large = json!({ "prompt": "x", "max_tokens": 1, "user": "x".repeat(8 << 20) });
        server.post("/v1/completions", &large).0 == 200
    });
    assert_calm(&server);
}

#[test]
fn who_sends_byte_by_byte_is_given_up_in_time() {
    let server = Server::start(&["--arrival", "1"]);
    let whole = format!("{HEAD}content-length: 5000\r\n\r\n");
    let trickle = |at_once: usize, expected: u16| {
        let mut stream = server.connect();
        let mut reader = stream.try_clone().unwrap();
        let reader = thread::spawn(move || answer(&mut reader));
        let start = Instant::now();
        stream.write_all(&whole.as_bytes()[..at_once]).unwrap();
        let rest = whole.as_bytes()[at_once..].iter().chain(std::iter::repeat(&b' '));
        for byte in rest {
            thread::sleep(Duration::from_millis(20));
            if reader.is_finished() || stream.write_all(&[*byte]).is_err() {
                break;
            }
        }
        assert_eq!(reader.join().unwrap().0, expected);
        assert!(start.elapsed() < server::PATIENCE / 2, "{:?}", start.elapsed());
    };
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| trickle(0, 0));
            scope.spawn(|| trickle(whole.len(), 408));
        }
        assert_eq!(server.get("/health").0, 200, "others are answered meanwhile");
    });
    assert_calm(&server);
}

#[test]
fn who_never_reads_is_given_up_in_time() {
    let server = Server::start(&["--arrival", "1"]);
    // some 60 MB of probabilities: more than the system keeps for a client
    let body = json!({ "prompt": [65], "max_tokens": 4000, "n": 32, "stream": true, "logprobs": 5, "logit_bias": { "256": -100 } });
    let mut stream = server.connect();
    stream.write_all(&stream_of(&body)).unwrap();
    let aborted = || {
        let (_, _, text) = server.send("GET", "/metrics", "", b"");
        String::from_utf8(text).unwrap().contains("vllm:request_success_total{finished_reason=\"abort\"} 32")
    };
    server.until("all of it is given up", aborted);
    assert_calm(&server);
    drop(stream);
}

#[test]
fn who_hangs_up_anywhere_leaves_nothing_behind() {
    let server = Server::start(&[]);
    let body = json!({ "prompt": "x", "max_tokens": 4000, "stream": true, "logit_bias": { "256": -100 } });
    let whole = json!({ "prompt": "x", "max_tokens": 4000, "n": 8, "logit_bias": { "256": -100 } });
    for bytes in [stream_of(&body), stream_of(&whole)] {
        let head = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        for end in [0, 5, head, head + 2, head + 4, head + 20, bytes.len() - 1, bytes.len()] {
            for waits in [false, true] {
                let mut stream = server.connect();
                stream.write_all(&bytes[..end]).unwrap();
                if waits && end == bytes.len() {
                    server.until("it runs", || server.get("/eunoe/memory").1["live_bytes"] != 0);
                }
            }
        }
    }
    assert_calm(&server);
    let mut half: Vec<TcpStream> = (0..300).map(|_| server.connect()).collect();
    half.iter_mut().for_each(|one| one.write_all(b"POST /v1/completions HTTP/1.1\r\ncontent-le").unwrap());
    assert_calm(&server);
}

#[test]
fn connections_that_the_system_has_no_handles_for_are_not_promised() {
    let server = Server::start(&["--connections", "100000"]);
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    assert_eq!(server.errors().contains("file handles"), most < 100_000, "{}", server.errors());
    assert_calm(&server);
}

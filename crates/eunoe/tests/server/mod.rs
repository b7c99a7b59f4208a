//! A server with a toy model, and what is asked of it.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

pub(crate) mod schema;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::Bench;
use crate::toy;

/// Time that anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A server with a toy model, for one test.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: String,
    pub(crate) bench: Bench,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Server {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::of(&toy::LLAMA.gguf(), args)
    }

    /// A server of this model.
    pub(crate) fn of(gguf: &[u8], args: &[&str]) -> Self {
        let bench = Bench::new();
        fs::write(bench.path("toy.gguf"), gguf).unwrap();
        let mut command = bench.eunoe(&["serve", "--port", "0", "--json", "-m"]);
        let errors = File::create(bench.path("errors")).unwrap();
        command.arg(bench.path("toy.gguf")).args(args).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().unwrap();
        let mut first = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        while serde_json::from_str::<Value>(&first).is_err() {
            let errors = || fs::read_to_string(bench.path("errors")).unwrap_or_default();
            assert_ne!(out.read_line(&mut first).unwrap(), 0, "{first}{}", errors());
        }
        let listening: Value = serde_json::from_str(&first).unwrap();
        let address = listening["url"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
        let server = Self { child, address, bench };
        server.until("the model is there", || server.get("/health").0 == 200);
        server
    }

    /// What it said on standard error.
    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(self.bench.path("errors")).unwrap()
    }

    pub(crate) fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Status, headers and body of what comes back for these bytes.
    pub(crate) fn raw(&self, bytes: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = self.connect();
        stream.write_all(bytes).ok(); // a refused body is not read to its end
        answer(&mut stream)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> (u16, String, Vec<u8>) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        self.raw(&[head.as_bytes(), body].concat())
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        let (status, _, body) = self.send("GET", path, "", b"");
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, head, answer) = self.send("POST", path, "", body.to_string().as_bytes());
        let text = String::from_utf8_lossy(&answer).into_owned();
        (status, serde_json::from_slice(&answer).unwrap_or_else(|e| panic!("{e}: {head}\n{text}")))
    }

    pub(crate) fn complete(&self, body: &Value) -> Value {
        let (status, answer) = self.post("/v1/completions", body);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Chunks of a stream; the last says that it is done.
    pub(crate) fn stream(&self, body: &Value) -> Vec<Value> {
        let (status, head, bytes) = self.send("POST", "/v1/completions", "", body.to_string().as_bytes());
        assert!(status == 200 && head.contains("text/event-stream"), "{head}");
        let text = String::from_utf8(bytes).unwrap();
        let mut lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(lines.pop(), Some("[DONE]"), "{text}");
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Status, headers and body of all that still comes; zero where nothing does.
pub(crate) fn answer(stream: &mut TcpStream) -> (u16, String, Vec<u8>) {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    (status, head, answer.get(end + 4..).unwrap_or_default().to_vec())
}

pub(crate) fn prompt(words: usize) -> String {
    (0..words).map(|i| format!("word {} ", i * 7 % 13)).collect()
}

pub(crate) fn ask(plan: &str, words: usize, tokens: usize) -> Value {
    json!({ "prompt": prompt(words), "max_tokens": tokens, "temperature": 0, "memory": { "plan": plan } })
}

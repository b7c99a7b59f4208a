//! `eval`, `report` and `audit` on a toy model: shapes, resuming, the same digits again, servers, bad input.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "../../eunoe-engine/tests/toy/mod.rs"]
mod toy;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{Bench, failure};
use serde_json::{Value, json};

fn bench() -> Bench {
    let bench = Bench::new();
    fs::write(bench.path("toy.gguf"), toy::LLAMA.gguf()).unwrap();
    bench
}

/// `eunoe COMMAND -m toy.gguf ARGS`; paths in ARGS are those of the bench.
fn command(bench: &Bench, args: &[&str]) -> Command {
    let mut command = bench.eunoe(&args[..1]);
    command.arg("-m").arg(bench.path("toy.gguf")).args(&args[1..]);
    command.current_dir(bench.path(""));
    command
}

fn json(bench: &Bench, args: &[&str]) -> Value {
    let output = command(bench, args).arg("--json").output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn fails(bench: &Bench, args: &[&str]) -> String {
    let output = command(bench, args).output().unwrap();
    assert!(!output.status.success(), "{args:?} succeeded");
    failure(&output)
}

const EVAL: [&str; 9] = [
    "eval",
    "--tasks",
    "passkey,perplexity",
    "--lengths",
    "700",
    "--samples",
    "3",
    "--kv",
    "h2o @ 30%;full;snapkv @ 64tok",
];

/// Lines of a folder without what differs from run to run, in a fixed order.
fn lines(bench: &Bench, dir: &str) -> Vec<Value> {
    let text = fs::read_to_string(bench.path(dir).join("items.jsonl")).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        for timing in ["prefill_s", "decode_s"] {
            assert!(line[timing].as_f64().unwrap() >= 0.0);
            line[timing] = Value::Null;
        }
    }
    lines.sort_by_key(Value::to_string);
    lines
}

#[test]
fn rows_have_the_shape_of_the_contract_one_per_plan_task_and_length() {
    let bench = bench();
    let d = json(&bench, &EVAL);
    let rows = d["rows"].as_array().unwrap();
    let names: Vec<_> =
        rows.iter().map(|r| (r["plan"].as_str().unwrap(), r["task"].as_str().unwrap())).collect();
    let plans = ["full", "h2o @ 30%", "snapkv @ 64tok"];
    let want: Vec<_> = plans.iter().flat_map(|p| ["passkey", "perplexity"].map(|t| (*p, t))).collect();
    assert_eq!(names, want);
    for row in rows {
        assert_eq!((&row["length"], &row["n"]), (&json!(700), &json!(3)), "{row}");
        let score = row["score"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&score), "{row}");
        let diff = score - row["ceiling"].as_f64().unwrap();
        assert!((row["diff"].as_f64().unwrap() - diff).abs() < 1e-12, "{row}");
        let [lo, hi] = [0, 1].map(|i| row["ci"][i].as_f64().unwrap());
        assert!(lo <= row["diff"].as_f64().unwrap() && row["diff"].as_f64().unwrap() <= hi, "{row}");
        for key in ["kv_bytes", "hot_bytes", "peak_bytes", "attended_tokens", "prefill_s", "decode_s"] {
            assert!(row[key].as_f64().unwrap() >= 0.0, "{key} of {row}");
        }
        assert_eq!(row["near_chance"], json!(row["task"] == "passkey"), "{row}");
    }
    // 64 slots of 3 layers and 2 KV heads, each a key and a value of 32 halves, and a position
    assert_eq!(rows[5]["budget_bytes"], json!(64 * 6 * (2 * 64 + 4)));
    assert!(rows[5]["peak_bytes"].as_u64() <= rows[5]["budget_bytes"].as_u64());
    assert!(rows[0]["attended_tokens"].as_f64() > rows[4]["attended_tokens"].as_f64());
}

#[test]
fn a_manifest_is_held_to_the_profile_that_split_the_heads() {
    let bench = bench();
    json(&bench, &["eval", "--tasks", "passkey", "--lengths", "700", "--samples", "1", "--out", "full"]);
    let manifest: Value =
        serde_json::from_slice(&fs::read(bench.path("full/manifest.json")).unwrap()).unwrap();
    assert!(manifest["heads"].is_null(), "no plan splits heads");
    let sha256 = manifest["model"]["sha256"].as_str().unwrap();
    let profile = |retrieval: f64| {
        let score = |x: f64| vec![x; 18];
        json!({
            "model": "toy", "sha256": sha256, "layers": 3, "heads": 6, "kv_heads": 2, "retrieval": score(retrieval),
            "induction": score(0.0), "echo": score(0.0), "sink": score(0.0), "streaming": score(0.0), "found": [1, 1],
        })
    };
    let path = bench.path("home").join("profiles").join(format!("{sha256}.json"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, profile(0.5).to_string()).unwrap();
    let duo = ["eval", "--tasks", "passkey", "--lengths", "700", "--samples", "1", "--kv", "duo_attention"];
    json(&bench, &[&duo[..], &["--out", "one"]].concat());
    let again = ["eval", "--again", "one/manifest.json", "--out", "two"];
    json(&bench, &again);
    assert_eq!(lines(&bench, "one"), lines(&bench, "two"));
    fs::write(&path, profile(0.25).to_string()).unwrap();
    let says = |args: &[&str]| String::from_utf8(command(&bench, args).output().unwrap().stderr).unwrap();
    assert!(says(&again).contains("error: the manifest was made with another profile of the model's heads"));
    assert!(
        says(&[&duo[..], &["--out", "one"]].concat()).contains("another evaluation (profile of the heads")
    );
}

#[test]
fn a_run_that_was_killed_goes_on_and_a_manifest_makes_the_same_digits() {
    let bench = bench();
    let with = |extra: &[&'static str]| [&EVAL[..], extra].concat();
    json(&bench, &with(&["--out", "whole", "--jobs", "1"]));
    // killed in the middle of a line
    json(&bench, &with(&["--out", "cut", "--jobs", "2"]));
    let path = bench.path("cut/items.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let third = text.lines().take(7).map(|line| line.len() + 1).sum::<usize>();
    fs::write(&path, &text[..third + 20]).unwrap();
    let output = command(&bench, &with(&["--out", "cut"])).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("7 answers are there already"));
    let whole = lines(&bench, "whole");
    assert_eq!(whole.len(), 3 * 2 * 3);
    assert_eq!(lines(&bench, "cut"), whole, "whatever the jobs, and however it came");

    json(&bench, &["eval", "--again", "whole/manifest.json", "--out", "again"]);
    assert_eq!(lines(&bench, "again"), whole);
    let error =
        fails(&bench, &["eval", "--again", "whole/manifest.json", "--file", "toy.gguf", "--out", "x"]);
    assert!(error.contains("UTF-8") || error.contains("toy.gguf"), "{error}");
    fs::write(bench.path("other.txt"), "Some other text. ".repeat(400)).unwrap();
    let error = fails(&bench, &["eval", "--again", "whole/manifest.json", "--file", "other.txt"]);
    assert!(error.contains("leave out --file"), "{error}");

    let error = fails(&bench, &with(&["--out", "whole", "--seed", "1"]));
    assert!(error.contains("another evaluation (seed: 0 there, 1 asked for)"), "{error}");
}

#[test]
fn a_run_that_is_killed_while_it_works_leaves_whole_lines() {
    let bench = bench();
    let args = [&EVAL[..5], &["--samples", "400", "--kv", "full", "--out", "killed", "--jobs", "1"]].concat();
    let mut child = command(&bench, &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let path = bench.path("killed/items.jsonl");
    let whole = || fs::read(&path).unwrap_or_default().iter().filter(|b| **b == b'\n').count();
    for _ in 0..600 {
        if whole() >= 4 {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(whole() >= 4, "no lines after 30 s");
    let (manifest, lines) = eunoe_report::load(&bench.path("killed")).unwrap();
    assert_eq!((manifest.samples, lines.len()), (400, whole()));
}

#[test]
fn a_page_is_made_of_a_folder_and_says_what_is_missing() {
    let bench = bench();
    json(&bench, &[&EVAL[..], &["--out", "results"]].concat());
    let output = bench.run(&["report", bench.path("results").to_str().unwrap(), "--json"]);
    assert!(output.status.success());
    let d: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(d["rows"].as_array().unwrap().len(), 6);
    let page = fs::read_to_string(bench.path("results/report.html")).unwrap();
    for part in ["<svg", "h2o @ 30%", "passkey", "eunoe eval"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("http://") || !page.contains("<link"), "self-contained");
    let table = bench.run(&["report", bench.path("results").to_str().unwrap(), "--markdown"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("| h2o @ 30% |"), "{table}");
    assert!(bench.fails(&["report", "nowhere"]).contains("`nowhere` holds no evaluation"));
    fs::write(bench.path("results/items.jsonl"), "{\n{}\n").unwrap();
    assert!(bench.fails(&["report", bench.path("results").to_str().unwrap()]).contains("line 1"));
}

#[test]
fn what_cannot_be_evaluated_is_refused_before_anything_runs() {
    let bench = bench();
    let refused = |args: &[&str]| fails(&bench, &[&["eval"], args].concat());
    let base = ["--tasks", "passkey", "--lengths", "700"];
    let with = |extra: &[&'static str]| refused(&[&base[..], extra].concat());
    assert!(refused(&["--tasks", "passkye", "--lengths", "700"]).contains("did you mean `passkey`?"));
    assert!(refused(&["--tasks", "passkey"]).contains("--lengths"));
    assert!(refused(&["--tasks", "passkey", "--lengths", "9000"]).contains("window of 4096"));
    assert!(refused(&["--tasks", "qa_1", "--lengths", "80"]).contains("`qa_1` at 80 tokens"));
    assert!(with(&["--kv", "streaming_llm @ 3tok"]).contains("streaming_llm"));
    assert!(with(&["--kv", "hh2o"]).contains("did you mean `h2o`?"));
    assert!(with(&["--budget", "x", "--kv", "h2o"]).contains("`h2o @ x`"));
    assert!(with(&["--kv", "recycled_attention @ 10%"]).contains("`recycled_attention @ 10%` at 700 tokens"));
    assert!(with(&["--memory", "1KiB"]).contains("(--memory)"));
    assert!(with(&["--out", "/proc/nowhere"]).contains("/proc/nowhere"));
    fs::write(bench.path("bad.json"), "{\"data\": [{\"paragraphs\"").unwrap();
    fs::write(bench.path("bad.jsonl"), "{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 2}\n")
        .unwrap();
    fs::write(bench.path("bad.txt"), b"abc\xff").unwrap();
    for name in ["bad.json", "bad.jsonl", "bad.txt"] {
        let error = with(&["--file", name]);
        assert!(error.contains(name), "{error}");
    }
    assert!(with(&["--file", "missing.txt"]).contains("cannot read `missing.txt`"));
}

/// A server that answers every completion with `answer`, or `status` if it is no 200, and what it was asked.
fn serve(answer: &'static str, status: u16, count: usize) -> (String, thread::JoinHandle<Vec<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap());
    let serving = thread::spawn(move || {
        let mut asked = Vec::new();
        for _ in 0..count {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            reader.read_line(&mut line).unwrap();
            let is_get = line.starts_with("GET /v1/models");
            loop {
                line.clear();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let (status, text) = if is_get {
                (200, json!({"data": [{"id": "toy"}]}).to_string())
            } else {
                asked.push(serde_json::from_slice(&body).unwrap());
                let usage = json!({"prompt_tokens": 77});
                (
                    status,
                    json!({"choices": [{"text": answer}], "usage": usage, "memory": {"peak_bytes": 5}})
                        .to_string(),
                )
            };
            write!(
                stream,
                "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
                text.len()
            )
            .unwrap();
        }
        asked
    });
    (base, serving)
}

#[test]
fn a_server_is_asked_the_same_items() {
    let bench = bench();
    let toy = bench.path("toy.gguf").display().to_string();
    let eval = |base: &str, tasks: &str, extra: &[&str]| {
        let args = ["eval", "-m", base, "--tasks", tasks, "--lengths", "700", "--samples", "2", "--json"];
        bench.run(&[&args[..], extra].concat())
    };
    let (base, serving) = serve(" 12345.", 200, 3);
    let output = eval(&base, "passkey", &["--tokenizer", &toy, "--label", "rival"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let d: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = &d["rows"][0];
    assert_eq!((&row["plan"], &row["n"], &row["ceiling"]), (&json!("rival"), &json!(2), &Value::Null));
    assert_eq!(row["kv_bytes"], 5);
    let asked = serving.join().unwrap();
    json(
        &bench,
        &[
            "eval",
            "--tasks",
            "passkey",
            "--lengths",
            "700",
            "--samples",
            "2",
            "--kv",
            "full",
            "--out",
            "ours",
        ],
    );
    let ours: Value = serde_json::from_slice(&fs::read(bench.path("ours/manifest.json")).unwrap()).unwrap();
    assert_eq!(asked[0]["prompt"], ours["first"][0]["prompt"]);
    assert_eq!((&asked[0]["temperature"], &asked[0]["model"]), (&json!(0), &json!("toy")));

    let (base, _serving) = serve("x", 503, 2);
    let error = failure(&eval(&base, "passkey", &["--tokenizer", &toy]));
    assert!(error.contains("says 503"), "{error}");
    let (base, _serving) = serve("x", 200, 1);
    let error = failure(&eval(&base, "perplexity", &["--tokenizer", &toy]));
    assert!(error.contains("`perplexity` needs probabilities"), "{error}");
    assert!(
        failure(&eval("http://127.0.0.1:9/v1", "passkey", &["--tokenizer", &toy]))
            .contains("does not answer")
    );
    assert!(failure(&eval("http://127.0.0.1:9/v1", "passkey", &[])).contains("give --tokenizer"));
}

#[test]
fn an_audit_tells_the_divergence_and_run_appends_it() {
    let bench = bench();
    let prompt = "a rose is a rose is a rose. ".repeat(12);
    let d = json(&bench, &["audit", "--raw", "-n", "5", "--kv", "a2sf @ 64tok", "--samples", "50", &prompt]);
    // 336 tokens and 5 of the answer, of which nothing follows the last; of the prompt 50 rows and the last 64
    assert_eq!((&d["rows"], &d["sampled"]), (&json!(336 + 5 - 1), &json!(50 + 64 + 5)));
    let kl = d["kl_mean"].as_f64().unwrap();
    assert!(d["kl_ci"][0].as_f64().unwrap() <= kl && kl <= d["kl_ci"][1].as_f64().unwrap() && kl > 0.0);
    assert!((0.0..=1.0).contains(&d["risk"].as_f64().unwrap()) && d["words"].is_string());
    assert!(["harmless", "doubtful", "harmful"].contains(&d["verdict"].as_str().unwrap()));
    assert_eq!(d["canaries"]["planted"], 4);
    assert_eq!(d["memory"]["plan_asked"], "a2sf @ 64tok");
    let run = json(&bench, &["run", "--raw", "-n", "5", "--kv", "a2sf @ 64tok", "--audit", &prompt]);
    assert_eq!((&run["text"], &run["audit"]["answer"]), (&d["text"], &d["answer"]));
    assert!(fails(&bench, &["audit", "--raw", "x"]).contains("give one with --kv"));
    let long = "a".repeat(5000);
    assert!(
        fails(&bench, &["audit", "--raw", "--kv", "streaming_llm @ 64tok", &long])
            .contains("under full memory too")
    );
}

#[test]
fn an_escalation_is_on_the_bill_and_ends_with_memory_or_trust() {
    let bench = bench();
    // whatever the risk of a toy's answers, what is told must fit what was done
    let prompt = "a rose is a rose is a rose. ".repeat(12);
    let run = |extra: &[&str]| {
        let args = ["run", "--raw", "-n", "5", "--kv", "a2sf @ 32tok", "--escalate"];
        json(&bench, &[&args[..], extra, &[&prompt]].concat())
    };
    let d = run(&[]);
    let memory = &d["memory"];
    let empty = Vec::new();
    let before = memory["escalated"].as_array().unwrap_or(&empty);
    let plans: Vec<&str> = before.iter().map(|rung| rung["plan"].as_str().unwrap()).collect();
    let ladder = [
        "a2sf | f16 @ 32tok",
        "a2sf | f16 @ 64tok",
        "a2sf | f16 @ 128tok",
        "a2sf | f16 @ 256tok",
        "full | f16",
    ];
    assert_eq!(plans, ladder[..plans.len()]);
    assert_eq!(memory["plan_used"], ladder[plans.len()]);
    assert!(before.iter().all(|rung| rung["risk"].as_f64().unwrap() >= 0.15));
    assert!(before.iter().all(|rung| rung["peak_bytes"].as_u64() <= memory["peak_bytes"].as_u64()));
    assert!(d["logprobs"].is_null());
    // 64 slots of 6 strips take 52,224 bytes with their column; 128 do not fit
    let small = run(&["--memory", "60KiB"]);
    assert!(small["memory"]["peak_bytes"].as_u64().unwrap() <= 60 << 10);
    assert!(fails(&bench, &["run", "--raw", "--escalate", "x"]).contains("--escalate begins with a plan"));
}

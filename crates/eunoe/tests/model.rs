//! Every command on a toy model: JSON shapes, exit codes, one line of error, Ctrl-C, closed pipes. No downloads.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "../../eunoe-engine/tests/toy/mod.rs"]
mod toy;

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::Bench;
use eunoe_core::Dtype;
use serde_json::Value;

/// A bench with a toy model of 3 layers and 2 KV heads, trained on 4096 tokens, one token a byte.
fn bench() -> Bench {
    let bench = Bench::new();
    fs::write(bench.path("toy.gguf"), toy::LLAMA.gguf()).unwrap();
    bench
}

/// `eunoe COMMAND -m toy.gguf ARGS`.
fn command(bench: &Bench, args: &[&str]) -> Command {
    let mut command = bench.eunoe(&args[..1]);
    command.arg("-m").arg(bench.path("toy.gguf")).args(&args[1..]).args(["--threads", "1"]);
    command
}

fn fails(bench: &Bench, args: &[&str]) -> String {
    common::failure(&command(bench, args).output().unwrap())
}

fn json(bench: &Bench, args: &[&str]) -> Value {
    let output = command(bench, args).arg("--json").output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn an_answer_has_the_shape_of_the_contract_and_its_bill_adds_up() {
    let bench = bench();
    let prompt = "a rose is a rose is a rose ".repeat(8);
    let d = json(&bench, &["run", "--raw", "-n", "5", "--kv", "a2sf @ 64tok", "--logprobs", "2", &prompt]);
    assert_eq!(keys(&d), ["finish_reason", "logprobs", "memory", "text", "timing", "usage"]);
    assert_eq!((&d["usage"]["prompt_tokens"], &d["finish_reason"]), (&216.into(), &"length".into()));
    assert_eq!(d["usage"]["completion_tokens"], 5);
    assert!(d["timing"]["prefill_s"].as_f64().unwrap() > 0.0 && d["timing"]["decode_s"].is_f64());
    let m = &d["memory"];
    assert_eq!((m["plan_asked"].as_str(), m["mode"].as_str()), (Some("a2sf @ 64tok"), Some("streaming")));
    let [seen, kept, evicted] = ["seen", "kept", "evicted"].map(|k| m[k].as_u64().unwrap());
    // 216 tokens and 4 of the answer (nothing follows the fifth), in 3 layers of 2 KV heads.
    assert_eq!((seen, kept + evicted), (220 * 6, seen));
    assert!(kept <= 64 * 6 && m["peak_bytes"].as_u64() <= m["budget_bytes"].as_u64());
    let heads = m["heads"].as_array().unwrap();
    let sum = |k: &str| heads.iter().map(|h| h[k].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("kept"), sum("bytes")), (kept, m["live_bytes"].as_u64().unwrap()));
    assert!((0.0..=1.0).contains(&m["mass_evicted"].as_f64().unwrap()));
    let steps = d["logprobs"].as_array().unwrap();
    assert_eq!((steps.len(), keys(&steps[0])), (5, vec!["logprob", "text", "token", "top"]));
    assert_eq!(
        (&steps[0]["top"][0]["token"], &steps[0]["top"][0]["logprob"]),
        (&steps[0]["token"], &steps[0]["logprob"])
    );
    assert_eq!(steps[0]["top"].as_array().unwrap().len(), 2);
    let full = json(&bench, &["run", "--raw", "-n", "5", &prompt]);
    assert_eq!(
        (&full["memory"]["plan_asked"], &full["memory"]["mass_evicted"]),
        (&"full".into(), &Value::Null)
    );
    assert!(full.get("logprobs").is_none());
}

#[test]
fn text_goes_to_standard_output_and_the_bill_to_standard_error() {
    let bench = bench();
    fs::write(bench.path("f.txt"), "files come first").unwrap();
    let file = bench.path("f.txt").display().to_string();
    let output =
        command(&bench, &["run", "-n", "6", "--file", &file, "--kv", "full", "go"]).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && out.ends_with('\n') && !out.contains("plan "));
    assert!(err.starts_with("note: this model has no chat template"), "{err}");
    for part in [
        "\nplan     full | f16 (forgets nothing)\n",
        "\nkept     100.0 %: 25 of 25 tokens",
        "\nforgot   nothing\n",
    ] {
        assert!(err.contains(part), "{part}: {err}");
    }
    let same = json(&bench, &["run", "-n", "6", "--raw", "--kv", "full", "files come first\n\ngo"]);
    assert_eq!(same["text"].as_str().unwrap().trim_end_matches('\n'), out.trim_end_matches('\n'));
}

#[test]
fn what_cannot_be_is_refused_in_one_line_with_both_numbers() {
    let bench = bench();
    let run = |kv: &str| fails(&bench, &["run", "--raw", "--kv", kv, "some text"]);
    for (kv, part) in [
        ("a2sf @ 0MiB", "holds nothing"),
        ("a2sf @ 0tok", "holds nothing"),
        ("a2sf(alpha=2) @ 64tok", "alpha"),
        ("a2fs @ 64tok", "did you mean `a2sf`"),
        ("a2sf @ 64", "a budget needs a unit"),
        ("a2sf @ 1B", "1 available"),
    ] {
        let error = run(kv);
        assert!(error.contains(part), "{kv}: {error}");
    }
    let plenty = json(&bench, &["run", "--raw", "-n", "1", "--kv", "a2sf @ 10TiB", "some text"]);
    assert_eq!(plenty["memory"]["evicted"], 0);

    let long = "word ".repeat(900);
    for kv in ["full", "a2sf @ 64tok"] {
        let error = fails(&bench, &["run", "--raw", "-n", "8", "--kv", kv, &long]);
        assert!(error.contains("4508") && error.contains("4096") && error.contains("rank"), "{kv}: {error}");
    }
    assert_eq!(
        json(&bench, &["run", "--raw", "-n", "8", "--kv", "streaming_llm @ 64tok", &long])["usage"]["prompt_tokens"],
        4500
    );
    let error = fails(&bench, &["run", "--raw", "-n", "8", &long]);
    assert!(error.contains("`full`, the plan when none is given, does not hold 4508 tokens"), "{error}");
    assert!(
        error.contains("`streaming_llm @ 12.5%`") && error.contains("`a2sf(pos=rank) @ 12.5%`"),
        "{error}"
    );
    let error = fails(&bench, &["run", "--raw", "-n", "8", "--memory", "64KiB", &long[..1000]]);
    assert!(error.contains("64.0 KiB may be used") && error.contains("`a2sf @ 64KiB`"), "{error}");
}

#[test]
fn texts_that_are_no_text_are_refused() {
    let bench = bench();
    assert_eq!(fails(&bench, &["run", "--raw", ""]), "the prompt is empty");
    assert!(fails(&bench, &["run", "--raw", "--logprobs", "1", "x"]).contains("add --json"));
    assert!(fails(&bench, &["run", "--system", "s", "x"]).contains("no chat template"));
    fs::write(bench.path("bad.txt"), b"ab\xff").unwrap();
    let bad = bench.path("bad.txt").display().to_string();
    for args in [
        &["run", "--raw", "--file", &bad, "x"][..],
        &["score", "--file", &bad],
        &["tokenize", "--file", &bad],
    ] {
        assert!(fails(&bench, args).ends_with("is not UTF-8 text (byte 2); convert it first"));
    }
    let mut child = command(&bench, &["run", "--raw", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\xc3").unwrap();
    let error = common::failure(&child.wait_with_output().unwrap());
    assert!(error.starts_with("standard input is not UTF-8 text"), "{error}");
    assert!(
        fails(&bench, &["run", "--raw", "--file", "/nowhere.txt", "x"])
            .contains("cannot read `/nowhere.txt`")
    );
    assert!(fails(&bench, &["logits", "--tokens", "1,900"]).contains("900"));
}

#[test]
fn a_model_file_that_is_cut_or_missing_is_named() {
    let bench = bench();
    let whole = toy::LLAMA.gguf();
    for keep in [0, 3, 20, 500, whole.len() / 2, whole.len() - 1] {
        fs::write(bench.path("toy.gguf"), &whole[..keep]).unwrap();
        let error = fails(&bench, &["run", "--raw", "x"]);
        assert!(error.starts_with("cannot open `") && error.contains("toy.gguf"), "{keep}: {error}");
        assert!(!error.contains("panic"), "{error}");
    }
    fs::remove_file(bench.path("toy.gguf")).unwrap();
    assert!(fails(&bench, &["run", "--raw", "x"]).starts_with("no model file at `"));
    fs::create_dir(bench.path("toy.gguf")).unwrap();
    assert!(
        fails(&bench, &["plan"]).contains("config.json` is missing: a model is a `.gguf` file, or a folder")
    );
    assert!(
        fails(&bench, &["run", "--raw", "--kv", "duo_attention", "x"]).contains("config.json` is missing")
    );
}

#[test]
fn a_folder_is_a_model_in_every_command() {
    let bench = Bench::new();
    let model = toy::folder::model("qwen2", true);
    fs::create_dir(bench.path("tiny-0.5b")).unwrap();
    model.write(&bench.path("tiny-0.5b"), Dtype::F32, 2);
    fs::write(bench.path("tiny-0.5b.gguf"), model.gguf(Dtype::F32, false).finish()).unwrap();
    fs::write(bench.path("t.txt"), "to be or not to be ".repeat(9)).unwrap();
    let file = bench.path("t.txt").display().to_string();
    for args in [
        &["tokenize", "--file", &file][..],
        &["logits", "--exact", "--tokens", "1,2,3"],
        &["plan", "--tokens", "100", "--memory", "1MiB"],
        &["score", "--file", &file],
        &["run", "--raw", "-n", "9", "--kv", "a2sf @ 32tok", "--file", &file, "go"],
    ] {
        let [here, there] = ["tiny-0.5b", "tiny-0.5b.gguf"].map(|name| {
            let mut command = bench.eunoe(&args[..1]);
            command.arg("-m").arg(bench.path(name)).args(&args[1..]).args(["--threads", "1", "--json"]);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
            let mut json: Value = serde_json::from_slice(&output.stdout).unwrap();
            json.as_object_mut().unwrap().retain(|key, _| !key.contains("seconds") && key != "timing");
            json
        });
        assert_eq!(here, there, "{args:?}");
    }
}

#[test]
fn the_checksum_of_a_folder_is_of_the_files_that_are_read() {
    let bench = Bench::new();
    let folder = bench.path("tiny-0.5b");
    fs::create_dir(&folder).unwrap();
    toy::folder::model("llama", true).write(&folder, Dtype::BF16, 2);
    let checksum = || eunoe::open::sha256(&folder).unwrap();
    let first = checksum();
    assert_eq!((first.len(), checksum()), (64, first.clone()));
    fs::write(folder.join("README.md"), "not read").unwrap();
    assert_eq!(checksum(), first);
    fs::write(folder.join("generation_config.json"), "{}").unwrap();
    assert_ne!(checksum(), first);
}

#[test]
fn numbers_have_the_shape_of_the_contract() {
    let bench = bench();
    assert_eq!(json(&bench, &["tokenize", "AB"])["tokens"].as_array().unwrap().len(), 2);
    let top = json(&bench, &["logits", "--tokens", "1,2,3", "--top", "4"])["top"].clone();
    assert_eq!((top.as_array().unwrap().len(), keys(&top[0])), (4, vec!["logprob", "text", "token"]));

    fs::write(bench.path("t.txt"), "to be or not to be, that is the question: ".repeat(4)).unwrap();
    let (text, lines) =
        (bench.path("t.txt").display().to_string(), bench.path("p.jsonl").display().to_string());
    let whole = json(&bench, &["score", "--file", &text, "--per-position", &lines, "--limit", "100"]);
    assert_eq!(
        (&whole["tokens"], &whole["ctx"], &whole["text_tokens"]),
        (&99.into(), &100.into(), &100.into())
    );
    assert_eq!(whole["ppl"].as_f64().unwrap(), whole["nll"].as_f64().unwrap().exp());
    let positions = fs::read_to_string(&lines).unwrap();
    let nll = |line: &str| serde_json::from_str::<Value>(line).unwrap()["nll"].as_f64().unwrap();
    let mean = positions.lines().map(nll).sum::<f64>() / 99.0;
    assert!((mean - whole["nll"].as_f64().unwrap()).abs() < 1e-6, "{mean}");
    let windows =
        json(&bench, &["score", "--file", &text, "--ctx", "32", "--stride", "16", "--limit", "100"]);
    assert_eq!(
        (&windows["ctx"], &windows["stride"], &windows["tokens"]),
        (&32.into(), &16.into(), &99.into())
    );
    assert!(
        fails(&bench, &["score", "--file", &text, "--ctx", "8", "--stride", "9"]).contains("skips tokens")
    );

    let plan = json(&bench, &["plan", "--tokens", "1000", "--memory", "100KiB"]);
    assert_eq!(
        (&plan["tokens"], &plan["window"], &plan["memory_bytes"]),
        (&1000.into(), &4096.into(), &102_400.into())
    );
    let rows = plan["plans"].as_array().unwrap();
    let row = |name: &str| rows.iter().find(|row| row["plan"] == name).unwrap();
    // 32 values of key and of value in f16 and a position: 132 bytes, in 6 strips; 102400 / 132 / 6 = 129.
    assert_eq!((&plan["full_bytes"], &row("full")["fits"]), (&792_000.into(), &false.into()));
    let streaming = row("streaming_llm @ 100KiB");
    assert_eq!((&streaming["fits"], &streaming["slots"]), (&true.into(), &serde_json::json!([129, 129])));
    assert!(streaming["bytes"].as_u64().unwrap() <= 102_400 && row("full")["reason"].is_string());

    let report = json(&bench, &["bench", "--prompt", "32", "--depth", "0,64", "--gen", "4", "--repeat", "1"]);
    let kinds: Vec<_> = report["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["kind"].as_str().unwrap(), r["depth"].as_u64().unwrap()))
        .collect();
    assert_eq!(kinds, [("prefill", 0), ("decode", 0), ("prefill", 64), ("decode", 64)]);
    assert!(report["limits"].is_object() && report["rows"][0]["tokens_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_conversation_keeps_its_memory_and_ends_with_its_numbers() {
    let bench = bench();
    let talk = |args: &[&str], lines: &str| {
        let mut child = command(&bench, args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = talk(
        &["chat", "-n", "3", "--json", "--kv", "streaming_llm @ 16tok"],
        "hello\n\nonce more\n/quit\nnever\n",
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let turns: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(turns.len(), 2);
    // `hello` and its end are 6 tokens; the last token of an answer that was cut comes with the next message.
    assert_eq!(
        (&turns[0]["usage"]["prompt_tokens"], &turns[1]["usage"]["prompt_tokens"]),
        (&6.into(), &11.into())
    );
    assert_eq!(turns[1]["memory"]["heads"][0]["seen"], 6 + 2 + 11 + 2);

    let output = talk(&["chat", "-n", "3"], "hello\n/bill\n/what\n");
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success()
            && err.contains("\nforgot   nothing\n")
            && err.contains("`/what` is no command"),
        "{err}"
    );

    // 10 KiB hold 12 tokens of 6 strips at 132 bytes.
    let output = talk(&["chat", "-n", "3", "--kv", "full @ 10KiB"], "hello\na longer message\n");
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(
        err.contains(
            "error: the conversation is full: the plan holds 12 tokens, 8 are read and this message has 18"
        ),
        "{err}"
    );
}

#[test]
fn ctrl_c_while_reading_is_one_line_and_exit_code_130() {
    let bench = bench();
    // Ranks are positions without end: this prompt takes minutes.
    fs::write(bench.path("long.txt"), "word ".repeat(1 << 20)).unwrap();
    let long = bench.path("long.txt").display().to_string();
    for (args, part) in [
        (
            &["run", "--raw", "--kv", "streaming_llm @ 64tok", "--file", &long, "x"][..],
            "interrupted while reading the prompt, after ",
        ),
        (&["score", "--ctx", "512", "--stride", "256", "--file", &long], "interrupted while scoring, after "),
    ] {
        let mut child = command(&bench, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while cpu_ticks(child.id()) < 100 {
            assert!(
                Instant::now() < deadline && child.try_wait().unwrap().is_none(),
                "it never began to read"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130));
        let error = common::failure(&output);
        assert!(error.starts_with(part) && error.ends_with(" tokens"), "{error}");
    }
}

/// Hundredths of a second that a process computed.
fn cpu_ticks(id: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.nth(11).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

#[test]
fn standard_output_closed_early_ends_an_answer_without_a_panic() {
    let bench = bench();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command(&bench, &["run", "--raw", "-n", "400", "x"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(141));
}

#[test]
fn the_demo_says_what_it_needs() {
    let bench = bench();
    let error = bench.fails(&["demo", "--offline"]);
    assert!(error.ends_with("run `eunoe pull smollm2-135m` first"), "{error}");
}

#[test]
fn a_bench_in_steps_waits_for_its_turn_and_ends_with_the_report() {
    let bench = bench();
    let args = ["bench", "-m", "toy.gguf", "--prompt", "8", "--gen", "4", "--repeat", "2", "--step"];
    let stepped = |lines: &str| {
        let input = bench.path("lines");
        fs::write(&input, lines).unwrap();
        bench.eunoe(&args).current_dir(bench.path("")).stdin(fs::File::open(input).unwrap()).output().unwrap()
    };
    let output = stepped("\n\n\n\n");
    let lines: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 9, "two lines for each of four repetitions, and the report");
    for (i, pair) in lines[..8].chunks(2).enumerate() {
        assert_eq!(pair[0]["ready"], pair[1]["measured"]);
        let kind = if i < 2 { "prefill" } else { "decode" };
        assert_eq!(
            (&pair[0]["ready"]["kind"], &pair[0]["ready"]["repetition"]),
            (&kind.into(), &(i % 2 + 1).into())
        );
        assert!(pair[1]["seconds"].as_f64().unwrap() > 0.0);
    }
    let rows = lines[8]["rows"].as_array().unwrap();
    assert!(rows[0]["share_of_peak"].as_f64().unwrap() > 0.0 && rows[1]["share_of_peak"].is_null());
    assert!(rows[1]["share_of_read_rate"].as_f64().unwrap() > 0.0 && rows[0]["gb_per_s"].is_null());
    assert!(lines[8]["load"]["first_token_seconds"].as_f64() > lines[8]["load"]["seconds"].as_f64());
    assert!(common::failure(&stepped("\n")).contains("standard input ended"));
}

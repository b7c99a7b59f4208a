#!/usr/bin/env python3
"""The rivals on our tasks: llama.cpp's server and kvpress answer the same items as our plans, at the same kept slots.

    rivals.py --eunoe target/release/eunoe --model MODEL.gguf --kvpress-python VENV/bin/python --llama-server PATH
              --tasks needle,qa_1_balanced --lengths 1024,2048 --samples 20 --out DIR
    rivals.py --out DIR --page docs/rivals.md

Runs `eunoe eval` on the model and on each rival's server, one folder each under --out; a run that was stopped goes on
with the same command. Then writes the page: our score beside theirs, the difference item by item with a 95 % bootstrap
interval, how many answers are the very same, bytes, and why. Facts about the algorithms stand in this script; what was
found by looking into a gap comes from --found, a JSON object {"PLAN / RIVAL": "text"} with names as in the page.
Only tasks with one written answer to one question: a server is asked by whole prompts, so that it would see a second
question before it forgets, and ours would not. kvpress-python may be left out, and so may llama-server.
"""

import argparse
import contextlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from llama_server import LlamaServer, kv_bytes, refuse_taken, stop, wait_for

HERE = Path(__file__).resolve().parent
RESAMPLES = 2000
SEVERAL_QUESTIONS = {"multi_question"}
LLAMA = {"llama.cpp f16": ("f16", "f16"), "llama.cpp q8_0": ("q8_0", "q8_0"), "llama.cpp q4_0": ("q4_0", "q4_0")}
PRESSES = ["none", "snapkv", "streaming_llm", "observed_attention"]


@dataclass
class Pair:
    """One of our plans beside one rival; `{keep}` and `{recent}` are filled in for each length."""

    plan: str
    rival: str
    why: str


PAIRS = [
    Pair(
        "full",
        "llama.cpp f16",
        "Same weights, 8-bit activations and f16 keys and values on both sides. In attention ours multiplies in bf16; "
        "theirs rounds queries and probabilities to f16.",
    ),
    Pair(
        "full | q8",
        "llama.cpp q8_0",
        "Same block: 32 signed bytes and one f16 scale. llama.cpp turns keys and values by a Hadamard matrix first, "
        "which spreads outliers (where the head size divides by 64).",
    ),
    Pair(
        "full | q4",
        "llama.cpp q4_0",
        "Ours: a scale and a minimum, 20 bytes for 32 numbers. Theirs: a scale alone, 18 bytes, after a Hadamard matrix "
        "that spreads outliers (where the head size divides by 64).",
    ),
    Pair(
        "full",
        "kvpress none",
        "Control: nothing is forgotten. Theirs computes in f32 on dequantised weights; ours rounds activations to 8 "
        "bits and keeps f16.",
    ),
    Pair(
        "snapkv(prefill=dense, keep={keep}, window=64, kernel=5, pooling=avg)",
        "kvpress snapkv",
        "Same algorithm and sizes: what differs is the arithmetic of the control.",
    ),
    Pair(
        "snapkv(prefill=dense, keep={keep})",
        "kvpress snapkv",
        "Ours: the last 32 rows choose, maximum of 7 neighbours. Theirs: the last 64, average of 5. Both choose per KV "
        "head by the mean of its query heads.",
    ),
    Pair(
        "snapkv @ {keep}tok",
        "kvpress snapkv",
        "Ours forgets while it reads, before the question is known, and never holds more than the kept slots. Theirs "
        "reads the whole prompt, question included, before it chooses.",
    ),
    Pair(
        "h2o(prefill=dense, keep={keep}, sinks=4, recent={recent}, evict=off)",
        "kvpress streaming_llm",
        "Same kept tokens but one: ours leaves one slot to the token that received most attention, theirs keeps one "
        "more recent token. Both at the tokens' own positions.",
    ),
    Pair(
        "streaming_llm @ {keep}tok",
        "kvpress streaming_llm",
        "Same 4 first tokens and the newest ones. Ours forgets while it reads and on in the answer, at positions by "
        "rank, as published; theirs reads the whole prompt first, and what is kept stays at its own positions.",
    ),
    Pair(
        "h2o(prefill=dense, keep={keep}, recent=1, evict=off)",
        "kvpress observed_attention",
        "Ours sums the attention that a token received; theirs divides that by the number of rows that could see the "
        "token, which favours late ones. Neither protects a window.",
    ),
    Pair(
        "h2o(prefill=dense, keep={keep}, evict=off)",
        "kvpress observed_attention",
        "As published, ours keeps the newest half and sums; theirs protects nothing and divides by the number of rows "
        "that could see a token.",
    ),
    Pair(
        "h2o @ {keep}tok",
        "kvpress observed_attention",
        "As the row above, and ours forgets while it reads, before the question is known.",
    ),
]


def slots(length, share):
    return {"keep": round(length * share), "recent": round(length * share) - 5}


def plans(length, share):
    return list(dict.fromkeys(pair.plan.format(**slots(length, share)) for pair in PAIRS))


def folder(out, label, length, keep=None):
    name = f"{label}-{length}" + (f"-keep-{keep}" if keep else "")
    return out / name.replace(" ", "-")


@dataclass
class Run:
    """One `eunoe eval`: its folder, what it asks, and the server that must stand behind it."""

    label: str
    length: int
    keep: int | None
    port: int | None


def runs(args):
    """Ports are fixed: the address is part of what `eunoe eval` compares when it goes on."""
    for length in args.lengths:
        keep = round(length * args.share)
        yield Run("eunoe", length, keep, None)
        for number, label in enumerate(LLAMA if args.llama_server else []):
            yield Run(label, length, None, args.port + number)
        for number, press in enumerate(PRESSES if args.kvpress_python else []):
            yield Run(f"kvpress {press}", length, None if press == "none" else keep, args.port + 10 + number)


@contextlib.contextmanager
def kvpress_server(python, model, press, keep, threads, port, seconds=300):
    argv = [python, str(HERE / "kvpress_server.py"), "--model", str(model), "--press", press, "--port", str(port)]
    argv += ["--keep", str(keep)] if keep else []
    argv += ["--threads", str(threads)] if threads else []
    refuse_taken(port)
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, seconds)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        stop(process)


def server(args, run):
    if run.label in LLAMA:
        k, v = LLAMA[run.label]
        # The length is prompt and answer; a margin, because llama.cpp pads.
        return LlamaServer(args.llama_server, args.model, run.length + 64, k, v, None, args.threads, run.port)
    press = run.label.removeprefix("kvpress ")
    return kvpress_server(args.kvpress_python, args.model, press, run.keep, args.threads, run.port)


def evaluate(args, run):
    """Runs what is missing in a folder."""
    out = folder(args.out, run.label, run.length, run.keep)
    argv = [args.eunoe, "eval", "--tasks", ",".join(args.tasks), "--lengths", str(run.length), "--out", str(out)]
    argv += ["--samples", str(args.samples), "--seed", str(args.seed)]
    argv += [word for file in args.file for word in ("--file", str(file))]
    if run.label == "eunoe":
        argv += ["-m", str(args.model), "--kv", ";".join(plans(run.length, args.share))]
        argv += ["--threads", str(args.threads)] if args.threads else []
        call(argv)
    elif not is_done(args, out):
        with server(args, run) as base:
            call([*argv, "-m", base, "--tokenizer", str(args.model), "--label", run.label])


def is_done(args, out):
    """Whether all of this was answered; where something else was, `eunoe eval` says so."""
    if not (out / "rows.json").is_file():
        return False
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    asked = {"samples": args.samples, "seed": args.seed}
    cells = len(manifest["tasks"]) * args.samples
    return all(manifest[name] == value for name, value in asked.items()) and len(lines(out)) == cells


def call(argv):
    print(shlex.join(argv), file=sys.stderr, flush=True)
    if status := subprocess.run(argv, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(f"status {status}; what was answered is kept: the same command goes on")


def lines(out):
    """(plan, task, length, sample) → the last line of it."""
    path = out / "items.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = map(json.loads, text.splitlines())
    return {(line["plan"], line["task"], line["length"], line["sample"]): line for line in found}


def mean(values):
    return sum(values) / len(values)


def interval(diffs):
    """95 % bootstrap interval of the mean; the same each time."""
    rng = random.Random(0)
    means = sorted(mean(rng.choices(diffs, k=len(diffs))) for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]


@dataclass
class Beside:
    """A pair on the items that both have."""

    pair: Pair
    plan: str
    both: list

    def of(self, key):
        return [mean([line[key] for line in side]) for side in zip(*self.both)]

    def diffs(self):
        return [ours["score"] - theirs["score"] for ours, theirs in self.both]

    def same(self):
        text = [[[text.strip() for text in line["given"]] for line in pair] for pair in self.both]
        return mean([ours == theirs for ours, theirs in text])

    def by_task(self):
        tasks = {}
        for ours, theirs in self.both:
            tasks.setdefault(ours["task"], []).append((ours["score"], theirs["score"]))
        return {task: [mean(side) for side in zip(*scores)] for task, scores in tasks.items()}


def pairs_of(out, settings, length, near_chance=()):
    """Every pair that both sides answered at a length; tasks near blind guessing are left out."""
    ours = lines(folder(out, "eunoe", length, round(length * settings["share"])))
    for pair in PAIRS:
        plan, keep = pair.plan.format(**slots(length, settings["share"])), round(length * settings["share"])
        is_whole = pair.rival in LLAMA or pair.rival == "kvpress none"
        theirs = lines(folder(out, pair.rival, length, None if is_whole else keep))
        items = [key[1:] for key in ours if key[0] == plan and key[1] not in near_chance]
        both = [(ours[plan, *item], theirs[pair.rival, *item]) for item in items if (pair.rival, *item) in theirs]
        if both:
            yield Beside(pair, plan, both)


def near_chance(out, settings, length):
    """Tasks at which full memory is hardly better than guessing: they tell nothing about forgetting."""
    path = folder(out, "eunoe", length, round(length * settings["share"])) / "rows.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return sorted({row["task"] for row in rows if row["plan"] == "full" and row["near_chance"]})


def percent(value):
    return f"{100 * value:.1f}"


def signed(value):
    return f"{100 * value:+.1f}"


def mebibytes(count):
    return f"{count / 2**20:.2f}" if count else "–"


def their_bytes(beside, token_bytes):
    """kvpress's server tells; llama.cpp's are counted from its blocks."""
    if beside.pair.rival not in LLAMA:
        return beside.of("peak_bytes")[1]
    tokens = mean([theirs["prompt_tokens"] for _, theirs in beside.both])
    return kv_bytes(token_bytes // 4, tokens, *LLAMA[beside.pair.rival])


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)]


def length_section(out, settings, length, found):
    manifest = folder(out, "eunoe", length, round(length * settings["share"])) / "manifest.json"
    if not manifest.is_file():
        return []
    token_bytes = json.loads(manifest.read_text(encoding="utf-8"))["model"]["token_bytes"]
    guessed = near_chance(out, settings, length)
    besides = list(pairs_of(out, settings, length, guessed))
    rows, tasks = [], {}
    for beside in besides:
        (ours, theirs), (low, high) = beside.of("score"), interval(beside.diffs())
        why = " ".join([beside.pair.why, found.get(f"{beside.plan} / {beside.pair.rival}", "")]).strip()
        pipes = beside.plan.replace("|", "\\|")
        diff = f"{signed(mean(beside.diffs()))} [{signed(low)}, {signed(high)}]"
        size = [mebibytes(beside.of("peak_bytes")[0]), mebibytes(their_bytes(beside, token_bytes))]
        names = [f"`{pipes}`", beside.pair.rival]
        rows.append([*names, percent(ours), percent(theirs), diff, percent(beside.same()), *size, why])
        for task, scores in beside.by_task().items():
            tasks.setdefault(task, {})[f"`{pipes}`"], tasks[task][beside.pair.rival] = scores
    keep = round(length * settings["share"])
    text = [f"## {length} tokens, {keep} slots kept", "", f"{len(besides[0].both) if besides else 0} items."]
    if guessed:
        text[-1] += f" Left out, because full memory hardly beats guessing there: {', '.join(guessed)}."
    if not rows:
        return [*text, ""]
    head = ["ours", "rival", "our score", "theirs", "difference [95 %]", "same answer", "our MiB", "their MiB", "why"]
    text += ["", *table(head, rows), "", "By task:", ""]
    names = list(dict.fromkeys(name for scores in tasks.values() for name in scores))
    cells = [[name, *(percent(tasks[task][name]) if name in tasks[task] else "–" for task in tasks)] for name in names]
    return [*text, *table(["", *tasks], cells), ""]


def page(out, settings, found):
    text = [
        "<!-- generated by bench/peers/rivals.py; do not edit -->",
        "",
        "# Beside the rivals",
        "",
        f"`{settings['model']}`, {settings['samples']} items of each task and length, seed {settings['seed']}.",
        f"Rivals: {'; '.join(settings['versions'])}.",
        "llama.cpp by its own server, kvpress behind a server of ours (`bench/peers/README.md`); both answer the very",
        "prompts that our plans answer, and all answers are marked by our tasks. Scores in percent, differences item by",
        "item. kvpress works once, at the end of the prompt, with the question in view. The published modes of our plans",
        "(`prefill=dense`) do so too; the others (`@`) have forgotten before the question comes.",
        "",
        "MiB: most bytes of keys and values at any moment while the prompt is read and answered. kvpress's are counted as",
        "if f16 (it computes in f32); it trims layer by layer, so that one layer is whole at a time. llama.cpp's are its",
        "blocks for the prompt.",
        "",
    ]
    for length in settings["lengths"]:
        text += length_section(out, settings, length, found)
    return "\n".join(text).rstrip() + "\n"


def versions(args):
    found = []
    if args.llama_server:
        told = subprocess.run([args.llama_server, "--version"], capture_output=True, text=True)
        found.append("llama.cpp " + (told.stdout + told.stderr).splitlines()[0].removeprefix("version: "))
    if args.kvpress_python:
        code = (
            "from importlib.metadata import version as v\nfor n in ('kvpress','transformers','torch'): print(n, v(n))"
        )
        told = subprocess.run([args.kvpress_python, "-c", code], capture_output=True, text=True, check=True).stdout
        found.append(", ".join(told.splitlines()))
    return found


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of all runs")
    parser.add_argument("--eunoe", metavar="PATH", help="the eunoe executable; without it only the page is written")
    parser.add_argument("--model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--kvpress-python", metavar="PATH", help="a Python with requirements-kvpress.txt")
    parser.add_argument(
        "--llama-server", default=os.environ.get("LLAMA_SERVER"), metavar="PATH", help="default: $LLAMA_SERVER"
    )
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=["needle"], metavar="T,..")
    parser.add_argument(
        "--lengths", type=lambda text: [int(n) for n in text.split(",")], default=[1024], metavar="N,.."
    )
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.25, help="share of a length that is kept (default: 0.25)")
    parser.add_argument("--file", type=Path, action="append", default=[], metavar="F", help="as of `eunoe eval`")
    parser.add_argument("--threads", type=int, help="of every side; default: its own choice")
    parser.add_argument("--port", type=int, default=8190, help="first of the ports that are used (default: 8190)")
    parser.add_argument("--found", type=Path, metavar="FILE", help="JSON: reasons that were found")
    parser.add_argument("--page", type=Path, metavar="FILE", help="Markdown; default: standard output")
    args = parser.parse_args()
    if args.eunoe and (args.model is None or not args.model.is_file()):
        parser.error("--eunoe needs --model MODEL.gguf")
    if several := SEVERAL_QUESTIONS.intersection(args.tasks):
        parser.error(f"{', '.join(several)}: a server sees each question before it forgets, our plans do not")
    if args.eunoe and any(round(length * args.share) <= 65 for length in args.lengths):
        parser.error("kvpress's SnapKV needs more than 64 kept slots: longer --lengths or a greater --share")
    return args


def main():
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    settings_path = args.out / "rivals.json"
    if args.eunoe:
        names = ("tasks", "lengths", "samples", "seed", "share")
        settings = {"model": args.model.stem, **{name: getattr(args, name) for name in names}}
        settings["versions"] = versions(args)
        args.out.mkdir(parents=True, exist_ok=True)
        settings_path.write_text(json.dumps(settings, indent=1) + "\n")
        for run in runs(args):
            evaluate(args, run)
    elif not settings_path.is_file():
        raise SystemExit(f"no `{settings_path}`: run with --eunoe first")
    settings = json.loads(settings_path.read_text())
    found = json.loads(args.found.read_text(encoding="utf-8")) if args.found else {}
    text = page(args.out, settings, found)
    if args.page:
        args.page.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()

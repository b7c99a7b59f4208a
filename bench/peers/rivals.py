#!/usr/bin/env python3
"""The rivals on our tasks: llama.cpp's server and kvpress answer the same items as our plans, at the same kept slots.

    rivals.py --eunoe target/release/eunoe --model MODEL.gguf --kvpress-python VENV/bin/python --llama-server PATH
              --tasks needle,fwe --lengths 1024,2048 --samples 20 --seeds 0,1 --file BOOK.txt --out DIR
    rivals.py --out DIR --page docs/rivals.md

Runs `eunoe eval` on the model and on each rival's server, one folder each under --out; a run that was stopped goes on
with the same command, and more seeds or lengths may be added. Then writes the page: our score beside theirs, the
difference item by item with a 95 % bootstrap interval, how many answers are the very same, bytes, and why.
Beside llama.cpp ours runs in its default arithmetic (8-bit activations on both sides), beside kvpress `--exact` (f32).
Facts about the algorithms stand in this script; gaps are taken apart by runs of their own: our nearest plan, kvpress's
hooks with our rule, llama.cpp without its rotation. What else was found by looking into a gap comes from --found, a
JSON object {"PLAN / RIVAL": "text"} with names as in the page.
Only tasks with one written answer to one question: a server is asked by whole prompts, so that it would see a second
question before it forgets, and ours would not. kvpress-python may be left out, and so may llama-server.
"""

import argparse
import contextlib
import json
import math
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
DEFAULT, EXACT = "eunoe", "eunoe exact"
UNTURNED = {"LLAMA_ATTN_ROT_DISABLE": "1"}
# Label → types of keys and values, and the server's environment.
LLAMA = {
    "llama.cpp f16": ("f16", "f16", {}),
    "llama.cpp q8_0": ("q8_0", "q8_0", {}),
    "llama.cpp q4_0": ("q4_0", "q4_0", {}),
    "llama.cpp q4_0, not turned": ("q4_0", "q4_0", UNTURNED),
}
# Label → arguments of kvpress_server.py; `{recent}` is filled in.
PRESSES = {
    "kvpress none": ["none"],
    "kvpress snapkv": ["snapkv"],
    "kvpress streaming_llm": ["streaming_llm"],
    "kvpress observed_attention": ["observed_attention"],
    "hooks, h2o": ["h2o", "--recent", "1"],
    "hooks, h2o with ends": ["h2o", "--sinks", "4", "--recent", "{recent}"],
}
WHOLE = {*LLAMA, "kvpress none"}
# Several right answers to one question, which RULER and the harness count differently.
PARITY_TASK = "qa_1_balanced"


@dataclass
class Pair:
    """One of our plans beside one rival; `{keep}` and `{recent}` are filled in for each length."""

    plan: str
    rival: str
    why: str
    side: str = EXACT
    # Our plan that is nearest to the rival: the gap is told as the way there and the way on.
    through: str | None = None
    # Items that part are shown.
    shown: bool = False


SNAPKV = "snapkv(prefill=dense, keep={keep}, window=64, kernel=5, pooling=avg)"
ENDS = "h2o(prefill=dense, keep={keep}, sinks=4, recent={recent}, evict=off)"
RECEIVED = "h2o(prefill=dense, keep={keep}, recent=1, evict=off)"

PAIRS = [
    Pair(
        "full",
        "llama.cpp f16",
        "Same weights, 8-bit activations and f16 keys and values on both sides. In attention ours multiplies in bf16; "
        "theirs rounds queries and probabilities to f16.",
        side=DEFAULT,
        shown=True,
    ),
    Pair(
        "full",
        "llama.cpp f16",
        "Ours in f32 instead: what llama.cpp's own rounding does, as a scale for the row above.",
        shown=True,
    ),
    Pair(
        "full | q8",
        "llama.cpp q8_0",
        "Same block: 32 signed bytes and one f16 scale. llama.cpp turns keys and values by a Hadamard matrix first, "
        "which spreads outliers (where the head size divides by 64).",
        side=DEFAULT,
        shown=True,
    ),
    Pair(
        "full | q4",
        "llama.cpp q4_0",
        "Ours: a scale and a minimum, 20 bytes for 32 numbers. Theirs: a scale alone, 18 bytes, after a Hadamard "
        "matrix that spreads outliers (where the head size divides by 64).",
        side=DEFAULT,
        shown=True,
    ),
    Pair(
        "full | q4",
        "llama.cpp q4_0, not turned",
        "The row above with `LLAMA_ATTN_ROT_DISABLE=1`: a scale and a minimum against a scale alone, nothing turned.",
        side=DEFAULT,
    ),
    Pair(
        "full",
        "kvpress none",
        "Control: nothing is forgotten, both compute in f32 on dequantised weights.",
        shown=True,
    ),
    Pair(
        "full",
        "kvpress none",
        "Our default arithmetic instead: activations in 8 bits, keys and values in f16. What this row differs by from "
        "the row above is the arithmetic alone.",
        side=DEFAULT,
        shown=True,
    ),
    Pair(SNAPKV, "kvpress snapkv", "Same algorithm and sizes.", shown=True),
    Pair(
        "snapkv @ {keep}tok",
        "kvpress snapkv",
        "Ours forgets while it reads, before the question is known, and never holds more than the kept slots. Theirs "
        "reads the whole prompt, question included, before it chooses. Ours chooses by the last 32 rows and the "
        "maximum of 7 neighbours, theirs by the last 64 and the average of 5.",
        through=SNAPKV,
    ),
    Pair(
        ENDS,
        "kvpress streaming_llm",
        "Same kept tokens but one: ours leaves one slot to the token that received most attention, theirs keeps one "
        "more recent token. Both at the tokens' own positions.",
        shown=True,
    ),
    Pair(ENDS, "hooks, h2o with ends", "Control: that one slot chosen as ours chooses it.", shown=True),
    Pair(
        "streaming_llm @ {keep}tok",
        "kvpress streaming_llm",
        "Same 4 first tokens and the newest ones. Ours forgets while it reads and on in the answer, at positions by "
        "rank, as published; theirs reads the whole prompt first, and what is kept stays at its own positions.",
        through=ENDS,
    ),
    Pair(
        RECEIVED,
        "kvpress observed_attention",
        "Ours sums the attention that a token received; theirs divides that by the number of rows that could see the "
        "token, which favours late ones. Neither protects a window, but ours keeps the last token.",
        shown=True,
    ),
    Pair(RECEIVED, "hooks, h2o", "Control: theirs without the division, and with the last token kept.", shown=True),
    Pair(
        "h2o @ {keep}tok",
        "kvpress observed_attention",
        "Ours forgets while it reads, before the question is known, and also keeps the newest half, as published.",
        through=RECEIVED,
    ),
]


def slots(length, share):
    return {"keep": round(length * share), "recent": round(length * share) - 5}


def plans(side, length, share):
    return list(dict.fromkeys(pair.plan.format(**slots(length, share)) for pair in PAIRS if pair.side == side))


@dataclass
class Run:
    """One `eunoe eval`: what it asks, and the server that must stand behind it."""

    label: str
    length: int
    seed: int
    keep: int | None
    port: int | None = None

    def folder(self, out):
        keep = f"-keep-{self.keep}" if self.keep else ""
        return out / f"{self.label.replace(',', '')}-{self.length}{keep}-seed-{self.seed}".replace(" ", "-")


def run_of(label, length, seed, share, port=None):
    return Run(label, length, seed, None if label in WHOLE else round(length * share), port)


def runs(args):
    """Ports are fixed: the address is part of what `eunoe eval` compares when it goes on."""
    labels = [(DEFAULT, None), (EXACT, None)]
    labels += [(label, args.port + n) for n, label in enumerate(LLAMA) if args.llama_server]
    labels += [(label, args.port + 10 + n) for n, label in enumerate(PRESSES) if args.kvpress_python]
    for seed in args.seeds:
        for length in args.lengths:
            for label, port in labels:
                yield run_of(label, length, seed, args.share, port)


@contextlib.contextmanager
def kvpress_server(python, model, press, keep, threads, port, seconds=300):
    argv = [python, str(HERE / "kvpress_server.py"), "--model", str(model), "--port", str(port), "--press", *press]
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
        k, v, env = LLAMA[run.label]
        # The length is prompt and answer; a margin, because llama.cpp pads.
        context = run.length + 64
        return LlamaServer(args.llama_server, args.model, context, k, v, None, args.threads, run.port, env=env)
    press = [word.format(**slots(run.length, args.share)) for word in PRESSES[run.label]]
    return kvpress_server(args.kvpress_python, args.model, press, run.keep, args.threads, run.port)


def eval_command(args, tasks, run, out):
    argv = [args.eunoe, "eval", "--tasks", ",".join(tasks), "--lengths", str(run.length), "--out", str(out)]
    argv += ["--samples", str(args.samples), "--seed", str(run.seed)]
    return argv + [word for file in args.file for word in ("--file", str(file))]


def evaluate(args, run):
    """Runs what is missing in a folder."""
    out = run.folder(args.out)
    argv = eval_command(args, args.tasks, run, out)
    if run.label in (DEFAULT, EXACT):
        argv += ["-m", str(args.model), "--kv", ";".join(plans(run.label, run.length, args.share))]
        argv += ["--threads", str(args.threads)] if args.threads else []
        call(argv + ["--exact"] * (run.label == EXACT))
    elif not is_done(args, run):
        with server(args, run) as base:
            call([*argv, "-m", base, "--tokenizer", str(args.model), "--label", run.label])


def is_done(args, run):
    """Whether all of this was answered; where something else was, `eunoe eval` says so."""
    out = run.folder(args.out)
    if not (out / "rows.json").is_file():
        return False
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    asked = {"samples": args.samples, "seed": run.seed, "tasks": args.tasks}
    is_same = all(manifest[key] == value for key, value in asked.items())
    return is_same and len(lines(run, args.out)) == len(args.tasks) * args.samples


def call(argv):
    print(shlex.join(argv), file=sys.stderr, flush=True)
    if status := subprocess.run(argv, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(f"status {status}; what was answered is kept: the same command goes on")


def parity(args):
    """What ruler_rules.py says of every answer of ours, and of those to a task where its two rules can part."""
    folders = [run.folder(args.out) for run in runs(args) if run.label in (DEFAULT, EXACT)]
    for model in [args.model, *args.parity_model]:
        run = Run(f"{model.stem} {PARITY_TASK}", args.lengths[0], args.seeds[0], None)
        folders.append(run.folder(args.out))
        call([*eval_command(args, [PARITY_TASK], run, folders[-1]), "-m", str(model), "--kv", "full"])
    names = [str(folder.relative_to(args.out) / "items.jsonl") for folder in folders]
    # Not resolved: a virtual environment's Python is a link.
    argv = [os.path.abspath(args.kvpress_python), str(HERE / "ruler_rules.py"), "--items", *names]
    told = subprocess.run(argv, cwd=args.out, capture_output=True, text=True)
    (args.out / "parity.txt").write_text(told.stdout, encoding="utf-8")
    if told.returncode:
        raise SystemExit(f"metric parity failed\n{told.stdout}{told.stderr}")


def lines(run, out):
    """(plan, task, length, seed, sample) → the last line of it."""
    path = run.folder(out) / "items.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = map(json.loads, text.splitlines())
    return {(line["plan"], line["task"], line["length"], run.seed, line["sample"]): line for line in found}


def mean(values):
    return sum(values) / len(values)


def interval(diffs):
    """95 % bootstrap interval of the mean; the same each time."""
    rng = random.Random(0)
    means = sorted(mean(rng.choices(diffs, k=len(diffs))) for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]


def sign_test(better, worse):
    """Two-sided: how often a fair coin parts items at least so unevenly."""
    count, least = better + worse, min(better, worse)
    return min(1.0, 2 * sum(math.comb(count, k) for k in range(least + 1)) / 2**count)


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
        return mean([text_of(ours) == text_of(theirs) for ours, theirs in self.both])

    def on(self, task):
        return Beside(self.pair, self.plan, [both for both in self.both if both[0]["task"] == task])

    def parted(self):
        diffs = self.diffs()
        return sum(diff > 0 for diff in diffs), sum(diff < 0 for diff in diffs)


def text_of(line):
    return [text.strip() for text in line["given"]]


def gather(out, settings, length, label):
    found = {}
    for seed in settings["seeds"]:
        found |= lines(run_of(label, length, seed, settings["share"]), out)
    return found


def pairs_of(out, settings, length):
    """Every pair that both sides answered at a length."""
    sides = {side: gather(out, settings, length, side) for side in (DEFAULT, EXACT)}
    for pair in PAIRS:
        plan, ours = pair.plan.format(**slots(length, settings["share"])), sides[pair.side]
        theirs = gather(out, settings, length, pair.rival)
        items = [key[1:] for key in ours if key[0] == plan]
        both = [(ours[plan, *item], theirs[pair.rival, *item]) for item in items if (pair.rival, *item) in theirs]
        if differing := [ours for ours, theirs in both if ours["prompt_tokens"] != theirs["prompt_tokens"]]:
            raise SystemExit(f"{plan} / {pair.rival}: {len(differing)} prompts of another length")
        if both:
            yield Beside(pair, plan, both)


def percent(value):
    return f"{100 * value:.1f}"


def signed(value):
    return f"{100 * value:+.1f}"


def mebibytes(count):
    return f"{count / 2**20:.2f}" if count else "–"


def their_bytes(beside, model):
    """kvpress's server tells as if f16, and is f32 as our exact side; llama.cpp's are counted from its blocks."""
    if beside.pair.rival not in LLAMA:
        return beside.of("peak_bytes")[1] * (2 if beside.pair.side == EXACT else 1)
    k, v, _ = LLAMA[beside.pair.rival]
    # Ours are two bytes each, and four bytes of position in each KV head.
    numbers = (model["token_bytes"] - 4 * model["layers"] * model["kv_heads"]) // 4
    return kv_bytes(numbers, beside.of("prompt_tokens")[1], k, v)


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)]


def code(text):
    return f"`{text}`".replace("|", "\\|")


def name(beside):
    usual = DEFAULT if beside.pair.rival in LLAMA else EXACT
    odd = {DEFAULT: ", default arithmetic", EXACT: ", exact"}[beside.pair.side]
    return code(beside.plan) + odd * (beside.pair.side != usual)


def verdict(beside):
    (better, worse), (low, high) = beside.parted(), interval(beside.diffs())
    if not better + worse:
        return "same score on every item"
    p = sign_test(better, worse)
    if low <= 0 <= high:
        return "within noise" + (f", but items part one way (sign test p = {p:.2f})" if p <= 0.05 else "")
    few = f", but few items part (sign test p = {p:.2f})" if p > 0.05 else ""
    return ("ours higher" if low > 0 else "theirs higher") + few


def row(beside, model):
    (ours, theirs), (low, high), (better, worse) = beside.of("score"), interval(beside.diffs()), beside.parted()
    diff = f"{signed(mean(beside.diffs()))} [{signed(low)}, {signed(high)}]"
    size = [mebibytes(beside.of("peak_bytes")[0]), mebibytes(their_bytes(beside, model))]
    scores = [percent(ours), percent(theirs), diff, f"{better} / {worse} of {len(beside.both)}"]
    return [name(beside), beside.pair.rival, *scores, verdict(beside), percent(beside.same()), *size]


HEAD = ["ours", "rival", "our score", "theirs", "difference [95 %]", "ours better / worse", "reading", "same answer"]
HEAD += ["our MiB", "their MiB"]


def taken_apart(beside, besides, keys):
    """The gap as two steps: between two plans of ours, and from the nearer one to the rival."""
    if beside.pair.through is None:
        return ""
    through = beside.pair.through.format(**keys)
    near = next((one for one in besides if (one.plan, one.pair.rival) == (through, beside.pair.rival)), None)
    if near is None or len(near.both) != len(beside.both):
        return ""
    total, rest = mean(beside.diffs()), mean(near.diffs())
    return (
        f"{signed(total - rest)} of these points lie between this plan and {code(through)}, {signed(rest)} between "
        "that one and the rival."
    )


def measured(beside):
    total = f"{signed(mean(beside.diffs()))} points, {percent(beside.same())} % of the answers the same"
    return f"Measured: {total}; {verdict(beside)}."


def reasons(besides, keys, found):
    for beside in besides:
        told = [beside.pair.why, measured(beside), taken_apart(beside, besides, keys)]
        told.append(found.get(f"{beside.plan} / {beside.pair.rival}", ""))
        yield f"- {name(beside)} / {beside.pair.rival}: " + " ".join(filter(None, told))


def quoted(text):
    text = " ".join(text.split())
    return code((text if len(text) <= 60 else text[:59] + "…").replace("`", "'")) if text else "nothing"


def parted_items(besides):
    """Both answers, where the nearest plan and its rival are marked differently: the first two of each task."""
    for beside in besides:
        shown = {}
        for ours, theirs in beside.both if beside.pair.shown else []:
            task = ours["task"]
            if ours["score"] != theirs["score"] and shown.setdefault(task, 0) < 2:
                shown[task] += 1
                gold = ", ".join(ours["gold"][0])
                marks = [percent(ours["score"]), percent(theirs["score"])]
                answers = [f"{quoted(line['given'][0])} ({mark})" for line, mark in zip((ours, theirs), marks)]
                yield [f"{name(beside)} / {beside.pair.rival}", task, quoted(gold), *answers]


def near_chance(out, settings, length):
    """Tasks at which full memory is hardly better than guessing: they tell nothing about forgetting."""
    found = set()
    for seed in settings["seeds"]:
        path = run_of(EXACT, length, seed, settings["share"]).folder(out) / "rows.json"
        rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        found |= {row["task"] for row in rows if row["plan"] == "full" and row["near_chance"]}
    return found


def manifest_of(out, settings, length):
    return run_of(EXACT, length, settings["seeds"][0], settings["share"]).folder(out) / "manifest.json"


def length_section(out, settings, length, found):
    manifest = manifest_of(out, settings, length)
    besides = list(pairs_of(out, settings, length)) if manifest.is_file() else []
    if not besides:
        return []
    model, keys = json.loads(manifest.read_text(encoding="utf-8"))["model"], slots(length, settings["share"])
    guessed = near_chance(out, settings, length)
    text = [f"## {length} tokens, {keys['keep']} slots kept", ""]
    for task in settings["tasks"]:
        rows = [row(one, model) for beside in besides if (one := beside.on(task)).both]
        note = ["Full memory hardly beats guessing here: little can be lost.", ""] * (task in guessed)
        text += [f"### {task}", "", *note, *table(HEAD, rows), ""]
    text += ["### All tasks", "", *table(HEAD, [row(beside, model) for beside in besides]), ""]
    text += ["### Why", "", "Over all tasks:", "", *reasons(besides, keys, found), ""]
    if parted := list(parted_items(besides)):
        head = ["pair", "task", "right", "our answer (score)", "theirs"]
        text += ["### Items that part", "", "The first two of each task, where a pair that should agree does not:", ""]
        text += [*table(head, parted), ""]
    return text


def page(out, settings, found):
    seeds = ", ".join(map(str, settings["seeds"]))
    manifest = manifest_of(out, settings, settings["lengths"][0])
    digest = json.loads(manifest.read_text(encoding="utf-8"))["model"]["sha256"] if manifest.is_file() else "?"
    text = [
        "<!-- generated by bench/peers/rivals.py; do not edit -->",
        "",
        "# Beside the rivals",
        "",
        f"`{settings['model']}` (sha256 {digest[:12]}…), {settings['samples']} items of each task and length at each",
        f"seed ({seeds}).",
        f"{'; '.join(settings['versions'])}.",
        "",
        "```",
        settings["command"],
        "```",
        "",
        "llama.cpp by its own server, kvpress behind a server of ours (`bench/peers/README.md`); both answer the very",
        "prompts that our plans answer, and all answers are marked by our tasks. Scores in percent, differences item",
        "by item, with a 95 % bootstrap interval; where it contains 0, the reading is noise. An interval of so few",
        "items is rough, so a sign test over the items that part is told where it does not agree. kvpress works once,",
        "at the end of the prompt, with the question in view. The published modes of our plans (`prefill=dense`) do",
        "so too; the others (`@`) have forgotten before the question comes.",
        "",
        "Beside llama.cpp ours runs in its default arithmetic: 8-bit activations on both sides. Beside kvpress ours",
        "runs `--exact`, in f32 as kvpress does. One row each has the other of the two, so that rounding can be told",
        "from forgetting. `hooks` are rows of ours: our rule, written with kvpress's hooks, so that the rule can be",
        "told from everything else.",
        "",
        "MiB: most bytes of keys and values at any moment while the prompt is read and answered, on average; ours",
        "with the positions it keeps. `--exact` holds f32, as kvpress does; else ours holds 16 bits where no codec is",
        "named, and kvpress's are counted so too. kvpress trims layer by layer, so that one layer is whole at a time.",
        "llama.cpp's are its blocks for the prompt, not the whole context that it allocates.",
        "",
    ]
    for length in settings["lengths"]:
        text += length_section(out, settings, length, found)
    path = out / "parity.txt"
    if path.is_file():
        text += [
            "## Metric parity",
            "",
            "`bench/peers/ruler_rules.py`: four answers by RULER's rule and by the harness's own functions, then our",
            "answers marked again: score, `official` and `harness` of each against those functions.",
            "",
            "```",
            path.read_text(encoding="utf-8").rstrip(),
            "```",
        ]
    return "\n".join(text).rstrip() + "\n"


def command(args):
    """How to make it again, by names instead of paths."""
    words = ["python bench/peers/rivals.py --eunoe target/release/eunoe"]
    words.append(f"--model $EUNOE_MODELS/{args.model.name}")
    words += ["--kvpress-python .venv-kvpress/bin/python"] * bool(args.kvpress_python)
    words += ["--llama-server build-llama/bin/llama-server"] * bool(args.llama_server)
    words += [f"--{key} {','.join(map(str, getattr(args, key)))}" for key in ("tasks", "lengths", "seeds")]
    words.append(f"--samples {args.samples} --share {args.share}")
    words += [f"--file $EUNOE_BOOKS/{file.name}" for file in args.file]
    words += [f"--parity-model $EUNOE_MODELS/{model.name}" for model in args.parity_model]
    return " \\\n    ".join([*words, "--out rivals --page docs/rivals.md"])


def versions(args):
    def told(argv):
        process = subprocess.run(argv, capture_output=True, text=True)
        return (process.stdout + process.stderr).strip().splitlines()

    requirements = (HERE / "requirements.txt").read_text(encoding="utf-8").split()
    sources = next(line for line in requirements if line.startswith("llama-cpp-python"))
    found = told([args.eunoe, "--version"])[:1]
    if args.llama_server:
        build = told([args.llama_server, "--version"])[0].removeprefix("version: ")
        found.append(f"llama.cpp {build}, from the sources of {sources}")
    if args.kvpress_python:
        names = ("kvpress", "transformers", "torch", "lm_eval")
        code = f"from importlib.metadata import version\nfor name in {names}: print(name, version(name))"
        found.append(", ".join(told([args.kvpress_python, "-c", code])))
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
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0], metavar="N,..")
    parser.add_argument("--share", type=float, default=0.25, help="share of a length that is kept (default: 0.25)")
    parser.add_argument("--file", type=Path, action="append", default=[], metavar="F", help="as of `eunoe eval`")
    parser.add_argument(
        "--parity-model", type=Path, action="append", default=[], metavar="G", help="one more to check the metric on"
    )
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
        settings = {key: getattr(args, key) for key in ("tasks", "lengths", "samples", "seeds", "share")}
        settings |= {"model": args.model.stem, "versions": versions(args), "command": command(args)}
        args.out.mkdir(parents=True, exist_ok=True)
        settings_path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        for run in runs(args):
            evaluate(args, run)
        if args.kvpress_python:
            parity(args)
    elif not settings_path.is_file():
        raise SystemExit(f"no `{settings_path}`: run with --eunoe first")
    settings = json.loads(settings_path.read_text(encoding="utf-8"))
    found = json.loads(args.found.read_text(encoding="utf-8")) if args.found else {}
    text = page(args.out, settings, found)
    if args.page:
        args.page.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()

"""Tokens per second beside llama.cpp in one run: ours, llama.cpp with flash attention off, then on, and again.

Rows per model: reading `--prompt` tokens and writing `--gen` tokens, each with `--depth` tokens in memory before the
clock starts, with keys and values in f16, and in 8 bits at the largest depth (there llama.cpp has flash attention on: it
needs it for values in 8 bits). All programs stay alive and fill a depth once; then each takes its turn, in rotating
order, after one turn that is not counted. llama.cpp's time is that of `llama_decode` alone (no sampling), batches of 512.
The rival in each row is the better of its two settings by medians; the ratio of medians has a 95 % bootstrap interval.

    python bench/peers/llama_cpp_speed.py --models-dir DIR --eunoe target/release/eunoe --json speed.json

A busy machine changes both sides; its load is printed.
"""

import argparse
import importlib.metadata
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import books
import llama_cpp
from llama_cpp_peer import LlamaCpp
from machine import machine, program_version

MODELS = ["smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"]
BATCH, SEED, RESAMPLES = 512, 7, 10_000
OFF, ON, OURS = "llama.cpp fa off", "llama.cpp fa on", "eunoe"
PLANS = {"f16": "full", "q8": "full | q8"}


def say(text):
    print(f"{time.strftime('%H:%M:%S')} load {os.getloadavg()[0]:.1f}: {text}", file=sys.stderr, flush=True)


class Ours:
    """`eunoe bench --step`: alive, filled to one depth, one repetition per call."""

    def __init__(self, path, depth, kv, args):
        command = [args.eunoe, "bench", "-m", path, "--prompt", args.prompt, "--gen", args.gen, "--depth", depth]
        command += ["--kv", PLANS[kv], "--threads", args.threads, "--repeat", args.turns + 1, "--step"]
        self.program = subprocess.Popen(
            [str(x) for x in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.next = self._line()

    def _line(self):
        line = self.program.stdout.readline()
        if not line:
            raise RuntimeError(f"eunoe ended with {self.program.wait()}")
        return json.loads(line)

    def measure(self, kind):
        """→ tokens/s. Returns when the next repetition is ready, so that it does not disturb the others."""
        if self.next["ready"]["kind"] != kind:
            raise RuntimeError(f"eunoe is ready for {self.next['ready']}, not for {kind}")
        self.program.stdin.write("\n")
        self.program.stdin.flush()
        measured = self._line()
        self.next = self._line()
        return measured["tokens_per_s"]

    def close(self):
        """→ the report, after the last repetition."""
        self.program.stdin.close()
        self.program.wait()
        return self.next


class Theirs:
    """llama.cpp in one setting, filled to one depth."""

    def __init__(self, path, depth, kv, flash, args):
        room = depth + max(args.prompt, args.gen)
        self.peer = LlamaCpp(path, room, args.threads, flash=flash, batch=BATCH, kv=kv)
        self.depth, self.counts = depth, {"prefill": args.prompt, "decode": args.gen}
        self.rng = random.Random(SEED)
        self._read(self._draw(depth), 0)

    def _draw(self, count):
        # Timing depends on the ids only through the embedding's cache lines; the low ids hold special tokens.
        return [self.rng.randrange(1000, self.peer.vocab - 1000) for _ in range(count)]

    def _read(self, tokens, position):
        for start in range(0, len(tokens), BATCH):
            part = tokens[start : start + BATCH]
            self.peer.decode(part, position + start, "last" if start + BATCH >= len(tokens) else "none")
        self.peer.wait()

    def measure(self, kind):
        """→ tokens/s."""
        self.peer.rewind(self.depth)
        tokens = self._draw(self.counts[kind])
        mark = time.perf_counter()
        if kind == "prefill":
            self._read(tokens, self.depth)
        else:
            for i, token in enumerate(tokens):
                self.peer.decode([token], self.depth + i, "last")
                self.peer.wait()
        return len(tokens) / (time.perf_counter() - mark)

    def close(self):
        self.peer.close()


def measure(name, depth, kv, args):
    """Rows of one model, depth and codec, and our report."""
    path = books.model_path(args.models_dir, name)
    say(f"{name} {kv}: filling depth {depth}")
    sides = {OURS: Ours(path, depth, kv, args)}
    for x in [OFF, ON] if kv == "f16" else [ON]:
        sides[x] = Theirs(path, depth, kv, x == ON, args)
    rows = []
    for kind, count in (("prefill", args.prompt), ("decode", args.gen)):
        samples = {x: [] for x in sides}
        for turn in range(args.turns + 1):
            order = list(sides)
            order = order[turn % len(order) :] + order[: turn % len(order)]
            for x in order:
                rate = sides[x].measure(kind)
                if turn:
                    samples[x].append(rate)
        rows.append(summary(name, kind, count, depth, kv, args.threads, samples))
        say(line(rows[-1]))
    report = sides.pop(OURS).close()
    for peer in sides.values():
        peer.close()
    return rows, {"model": name, "depth": depth, "kv": kv, **report}


def summary(name, kind, count, depth, kv, threads, samples):
    medians = {x: statistics.median(rates) for x, rates in samples.items()}
    ratio = lambda of: of[OURS] / max(v for x, v in of.items() if x != OURS)
    rng = random.Random(SEED)
    again = lambda rates: statistics.median(rng.choices(rates, k=len(rates)))
    resampled = sorted(ratio({x: again(rates) for x, rates in samples.items()}) for _ in range(RESAMPLES))
    return {
        "model": name,
        "kind": kind,
        "tokens": count,
        "depth": depth,
        "kv": kv,
        "threads": threads,
        "median": medians,
        "ratio": ratio(medians),
        "interval": [resampled[int(RESAMPLES * 0.025)], resampled[int(RESAMPLES * 0.975) - 1]],
        "samples": samples,
    }


def cell(row, x):
    rates = row["samples"].get(x)
    return f"{row['median'][x]:.1f} ({min(rates):.1f} … {max(rates):.1f})" if rates else "–"


def line(row):
    what = f"{row['kind']} {row['tokens']} at {row['depth']}, {row['kv']}"
    low, high = row["interval"]
    sides = " | ".join(cell(row, x) for x in (OURS, OFF, ON))
    return f"| {row['model']} | {what} | {sides} | {row['ratio']:.2f} ({low:.2f} … {high:.2f}) |"


def versions(args):
    return {
        "eunoe": program_version(args.eunoe),
        "llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
        "llama.cpp": llama_cpp.llama_print_system_info().decode(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    books.add_paths(parser, names=("--models-dir",))
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=32)
    parser.add_argument("--depth", type=lambda s: [int(x) for x in s.split(",")], default=[0, 8192], help="e.g. 0,8192")
    parser.add_argument("--kv", nargs="+", choices=list(PLANS), default=list(PLANS), help="q8: at the largest depth")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--turns", type=int, default=5, help="alternations that count")
    parser.add_argument("--eunoe", required=True, help="our program")
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args()
    record = {
        "what": "speed",
        "machine": machine(),
        "versions": versions(args),
        "arguments": {k: getattr(args, k) for k in ("models", "prompt", "gen", "depth", "kv", "threads", "turns")},
        "load_at_start": os.getloadavg()[0],
        "rows": [],
        "reports": [],
    }
    print(f"| model | row | {OURS} | {OFF} | {ON} | {OURS} / better (95 %) |\n|---|---|---|---|---|---|", flush=True)
    for name in args.models:
        for depth, kv in [(d, kv) for kv in args.kv for d in args.depth if kv == "f16" or d == max(args.depth)]:
            rows, report = measure(name, depth, kv, args)
            record["rows"] += rows
            record["reports"].append(report)
            print("\n".join(map(line, rows)), flush=True)
            if args.json:
                Path(args.json).write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

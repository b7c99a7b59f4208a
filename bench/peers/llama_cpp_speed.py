"""Tokens per second beside llama.cpp in one run: ours, llama.cpp with flash attention off, then on, and again.

Rows per model: reading `--prompt` tokens and writing `--gen` tokens, each with `--depth` tokens in memory before the
clock starts. llama.cpp's time is that of `llama_decode` alone (no sampling); batches of 512; f16 KV; one warm-up per
setting. The rival in each row is the better of its two settings. Medians over the alternations, spread = min … max.

    python bench/peers/llama_cpp_speed.py --models-dir DIR --eunoe target/release/eunoe

Without --eunoe: llama.cpp alone. A busy machine changes both sides; its load is printed.
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

BATCH, SEED = 512, 7
OFF, ON, OURS = "llama.cpp fa off", "llama.cpp fa on", "eunoe"


def read(peer, tokens, position):
    for start in range(0, len(tokens), BATCH):
        part = tokens[start : start + BATCH]
        peer.decode(part, position + start, "last" if start + BATCH >= len(tokens) else "none")
    peer.wait()


def timed(work):
    mark = time.perf_counter()
    work()
    return time.perf_counter() - mark


def write(peer, tokens, position):
    for i, token in enumerate(tokens):
        peer.decode([token], position + i, "last")
        peer.wait()


def peer_rows(peer, args):
    """→ {(kind, depth): tokens/s} of one pass."""
    rng, rows = random.Random(SEED), {}
    # Timing depends on the ids only through the embedding's cache lines; the low ids hold special tokens.
    draw = lambda count: [rng.randrange(1000, peer.vocab - 1000) for _ in range(count)]
    for depth in args.depth:
        peer.clear()
        read(peer, draw(depth), 0)
        rows["prefill", depth] = args.prompt / timed(lambda: read(peer, draw(args.prompt), depth))
        if args.gen:
            if not llama_cpp.llama_memory_seq_rm(peer.memory, 0, depth, -1):
                raise RuntimeError(f"llama.cpp cannot go back to depth {depth}")
            rows["decode", depth] = args.gen / timed(lambda: write(peer, draw(args.gen), depth))
    return rows


def our_rows(model, args):
    command = [args.eunoe, "bench", "-m", model, "--prompt", args.prompt, "--depth", ",".join(map(str, args.depth))]
    command += ["--gen", args.gen, "--threads", args.threads, "--json"]
    done = subprocess.run([str(x) for x in command], stdout=subprocess.PIPE, check=True, text=True)
    report = json.loads(done.stdout)
    rows = {(r["kind"], r["depth"]): r["tokens_per_s"] for r in report["rows"]}
    return rows, report.get("limits")


def measure(name, args):
    path = books.model_path(args.models_dir, name)
    ctx = max(args.depth) + max(args.prompt, args.gen)
    peers = {x: LlamaCpp(path, ctx, args.threads, flash=x == ON, batch=BATCH) for x in (OFF, ON)}
    for peer in peers.values():
        read(peer, [1000] * args.prompt, 0)
        peer.clear()
        write(peer, [1000] * min(args.gen, 4), 0)
    samples, limits = {}, None
    for turn in range(args.turns):
        passes = {}
        if args.eunoe:
            passes[OURS], limits = our_rows(path, args)
        for x, peer in peers.items():
            passes[x] = peer_rows(peer, args)
        for x, rows in passes.items():
            for key, rate in rows.items():
                samples.setdefault(key, {}).setdefault(x, []).append(rate)
        load = os.getloadavg()[0]
        print(f"{name}: turn {turn + 1} of {args.turns}, load {load:.1f}", file=sys.stderr, flush=True)
    for peer in peers.values():
        peer.close()
    rows = [summary(name, kind, depth, args, got) for (kind, depth), got in samples.items()]
    return rows, limits


def summary(name, kind, depth, args, got):
    medians = {x: statistics.median(rates) for x, rates in got.items()}
    row = {
        "model": name,
        "kind": kind,
        "depth": depth,
        "tokens": args.prompt if kind == "prefill" else args.gen,
        "threads": args.threads,
        "median": medians,
        "samples": got,
    }
    if OURS in medians:
        row["ratio"] = medians[OURS] / max(medians[OFF], medians[ON])
    return row


def cell(row, x):
    rates = row["samples"].get(x)
    return f"{row['median'][x]:.1f} ({min(rates):.1f} … {max(rates):.1f})" if rates else "–"


def line(row):
    ratio = f"{row['ratio']:.2f}" if "ratio" in row else "–"
    what = f"{row['kind']} {row['tokens']} at {row['depth']}"
    return f"| {row['model']} | {what} | {cell(row, OURS)} | {cell(row, OFF)} | {cell(row, ON)} | {ratio} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    books.add_paths(parser, names=("--models-dir",))
    parser.add_argument("--models", nargs="+", default=books.MODELS)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=32)
    parser.add_argument("--depth", type=lambda s: [int(x) for x in s.split(",")], default=[0], help="e.g. 0,4096")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3, help="alternations")
    parser.add_argument("--eunoe", help="our program")
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args()
    version = importlib.metadata.version("llama-cpp-python")
    start_load = os.getloadavg()[0]
    print(f"llama-cpp-python {version}, {args.threads} threads, {args.turns} turns, load at start {start_load:.1f}\n")
    print(f"| model | row | {OURS} | {OFF} | {ON} | {OURS} / better |\n|---|---|---|---|---|---|")
    rows, limits = [], {}
    for name in args.models:
        mine, limits[name] = measure(name, args)
        rows += mine
        print("\n".join(map(line, mine)), flush=True)
        if args.json:
            record = {"version": version, "load_at_start": start_load, "rows": rows, "limits": limits}
            Path(args.json).write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

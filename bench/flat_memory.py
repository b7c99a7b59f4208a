"""Bounded memory, bounded time: decoding at growing depths, and scoring of growing texts.

Decode rows under a plan of fixed size must stay near the speed at depth 0, with a peak that does not grow; seconds of
`eunoe score` must grow as the text does: the slope of log seconds over log tokens is fitted by least squares.

    python bench/flat_memory.py --models-dir DIR --books DIR --eunoe target/release/eunoe --json flat.json
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import books
from machine import machine, program_version

numbers = lambda text: [int(x) for x in text.split(",")]


def run(args, *command):
    command = [args.eunoe, *command, "--threads", args.threads, "--json"]
    done = subprocess.run([str(x) for x in command], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def slope(points):
    """Least squares of log seconds over log tokens."""
    x, y = ([math.log(p[key]) for p in points] for key in ("tokens", "seconds"))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)


def decode(path, args):
    report = run(
        args, "bench", "-m", path, "--prompt", 0, "--gen", args.gen, "--repeat", args.repeat,
        "--depth", ",".join(map(str, args.depth)), "--kv", args.decode_kv,
    )  # fmt: skip
    keys = ("plan", "depth", "prompt", "threads", "tokens_per_s", "spread", "peak_bytes")
    return [{key: row[key] for key in keys} for row in report["rows"]]


def score(path, book, args):
    points = []
    for limit in args.tokens:
        report = run(args, "score", "-m", path, "--file", book, "--limit", limit, "--kv", args.score_kv)
        if report["text_tokens"] < limit:
            raise SystemExit(f"`{book.name}` has only {report['text_tokens']} tokens, {limit} are needed")
        points.append({"tokens": limit, **{k: report[k] for k in ("seconds", "ppl", "peak_bytes", "plan_used")}})
        print(f"{path.stem}: {limit} tokens in {report['seconds']:.1f} s", file=sys.stderr, flush=True)
    return points


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    books.add_paths(parser)
    parser.add_argument("--models", nargs="+", default=books.MODELS[:1])
    parser.add_argument("--decode-kv", default="a2sf @ 1024tok", help="plan of the decode rows")
    parser.add_argument("--score-kv", default="a2sf(pos=rank) @ 1024tok", help="plan of the texts")
    parser.add_argument("--depth", type=numbers, default=[0, 2048, 8192])
    parser.add_argument("--tokens", type=numbers, default=[12_500, 25_000, 50_000, 100_000], help="of the texts")
    parser.add_argument("--gen", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--eunoe", required=True, help="our program")
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args()
    # The largest book holds the longest text.
    book = max(books.book_paths(args.books), key=lambda p: p.stat().st_size)
    record = {
        "what": "flat",
        "machine": machine(),
        "versions": {"eunoe": program_version(args.eunoe)},
        "book": book.stem,
        "models": [],
    }
    for name in args.models:
        path = books.model_path(args.models_dir, name)
        rows = decode(path, args)
        for row in rows:
            row["relative"] = row["tokens_per_s"] / rows[0]["tokens_per_s"]
            print(f"{name} decode at {row['depth']}: {row['tokens_per_s']:.1f}/s, {row['relative']:.0%}, {row['peak_bytes']} B")
        points = score(path, book, args)
        record["models"].append({"model": name, "decode": rows, "score": points, "slope": slope(points)})
        print(f"{name}: seconds grow with the {slope(points):.3f} power of the tokens", flush=True)
        if args.json:
            Path(args.json).write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Perplexity of a book: ours through `eunoe score`, llama.cpp on the tokens of the same text, windows for windows.

Windows are those of `eunoe score --ctx C --stride C`: C tokens each, every token predicted once and never from nothing.
A model that wants a BOS gets one before each window. Without one, the next window starts on the last token of the window
before, and the first token of the text is not scored.

    python bench/peers/llama_cpp_quality.py --models-dir DIR --books DIR --eunoe target/release/eunoe

Exit status 1 when the perplexities differ by more than 0.5 %. Without --eunoe: llama.cpp alone, status 0.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import books
from llama_cpp_peer import LlamaCpp

LIMIT = 0.005
TILE = 32  # rows of logits turned into losses at once


def windows(tokens, ctx, bos):
    """Yields the windows to read; in each, every token but the first is a target."""
    start = 0
    while start + (bos is None) < len(tokens):
        window = tokens[start : start + ctx]
        yield window if bos is None else [bos, *window]
        start += len(window) - (bos is None)


def losses(logits, targets):
    """-ln P(target) per row, sums in f64: [t, v], [t] → [t]."""
    top = logits.max(axis=-1, keepdims=True)
    total = np.exp(logits - top).sum(axis=-1, dtype=np.float64)
    return np.log(total) + top[:, 0] - logits[np.arange(len(targets)), targets]


def llama_cpp(peer, tokens, ctx):
    """→ (mean nats, tokens scored, mean nats of each window)."""
    total, scored, means = 0.0, 0, []
    for window in windows(tokens, ctx, peer.bos()):
        mine = 0.0
        for at, logits in peer.logit_tiles(window[:-1]):
            targets = np.array(window[at + 1 : at + 1 + len(logits)])
            for low in range(0, len(targets), TILE):
                part = targets[low : low + TILE]
                mine += losses(logits[low : low + len(part)], part).sum()
        total, scored = total + mine, scored + len(window) - 1
        means.append(mine / (len(window) - 1))
        print(f"llama.cpp {scored}/{len(tokens)} tokens: {total / scored:.5f}", file=sys.stderr, flush=True)
    return total / scored, scored, means


def ours(program, model, book, ctx, limit):
    command = [program, "score", "-m", model, "--file", book, "--ctx", ctx, "--stride", ctx, "--limit", limit, "--json"]
    done = subprocess.run([str(x) for x in command], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def compare(name, args):
    path = books.model_path(args.models_dir, name)
    book = Path(args.books) / f"{args.book}.txt"
    peer = LlamaCpp(path, ctx=args.ctx, threads=args.threads, flash=args.flash)
    tokens = peer.tokenize(book.read_text(encoding="utf-8"), special=False)[: args.limit]
    mark = time.perf_counter()
    nll, scored, means = llama_cpp(peer, tokens, args.ctx)
    peer.close()
    record = {
        "model": name,
        "book": args.book,
        "ctx": args.ctx,
        "flash_attention": args.flash,
        "llama.cpp": {
            "nll": nll,
            "ppl": math.exp(nll),
            "tokens": scored,
            "seconds": time.perf_counter() - mark,
            "window_nll": means,
        },
    }
    if args.eunoe:
        mark = time.perf_counter()
        mine = ours(args.eunoe, path, book, args.ctx, args.limit)
        record["eunoe"] = {k: mine[k] for k in ("nll", "ppl", "tokens")}
        record["eunoe"]["seconds"] = time.perf_counter() - mark
        record["difference"] = mine["ppl"] / record["llama.cpp"]["ppl"] - 1
    return record


def failure(record):
    if "eunoe" not in record:
        return None
    mine, theirs = record["eunoe"]["tokens"], record["llama.cpp"]["tokens"]
    if mine != theirs:
        return f"{record['model']}: {mine} tokens scored here, {theirs} in llama.cpp: not the same text"
    if abs(record["difference"]) > LIMIT:
        return f"{record['model']}: perplexity differs by {record['difference']:+.3%}, limit {LIMIT:.1%}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    books.add_paths(parser)
    parser.add_argument("--models", nargs="+", default=books.MODELS)
    parser.add_argument("--book", default="herman-melville_moby-dick", help="file stem")
    parser.add_argument("--limit", type=int, default=32768, help="tokens of the book")
    parser.add_argument("--ctx", type=int, default=2048, help="tokens per window")
    parser.add_argument("--threads", type=int, default=2, help="of llama.cpp")
    parser.add_argument("--flash", action="store_true", help="llama.cpp with flash attention")
    parser.add_argument("--eunoe", help="our program")
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args()
    records, failures = [], []
    print("| model | tokens | llama.cpp nll | ppl | eunoe nll | ppl | difference |\n|---|---|---|---|---|---|---|")
    for name in args.models:
        r = compare(name, args)
        records.append(r)
        mine = "| – | – | – |"
        if "eunoe" in r:
            mine = f"| {r['eunoe']['nll']:.5f} | {r['eunoe']['ppl']:.4f} | {r['difference']:+.3%} |"
        theirs = r["llama.cpp"]
        print(f"| {name} | {theirs['tokens']} | {theirs['nll']:.5f} | {theirs['ppl']:.4f} {mine}", flush=True)
        if found := failure(r):
            failures.append(found)
        if args.json:
            Path(args.json).write_text(json.dumps({"rows": records, "failures": failures}, indent=1), encoding="utf-8")
    for line in failures:
        print(line, file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

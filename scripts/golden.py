"""Writes the small golden files that the engine's tests compare with: float reference, four models.

Each file: two windows of 48 tokens from two books, sixteen top log-probabilities at eight positions, the summed loss of
the 47 next tokens, and a greedy continuation with the gap between its best and second-best token at every step.

    python scripts/golden.py --models-dir DIR --books DIR --out crates/eunoe-engine/tests/golden
"""

import argparse
import importlib.metadata
import json
from pathlib import Path

import numpy as np

import books
from llama_cpp_peer import LlamaCpp
from reference import Reference, log_softmax

SEED = 7
LENGTH, POSITIONS, TOP, GREEDY = 48, [0, 1, 6, 13, 20, 28, 37, 47], 16, 24
PROMPT = "The river Lethe takes memory away, and the river Eunoe"
STEMS = ["jane-austen_pride-and-prejudice", "herman-melville_moby-dick"]
TOLERANCE = (
    "log-probabilities of an f32 forward over dequantised weights, rounded to 6 decimals. An f32 engine agrees within "
    "1e-3 in each listed log-probability and 1e-2 in nll; an engine with 8-bit activations does not: compare means. "
    "Position 0 of a window without BOS is the exception even then (one token, massive activations). Where greedy.gaps "
    "is below 0.05, another token is a fair answer to rounding."
)


def describe(reference, tokens):
    logprobs = log_softmax(reference.logits(tokens))
    top = []
    for position in POSITIONS:
        row = logprobs[position]
        order = np.argsort(-row, kind="stable")[:TOP]
        top.append([[int(i), round(float(row[i]), 6)] for i in order])
    nll = -logprobs[np.arange(LENGTH - 1), tokens[1:]].sum()
    return {"tokens": tokens, "positions": POSITIONS, "top": top, "nll": round(float(nll), 5)}


def continue_greedily(reference, prompt):
    tokens, gaps = list(prompt), []
    for _ in range(GREEDY):
        row = reference.project(reference.hidden(tokens)[-1:])[0]
        second, best = np.argpartition(row, -2)[-2:]
        if row[second] > row[best]:
            second, best = best, second
        gaps.append(round(float(row[best] - row[second]), 4))
        tokens.append(int(best))
    return {"prompt": PROMPT, "tokens": prompt, "continuation": tokens[len(prompt) :], "gaps": gaps}


def golden(path, name, book_folder):
    peer = LlamaCpp(path, ctx=0)
    reference, rng = Reference(path), np.random.default_rng(SEED)
    windows = []
    for stem in STEMS:
        at = round(float(rng.uniform(0.25, 0.75)), 4)
        tokens = books.window(Path(book_folder) / f"{stem}.txt", peer.tokenize, LENGTH, at)
        windows.append({"book": stem, "at": at, **describe(reference, tokens)})
    greedy = continue_greedily(reference, peer.tokenize(PROMPT))
    peer.close()
    packages = ("numpy", "gguf", "llama-cpp-python")
    return {
        "model": name,
        "sha256": books.sha256(path),
        "versions": {p: importlib.metadata.version(p) for p in packages},
        "seed": SEED,
        "tolerance": TOLERANCE,
        "windows": windows,
        "greedy": greedy,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    books.add_paths(parser)
    parser.add_argument("--models", nargs="+", default=books.MODELS)
    parser.add_argument("--out", type=Path, default=Path("crates/eunoe-engine/tests/golden"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.models:
        record = golden(books.model_path(args.models_dir, name), name, args.books)
        target = args.out / f"{name}.json"
        target.write_text(json.dumps(record, separators=(",", ":")) + "\n", encoding="utf-8")
        print(f"{target}: {target.stat().st_size} bytes, smallest greedy gap {min(record['greedy']['gaps'])}")


if __name__ == "__main__":
    main()

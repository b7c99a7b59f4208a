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
# Counting, because every model is sure of it: the smallest gap of ordinary prose is a rounding error away from a tie.
PROMPT = "1, 2, 3, 4, 5, 6, 7, 8,"
STEMS = ["jane-austen_pride-and-prejudice", "herman-melville_moby-dick"]
TOLERANCE = (
    "log-probabilities of an f32 forward over dequantised weights, rounded to 6 decimals. Measured against the same "
    "forward in f64: 3e-5 in a listed log-probability, 1e-4 in nll. Keys and values rounded to f16 alone move a listed "
    "log-probability by up to 0.033 and nll by up to 0.05 (worst in the 0.5B). Activations in 8 bits move more, and "
    "positions 0 and 1 of a window without BOS at will: compare means there. greedy.gaps are logits between the best "
    "token and the second: the smallest is 1.2, so that rounding does not choose the text."
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

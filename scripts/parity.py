"""Distance of every engine from the float reference: mean KL(reference ‖ x) over windows of books.

x is our engine in exact mode, in fast mode, and llama.cpp (f16 KV, flash attention off), on the same tokens: one window
per book, from its middle. Our engine is a program `PROGRAM MODEL.gguf {exact|fast} TOKENS.json` that reads a list of
windows of token ids and writes its logits to standard output as little-endian f32, row after row.

The first 8 rows of a window are counted apart. Without a BOS its first token or two carry activations so large that 8 bits
for them change the prediction altogether (KL 6.5 and 2.2 in the 1.5B model); one such row outweighs the other 511.

    python scripts/parity.py --models-dir DIR --books DIR --program target/release/examples/dump_logits

Exit status 1: exact above 1e-4, or fast above 1.1 × llama.cpp. Without --program: llama.cpp alone, status 0.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time

import numpy as np

import books
from llama_cpp_peer import LlamaCpp
from reference import Reference, log_softmax

EXACT_LIMIT, FAST_LIMIT = 1e-4, 1.1
FIRST = 8  # rows counted apart
TILE = 32  # rows turned to f64 at once
RESAMPLES, SEED = 10_000, 7


def program_tiles(program, mode, model, tokens, vocab):
    """Yields (start, logits [≤ TILE, v]) of one window from one run of the program."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([tokens], file)
        file.flush()
        with subprocess.Popen([program, str(model), mode, file.name], stdout=subprocess.PIPE) as child:
            for start in range(0, len(tokens), TILE):
                rows = min(TILE, len(tokens) - start)
                raw = child.stdout.read(rows * vocab * 4)
                if len(raw) != rows * vocab * 4:
                    child.kill()
                    raise RuntimeError(f"`{program} {mode}` ended at row {start} of {len(tokens)}")
                yield start, np.frombuffer(raw, dtype="<f4").reshape(rows, vocab)
            if child.stdout.read(1):
                child.kill()
                raise RuntimeError(f"`{program} {mode}` wrote more than {len(tokens)} rows of {vocab}")
            if child.wait() != 0:
                raise RuntimeError(f"`{program} {mode}` failed with status {child.returncode}")


def compare(reference_logits, tiles):
    """→ (KL per row [t], same top token per row [t], seconds that the tiles took)."""
    kl, same, seconds, mark = [], [], 0.0, time.perf_counter()
    for start, logits in tiles:
        seconds += time.perf_counter() - mark
        for low in range(0, len(logits), TILE):
            part = logits[low : low + TILE]
            p = log_softmax(reference_logits[start + low : start + low + len(part)])
            q = log_softmax(part)
            kl.append((np.exp(p) * (p - q)).sum(axis=-1))
            same.append(p.argmax(axis=-1) == q.argmax(axis=-1))
        mark = time.perf_counter()
    kl = np.concatenate(kl)
    if len(kl) != len(reference_logits) or not np.isfinite(kl).all():
        raise RuntimeError(f"{len(kl)} rows for {len(reference_logits)}, or logits that are not finite")
    return kl, np.concatenate(same), seconds


def bootstrap(numbers, statistic):
    """95 % interval of a statistic over windows, resampled with replacement."""
    draws = np.random.default_rng(SEED).integers(0, len(numbers), (RESAMPLES, len(numbers)))
    return [float(x) for x in np.percentile(statistic(numbers[draws]), [2.5, 97.5])]


def measure(name, args):
    path = books.model_path(args.models_dir, name)
    peer = LlamaCpp(path, ctx=args.length, threads=args.threads)
    reference = Reference(path)
    if reference.vocab != peer.vocab:
        raise RuntimeError(f"vocabulary {reference.vocab} here, {peer.vocab} in llama.cpp")
    engines = {"llama.cpp": lambda tokens: peer.logit_tiles(tokens)}
    if args.program:
        for mode in ("exact", "fast"):
            engines[mode] = lambda tokens, mode=mode: program_tiles(args.program, mode, path, tokens, peer.vocab)
    chosen = books.book_paths(args.books)[: args.windows]
    if len(chosen) < args.windows:
        raise SystemExit(f"{args.windows} windows need as many books, {len(chosen)} are there")
    rows = {x: {"kl": [], "same": [], "seconds": 0.0} for x in engines}
    reference_seconds, nll = 0.0, []
    for book in chosen:
        tokens = books.window(book, peer.tokenize, args.length)
        mark = time.perf_counter()
        logits = np.concatenate([tile for _, tile in reference.logit_tiles(tokens)])
        reference_seconds += time.perf_counter() - mark
        at_target = [log_softmax(logits[i : i + 1])[0, tokens[i + 1]] for i in range(len(tokens) - 1)]
        nll.append(-np.mean(at_target))
        for x, tiles in engines.items():
            kl, same, seconds = compare(logits, tiles(tokens))
            rows[x]["kl"].append(kl)
            rows[x]["same"].append(same)
            rows[x]["seconds"] += seconds
        last = ", ".join(f"{x} {rows[x]['kl'][-1][FIRST:].mean():.3e}" for x in engines)
        print(f"{name} {book.stem}: nll {nll[-1]:.4f}, KL {last}", file=sys.stderr, flush=True)
    peer.close()
    record = {
        "model": name,
        "windows": len(chosen),
        "length": args.length,
        "rows_apart": FIRST,
        "positions": len(chosen) * (args.length - FIRST),
        "reference_nll": float(np.mean(nll)),
        "reference_seconds": reference_seconds,
        "engines": {},
    }
    for x, got in rows.items():
        kl, same = np.array(got["kl"]), np.array(got["same"])
        record["engines"][x] = {
            "mean_kl": float(kl[:, FIRST:].mean()),
            "interval": bootstrap(kl[:, FIRST:].mean(axis=1), lambda m: m.mean(axis=1)),
            "median_kl": float(np.median(kl[:, FIRST:])),
            "max_kl": float(kl[:, FIRST:].max()),
            "first_rows_mean_kl": float(kl[:, :FIRST].mean()),
            "top1": float(same[:, FIRST:].mean()),
            "seconds": got["seconds"],
            "window_means": [float(m) for m in kl[:, FIRST:].mean(axis=1)],
        }
    if args.program:
        pairs = np.array([record["engines"][x]["window_means"] for x in ("fast", "llama.cpp")]).T
        record["fast_over_llama_cpp"] = float(pairs[:, 0].sum() / pairs[:, 1].sum())
        record["fast_over_llama_cpp_interval"] = bootstrap(
            pairs, lambda m: m[..., 0].sum(axis=1) / m[..., 1].sum(axis=1)
        )
    return record


def failures(record):
    engines = record["engines"]
    if "exact" not in engines:
        return []
    found = []
    if engines["exact"]["mean_kl"] > EXACT_LIMIT:
        found.append(f"exact is {engines['exact']['mean_kl']:.2e} from the reference, limit {EXACT_LIMIT:.0e}")
    if record["fast_over_llama_cpp"] > FAST_LIMIT:
        found.append(f"fast is {record['fast_over_llama_cpp']:.3f} × llama.cpp, limit {FAST_LIMIT}")
    return [f"{record['model']}: {x}" for x in found]


def table(records):
    lines = [
        "| model | engine | positions | mean KL | 95 % | median | max | first 8 | top-1 | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in records:
        for x, e in r["engines"].items():
            low, high = e["interval"]
            lines.append(
                f"| {r['model']} | {x} | {r['positions']} | {e['mean_kl']:.3e} | {low:.2e} – {high:.2e} "
                f"| {e['median_kl']:.2e} | {e['max_kl']:.2e} | {e['first_rows_mean_kl']:.2e} | {e['top1']:.4f} "
                f"| {e['seconds']:.1f} |"
            )
        if "fast_over_llama_cpp" in r:
            low, high = r["fast_over_llama_cpp_interval"]
            ratio = f"{r['fast_over_llama_cpp']:.3f} | {low:.3f} – {high:.3f}"
            lines.append(f"| {r['model']} | fast / llama.cpp | {r['positions']} | {ratio} | | | | | |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    books.add_paths(parser)
    parser.add_argument("--models", nargs="+", default=books.MODELS)
    parser.add_argument("--windows", type=int, default=8, help="one per book, in alphabetical order")
    parser.add_argument("--length", type=int, default=512, help="tokens per window")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--program", help="our dump_logits")
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args()
    records, bad = [], []
    for name in args.models:
        records.append(measure(name, args))
        bad += failures(records[-1])
        print(table(records[-1:]), flush=True)
        if args.json:
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump({"models": records, "failures": bad}, file, indent=1)
    for line in bad:
        print(line, file=sys.stderr)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

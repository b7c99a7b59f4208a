"""How much of the next queries' attention lands on what a cache policy kept: A2SF, H2O and two baselines, from dense attention.

Per layer and KV head, S[q, k] is the attention of the full model summed over the head's query group. After n queries the
score is A[k] = Σ_q α^(n-1-q) · S[q, k]  (α = 1 is H2O); the policy keeps the last R slots and the top H = budget - R of the
others. Recall is the share of the next 32 queries' attention to the first n slots that falls on kept slots. Attention among
those 32 tokens themselves is left out: every policy keeps them.

`sinks+window` keeps the first 4 and the last budget - 4; `random` keeps 4 sinks, the last R, and a random rest;
`oracle` keeps the best H for the next queries themselves, the ceiling of any choice with these R.

    python scripts/mass_recall.py --models-dir DIR --books DIR --model smollm2-135m
"""

import argparse
import json
import time

import numpy as np

import books
from llama_cpp_peer import LlamaCpp
from reference import Reference

ALPHAS = [0.2, 0.5, 0.9, 0.95, 0.99]
SHARES = [0.1, 0.2]
NEXT, SINKS, RECENT_SHARE = 32, 4, 8  # RECENT_SHARE: R = budget / 8
SEED, RESAMPLES = 7, 10_000


class Masses:
    """Column masses of one window: geometric for every α (1 included), and the plain sum of the last `NEXT` queries."""

    def __init__(self, reference, tokens):
        self.seen = len(tokens) - NEXT
        self.alphas = [*ALPHAS, 1.0]
        strips = (reference.layers, reference.kv_heads)
        self.score = np.zeros((*strips, len(self.alphas), self.seen))
        self.after = np.zeros((*strips, self.seen))
        reference.hidden(tokens, on_attn=self._add)

    def _add(self, layer, head, start, low, attn):
        if low:
            raise ValueError("a layer with a sliding window has no dense attention to score")
        rows = attn.sum(axis=0, dtype=np.float64)
        width = min(rows.shape[1], self.seen)
        before = max(0, min(len(rows), self.seen - start))
        age = self.seen - 1 - np.arange(start, start + before)
        weights = np.power.outer(np.array(self.alphas), age)  # [α, rows]
        self.score[layer, head, :, :width] += weights @ rows[:before, :width]
        self.after[layer, head, :width] += rows[before:, :width].sum(axis=0)


def recalls(masses, budget, rng):
    """→ {policy: recall per [layer, kv head]}."""
    n, recent = masses.seen, budget // RECENT_SHARE
    heavy, open_slots = budget - recent, n - recent
    after, total = masses.after, masses.after.sum(axis=-1)

    def by_score(score):
        chosen = np.argpartition(-score[..., :open_slots], heavy - 1, axis=-1)[..., :heavy]
        return np.take_along_axis(after, chosen, axis=-1).sum(axis=-1) + after[..., open_slots:].sum(axis=-1)

    found = {f"a2sf({a})": by_score(masses.score[:, :, i]) for i, a in enumerate(ALPHAS)}
    found["h2o"] = by_score(masses.score[:, :, -1])
    found["sinks+window"] = after[..., :SINKS].sum(axis=-1) + after[..., n - (budget - SINKS) :].sum(axis=-1)
    noise = rng.random(after.shape)
    noise[..., :SINKS] = 2.0
    found["random"] = by_score(noise)
    found["oracle"] = by_score(after)
    return {policy: kept / total for policy, kept in found.items()}


def interval(means):
    """95 % of the mean over windows, bootstrap."""
    draws = np.random.default_rng(SEED).integers(0, len(means), (RESAMPLES, len(means)))
    return [float(x) for x in np.percentile(np.asarray(means)[draws].mean(axis=1), [2.5, 97.5])]


def self_check():
    """Uniform attention S[q, k] = 1/(q+1) over 2000 queries: A[10]/A[1000] is 7.58 for α = 1 and 1.000 for α ≤ 0.95."""
    rows = np.tril(np.ones((2000, 2000))) / np.arange(1, 2001)[:, None]
    for alpha, want in [(1.0, 7.58), (0.95, 1.0), (0.2, 1.0)]:
        score = np.power(alpha, np.arange(1999, -1, -1)) @ rows
        if abs(score[10] / score[1000] - want) > 0.005:
            raise RuntimeError(f"age bias at α = {alpha}: {score[10] / score[1000]:.3f}, want {want}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    books.add_paths(parser)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--windows", type=int, default=6, help="one per book, in alphabetical order")
    parser.add_argument("--length", type=int, default=4096, help=f"tokens, the last {NEXT} of them the next queries")
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args()
    self_check()
    path = books.model_path(args.models_dir, args.model)
    peer, reference, rng = LlamaCpp(path, ctx=0), Reference(path), np.random.default_rng(SEED)
    got = {share: {} for share in SHARES}
    for book in books.book_paths(args.books)[: args.windows]:
        mark = time.perf_counter()
        masses = Masses(reference, books.window(book, peer.tokenize, args.length))
        for share in SHARES:
            for policy, recall in recalls(masses, int(masses.seen * share), rng).items():
                got[share].setdefault(policy, []).append(recall)
        print(f"{book.stem}: {time.perf_counter() - mark:.0f} s", flush=True)
    third = reference.layers // 3
    record = {"model": args.model, "length": args.length, "next": NEXT, "rows": []}
    for share, policies in got.items():
        print(f"\nbudget {share:.0%} of {args.length - NEXT} slots\n")
        print("| policy | recall | 95 % over windows | − h2o, 95 % | middle third of layers | worst 5 % of heads |")
        print("|---|---|---|---|---|---|")
        base = np.array(policies["h2o"]).mean(axis=(1, 2))
        for policy, recall in policies.items():
            recall = np.array(recall)  # [windows, layers, kv heads]
            means = recall.mean(axis=(1, 2))
            row = {
                "share": share,
                "policy": policy,
                "recall": float(means.mean()),
                "interval": interval(means),
                "minus_h2o": float((means - base).mean()),
                "minus_h2o_interval": interval(means - base),
                "middle": float(recall[:, third : 2 * third].mean()),
                "worst_heads": float(np.percentile(recall, 5)),
                "windows": [float(x) for x in means],
                "layers": [float(x) for x in recall.mean(axis=(0, 2))],
            }
            record["rows"].append(row)
            (low, high), (dlow, dhigh) = row["interval"], row["minus_h2o_interval"]
            print(
                f"| {policy} | {row['recall']:.4f} | {low:.4f} – {high:.4f} | {row['minus_h2o']:+.4f}, {dlow:+.4f} – "
                f"{dhigh:+.4f} | {row['middle']:.4f} | {row['worst_heads']:.4f} |"
            )
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()

"""What the audit's verdict and intervals are worth: fitted on some items of an evaluation, tested on others.

Reads folders of `eunoe eval --audit --out DIR`. An item is harmed where full memory scored higher than the plan. Samples with
even numbers fit the weights, those with odd ones test them; both halves have every task, plan and budget.

    python bench/audit.py DIR... --page docs/audit.md --plot docs/img/reliability.svg
    python bench/audit.py DIR... --weights crates/eunoe-engine/src/audit/weights.rs     # fits anew
"""

import argparse
import json
import math
import re
from pathlib import Path

import numpy as np

FLOOR = 1e-3  # nats, as in crates/eunoe-engine/src/audit/verdict.rs
RIDGE = 1e-2
BINS = 8
RESAMPLES, SEED = 2000, 7
THRESHOLDS = [0.05, 0.1, 0.15, 0.25, 0.4, 0.6]


def read(folders):
    """→ manifests, audited lines with the score of full memory beside them, and lines of full memory by item."""
    manifests, lines, full = [], [], {}
    for folder in folders:
        manifests.append(json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8")))
        # what a killed run left of its last line is none
        for text in (Path(folder) / "items.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
            line = json.loads(text)
            line["item"] = (folder, line["task"], line["length"], line["sample"])
            if line["plan"] == "full":
                full[line["item"]] = line
            elif "kl_mean" in (line.get("audit") or {}):
                lines.append(line)
    if len({manifest["model"]["name"] for manifest in manifests}) > 1:
        raise SystemExit("these evaluations are of several models: give one model's")
    lines = [line for line in lines if line["item"] in full]
    for line in lines:
        line["harmed"] = full[line["item"]]["score"] > line["score"]
    return manifests, lines, full


def audited(line):
    """The measurements of `eunoe audit`, in the order of its weights."""
    a = line["audit"]
    lost = 1 - a["canaries"]["survived"] if a.get("canaries") else 0.0
    kl = lambda x: math.log(x + FLOOR)
    return [kl(a["answer"]["kl_mean"]), 1 - a["answer"]["top1_agreement"], a["forgotten_mass"], lost, kl(a["kl_mean"])]


def foreseen(line):
    """The measurements of `run --escalate`, which reads no full memory."""
    o = line["audit"]["outlook"]
    return [o["log_prob_mean"], o["log_prob_min"], o["canaries_lost"]]


def fit(x, y):
    """Logistic regression by Newton's method, with a small ridge on all weights but the constant."""
    x = np.column_stack([np.ones(len(x)), x])
    w = np.zeros(x.shape[1])
    ridge = RIDGE * len(x) * np.eye(x.shape[1]) / 100
    ridge[0, 0] = 1e-9
    for _ in range(100):
        p = 1 / (1 + np.exp(-x @ w))
        step = np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]) + ridge, x.T @ (y - p) - ridge @ w)
        w += step
        if np.abs(step).max() < 1e-10:
            break
    return w


def logistic(w, x):
    return 1 / (1 + np.exp(-(w[0] + np.asarray(x) @ np.asarray(w[1:]))))


def judged_audit(line):
    """Whether the audit's model is asked at all: where nothing differs the risk is 0."""
    a = line["audit"]
    return a["kl_mean"] > 0 or a["answer"]["kl_mean"] > 0 or a["forgotten_mass"] > 0


def judged_outlook(line):
    return line["audit"]["outlook"]["gone"] > 0


# measurements, and which lines the model is asked about
AUDIT, OUTLOOK = (audited, judged_audit), (foreseen, judged_outlook)


def risks(w, model, lines):
    """As the program tells them."""
    of, judged = model
    return np.array([logistic(w, of(line)) if judged(line) else 0.0 for line in lines])


def fitted(model, lines):
    of, judged = model
    lines = [line for line in lines if judged(line)]
    return fit([of(line) for line in lines], np.array([line["harmed"] for line in lines], dtype=float))


def auroc(risk, y):
    """Chance that a harmed item has a higher risk than one that is not; of equals half."""
    bad, good = risk[y], risk[~y]
    if not len(bad) or not len(good):
        return math.nan
    return float(((bad[:, None] > good) + 0.5 * (bad[:, None] == good)).mean())


def interval(lines, of):
    """95 %, resampling items rather than lines: plans of one item are not independent."""
    items = sorted({line["item"][1:] for line in lines})
    where = {item: [i for i, line in enumerate(lines) if line["item"][1:] == item] for item in items}
    rng, got = np.random.default_rng(SEED), []
    for _ in range(RESAMPLES):
        rows = np.concatenate([where[items[i]] for i in rng.integers(0, len(items), len(items))])
        got.append(of(rows))
    return np.nanpercentile(got, [2.5, 97.5])


def bins(risk, y):
    """→ (lowest, highest, mean risk, share harmed, n) of bins with as many lines each."""
    order = np.argsort(risk, kind="stable")
    return [(risk[p[0]], risk[p[-1]], risk[p].mean(), y[p].mean(), len(p)) for p in np.array_split(order, BINS) if len(p)]


def covered(lines):
    """Share of intervals that hold the value over all rows, for KL and for top-1 agreement."""
    held = {"KL": ("kl_ci", "kl_mean"), "top-1 agreement": ("top1_ci", "top1_agreement")}
    inside = lambda a, ci, value: a[ci][0] - 1e-12 <= a["exact"][value] <= a[ci][1] + 1e-12
    return {name: np.array([inside(line["audit"], *keys) for line in lines]) for name, keys in held.items()}


def shipped(path):
    """The weights in the source: → AUDIT, OUTLOOK."""
    text = Path(path).read_text(encoding="utf-8")
    lists = re.findall(r"= \[([^\]]*)\];", text)
    return [[float(x) for x in one.split(",") if x.strip()] for one in lists]


def write_weights(path, audit, outlook):
    show = lambda w: ", ".join(f"{x:.4f}" for x in w)
    Path(path).write_text(
        f"""//! Weights of the verdict's models, the constant first; written by `bench/audit.py`.

/// Of ln(KL of the answer), disagreement of the answer, forgotten mass, lost canaries, ln(KL of the whole).
pub(super) const AUDIT: [f64; 6] = [{show(audit)}];
/// Of the mean and the least log-probability of the answer, lost canaries.
pub(super) const OUTLOOK: [f64; 4] = [{show(outlook)}];
""",
        encoding="utf-8",
    )


def told(weights, threshold):
    """Whether the risk told of an answer is below a border."""
    return lambda line, _: risks(weights, OUTLOOK, [line])[0] < threshold


def perfect(line, ceiling):
    """A judge who knows what full memory scores: the least that escalation can cost."""
    return line["score"] >= ceiling


def ladders(lines, full, is_trusted):
    """Score and mean bytes of every method, its sizes smallest first, escalated where an answer is not trusted."""
    methods, whole = {}, {}
    for line in lines:
        method = re.split(r" @ |\(", line["plan"])[0]
        if method.startswith("full"):
            whole[method, line["item"]] = line
        else:
            methods.setdefault((method, line["task"]), {}).setdefault(line["item"], []).append(line)
    rows = {}
    for key, items in methods.items():
        scores, peaks, ceilings, most = [], [], [], []
        for item, rungs in items.items():
            # the last memory forgets nothing, in the method's own codec
            last_plan = re.sub(r"^[^|]*", "full ", key[0]).strip()
            rungs = sorted(rungs, key=lambda line: line["peak_bytes"]) + [whole.get((last_plan, item), full[item])]
            ceiling = full[item]["score"]
            stays = lambda line: line["plan"].startswith("full") or is_trusted(line, ceiling)
            last = next(i for i, line in enumerate(rungs) if stays(line))
            scores.append(rungs[last]["score"])
            peaks.append(max(line["peak_bytes"] for line in rungs[: last + 1]))
            ceilings.append(ceiling)
            most.append(full[item]["peak_bytes"])
        if scores:
            share = np.mean(peaks) / np.mean(most)
            rows[key] = (np.mean(scores), np.mean(ceilings), share, len(scores))
    return rows


def plot(path, curves):
    """A reliability diagram: mean risk told against the share that was harmed."""
    size, edge = 380, 60
    at = lambda x, y: (edge + x * (size - 2 * edge), size - edge - y * (size - 2 * edge))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" font-family="system-ui, sans-serif" '
        f'font-size="12" role="img" aria-label="Risk told against share harmed">',
        f'<rect width="{size}" height="{size}" fill="#fff"/>',
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        (x, y), (x0, y0) = at(tick, tick), at(0, 0)
        parts.append(f'<path d="M{x0} {y}H{at(1, 1)[0]}M{x} {y0}V{at(1, 1)[1]}" stroke="#ddd" fill="none"/>')
        parts.append(f'<text x="{x0 - 6}" y="{y + 4}" text-anchor="end" fill="#333">{tick:.2f}</text>')
        parts.append(f'<text x="{x}" y="{y0 + 16}" text-anchor="middle" fill="#333">{tick:.2f}</text>')
    (x0, y0), (x1, y1) = at(0, 0), at(1, 1)
    parts.append(f'<path d="M{x0} {y0}L{x1} {y1}" stroke="#888" stroke-dasharray="4 4"/>')
    for i, (name, colour, rows) in enumerate(curves):
        points = [at(told, true) for _, _, told, true, _ in rows]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        mark = lambda x, y: f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
        if i:
            mark = lambda x, y: f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
        parts += [mark(x, y) for x, y in points]
        parts.append(f'<text x="{x0 + 10}" y="{y1 + 14 + 16 * i}" fill="{colour}">{name}</text>')
    middle = size / 2
    parts.append(f'<text x="{middle}" y="{size - 8}" text-anchor="middle" fill="#333">risk told</text>')
    parts.append(
        f'<text x="12" y="{middle}" text-anchor="middle" fill="#333" transform="rotate(-90 12 {middle})">'
        "share of answers harmed</text></svg>\n"
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("\n".join(parts), encoding="utf-8")


def page(args, manifests, lines, full, weights):
    test = [line for line in lines if line["sample"] % 2]
    y = np.array([line["harmed"] for line in test])
    models = [
        ("`eunoe audit` (full memory read)", "#0b6bcb", risks(weights[0], AUDIT, test)),
        ("`--escalate` (plan alone)", "#b3541e", risks(weights[1], OUTLOOK, test)),
    ]
    held = covered(lines)
    prompts = {line["item"][1:] for line in lines}
    model = manifests[0]["model"]["name"]
    out = [
        "# What the audit is worth",
        "",
        "<!-- written by bench/audit.py -->",
        "",
        f"{model}, {len(lines)} audits of {len(prompts)} prompts: tasks "
        + ", ".join(f"`{task}`" for task in sorted({line['task'] for line in lines}))
        + "; plans "
        + ", ".join(f"`{plan}`" for plan in sorted({line['plan'] for line in lines}))
        + f"; lengths {', '.join(str(n) for n in sorted({line['length'] for line in lines}))}.",
        "",
        "## Does the interval hold?",
        "",
        "An audit looks at a sample of a prompt's rows. Here every row was looked at too, so that it is known how often the 95 %",
        "interval holds the true value. Wanted: 90 to 99 %.",
        "",
        "| | audits | interval holds the true value | by plan, least and most |",
        "|---|---|---|---|",
    ]
    for name, inside in held.items():
        plans = {}
        for line, hit in zip(lines, inside):
            plans.setdefault(line["plan"], []).append(hit)
        shares = sorted((np.mean(hits), plan) for plan, hits in plans.items())
        (low, at_low), (high, at_high) = shares[0], shares[-1]
        out.append(f"| {name} | {len(inside)} | {inside.mean():.1%} | {low:.1%} (`{at_low}`) to {high:.1%} (`{at_high}`) |")
    out += [
        "",
        "## Does the verdict tell harm from harmlessness?",
        "",
        "An answer is harmed where full memory scored higher on the same item. The weights were fitted on items with even numbers;",
        f"the table is of those with odd numbers: {len(test)} answers, {int(y.sum())} of them harmed. AUROC is the chance that a",
        "harmed answer has the higher risk: 0.5 is guessing. Intervals resample items.",
        "",
        "| risk told by | AUROC, 95 % | Brier score | Brier of the mean rate |",
        "|---|---|---|---|",
    ]
    for name, _, risk in models:
        lo, hi = interval(test, lambda rows, risk=risk: auroc(risk[rows], y[rows]))
        brier, base = np.mean((risk - y) ** 2), np.mean((y.mean() - y) ** 2)
        out.append(f"| {name} | {auroc(risk, y):.3f} ({lo:.3f} … {hi:.3f}) | {brier:.3f} | {base:.3f} |")
    out += ["", "By task, AUROC: " + by_task(test, y, models), ""]
    if args.plot:
        out += [f"![Reliability diagram]({Path(args.plot).relative_to(Path(args.page).parent)})", ""]
    for name, _, risk in models:
        out += [f"Of {name}, eight bins of as many answers:", "", "| risk told | mean | harmed | n |", "|---|---|---|---|"]
        out += [f"| {lo:.2f} … {hi:.2f} | {told:.2f} | {true:.2f} | {n} |" for lo, hi, told, true, n in bins(risk, y)]
        out.append("")
    out += escalation(lines, full, weights[1])
    out += [
        "The model, the tasks and the plans are few: a risk is a measurement on these, not a law. On other models, fit anew:",
        "`eunoe eval --audit --out DIR`, then `python bench/audit.py DIR --weights crates/eunoe-engine/src/audit/weights.rs`.",
        "",
    ]
    Path(args.page).write_text("\n".join(out), encoding="utf-8")
    if args.plot:
        plot(args.plot, [(name.replace("`", ""), colour, bins(risk, y)) for name, colour, risk in models])


def by_task(test, y, models):
    cells = []
    for task in sorted({line["task"] for line in test}):
        rows = np.array([i for i, line in enumerate(test) if line["task"] == task])
        cells.append(f"`{task}` " + " / ".join(f"{auroc(risk[rows], y[rows]):.2f}" for _, _, risk in models))
    return "; ".join(cells) + "."


def escalation(lines, full, weights):
    """The border is chosen on the items that fitted the weights, and tested on the others."""
    halves = [[line for line in lines if line["sample"] % 2 == half] for half in (0, 1)]
    chosen, tested = ([ladders(half, full, told(weights, t)) for t in THRESHOLDS] for half in halves)
    ideal = ladders(halves[1], full, perfect)
    out = [
        "## What escalation saves",
        "",
        "`run --escalate` answers with the smallest memory first and goes to the next while the risk is not below a border (0.15). Here the",
        "same is done with the answers above, for several borders. KV is the mean over items of the most bytes that any memory tried took,",
        "as a share of full memory's in 16 bits. Full memory's score is beside it, and what a perfect judge would have made of the same",
        "answers; items with odd numbers.",
        "",
        "| method, task | n | full | perfect judge: score, KV | " + " | ".join(f"border {t}: score, KV" for t in THRESHOLDS) + " |",
        "|---|---|---|---|" + "---|" * len(THRESHOLDS),
    ]
    for key in sorted(tested[0]):
        cells = [f"{100 * rows[key][0]:.0f}, {rows[key][2]:.0%}" for rows in [ideal, *tested]]
        method = key[0].replace("|", "\\|")
        out.append(f"| `{method}`, `{key[1]}` | {tested[0][key][3]} | {100 * tested[0][key][1]:.0f} | " + " | ".join(cells) + " |")
    good = [
        (rows[key][2], key, i)
        for i, rows in enumerate(chosen)
        for key in rows
        if rows[key][0] >= rows[key][1] > 0 and rows[key][2] < 0.5 and key in tested[i]
    ]
    out.append("")
    if not good:
        return out + ["On the other items no method kept full memory's score at less than half of its bytes on any task.", ""]
    share, key, i = min(good)
    score, ceiling, kept, n = tested[i][key]
    return out + [
        f"Chosen on the items with even numbers, where it took {share:.0%} of the bytes: `{key[0]}` on `{key[1]}` with border "
        f"{THRESHOLDS[i]}. On the others it scores {100 * score:.0f} where full memory scores {100 * ceiling:.0f}, with {kept:.0%} "
        f"of its bytes, n = {n}.",
        "",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="DIR")
    parser.add_argument("--weights", help="source file to write newly fitted weights to")
    parser.add_argument("--source", default="crates/eunoe-engine/src/audit/weights.rs", help="weights that are tested")
    parser.add_argument("--page", help="Markdown page to write")
    parser.add_argument("--plot", help="SVG to write")
    args = parser.parse_args()
    manifests, lines, full = read(args.folders)
    if not lines:
        raise SystemExit("no audited items: run `eunoe eval --audit`")
    train = [line for line in lines if line["sample"] % 2 == 0]
    if args.weights:
        write_weights(args.weights, fitted(AUDIT, train), fitted(OUTLOOK, train))
    weights = shipped(args.weights or args.source)
    for name, inside in covered(lines).items():
        print(f"{name}: interval holds the true value in {inside.mean():.1%} of {len(inside)} audits")
    test = [line for line in lines if line["sample"] % 2]
    truth = np.array([line["harmed"] for line in test])
    for name, w, model in [("audit", weights[0], AUDIT), ("outlook", weights[1], OUTLOOK)]:
        print(f"{name}: AUROC {auroc(risks(w, model, test), truth):.3f} on {len(test)} held-out answers")
    if args.page:
        page(args, manifests, lines, full, weights)


if __name__ == "__main__":
    main()

"""Writes `docs/performance.md` from what `llama_cpp_speed.py`, `flat_memory.py`, `attend_speed` and `where.py` measured.

    python bench/peers/performance.py --readme README.md speed.json flat.json attend.md where.md > docs/performance.md

With `--readme`, also the table of ratios that stands there between two marks. Models and rows may be measured one after the other; a row that stands in two files is that of the second.
Nothing is typed in but the targets. Rows that miss theirs stand where the others do, marked.
"""

import argparse
import copy
import json
from pathlib import Path

# Least ratio to the better of llama.cpp's settings: (kind, depth, kv) → model → ratio.
MODELS = ["smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"]
TARGETS = {
    ("prefill", 0, "f16"): [2.0, 2.0, 2.0],
    ("prefill", 8192, "f16"): [3.0, 3.0, 2.5],
    ("decode", 0, "f16"): [1.3, 1.2, 1.0],
    ("decode", 8192, "f16"): [2.5, 2.3, 1.5],
    ("decode", 8192, "q8"): [3.0, 3.0, 2.0],
}
# Here parity is not enough: the whole interval lies above.
WHOLE_INTERVAL = {("qwen2.5-coder-1.5b", "decode", 0, "f16")}
LEAST_FLAT, MOST_RESIDENT, RESIDENT_SLACK = 0.85, 1.15, 64 << 20

INTRO = """# Performance

Written by `bench/peers/performance.py` from measured files; only the targets are typed in. A row that misses its target
is marked **missed**. Speeds are tokens per second; the numbers in parentheses are the slowest and the fastest sample, or
the 95 % bootstrap interval of a ratio.
"""
COMMANDS = """## To reproduce

As in `bench/peers/README.md` (llama.cpp built for the machine that it runs on), then on an idle machine:

```
cargo build --release
{commands}
cargo run --release -p eunoe-kernels --example attend_speed {threads} > attend.md
python bench/where.py --eunoe target/release/eunoe --models qwen2.5-coder-1.5b > where.md
python bench/where.py --eunoe target/release/eunoe --models qwen2.5-coder-1.5b --depth 8192 >> where.md
python bench/where.py --eunoe target/release/eunoe --models qwen2.5-coder-1.5b --prompt 0 --gen 64 >> where.md
python bench/where.py --eunoe target/release/eunoe --models smollm2-135m --prompt 0 --gen 256 --depth 2048 \\
  --kv 'a2sf @ 1024tok' >> where.md
python bench/peers/performance.py --readme README.md {files} attend.md where.md > docs/performance.md
```
"""


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    text = lambda cell: str(cell).replace("|", "\\|")
    return "\n".join("| " + " | ".join(map(text, cells)) + " |" for cells in lines) + "\n"


def target(row):
    least = TARGETS.get((row["kind"], row["depth"], row["kv"]))
    return least[MODELS.index(row["model"])] if least and row["model"] in MODELS else None


def verdict(row):
    least = target(row)
    if least is None:
        return "–", ""
    whole = (row["model"], row["kind"], row["depth"], row["kv"]) in WHOLE_INTERVAL
    met = row["interval"][0] > least if whole else row["ratio"] >= least
    return (f"> {least} (interval)" if whole else f"≥ {least}"), "met" if met else "**missed**"


def samples(row, side):
    rates = row["samples"].get(side)
    return f"{row['median'][side]:.1f} ({min(rates):.1f} … {max(rates):.1f})" if rates else "–"


def sides(rows):
    """All sides of the rows; ours first, as it is measured first."""
    return list(dict.fromkeys(side for row in rows for side in row["samples"]))


def about(records):
    """Machine and versions of all records, each line once."""
    lines = {}
    for record in records:
        machine = record["machine"]
        size = f"{machine['cores']} cores, {machine['memory_gib']} GiB"
        lines[f"- Machine: {machine['cpu']}, {size}, {machine['kernel']}"] = None
        lines[f"- Of the processor's flags: {' '.join(machine['flags'])}"] = None
        lines |= {f"- {name}: {version.strip(' |')}": None for name, version in record["versions"].items()}
    return "\n".join(lines) + "\n"


def speed(record):
    arguments, rows = record["arguments"], record["rows"]
    columns = sides(rows)
    body = []
    for row in rows:
        least, met = verdict(row)
        ratio = f"{row['ratio']:.2f} ({row['interval'][0]:.2f} … {row['interval'][1]:.2f})"
        what = [row["model"], f"{row['kind']} {row['tokens']}", row["depth"], row["kv"]]
        turns = len(row["samples"][columns[0]])
        body.append([*what, turns, *(samples(row, side) for side in columns), ratio, least, met])
    judged = [met for row in rows if (met := verdict(row)[1])]
    head = ["model", "row", "depth", "KV", "turns", *columns, f"{columns[0]} / better", "target", ""]
    return f"""## Beside llama.cpp

{arguments["threads"]} threads on both sides, medians of as many alternations in one run as the column says, the same files.
Load of the machine at the start: {record["load_at_start"]:.1f}. Targets met: {judged.count("met")} of {len(judged)}.

{table(head, body)}"""


def summary(record):
    """Ratios to the better of llama.cpp's settings, a column per model."""
    models = list(dict.fromkeys(row["model"] for row in record["rows"]))
    lines = {}
    for row in record["rows"]:
        what = f"{'reading' if row['kind'] == 'prefill' else 'writing'} {row['tokens']} tokens after {row['depth']}, {row['kv']} KV"
        lines.setdefault(what, {})[row["model"]] = f"{row['ratio']:.1f} ×"
    body = [[what, *(cells.get(model, "–") for model in models)] for what, cells in lines.items()]
    return table([f"{record['arguments']['threads']} threads", *models], body)


def put(path, text):
    """Replaces what stands between the marks."""
    begin, end = "<!-- speed:begin (written by bench/peers/performance.py) -->\n", "<!-- speed:end -->"
    page = path.read_text(encoding="utf-8")
    if page.count(begin) != 1 or page.count(end) != 1:
        raise SystemExit(f"`{path}` lacks the marks {begin.strip()} and {end}")
    head, rest = page.split(begin)
    path.write_text(head + begin + text + end + rest.split(end)[1], encoding="utf-8")


def limits(record):
    body = []
    for report in record["reports"]:
        for row in report["rows"]:
            decodes = row["kind"] == "decode"
            work = f"{row['gb_per_s']:.1f} GB/s" if decodes else f"{row['gmac_per_s']:.0f} GMAC/s"
            limit = report["limits"]["read_gb_per_s" if decodes else "int8_gmac_per_s"]
            share = row["share_of_read_rate" if decodes else "share_of_peak"]
            what = [report["model"], f"{row['kind']} {row['prompt']}", row["depth"], f"`{row['plan']}`"]
            body.append([*what, f"{row['tokens_per_s']:.1f}", work, f"{limit:.1f}", f"{share:.0%}"])
    head = ["model", "row", "depth", "plan", "tokens/s", "work", "limit", "share"]
    return f"""## Beside the limits of the machine

What `eunoe bench` says of the same run: decode reads all weights and the KV memory for every token, beside plain reads of
this machine in GB/s; prefill multiplies, beside the peak of 8-bit multiply-adds in GMAC/s. Both limits are measured in the
same process.

{table(head, body)}"""


def load(record):
    body, seen = [], set()
    for report in record["reports"]:
        if report["model"] in seen:
            continue
        seen.add(report["model"])
        of = report["load"]
        file, resident = of["file_bytes"], of["resident_bytes"]
        met = resident <= MOST_RESIDENT * file + RESIDENT_SLACK
        mib = lambda count: f"{count / 2**20:.1f}"
        sizes = [mib(file), mib(resident), f"{resident / file:.2f}", mib(of["peak_resident_bytes"])]
        times = [f"{of['seconds']:.2f}", f"{of['first_token_seconds']:.2f}"]
        body.append([report["model"], *sizes, "met" if met else "**missed**", *times])
    head = ["model", "file, MiB", "resident, MiB", "of the file", "most while loading, MiB", "", "loading, s", "first token, s"]
    return f"""## Loading

Resident memory of the process with the model ready: at most {MOST_RESIDENT} times the file and {RESIDENT_SLACK >> 20} MiB.
The first token is timed from the start of the command to the logits of a prompt of 16 tokens, the file in the system's
cache.

{table(head, body)}"""


def flat(record):
    decode, score = [], []
    for model in record["models"]:
        for row in model["decode"]:
            met = "met" if row["relative"] >= LEAST_FLAT else "**missed**"
            rate = f"{row['tokens_per_s']:.1f} ({row['spread'][0]:.1f} … {row['spread'][1]:.1f})"
            peak = f"{row['peak_bytes'] / 2**20:.1f}"
            decode.append([model["model"], f"`{row['plan']}`", row["depth"], rate, f"{row['relative']:.0%}", met, peak])
        for point in model["score"]:
            rate = f"{point['tokens'] / point['seconds']:.1f}"
            score.append([model["model"], f"`{point['plan_used']}`", point["tokens"], f"{point['seconds']:.1f}", rate,
                          f"{point['peak_bytes'] / 2**20:.1f}"])  # fmt: skip
    slopes = "; ".join(f"{m['model']}: {m['slope']:.3f}" for m in record["models"])
    decode_head = ["model", "plan", "depth", "tokens/s", "of depth 0", "", "peak KV, MiB"]
    score_head = ["model", "plan", "tokens", "seconds", "tokens/s", "peak KV, MiB"]
    return f"""## Flat memory, flat time

Writing under a plan of fixed size keeps at least {LEAST_FLAT:.0%} of its speed at depth 0.

{table(decode_head, decode)}
Reading and scoring a book ({record["book"]}) takes seconds that grow as a power of the tokens; 1 is linear. {slopes}.

{table(score_head, score)}"""


def joined(records):
    """One record per kind. A row that was measured again, with more turns, replaces the one before it."""
    kinds = {}
    for record in records:
        if record["what"] not in kinds:
            kinds[record["what"]] = copy.deepcopy(record)
            continue
        first = kinds[record["what"]]
        rest = lambda r: {k: v for k, v in r.get("arguments", {}).items() if k not in ("models", "depth", "kv", "turns")}
        if rest(first) != rest(record):
            raise SystemExit(f"records of {record['what']} were measured with different arguments: measure again")
        if "rows" in record:
            name = lambda row: (row["model"], row["kind"], row["depth"], row["kv"])
            again = {name(row): row for row in record["rows"]}
            first["rows"] = [again.pop(name(row), row) for row in first["rows"]] + list(again.values())
            first["load_at_start"] = max(first["load_at_start"], record["load_at_start"])
        for key in ("reports", "models"):
            if key in record:
                first[key] += record[key]
    return list(kinds.values())


def commands(records):
    lines = []
    for n, record in enumerate(records):
        if record["what"] == "speed":
            a = record["arguments"]
            depth, models = ",".join(map(str, a["depth"])), " ".join(a["models"])
            lines.append(f"python bench/peers/llama_cpp_speed.py --eunoe target/release/eunoe --models {models} --prompt \\\n"
                         f"  {a['prompt']} --gen {a['gen']} --depth {depth} --kv {' '.join(a['kv'])} --threads {a['threads']} "
                         f"--turns {a['turns']} --json {n}.json")  # fmt: skip
        else:
            models = " ".join(m["model"] for m in record["models"])
            tokens = ",".join(str(point["tokens"]) for point in record["models"][0]["score"])
            lines.append(f"python bench/flat_memory.py --eunoe target/release/eunoe --models {models} --tokens {tokens} \\\n"
                         f"  --json {n}.json")  # fmt: skip
    threads = next((r["arguments"]["threads"] for r in records if r["what"] == "speed"), "")
    return COMMANDS.format(commands="\n".join(lines), threads=threads, files=" ".join(f"{n}.json" for n in range(len(records))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="what was measured")
    parser.add_argument("--readme", type=Path, help="page in which the table of ratios is replaced")
    args = parser.parse_args()
    files = args.files
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    records = [json.loads(text) for path, text in texts.items() if path.suffix == ".json"]
    parts = [INTRO, about(records)]
    measured, records = records, joined(records)
    for record in records:
        sections = {"speed": [speed, limits, load], "flat": [flat]}[record["what"]]
        parts += [section(record) for section in sections]
    parts += [text for path, text in texts.items() if path.suffix == ".md"]
    parts.append(commands(measured))
    print("\n".join(parts), end="")
    if args.readme:
        put(args.readme, "".join(summary(record) for record in records if record["what"] == "speed"))


if __name__ == "__main__":
    main()

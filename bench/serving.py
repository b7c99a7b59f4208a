"""Writes `docs/serving.md` from what `serve_load.py`, `llama_cpp_serve.py`, `warm_prefix.py` and `serve_kill.py` measured.

    python bench/serving.py serve-load.json serve-rival.json serve-prefix.json serve-kill.json > docs/serving.md

Nothing is typed in but the target. A file that is not there leaves its section out.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from llama_cpp_serve import HEAD, OURS, PREFIXES, rows_of
from performance import about
from serve_client import table

# Least ratio of requests/s to the best of llama.cpp's settings.
TARGET = 1.5
# Least ratio of times to the first token, of a text that is new to one that was read before.
WARM = 5

INTRO = """# Serving

Written by `bench/serving.py` from measured files; only the target is typed in. A ratio that misses it is marked
**missed**. Server and clients share the cores of the machine.
"""
COMMANDS = """## To reproduce

With llama.cpp's server built as `bench/peers/README.md` says, on an idle machine:

```
cargo build --release
{commands}
```
"""

mib = lambda count: f"{count / 2**20:.1f} MiB"
ms = lambda spread, p: f"{spread[p] * 1000:.0f}" if spread[p] is not None else "–"
failures = lambda count: "none" if count == 0 else f"**{count}**"


def on(record):
    machine = record["machine"]
    return f"Measured on {machine['cpu']}, {machine['cores']} cores, load at the start {record['load_at_start']:.1f}.\n"


def load(record):
    a, f = record["arguments"], record["figures"]
    counts = lambda of: ", ".join(f"{what}: {count}" for what, count in of.items())
    resident, check, asked = f["resident"], f["check"], f["asked_of_memory"]
    rows = [
        ["answers", f"{f['answers']} in {f['seconds']:.0f} s: {f['chats']} chats, {f['answers'] - f['chats']} completions; {f['streamed']} streamed"],
        ["by plan", ", ".join(f"`{plan}` {count}" for plan, count in sorted(f["plans"].items()))],
        ["prompts", f"{f['prompt_tokens']['p50']} tokens at the median, {f['prompt_tokens']['most']} at most"],
        ["requests/s", f"{f['requests_per_s']:.2f}"],
        ["tokens/s", f"{f['written_per_s']:.1f} written, {f['read_per_s']:.1f} read, {f['cached_of_read']:.0%} of these known from before"],
        ["to the first token (streams)", f"{ms(f['first_token_s'], 'p50')} ms at the median, {ms(f['first_token_s'], 'p95')} ms at the 95th percentile"],
        ["between tokens (streams)", f"{ms(f['between_tokens_s'], 'p50')} ms at the median, {ms(f['between_tokens_s'], 'p95')} ms at the 95th percentile"],
        ["statuses", counts(f["statuses"])],
        ["hung up on", counts(f["hung_up"])],
        ["asked for at a time", f"{asked['mean']:.1f} times the memory on average, {asked['most']:.1f} times at most (KV bytes of the texts under `full`)"],
        ["KV memory at its peak", f"{mib(f['peak_bytes'])} of {mib(f['memory_bytes'])}"],
        ["put outside for want of memory", f"{f['preemptions']} times"],
        ["resident memory of the process", f"{mib(resident['start'])} at the start, {mib(resident['most'])} at most, {mib(resident['end'])} at rest afterwards"],
        ["the same when asked alone", f"{check['same']} of {check['asked']}, {check['by_tokens']} of them token by token with log probabilities"],
        ["`/eunoe/memory` answered in", f"{ms(f['memory_answer_s'], 'p50')} ms at the median, {ms(f['memory_answer_s'], 'p95')} ms at the 95th percentile"],
        ["failures", failures(f["failed"])],
    ]  # fmt: skip
    return f"""## Under load

{a["clients"]} clients for {a["seconds"]:.0f} s, `--memory {a["memory"]}`, {record["figures"]["client_cpu_s"]:.0f} s of processor time for the
clients. {a["cancelled"]:.0%} of the requests are hung up on at a random moment, {a["shared"]:.0%} begin with one of 8 texts, {a["beyond"]:.0%} are
beyond all memory or the model's window and must be refused, {a["bounded"]:.0%} are beyond the memory in a plan that forgets and
must be answered. The run fails where anything comes back but an answer or a clean refusal, where an answer holds more
than its plan allows, all together more than `--memory`, where something is left behind, in memory or in files, or
where an answer differs from that of a server that does nothing else.

{table(["", ""], rows)}"""


def rival(record):
    a, rows, verdicts = record["arguments"], [], []
    for found in record["variants"]:
        rows += rows_of(found)
        ours, theirs = (found["sides"][name]["requests_per_s"]["median"] for name in (OURS, found["rival"]))
        ratios = [ratio for ratio in found["ratios"] if ratio]
        met = "met" if found["ratio"] and found["ratio"] >= TARGET else "**missed**"
        same = "the same tokens read and written on all sides" if found["same_work"] else "**not** the same tokens on all sides"
        prefix, rest, answer = found["lengths"]
        start = f"one of {PREFIXES} texts of {prefix[0]} to {prefix[1]} tokens, then " if prefix[1] else ""
        spread = f" (turn by turn {min(ratios):.2f} … {max(ratios):.2f})" if ratios else ""
        verdicts.append(
            f"- `{found['variant']}`: {start}{rest[0]} to {rest[1]} tokens of its own, answers of {answer[0]} to {answer[1]} tokens; "
            f"{mib(found['memory_bytes'])} of KV memory. {ours:.2f} requests/s beside {theirs:.2f} of {found['rival']}: "
            f"**{found['ratio'] or 0:.2f} times**{spread}, target ≥ {TARGET}: {met}; {same}."
        )
    return f"""## Beside llama.cpp's own server

{a["clients"]} clients, {a["threads"]} threads, {a["rounds"]} turns of {a["requests"]} requests a side after {a["warm"]} to warm up, on `{a["model"]}` with f16 keys
and values; all requests are streamed completions at temperature 0 whose answers may not end early. llama.cpp has a slot for
each client over one unified KV memory of the same bytes, batches continuously, and keeps its prompt caches as it comes (up to
8 GiB beside the KV memory).

{table(HEAD, rows)}
{chr(10).join(verdicts)}
"""


def kill(record):
    a, f = record["arguments"], record["figures"]
    rows = [
        ["kills", f["kills"]],
        ["sessions", f"{f['sessions']}, the longest of {f['most_turns']} turns and {f['most_tokens']} tokens"],
        ["turns that were acknowledged", f["acknowledged"]],
        ["under way at a kill", f"{f['stored_unheard']} were there afterwards, {f['lost_in_time']} were not"],
        ["the same when said again to a fresh server", f"{f['same']} of {f['acknowledged']}"],
        ["from start to the first answer", f"{f['start_s']:.2f} s"],
        ["file", mib(f["stored_bytes"])],
        ["failures", failures(f["failed"])],
    ]
    return f"""## Killed while it talks

{a["clients"]} clients talk in named sessions; the server gets SIGKILL after {a["life"][0]:g} to {a["life"][1]:g} s and starts again on the same file. After
each start every acknowledged turn must be there; at the end all of them are said again to a fresh server and must get the
same texts.

{table(["", ""], rows)}"""


def prefix(record):
    a, rows = record["arguments"], record["rows"]
    cells = [
        [f"`{r['plan']}`", f"{r['cold_s']:.2f}", f"{r['warm_s']:.3f}", f"{r['ratio']:.1f}" + ("" if r["ratio"] >= WARM else " **missed**"), f"{r['least']:.1f}",
         f"{r['cached_tokens']} of {r['prompt_tokens']}", mib(r["reused_bytes"]), "yes" if r["evicted"] else "no", "yes" if r["same"] else "**no**"]
        for r in rows
    ]  # fmt: skip
    head = ["plan", "cold, s", "warm, s", "times shorter", "least", "tokens not read again", "KV bytes taken over", "evicts", "same text"]
    return f"""## A text that was read before

Time to the first token of the second question to a text of {a["tokens"]} tokens, beside a server that keeps nothing
(`--prefix-cache 0`); medians of {a["repeat"]} texts a plan, one request at a time. Target: {WARM:g} times shorter. Under a plan that evicts
nothing the pages of the first request are shared; what a plan has marked or evicted is kept every 512 tokens and copied.

{table(head, cells)}"""


def given(value):
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else value


def commands(records):
    lines = []
    for record in records:
        a, what = record["arguments"], record["what"]
        path = {"serve-load": "bench/serve_load.py", "serve-rival": "bench/peers/llama_cpp_serve.py", "serve-kill": "bench/serve_kill.py",
                "serve-prefix": "bench/warm_prefix.py"}[what]
        keys = {"serve-load": ["clients", "seconds", "memory", "check", "seed"], "serve-rival": ["variants", "clients", "rounds", "requests", "warm", "threads", "seed"],
                "serve-kill": ["kills", "clients", "memory", "seed"], "serve-prefix": ["tokens", "answer", "repeat", "seed"]}[what]  # fmt: skip
        flags = " ".join(f"--{key} {given(a[key])}" for key in keys)
        if "rivals" in a:
            flags += " --rivals " + " ".join(f"'{rival}'" for rival in a["rivals"])
        server = " --llama-server build-llama/bin/llama-server" if what == "serve-rival" else ""
        lines.append(f"python {path} --eunoe target/release/eunoe{server} \\\n  {flags} --json {what}.json")
    lines.append(f"python bench/serving.py {' '.join(r['what'] + '.json' for r in records)} > docs/serving.md")
    return COMMANDS.format(commands="\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="what was measured")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in parser.parse_args().files if path.is_file()]
    sections = {"serve-load": load, "serve-rival": rival, "serve-prefix": prefix, "serve-kill": kill}
    records.sort(key=lambda record: list(sections).index(record["what"]))
    pages = [f"{sections[record['what']](record)}\n{on(record)}" for record in records]
    print("\n".join([INTRO, about(records), *pages, commands(records)]), end="")


if __name__ == "__main__":
    main()

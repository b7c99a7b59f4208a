"""What each KV policy costs and keeps, beside full memory: quality, bytes, seconds, slopes.

    python bench/policies.py quality --models-dir DIR --books DIR --eunoe target/release/eunoe --json quality.json
    python bench/policies.py cost    --models-dir DIR --books DIR --eunoe target/release/eunoe --json cost.json
    python bench/policies.py page quality.json cost.json > docs/policies.md

`quality`: a passage of each book is read as a prompt, what follows it is scored token by token; and the repetition of a
list of words that stands in the middle of a passage is scored at its end. `cost`: passages of growing length are read and
tokens written after them. Results that are in the file already are not measured again. `cargo xtask proof --books DIR policies`
does all three.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import books
from machine import machine

numbers = lambda text: [int(x) for x in text.split(",")]

# Plans of about a quarter of the bytes (30 % of the prompt is 26 % of prompt and answer); some keep everything and look
# at a part.
QUALITY = {
    "full": "full",
    "full | q8": "full | q8",
    "full | q8(v=q4)": "full | q8(v=q4)",
    "full | q4": "full | q4",
    "full | q4, newest in f16": "full | q4(residual=128)",
    "random": "random @ 30%",
    "streaming_llm": "streaming_llm @ 30%",
    "sirllm": "sirllm @ 30%",
    "h2o": "h2o @ 30%",
    "a2sf": "a2sf @ 30%",
    "snapkv": "snapkv @ 30%",
    "a2sf | ada": "a2sf | ada @ 30%",
    "duo_attention": "duo_attention(ratio=0.21)",
    "duo_attention, bottom heads": "duo_attention(ratio=0.21, split=bottom)",
    "duo_attention, random heads": "duo_attention(ratio=0.21, split=random)",
    "razor_attention": "razor_attention",
    "razor_attention, token unweighted": "razor_attention(compensation=plain)",
    "razor_attention, no token": "razor_attention(compensation=off)",
    "s2_attention": "s2_attention",
    "inf_llm": "inf_llm(sinks=64, local=1000, pass=256)",
    "em_llm": "em_llm(sinks=64, local=1000, pass=256)",
    "em_llm, refined": "em_llm(sinks=64, local=1000, pass=256, refine=modularity)",
    "landmark_attention": "landmark_attention(blocks=16)",
    "hip_attention": "hip_attention",
    "hip_attention, mask per KV head": "hip_attention(mask=kv_head)",
    "recycled_attention": "recycled_attention(k=512, every=10)",
    "recycled_attention, by similarity": "recycled_attention(k=512, every=5, similarity=0.77)",
    "snapkv as published, window 1": "snapkv(prefill=dense, keep=512, window=1)",
}
# (who should be better, than whom): what the papers claim.
CLAIMS = [
    ("a2sf", "h2o"),
    ("em_llm", "inf_llm"),
    ("em_llm, refined", "em_llm"),
    ("sirllm", "streaming_llm"),
    ("recycled_attention", "snapkv as published, window 1"),
    ("recycled_attention, by similarity", "recycled_attention"),
    ("razor_attention", "razor_attention, no token"),
    ("razor_attention", "razor_attention, token unweighted"),
    ("duo_attention", "duo_attention, random heads"),
    ("duo_attention, random heads", "duo_attention, bottom heads"),
    ("duo_attention", "streaming_llm"),
    ("hip_attention", "streaming_llm"),
    ("hip_attention, mask per KV head", "hip_attention"),
    ("inf_llm", "streaming_llm"),
    ("snapkv", "h2o"),
    ("full | q4, newest in f16", "full | q4"),
]
COST = {
    "full": "full",
    "hip_attention": "hip_attention",
    "hip_attention, mask per KV head": "hip_attention(mask=kv_head)",
    "s2_attention": "s2_attention",
    "duo_attention": "duo_attention",
    "razor_attention": "razor_attention",
    "recycled_attention": "recycled_attention(every=10)",
    "inf_llm": "inf_llm",
    "em_llm": "em_llm",
    "inf_llm, disk": "inf_llm(tier=disk)",
}
MEMORY = ["full", "full | q8", "full | q8(v=q4)", "full | q4", "duo_attention", "razor_attention", "a2sf(step=1) | ada @ 25%"]
WORDS = (
    "anchor apple arrow badge barrel basket beetle blanket bottle bridge bucket button cactus candle carpet castle cherry "
    "copper cotton cradle crystal dagger desert diamond dragon drum eagle engine falcon feather fiddle flute forest garden "
    "ginger glove hammer harbor helmet honey jacket kettle ladder lantern lemon marble mirror needle olive orange oyster "
    "paddle parrot pencil pepper pillow planet pocket puzzle rabbit ribbon rocket saddle silver spider sponge sugar temple "
    "thunder ticket tiger tunnel turtle velvet violin walnut window wizard"
).split()
LIST = "\n\nThe boxes in the cellar hold these things: {words}.\n\n"
AGAIN = "\n\nOnce more, the boxes in the cellar hold these things:"


class Kept(dict):
    """A JSON file that grows by one result at a time."""

    def __init__(self, path):
        self.path = Path(path)
        self.lock = threading.Lock()
        super().__init__(json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {})

    def under(self, args, *names):
        """Settings of all that is measured: a file has one set of them."""
        settings = {name: getattr(args, name) for name in names}
        if self.setdefault("settings", settings) != settings:
            raise SystemExit(f"{self.path} holds results of other settings, {self['settings']}: name another file")

    def measure(self, key, do):
        if key in self:
            return
        result = do()
        with self.lock:
            self[key] = result
            partial = self.path.with_suffix(".part")
            partial.write_text(json.dumps(self, indent=1), encoding="utf-8")
            partial.replace(self.path)
            print(key, file=sys.stderr, flush=True)


def run(args, *command, text=None):
    command = [args.eunoe, *command, "--json", "--threads", args.threads]
    done = subprocess.run([str(x) for x in command], input=text, stdout=subprocess.PIPE, check=True, encoding="utf-8")
    return json.loads(done.stdout)


def tokens_of(args, model, text):
    return run(args, "tokenize", "-m", model, "-", text=text)["tokens"]


def cut(args, model, text, count):
    """The beginning of a text that has about `count` tokens."""
    share = len(tokens_of(args, model, text[: 4 * count])) / min(len(text), 4 * count)
    return text[: int(count / share)]


def quality(args):
    kept = Kept(args.json)
    kept.measure("machine", machine)
    model = books.model_path(args.models_dir, args.model)
    kept.under(args, "model", "prompt", "answer", "words", "haystack")
    paths = books.book_paths(args.books)[: args.count]
    tasks = []
    for plan in QUALITY.values():
        for path in paths:
            tasks.append((f"ppl/{plan}/{path.stem}", lambda plan=plan, path=path: continued(args, model, plan, path)))
    for plan in MEMORY:
        tasks.append((f"memory/{plan}", lambda plan=plan: allocated(args, model, plan, paths[0])))
    for i in range(args.lists):
        for plan in QUALITY.values():
            tasks.append((f"list/{plan}/{i}", lambda plan=plan, i=i: repeated(args, model, plan, paths, i)))
    with ThreadPoolExecutor(args.jobs) as pool:
        for done in [pool.submit(kept.measure, *task) for task in tasks]:
            done.result()


def score(args, model, plan, text, prompt, limit):
    """Nats of each token after the prompt."""
    with tempfile.TemporaryDirectory() as folder:
        file, lines = Path(folder) / "text.txt", Path(folder) / "lines.csv"
        file.write_text(text, encoding="utf-8")
        report = run(
            args, "score", "-m", model, "--file", file, "--kv", plan, "--prompt", prompt, "--limit", limit,
            "--per-position", lines,
        )  # fmt: skip
        rows = [line.split(",") for line in lines.read_text(encoding="utf-8").splitlines()[1:]]
    keys = ("plan_used", "peak_bytes", "attended", "seconds")
    return {"nll": [round(float(row[2]), 4) for row in rows], **{key: report[key] for key in keys}}


def continued(args, model, plan, path):
    """The book goes on."""
    limit = args.prompt + args.answer
    return score(args, model, plan, books.passage(path, 0.3, 8 * limit), args.prompt, limit)


def repeated(args, model, plan, paths, i):
    """A list of words stands in a passage, at one of seven depths, and again at its end."""
    words = " " + ", ".join(random.Random(i).sample(WORDS, args.words)) + "."
    text = books.passage(paths[i % len(paths)], 0.2 + 0.05 * (i // len(paths)), 40 * args.haystack)
    text = cut(args, model, text, args.haystack)
    at = text.find(". ", int(len(text) * (0.1 + 0.6 * (i % 7) / 6))) + 1
    text = text[:at] + LIST.format(words=words[1:-1]) + text[at:].lstrip() + AGAIN
    prompt, whole = tokens_of(args, model, text), tokens_of(args, model, text + words)
    if whole[: len(prompt)] != prompt:
        raise SystemExit(f"list {i} does not begin at a token of its own")
    return score(args, model, plan, text + words, len(prompt), len(whole))


def allocated(args, model, plan, path):
    text = cut(args, model, books.passage(path, 0.3, 8 * args.prompt), args.prompt)
    memory = run(args, "run", "-m", model, "--raw", "--kv", plan, "-n", 1, "-", text=text)["memory"]
    strips = [head for head in memory["heads"] if not head["sliding"]]
    return {"rows": strips[0]["seen"], "strips": len(strips), "live_bytes": memory["live_bytes"], "budget": memory["budget_bytes"]}


def formula(plan, model, m):
    """Bytes by the method's own formula, from sizes and the head profile alone; heads of 64 values."""
    profile = json.loads((ROOT / "crates/eunoe/assets/profiles" / f"{model}.json").read_text(encoding="utf-8"))
    rows, strips, group = m["rows"], m["strips"], profile["heads"] // profile["kv_heads"]
    most = lambda scores: [max(scores[i : i + group]) for i in range(0, len(scores), group)]
    top = lambda name, share: set(sorted(range(strips), key=lambda i: -most(profile[name])[i])[: int(share * strips + 0.5)])
    f16, q8, q4 = 128, 2 * 34, 2 * 20  # bytes of a key or a value
    step = 16  # a strip of a fixed size drops so many at once, when it has `step - 1` more than it keeps
    kept = lambda size: rows if rows < size + step else size + (rows - size) % step
    if plan == "duo_attention":
        full = int(0.5 * strips + 0.5)
        return (full * rows + (strips - full) * kept(64 + 256)) * (2 * f16 + 4)
    if plan == "razor_attention":
        full = len(top("induction", 0.14) | top("echo", 0.01))
        local = 4 + max(256, (rows + 1) // 8)
        return (full * rows + (strips - full) * kept(local)) * (2 * f16 + 4) + strips * (2 * 64 + 1) * 4
    if "@" in plan:
        return m["budget"]
    key, value = {"full": (f16, f16), "full | q8": (q8, q8), "full | q4": (q4, q4), "full | q8(v=q4)": (q8, q4)}[plan]
    return strips * rows * (key + value + 4)


def memory_page(kept):
    rows = []
    for plan in MEMORY:
        if m := kept.get(f"memory/{plan}"):
            want = formula(plan, kept["settings"]["model"], m)
            of_full = m["live_bytes"] / kept["memory/full"]["live_bytes"]
            off = f"{100 * (m['live_bytes'] / want - 1):+.2f} %"
            rows.append([f"`{plan}`", m["live_bytes"], want, off, f"{100 * of_full:.1f} %"])
    if not rows:
        return ""
    text = f"## Memory, by the allocator and by the formula\n\nBytes held after a text of {kept['memory/full']['rows']} tokens; formulas from sizes and the head profile alone.\n\n"
    return text + table(["plan", "bytes held", "formula", "off by", "of `full`"], rows) + "\n"


def cost(args):
    kept = Kept(args.json)
    kept.measure("machine", machine)
    model = books.model_path(args.models_dir, args.model)
    kept.under(args, "model", "gen", "threads")
    text = "\n".join(path.read_text(encoding="utf-8") for path in books.book_paths(args.books)[:2])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text.txt"
        for length in args.lengths:
            file.write_text(cut(args, model, text, length), encoding="utf-8")
            for name, plan in COST.items():
                if length <= args.longest or name.startswith(("full", "hip", "s2")):
                    kept.measure(f"cost/{name}/{length}", lambda: once(args, model, plan, file))


def once(args, model, plan, file):
    report = run(args, "run", "-m", model, "--raw", "--file", file, "--kv", plan, "-n", args.gen, "")
    memory, usage, timing = report["memory"], report["usage"], report["timing"]
    keys = ("peak_bytes", "cold_bytes", "returned_bytes", "attended")
    return {"tokens": usage["prompt_tokens"], "written": usage["completion_tokens"], **timing,
            **{key: memory[key] for key in keys}}  # fmt: skip


def interval(values, seed=1):
    """Mean, and its 95 % bootstrap interval over blocks that are whole."""
    rng = random.Random(seed)
    n = len(values)
    means = sorted(sum(rng.choice(values) for _ in range(n)) / n for _ in range(2000))
    return sum(values) / n, means[50], means[1949]


def slope(points):
    """Least squares of log y over log x."""
    x, y = ([math.log(p[i]) for p in points] for i in range(2))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)


def of(kept, kind, name):
    return {key.split("/")[2]: value for key, value in kept.items() if key.startswith(f"{kind}/{QUALITY[name]}/")}


def blocks(values, size):
    return [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]


def differences(kept, kind, a, b):
    """Nats per token by which `a` is worse than `b`: of a book in blocks of 64 tokens, of a list in all. Only what was
    measured under both counts."""
    ours, theirs = of(kept, kind, a), of(kept, kind, b)
    size = 64 if kind == "ppl" else 1 << 30
    both = sorted(set(ours) & set(theirs))
    return [d for i in both for d in blocks([x - y for x, y in zip(ours[i]["nll"], theirs[i]["nll"])], size)]


def worse(values):
    mean, low, high = interval(values)
    return f"{mean:+.3f} ({low:+.3f} … {high:+.3f})"


def verdict(values):
    _, low, high = interval(values)
    return "confirmed" if high < 0 else "**not confirmed**" if low > 0 else "too small to tell"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def quality_page(kept):
    settings, rows = kept["settings"], []
    full, lists = of(kept, "ppl", "full"), of(kept, "list", "full")
    for name, plan in QUALITY.items():
        texts = of(kept, "ppl", name)
        if len(texts) < len(full):
            continue  # not measured, or not on all books yet
        nll = [x for text in texts.values() for x in text["nll"]]
        one, whole = next(iter(texts.values())), next(iter(full.values()))
        listed = of(kept, "list", name)
        again = [x for item in listed.values() for x in item["nll"]] if len(listed) == len(lists) else []
        rows.append([
            f"`{plan}`", f"{100 * one['peak_bytes'] / whole['peak_bytes']:.1f} %", f"{100 * one['attended']:.1f} %",
            f"{math.exp(sum(nll) / len(nll)):.2f}",
            "-" if name == "full" else worse(differences(kept, "ppl", name, "full")),
            f"{sum(again) / len(again):.2f}" if again else "-",
            "-" if name == "full" or not again else worse(differences(kept, "list", name, "full")),
        ])  # fmt: skip
    n = sum(len(text["nll"]) for text in full.values())
    text = f"""## Quality, a first look

`{settings['model']}`. *Books*: of each of {len(full)} books {settings['prompt']} tokens are read as a prompt, and the {settings['answer']} tokens after it are
scored one by one ({n} in all). *Lists*: {settings['words']} words stand in a passage of about {settings['haystack']} tokens, and their repetition at its
end is scored ({len(lists)} lists at 7 depths; nats per token: 0 is word for word). *Worse* is nats per token beside `full` on the same tokens,
with a 95 % bootstrap interval over blocks of 64 tokens, or over lists. *Bytes*: most hot KV bytes in the books, of those of
`full`. *Attended*: share of the text before it that a token's query met, mean over all tokens.

"""
    text += table(["plan", "bytes", "attended", "books: perplexity", "worse", "lists: nats", "worse"], rows)
    claims = []
    for better, than in CLAIMS:
        for kind, what in [("ppl", "books"), ("list", "lists")]:
            if min(len(of(kept, kind, name)) for name in (better, than)) < len(of(kept, kind, "full")):
                continue
            values = differences(kept, kind, better, than)
            claims.append([better, than, what, worse(values), len(values), verdict(values)])
    text += """
### What the papers claim

Nats per token of the first less those of the second: below 0 the first is better. A mask per KV head is
ours, without a claim. Of books *n* counts blocks of 64 tokens.

"""
    return text + table(["better, says its paper", "than", "on", "nats per token", "n", "verdict"], claims)


def even(pairs, i, label):
    """The shortest length from which all ratios are above 1."""
    slower = [n for n in pairs if pairs[n][i] <= 1]
    faster = [n for n in pairs if not slower or n > slower[-1]]
    return label(faster[0]) if faster else "not by " + label(max(pairs))


def cost_page(kept):
    lengths = sorted({int(key.split("/")[2]) for key in kept if key.startswith("cost/")})
    label = lambda n: f"{n // 1000 if n % 1024 else n // 1024}K"
    text = f"""## Cost by length

`{kept['settings']['model']}`, f16 KV, {kept['settings']['threads']} threads, one run each. Seconds to read a text of so many tokens, and its slope: the exponent of length,
fitted to the lengths from 4K on.

"""
    get = lambda name, length: kept.get(f"cost/{name}/{length}")
    def rows(value, digits, with_slope):
        out = []
        for name, plan in COST.items():
            cells = [get(name, n) for n in lengths]
            points = [(c["tokens"], value(c)) for n, c in zip(lengths, cells) if c and n >= 4096]
            fit = [f"{slope(points):.2f}" if len(points) > 1 else "-"] if with_slope else []
            out.append([f"`{plan}`", *[f"{value(c):.{digits}f}" if c else "-" for c in cells], *fit])
        return out
    head = ["plan", *map(label, lengths)]
    per_token = lambda c: 1000 * c["decode_s"] / max(c["written"] - 1, 1)
    text += table([*head, "slope"], rows(lambda c: c["prefill_s"], 1, True))
    text += f"\nMilliseconds to write a token after so many, mean of {kept['settings']['gen'] - 1} written one by one:\n\n"
    text += table([*head, "slope"], rows(per_token, 1, True))
    text += "\nTimes faster than `full`, reading / writing; and the shortest length from which it is\nfaster at every one measured:\n\n"
    faster = []
    for name, plan in COST.items():
        pairs = [(n, get(name, n), get("full", n)) for n in lengths]
        pairs = {n: (full["prefill_s"] / ours["prefill_s"], per_token(full) / per_token(ours)) for n, ours, full in pairs if ours and full}
        cells = [f"{pairs[n][0]:.2f} / {pairs[n][1]:.2f}" if n in pairs else "-" for n in lengths]
        if name != "full":
            faster.append([f"`{plan}`", *cells, *(even(pairs, i, label) for i in range(2))])
    text += table([*head, "reading breaks even", "writing"], faster)
    text += "\nHot KV bytes (most, MiB):\n\n" + table(head, rows(lambda c: c["peak_bytes"] / 2**20, 1, False))
    cold = [
        [f"`{plan}`", label(n), f"{per_token(c):.1f}", f"{c['cold_bytes'] / 2**20:.1f}", f"{c['returned_bytes'] / 2**20:.0f}"]
        for name, plan in COST.items() for n in lengths if (c := get(name, n)) and c["returned_bytes"]
    ]  # fmt: skip
    text += "\nThe cold tier: what waits in it, and what came back in all, reading and writing (MiB):\n\n"
    return text + table(["plan", "length", "ms a token", "waits", "came back"], cold)


def page(args):
    text = "# What policies cost and keep\n\n<!-- written by bench/policies.py; do not edit -->\n\n"
    for path in args.files:
        kept = Kept(path)
        parts = [quality_page, memory_page] if any(k.startswith("ppl/") for k in kept) else [cost_page]
        text += "\n".join(part(kept) for part in parts) + "\n"
        text += f"Measured on {kept['machine']['cpu']}, {kept['machine']['cores']} cores.\n\n"
    print(text.rstrip())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for do, model in [(quality, "smollm2-135m"), (cost, "qwen2.5-coder-0.5b")]:
        command = commands.add_parser(do.__name__)
        books.add_paths(command)
        command.add_argument("--eunoe", default="target/release/eunoe")
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--model", default=model)
        command.add_argument("--json", required=True)
        command.set_defaults(do=do)
        if do is quality:
            command.add_argument("--prompt", type=int, default=5000)
            command.add_argument("--answer", type=int, default=768)
            command.add_argument("--count", type=int, default=6, help="books")
            command.add_argument("--lists", type=int, default=14)
            command.add_argument("--words", type=int, default=8, help="of a list")
            command.add_argument("--haystack", type=int, default=5000, help="tokens of a passage with a list")
            command.add_argument("--jobs", type=int, default=1, help="measurements at a time")
        else:
            command.add_argument("--lengths", type=numbers, default=[1024, 2048, 4096, 8192, 16384, 32000])
            command.add_argument("--longest", type=int, default=16384, help="length for the plans that have no fitted slope")
            command.add_argument("--gen", type=int, default=257, help="tokens written: so many that seconds pass")
    command = commands.add_parser("page")
    command.add_argument("files", nargs="+")
    command.set_defaults(do=page)
    args = parser.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()

"""The evaluations whose reports are under docs/reports: runs them, makes their pages, and writes docs/evaluation.md.

    python bench/evaluations.py run [NAME...] --books DIR      # resumable; about four hours in all on two cores
    python bench/evaluations.py page                           # from the folders; sections without one stay

Answers are kept under --folder; what is small goes to docs/reports/NAME.
"""

import argparse
import json
import re
import shutil
import subprocess
from pathlib import Path

BOOK = "bram-stoker_dracula.txt"
RECALL = "sinks=16, local=256, memory=128, pass=128, block=64"
WIDE = "local=256, memory=256, pass=256"

# name: (model, what it shows, arguments of `eunoe eval`)
EVALUATIONS = {
    "policies": (
        "smollm2-135m",
        "Every policy on three tasks at one budget, a quarter of the bytes. Those that size themselves have sizes that come near "
        "it, or stand with the bytes they take.",
        {
            "--tasks": "niah_single_2_balanced,fwe,perplexity",
            "--lengths": "2048",
            "--samples": "20",
            "--budget": "25%",
            "--kv": "streaming_llm;h2o;a2sf;snapkv;sirllm;random;a2sf | pyramid;snapkv | ada;a2sf | q8;a2sf | q4;full | q8;full | q4;"
            "snapkv(prefill=dense, keep=512);duo_attention(ratio=0.1, sinks=16, recent=256);duo_attention;razor_attention;"
            "recycled_attention;hip_attention(k=256, block=2, window=256, dense_layers=3);"
            f"s2_attention(block=64, window=2, stride=8);inf_llm({RECALL});em_llm({RECALL});landmark_attention(block=64, blocks=4)",
        },
    ),
    "budgets": (
        "smollm2-135m",
        "Six unlike policies on six tasks at four budgets.",
        {
            "--tasks": "niah_single_2_balanced,niah_multivalue_balanced,fwe,multi_question,perplexity,mass_recall",
            "--lengths": "2048",
            "--samples": "16",
            "--budget": "50%,25%,12.5%,6.25%",
            "--kv": "streaming_llm;a2sf;snapkv | ada;sirllm;a2sf | q4;random",
        },
    ),
    "lengths": (
        "smollm2-135m",
        "Depth, distance and time at three lengths.",
        {
            "--tasks": "needle,perplexity",
            "--lengths": "1024,2048,4096",
            "--samples": "11",
            "--kv": f"streaming_llm @ 25%;a2sf @ 25%;snapkv @ 25%;a2sf | q4 @ 25%;duo_attention;em_llm({WIDE})",
        },
    ),
    "qwen": (
        "qwen2.5-coder-0.5b",
        "A larger model at 4K and 8K.",
        {
            "--tasks": "niah_multikey_1_balanced,perplexity",
            "--lengths": "4096,8192",
            "--samples": "6",
            "--budget": "25%",
            "--kv": "snapkv;streaming_llm;a2sf | q4;duo_attention",
        },
    ),
    "audit": (
        "smollm2-135m",
        "",
        {
            "--audit": None,
            "--tasks": "niah_single_2_balanced,fwe,niah_multivalue_balanced,needle",
            "--lengths": "1024",
            "--samples": "50",
            "--budget": "50%",
            "--kv": "streaming_llm;snapkv;duo_attention",
        },
    ),
    # what is recalled from the cold tier, for the escalation
    "recall": (
        "smollm2-135m",
        "",
        {
            "--audit": None,
            "--tasks": "passkey",
            "--lengths": "4096",
            "--samples": "16",
            "--kv": "em_llm(local=256, memory=512, pass=256)",
        },
    ),
    # few bytes from two sides: heads that need not remember, and 8 bits
    "heads": (
        "smollm2-135m",
        "",
        {
            "--audit": None,
            "--tasks": "niah_single_2_balanced,niah_multivalue_balanced",
            "--lengths": "1024",
            "--samples": "24",
            "--kv": "duo_attention | q8;full | q8",
        },
    ),
}
AUDITS = ["audit", "recall", "heads"]


def run(args, name):
    model, _, options = EVALUATIONS[name]
    command = [args.eunoe, "eval", "-m", model, "--file", Path(args.books) / BOOK, "--out", Path(args.folder) / name]
    for key, value in options.items():
        command += [key] if value is None else [key, value]
    subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL, check=True)


def call(*command):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, check=True, encoding="utf-8")
    return done.stdout


def page(args):
    out = [
        "# What forgetting costs",
        "",
        "<!-- written by bench/evaluations.py -->",
        "",
        "Each section is one evaluation: its tables here, its whole page and its manifest beside it. Scores run from 0 to 1; in brackets",
        "the paired difference to full memory on the same items with its 95 % interval. A single cell resolves only what its n allows, and",
        "each report says how much that is: where intervals overlap, nothing is told apart. Reports are self-contained: open them in a browser.",
        "",
        "- Retrieval tasks ask at the very end for what was planted anywhere before. A method that forgets while it reads does not know the",
        "  question, and mostly keeps what it needs only by luck or by keeping retrieval heads whole; that is the setting of a budget that",
        "  holds at every step. `prefill=dense`, as most papers measure, sees the question before it forgets.",
        "- `perplexity` is the mean probability of a token, so its scores are small and its differences smaller.",
        "",
    ]
    written = Path("docs/evaluation.md")
    sections = re.split(r"^(?=## )", written.read_text(encoding="utf-8"), flags=re.M)
    before = {section[3:].split(":")[0]: section.splitlines() for section in sections[1:]}
    for name, (model, about, _) in EVALUATIONS.items():
        folder = Path(args.folder) / name
        if not about:
            continue
        if not (folder / "items.jsonl").exists():
            out += before.get(name, [])
            continue
        call(args.eunoe, "report", folder)
        kept = Path("docs/reports") / name
        kept.mkdir(parents=True, exist_ok=True)
        for file in ("manifest.json", "report.html"):
            shutil.copyfile(folder / file, kept / file)
        machine = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["machine"]
        out += [
            f"## {name}: {model}",
            "",
            f"{about} [The report](reports/{name}/report.html), [its manifest](reports/{name}/manifest.json); "
            f"{machine['cpu']}, {machine['jobs']} items at a time of {machine['threads']} thread each. Again:",
            "",
            "```sh",
            f"eunoe eval --again docs/reports/{name}/manifest.json -m {model} --file BOOKS/{BOOK} --out DIR",
            "```",
            "",
            call(args.eunoe, "report", folder, "--markdown").rstrip(),
            "",
        ]
    out += [
        "## Where answers stand",
        "",
        "RULER draws needles from a grid of 40 depths and puts the gold document of a question at one place for each number of documents;",
        "the balanced variants spread answers evenly. 200 items of each at 4096 tokens; p of a Kolmogorov-Smirnov test against evenness, one",
        "gold place of each item at random. `vt`, `cwe` and `fwe` have answers all over the text.",
        "",
        call(
            "cargo", "run", "--quiet", "--release", "-p", "eunoe-tasks", "--example", "depths", "--",
            "crates/eunoe/assets/a-scandal-in-bohemia.txt",
        ).rstrip(),  # fmt: skip
        "",
    ]
    written.write_text("\n".join(out), encoding="utf-8")
    audits = [Path(args.folder) / name for name in AUDITS if (Path(args.folder) / name / "items.jsonl").exists()]
    if audits:
        script = [args.python, "bench/audit.py", *audits, "--page", "docs/audit.md", "--plot", "docs/img/reliability.svg"]
        print(call(*script, *(["--weights", args.weights] if args.weights else [])), end="")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "page"])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(EVALUATIONS)}; all if none")
    parser.add_argument("--books", help="folder of UTF-8 .txt books, for `run`")
    parser.add_argument("--eunoe", default="target/release/eunoe")
    parser.add_argument("--folder", default="target/evaluations", help="where answers are kept")
    parser.add_argument("--python", default="python3", help="a Python with numpy, for `page`")
    parser.add_argument("--weights", help="fit the verdict's weights anew and write them to this source file")
    args = parser.parse_args()
    if args.what == "page":
        return page(args)
    if not args.books:
        raise SystemExit("give --books")
    if unknown := set(args.names) - set(EVALUATIONS):
        raise SystemExit(f"no evaluation is called {', '.join(sorted(unknown))}")
    for name in args.names or EVALUATIONS:
        print(name, flush=True)
        run(args, name)


if __name__ == "__main__":
    main()

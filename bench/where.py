"""Where the time of a row goes: functions by their share of samples of `perf`, as a section for `docs/performance.md`.

    python bench/where.py --models-dir DIR --eunoe target/release/eunoe --models qwen2.5-coder-1.5b --gen 0 > where.md

It profiles `eunoe bench` with repetitions enough that loading is a small part. Needs `perf` (package linux-perf).
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import books

LEAST_PERCENT = 1.0


def profile(path, args):
    """Percent and name of each function, most first."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        bench = [args.eunoe, "bench", "-m", path, "--prompt", args.prompt, "--gen", args.gen, "--depth", args.depth,
                 "--repeat", args.repeat, "--threads", args.threads, "--kv", args.kv, "--json"]  # fmt: skip
        record = ["perf", "record", "-q", "-F", "499", "-o", data, "--", *bench]
        subprocess.run([str(x) for x in record], stdout=subprocess.DEVNULL, check=True)
        report = ["perf", "report", "-q", "-i", str(data), "--stdio", "--no-children", "-F", "overhead,symbol"]
        text = subprocess.run(report, stdout=subprocess.PIPE, check=True, text=True).stdout
    rows = re.findall(r"^\s*([\d.]+)%\s+\[.\]\s+(.+?)\s*$", text, flags=re.MULTILINE)
    return [(float(share), name) for share, name in rows if float(share) >= LEAST_PERCENT]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    books.add_paths(parser, ("--models-dir",))
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--gen", type=int, default=0)
    parser.add_argument("--kv", default="full", help="memory plan")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--eunoe", required=True, help="our program")
    args = parser.parse_args()
    for name in args.models:
        row = f"writing {args.gen}" if args.gen else f"reading {args.prompt}"
        print(f"## Where the time goes: {name}, {row} tokens after {args.depth}, `{args.kv}`\n")
        print("Loading and filling the depth included.\n\n| share | function |\n| --- | --- |")
        for share, function in profile(books.model_path(args.models_dir, name), args):
            print(f"| {share:.1f} % | `{function.replace('|', '/')}` |")
        print()


if __name__ == "__main__":
    main()

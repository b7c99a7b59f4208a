#!/usr/bin/env python3
"""RULER's two rules for questions with several right answers, as lm-evaluation-harness and RULER itself count them.

    ruler_rules.py
    ruler_rules.py --items DIR/items.jsonl [...]

The first prints what both make of the same four answers: 75.0 by RULER, where one alias is enough, 58.33 by the
harness, which counts the share of aliases. `--items` marks every written answer of `eunoe eval` again, by the harness's
own functions and by RULER's rule, and exits with 1 where `details.official`, `details.harness` or the score differs.
Right answers are taken from the line (`gold`), else from manifest.json beside it, which has those of the first items;
lines without are counted, and if there are no others that is a failure too.
The harness's file is loaded by itself: `pip install --no-deps lm-eval` is enough beside transformers.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

ALIAS_TASKS = ("qa_1", "qa_2")
# Answers and aliases: all of one, one of three, both of two, none of one.
FOUR = [
    ("It was rollo.", ["Rollo"]),
    ("by the Seine", ["the Seine", "River Seine", "Seine valley"]),
    ("in 1066", ["1066", "in 1066"]),
    ("Normandy", ["France"]),
]
NEAR = 1e-9


def harness_rules():
    """lm_eval/tasks/ruler/common_utils.py, without the package around it."""
    package = importlib.util.find_spec("lm_eval")
    if package is None:
        raise SystemExit("lm-eval is missing: pip install --no-deps lm-eval")
    path = Path(package.origin).parent / "tasks" / "ruler" / "common_utils.py"
    spec = importlib.util.spec_from_file_location("ruler_common_utils", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_harness(rules, answer, aliases, is_alias_task):
    """One item, as the harness's process_results does it."""
    document = {"max_length": rules.DEFAULT_SEQ_LENGTHS[0], "outputs": aliases}
    process = rules.process_results_part if is_alias_task else rules.process_results
    return process(document, [answer])[str(document["max_length"])]


def by_ruler(rules, answer, aliases, is_alias_task):
    """One item by RULER's own rule: any alias, or the share of what was asked for; its clean-up is the harness's."""
    answer = rules.postprocess_pred([answer])[0].lower()
    found = [alias.lower() in answer for alias in aliases]
    return float(any(found)) if is_alias_task else sum(found) / len(found)


def first_gold(items):
    """(task, length) → right answers of sample 0, from the manifest."""
    path = items.parent / "manifest.json"
    if not path.is_file():
        return {}
    return {(one["task"], one["length"]): one["gold"] for one in json.loads(path.read_text(encoding="utf-8"))["first"]}


def gold_of(line, first):
    gold = line.get("gold") or (first.get((line["task"], line["length"])) if line["sample"] == 0 else None)
    return gold[0] if gold and isinstance(gold[0], list) else gold


def check(rules, items):
    """(checked, of those the ones that the two rules mark differently, without right answers, differences)."""
    first, checked, apart, unknown, differing = first_gold(items), 0, 0, 0, []
    for text in items.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if "harness" not in line["details"]:
            continue
        gold = gold_of(line, first)
        if not gold:
            unknown += 1
            continue
        is_alias_task = line["task"].removesuffix("_balanced") in ALIAS_TASKS
        official = by_ruler(rules, line["given"][0], gold, is_alias_task)
        harness = by_harness(rules, line["given"][0], gold, is_alias_task)
        pairs = [("score", line["score"], official), ("official", line["details"].get("official"), official)]
        pairs.append(("harness", line["details"]["harness"], harness))
        checked, apart = checked + 1, apart + (abs(official - harness) > NEAR)
        where = f"{line['plan']}, {line['task']} at {line['length']}, sample {line['sample']}"
        differing += [
            f"{where}: {name} {ours}, recomputed {theirs}"
            for name, ours, theirs in pairs
            if ours is None or abs(ours - theirs) > NEAR
        ]
    return checked, apart, unknown, differing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", nargs="+", type=Path, default=[], metavar="FILE", help="items.jsonl of `eunoe eval`")
    args = parser.parse_args()
    rules = harness_rules()
    official = sum(by_ruler(rules, answer, gold, True) for answer, gold in FOUR) / len(FOUR)
    harness = sum(by_harness(rules, answer, gold, True) for answer, gold in FOUR) / len(FOUR)
    version = importlib.metadata.version("lm-eval")
    print(f"RULER {100 * official:.1f}, lm-evaluation-harness {version} {100 * harness:.2f}")
    failed = (round(100 * official, 1), round(100 * harness, 2)) != (75.0, 58.33)
    total = 0
    for items in args.items:
        checked, apart, unknown, differing = check(rules, items)
        counts = f"{checked} answers marked again, {len(differing)} differences, {unknown} without right answers"
        print(f"{items}: {counts}; the rules part at {apart}")
        print("\n".join(f"  {line}" for line in differing[:20]), end="\n" if differing else "")
        failed, total = failed or bool(differing), total + checked
    if args.items and not total:
        print("nothing could be checked")
    sys.exit(1 if failed or args.items and not total else 0)


if __name__ == "__main__":
    main()

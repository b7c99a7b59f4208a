#!/usr/bin/env python3
"""What a text that was read before saves: time to the first token of a question to it, cold and warm, plan by plan.

    warm_prefix.py --eunoe target/release/eunoe --books DIR --json serve-prefix.json

Two servers answer the same questions in turn, one of them with `--prefix-cache 0`. Every text is a new one, read once by a first
question; the second question to it is timed. Fails where a text of the two servers differs. A shared file of KV pages, a copy of
what a plan has kept, or nothing: which it is, the record's `reused_bytes` tell.
"""

import asyncio
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from serve_client import EunoeServer, Texts, ask, parser_of, record_of, write_json

import books

PLANS = ["full", "full | q8", "streaming_llm @ 512tok", "h2o @ 16MiB", "a2sf @ 16MiB", "snapkv @ 16MiB", "sirllm @ 16MiB", "duo_attention"]
QUESTIONS = ["Who is spoken of here?", "Where does this take place?"]


async def put(port, plan, prompt, question, answer):
    body = {"prompt": f"{prompt}\n\nQuestion: {question}\nAnswer:", "max_tokens": answer, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, "memory": {"plan": plan}}  # fmt: skip
    told = (await ask(port, "/v1/completions", body)).read()
    if told.status != 200 or not told.is_whole:
        raise SystemExit(f"{plan}: {told.status} {told.error}")
    return told


async def measure(args, servers, texts):
    rows, failed = [], 0
    rng = random.Random(args.seed)
    for plan in args.plans:
        pairs = []
        for _ in range(args.repeat):
            prompt = texts.of(rng, args.tokens)
            told = {name: [await put(s.port, plan, prompt, q, args.answer) for q in QUESTIONS] for name, s in servers.items()}
            warm, cold = told["warm"], told["cold"]
            failed += sum(a.text != b.text for a, b in zip(warm, cold))
            pairs.append((cold[1], warm[1]))
        first = lambda side: statistics.median(pair[side].first() for pair in pairs)
        last = pairs[-1][1]
        rows.append({
            "plan": plan, "cold_s": first(0), "warm_s": first(1), "ratio": first(0) / first(1),
            "least": min(cold.first() / warm.first() for cold, warm in pairs), "prompt_tokens": last.usage["prompt_tokens"],
            "cached_tokens": last.usage["prompt_tokens_details"]["cached_tokens"], "reused_bytes": last.memory["reused_bytes"],
            "evicted": last.memory["evicted"] > 0, "same": all(cold.text == warm.text for cold, warm in pairs),
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows, failed


def main():
    parser = parser_of(__doc__, "1GiB")
    parser.add_argument("--tokens", type=int, default=4096, help="of the text (default: 4096)")
    parser.add_argument("--answer", type=int, default=24, help="tokens of an answer (default: 24)")
    parser.add_argument("--repeat", type=int, default=3, help="texts a plan (default: 3)")
    parser.add_argument("--plans", nargs="+", default=PLANS)
    args = parser.parse_args()
    record = record_of("serve-prefix", args)
    texts = Texts(books.book_paths(args.books))
    with tempfile.TemporaryDirectory() as folder, EunoeServer(args.eunoe, args.model, args.memory, folder=folder) as warm:
        with EunoeServer(args.eunoe, args.model, args.memory, ["--prefix-cache", "0"], folder=folder) as cold:
            texts.measure(warm)
            rows, failed = asyncio.run(measure(args, {"warm": warm, "cold": cold}, texts))
    write_json(args.json, record | {"rows": rows, "failed": failed})
    print(f"{failed} texts differ")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()

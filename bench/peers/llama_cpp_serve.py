"""`eunoe serve` beside llama.cpp's own server: requests per second and waiting times on the same list of requests.

    python bench/peers/llama_cpp_serve.py --books DIR --models-dir DIR --eunoe target/release/eunoe \\
           --llama-server build-llama/bin/llama-server --json serve-rival.json

All servers stay alive and take turns, in rotating order: a turn is one block of the list, answered to the last request by
--clients clients, each of which asks again as soon as it is answered. The variants:

    mixed      texts that share nothing: prompts of 64 to 1,024 tokens (log-uniform), answers of 16 to 96 (uniform)
    prefixes   prompts that begin with one of 16 texts of 1,024 to 2,048 tokens, then 32 to 128 of their own (both uniform),
               answers of 16 to 64

Held equal: the file of weights, f16 keys and values, threads, and the KV bytes, which are those of as many of the longest
requests as there are clients, so that neither side ever runs out; a slot for each client. Every request is a streamed
completion at temperature 0, and the ends of a text are forbidden, so that both write the same number of tokens. llama.cpp
batches continuously over one unified KV memory and keeps its prompt caches as it comes: what slots hold, and up to 8 GiB of
the machine's memory beside the KV bytes. Needs Python's standard library and the server of README.md.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from serve_client import Broken, EunoeServer, Texts, ask, record_of, spread, stop_well, table, write_json
import books
from llama_server import LlamaServer

# (least, most) tokens of a prefix, of the rest of a prompt, of an answer
VARIANTS = {"mixed": [(0, 0), (64, 1024), (16, 96)], "prefixes": [(1024, 2048), (32, 128), (16, 64)]}
PREFIXES = 16
# Tokens that text may gain where it was cut between them.
SLACK = 16
RIVALS = {
    "fa off": (["--flash-attn", "off"], {}),
    "fa on": (["--flash-attn", "on"], {}),
    "fa on, no cache outside": (["--flash-attn", "on", "--cache-ram", "0"], {}),
    "fa on, spinning": (["--flash-attn", "on"], {"OMP_WAIT_POLICY": "active"}),
}
OURS = "eunoe"


class ManySlots(LlamaServer):
    """llama.cpp's server as it serves many: a slot for each client, one KV memory for all of them."""

    def __init__(self, args, context, flags, env):
        super().__init__(args.llama_server, args.model_path, context, threads=args.threads, env=env)
        argv = [args.llama_server, "--model", args.model_path, "--ctx-size", context, "--port", self.port, "--host", "127.0.0.1"]
        argv += ["--parallel", args.clients, "--kv-unified", "--cont-batching", "--threads-http", args.clients + 4, *flags]
        argv += ["--threads", args.threads, "--threads-batch", args.threads, "--offline", "--no-ui", "--fit", "off"]
        argv += ["--samplers", "temperature"]  # no other is asked for, and its usual ones sort at every token
        self.argv = [str(x) for x in argv]


def longest(variant):
    return sum(most for _, most in VARIANTS[variant]) + SLACK


def requests_of(args, variant, count, server, texts):
    """The list: the same for the same seed, and no text twice."""
    rng = random.Random(f"{args.seed} {variant}")
    prefix, rest, answer = VARIANTS[variant]
    # of many more characters than needed, cut to the token
    def cut(tokens):
        ids = server.post("/tokenize", {"prompt": texts.of(rng, tokens * 2), "add_special_tokens": False})["tokens"]
        return server.post("/detokenize", {"tokens": ids[:tokens]})["prompt"]

    prefixes = [cut(rng.randint(*prefix)) for _ in range(PREFIXES)] if prefix[1] else [""]
    log_uniform = lambda low, high: round(low * (high / low) ** rng.random())
    own = log_uniform if variant == "mixed" else rng.randint
    # the ends of a text and of a turn
    ends = {str(token): -100 for token in args.ends}
    return [
        {"prompt": rng.choice(prefixes) + cut(own(*rest)), "max_tokens": rng.randint(*answer), "temperature": 0,
         "stream": True, "stream_options": {"include_usage": True}, "logit_bias": ends}
        for _ in range(count)
    ]  # fmt: skip


async def turn(port, requests, clients):
    """All of a block, and the seconds that it took."""
    waiting, answers, broken = list(reversed(requests)), [], []

    async def client():
        while waiting:
            try:
                answers.append(await asyncio.wait_for(ask(port, "/v1/completions", waiting.pop()), 1800))
            except (Broken, asyncio.TimeoutError) as error:
                broken.append(f"{type(error).__name__} {error}")

    loop = asyncio.get_running_loop()
    start = loop.time()
    await asyncio.gather(*(client() for _ in range(clients)))
    return loop.time() - start, answers, broken


def measured(seconds, answers, broken):
    """What one turn says. Bodies are read only here, so that reading them takes no time from the servers."""
    good = []
    for answer in answers:
        answer.read()
        if answer.status == 200 and not answer.error and answer.is_whole and answer.usage:
            good.append(answer)
        else:
            broken.append(f"status {answer.status}: {answer.error}")
    total = lambda key: sum(answer.usage[key] for answer in good)
    cached = sum((answer.usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0 for answer in good)
    return {
        "seconds": seconds, "answers": len(good), "requests_per_s": len(good) / seconds,
        "read": total("prompt_tokens"), "written": total("completion_tokens"), "cached": cached,
        "failed": len(broken), "failures": broken[:5],
        "first": [answer.first() for answer in good if answer.times], "gaps": [gap for answer in good for gap in answer.gaps()],
    }  # fmt: skip


def summed(turns):
    """Of all turns of a side."""
    rates = [turn["requests_per_s"] for turn in turns]
    total = lambda key: sum(turn[key] for turn in turns)
    pooled = lambda key: spread([value for turn in turns for value in turn.pop(key)])
    return {
        "requests_per_s": {"median": statistics.median(rates), "turns": rates},
        "written_per_s": total("written") / total("seconds"),
        **{key: total(key) for key in ("answers", "read", "written", "cached", "failed")},
        "first_token_s": pooled("first"), "between_tokens_s": pooled("gaps"),
        "failures": [failure for turn in turns for failure in turn["failures"]][:5],
    }  # fmt: skip


def variant_of(args, variant):
    memory = longest(variant) * args.clients * args.token_bytes
    context = -(-memory // args.token_bytes // 256) * 256
    flags = ["--running", args.clients, "--threads", args.threads]
    print(f"{variant}: {args.clients} clients, {memory / 2**20:.0f} MiB of KV memory on both sides", file=sys.stderr, flush=True)
    stack = {OURS: EunoeServer(args.eunoe, args.model_path, memory, flags)}
    stack |= {f"llama.cpp {name}": ManySlots(args, context, *RIVALS[name]) for name in args.rivals}
    ports = {name: server.port for name, server in stack.items()}
    turns = {name: [] for name in stack}
    entered = []
    try:
        for server in stack.values():
            server.__enter__()
            entered.append(server)
        texts = Texts(books.book_paths(args.books))
        texts.measure(stack[OURS])
        block = args.requests
        requests = requests_of(args, variant, args.warm + block * args.rounds, stack[OURS], texts)
        for name, port in ports.items():  # for the servers to have seen the texts that are shared, and the memory to be there
            asyncio.run(turn(port, requests[: args.warm], args.clients))
        for number in range(args.rounds):
            names = list(ports)
            names = names[number % len(names) :] + names[: number % len(names)]
            part = requests[args.warm + number * block :][:block]
            for name in names:
                turns[name].append(measured(*asyncio.run(turn(ports[name], part, args.clients))))
                last = turns[name][-1]
                print(f"{variant} {number + 1}: {name}: {last['answers']} in {last['seconds']:.1f} s", file=sys.stderr, flush=True)
    finally:
        for server in entered:
            server.__exit__()
    sides = {name: summed(of) for name, of in turns.items()}
    rival = max((name for name in sides if name != OURS), key=lambda name: sides[name]["requests_per_s"]["median"])
    rates = [sides[name]["requests_per_s"] for name in (OURS, rival)]
    ratios = [ours / theirs if theirs else None for ours, theirs in zip(*(rate["turns"] for rate in rates))]
    ratio = rates[0]["median"] / rates[1]["median"] if rates[1]["median"] else None
    same = len({(side["read"], side["written"]) for side in sides.values()}) == 1
    return {"variant": variant, "memory_bytes": memory, "context": context, "lengths": VARIANTS[variant], "sides": sides,
            "rival": rival, "ratio": ratio, "ratios": ratios, "same_work": same}  # fmt: skip


def rows_of(found):
    ms = lambda spread, p: f"{spread[p] * 1000:.0f}" if spread[p] is not None else None
    for name, side in found["sides"].items():
        rate, first, gaps = side["requests_per_s"], side["first_token_s"], side["between_tokens_s"]
        turns = f"{rate['median']:.2f} ({min(rate['turns']):.2f} … {max(rate['turns']):.2f})"
        yield [found["variant"], name, side["answers"], side["failed"], turns, f"{side['written_per_s']:.1f}",
               ms(first, "p50"), ms(first, "p95"), ms(gaps, "p50"), ms(gaps, "p95"), f"{side['cached'] / max(1, side['read']):.0%}"]  # fmt: skip


HEAD = ["requests", "server", "answers", "failed", "requests/s", "tokens/s written", "first token p50, ms", "p95", "between tokens p50, ms", "p95", "read from a cache"]  # fmt: skip


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    books.add_paths(parser)
    found = os.environ.get("LLAMA_SERVER", "llama-server")
    parser.add_argument("--eunoe", required=True, help="our program")
    parser.add_argument("--llama-server", default=found, metavar="PATH", help="llama.cpp's (default: $LLAMA_SERVER)")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--ends", type=int, nargs="*", default=[0, 1, 2], help="tokens that end a text (default: those of smollm2)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=["fa off", "fa on"], metavar="SETTING",
                        help=f"settings of llama.cpp: {', '.join(RIVALS)} (default: the first two)")  # fmt: skip
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--requests", type=int, default=64, help="of a turn (default: 64)")
    parser.add_argument("--warm", type=int, default=8, help="requests before the first turn (default: 8)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, help="fail below this ratio of requests/s")
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args()
    args.model_path = books.model_path(args.models_dir, args.model)
    return args


def token_bytes(args):
    with EunoeServer(args.eunoe, args.model_path, "64MiB") as server:
        return server.get("/eunoe/plans")["model"]["token_bytes"]


def main():
    args = parse()
    stop_well()
    args.token_bytes = token_bytes(args)
    record = record_of("serve-rival", args)
    record["versions"]["llama.cpp"] = "llama-server as vendored by llama-cpp-python 0.3.36"
    record["variants"] = [variant_of(args, variant) for variant in args.variants]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    record["client_cpu_s"] = usage.ru_utime + usage.ru_stime
    write_json(args.json, record)
    print(table(HEAD, [row for found in record["variants"] for row in rows_of(found)]))
    failed = False
    for found in record["variants"]:
        ours = found["sides"][OURS]
        ratio = f"{found['ratio']:.2f}" if found["ratio"] else "none"
        work = "" if found["same_work"] else "; NOT the same tokens read and written on all sides"
        print(f"{found['variant']}: {ratio} times the requests/s of {found['rival']}{work}")
        failed |= ours["failed"] > 0 or (args.least is not None and (found["ratio"] or 0) < args.least)
    sys.exit(failed)


if __name__ == "__main__":
    main()

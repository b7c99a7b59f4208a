"""`eunoe serve` under load: many clients, mixed plans, texts of several times its memory, and people who hang up.

    python bench/serve_load.py --books DIR --eunoe target/release/eunoe --json serve-load.json

Exits with 1 unless all of this holds: nothing comes back but answers and clean refusals, each refusal where one is due; no
answer held more KV bytes than its plan allows, all together never more than --memory; whoever hung up left nothing behind,
in memory or outside; and a random sample of the answers, asked again one at a time of a fresh server, comes back with the
same text, finish reason, tokens and log probabilities. Python's standard library is enough.
"""

import asyncio
import collections
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time

from serve_client import Answer, Broken, EunoeServer, Texts, ask, parser_of, percentile, record_of, spread, stop_well, table, write_json
import books

# What a plan may hold of a text of t tokens, p of them read: `f` bytes a token of f16, `q` of q8, `s` of a score in each strip.
PLANS = {
    "full": (6, lambda t, p, f, q, s: t * f),
    "full | q8": (3, lambda t, p, f, q, s: t * q),
    "streaming_llm @ 256tok": (2, lambda t, p, f, q, s: 256 * f),
    "a2sf @ 4MiB": (2, lambda t, p, f, q, s: 4 << 20),
    "a2sf @ 25%": (1, lambda t, p, f, q, s: max(p * f * 0.25, 1 << 20)),
    "snapkv @ 25%": (2, lambda t, p, f, q, s: max(p * f * 0.25, 1 << 20)),
    "snapkv | ada | q8 @ 128tok": (1, lambda t, p, f, q, s: 128 * (q + s)),
    "h2o @ 128tok": (2, lambda t, p, f, q, s: 128 * (f + s)),
    "sirllm @ 128tok": (1, lambda t, p, f, q, s: 128 * (f + s)),
    "random @ 50%": (1, lambda t, p, f, q, s: max(p * f * 0.5, 1 << 20)),
    "duo_attention": (1, lambda t, p, f, q, s: (t + 1) * f),
    "em_llm": (1, lambda t, p, f, q, s: (t + 1) * (f + s)),
}
# Of these, the ones that read any text within a size of their own.
BOUNDED = ["streaming_llm @ 256tok", "a2sf @ 4MiB", "h2o @ 128tok"]
REFUSED = ("memory_budget_exceeded", "context_length_exceeded")
# Lengths of texts are known to within this share before they are asked, so that it is sure what is due.
SURE = 0.65
SHORTEST = 16
KEPT_FAILURES = 50


class Mix:
    """Requests at random, the same for the same seed."""

    def __init__(self, args, texts, sizes):
        self.args, self.texts, self.sizes = args, texts, sizes
        self.room = sizes["memory"] / sizes["token"]
        mean = args.pressure * 1.2 * self.room / args.clients - args.answer / 2
        self.longest = max(2 * SHORTEST, min(self._longest(mean), SURE * self.room, SURE * sizes["context"]))
        rng = random.Random(args.seed)
        self.prefixes = [texts.of(rng, self.longest * share) for share in (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)]

    @staticmethod
    def _longest(mean):
        """Where log-uniform lengths from the shortest on have this mean."""
        low, high = SHORTEST + 1.0, 1e6
        for _ in range(60):
            middle = (low + high) / 2
            below = (middle - SHORTEST) / math.log(middle / SHORTEST) < mean
            low, high = (middle, high) if below else (low, middle)
        return low

    def request(self, rng, chance=None):
        """A path, a body, the plan, about how many tokens, and what is due: `answer` or `refusal`.

        A low `chance` gives what no memory holds, then what only a plan that forgets does.
        """
        plan = rng.choices(list(PLANS), [weight for weight, _ in PLANS.values()])[0]
        tokens, due, chance = self._length(rng), "answer", rng.random() if chance is None else chance
        if plan == "em_llm":  # what waits outside is of this machine's memory too, beside all that may be near
            tokens = min(tokens, self.room / 3)
        if chance < self.args.beyond:  # more than all memory, or than the model reads
            over = self.room if chance < self.args.beyond * 0.75 else max(self.room, self.sizes["context"])
            plan, due, tokens = "full", "refusal", over * rng.uniform(1.3, 1.5)
        elif chance < self.args.beyond + self.args.bounded:  # more than all memory would hold, in a plan that forgets
            plan, tokens = rng.choice(BOUNDED), min(self.room * rng.uniform(1.2, 1.6), SURE * self.sizes["context"])
        text = self.texts.of(rng, tokens)
        shared = rng.choice(self.prefixes) if rng.random() < self.args.shared else ""
        if shared and len(shared) < len(text):
            text = text[len(shared) :]
        else:
            shared = ""
        path, body = self._chat(rng, shared, text) if rng.random() < 0.5 else self._completion(rng, shared, text)
        body |= self._options(rng) | {"memory": {"plan": plan}}
        return {"path": path, "body": body, "plan": plan, "tokens": tokens + body["max_tokens"], "due": due}

    def _length(self, rng):
        return SHORTEST * (self.longest / SHORTEST) ** rng.random()

    def _chat(self, rng, shared, text):
        messages = [{"role": "system", "content": shared}] if shared else []
        messages.append({"role": "user", "content": text + rng.choice(["\n\nWhat happens here?", "\n\nGo on.", ""])})
        log_probs = {"logprobs": True, "top_logprobs": 2} if rng.random() < 0.25 else {}
        return "/v1/chat/completions", {"messages": messages} | log_probs

    def _completion(self, rng, shared, text):
        return "/v1/completions", {"prompt": shared + text} | ({"logprobs": 2} if rng.random() < 0.25 else {})

    def _options(self, rng):
        options = {"max_tokens": rng.randint(1, self.args.answer), "temperature": 0}
        if rng.random() < 0.5:
            options |= {"temperature": rng.choice([0.5, 0.8, 1.0]), "seed": rng.randrange(1 << 31)}
            options |= rng.choice([{}, {"top_p": 0.9}, {"top_k": 40}, {"presence_penalty": 0.5}])
        if rng.random() < 0.1:
            options["stop"] = ["\n\n"]
        if rng.random() < 0.5:
            options |= {"stream": True, "stream_options": {"include_usage": True}}
        return options


class Load:
    """What the clients do, and what they see."""

    def __init__(self, args, server, mix):
        self.args, self.server, self.mix, self.sizes = args, server, mix, mix.sizes
        self.done, self.failures, self.failed = [], [], 0
        self.statuses, self.cancelled = collections.Counter(), collections.Counter()
        self.asked, self.waits, self.timeline = {}, collections.deque(maxlen=200), []

    def fail(self, why, request=None, answer=None):
        self.failed += 1
        if len(self.failures) < KEPT_FAILURES:
            body = request and request["body"]
            said = answer and {"status": answer.status, "error": getattr(answer, "error", None), "text": getattr(answer, "text", None)}
            self.failures.append({"why": why, "path": request and request["path"], "body": body, "answer": said})
            print(f"FAILED: {why}", file=sys.stderr, flush=True)

    async def run(self):
        self.start = time.monotonic()
        self.end = self.start + self.args.seconds
        watch = asyncio.create_task(self.watch())
        await asyncio.gather(*(self.client(number) for number in range(self.args.clients)))
        self.seconds = time.monotonic() - self.start
        watch.cancel()

    async def client(self, number):
        rng = random.Random(f"{self.args.seed} {number}")
        # some of the rare kinds come in every run, and nobody hangs up on them
        rare = [0.0, self.args.beyond * 0.9, self.args.beyond][number : number + 1]
        await asyncio.sleep(rng.random())
        while time.monotonic() < self.end and self.server.process.poll() is None:
            cut = rng.random() < self.args.cancelled and not rare
            request = self.mix.request(rng, rare.pop() if rare else None)
            self.asked[number], pause = request["tokens"] * self.sizes["token"], 0
            try:
                pause = await (self.hang_up(request, rng) if cut else self.stay(request))
            except Broken as broken:
                self.fail(f"broken: {broken}", request)
                pause = 1
            self.asked.pop(number)
            await asyncio.sleep(pause or 0)

    async def hang_up(self, request, rng):
        """Closes the socket at some moment up to about when an answer would be whole."""
        usual = percentile(self.waits, 0.5) or 1.0
        share = rng.random() if rng.random() < 0.1 else 1.0
        hard, after, answer = rng.random() < 0.5, rng.uniform(0, 1.2 * usual), Answer()
        task = asyncio.create_task(ask(self.server.port, request["path"], request["body"], answer, share, hard))
        done, _ = await asyncio.wait([task], timeout=after)
        if done and share == 1:
            return self.take(request, task.result())
        task.cancel()  # half a request may have been given up by the server by now, as it should
        await asyncio.wait([task])
        where = "in the request" if share < 1 else "before the answer" if answer.status is None else "in the answer"
        self.cancelled[where] += 1

    async def stay(self, request):
        try:
            answer = await asyncio.wait_for(ask(self.server.port, request["path"], request["body"]), self.args.patience)
        except asyncio.TimeoutError:
            return self.fail(f"no end within {self.args.patience} s", request)
        return self.take(request, answer)

    def take(self, request, answer):
        """Judges what came; the seconds to wait before the next request, where the server asks for them."""
        answer.read()
        self.statuses[answer.status] += 1
        if answer.status != 200:
            self.refused(request, answer)
            return float(answer.headers.get("retry-after", 0))
        if why := self.wrong(request, answer):
            return self.fail(why, request, answer)
        self.waits.append(answer.seconds)
        self.done.append((request, answer))

    def refused(self, request, answer):
        error = answer.error if isinstance(answer.error, dict) else {}
        if set(error) != {"message", "type", "param", "code"}:
            self.fail(f"status {answer.status} without an error of OpenAI's form", request, answer)
        elif answer.status in (429, 503):
            if "retry-after" not in answer.headers:
                self.fail(f"status {answer.status} without Retry-After", request, answer)
        elif answer.status != 400 or error["code"] not in REFUSED:
            self.fail(f"status {answer.status}, code {error['code']}", request, answer)
        elif request["due"] == "answer":
            self.fail("refused, though it fits", request, answer)

    def wrong(self, request, answer):
        """What is wrong with an answer, if anything."""
        if request["due"] == "refusal":
            return "answered, though it does not fit"
        if answer.error or not answer.is_whole or answer.finish not in ("stop", "length"):
            return f"an answer that is not whole: {answer.error or answer.finish}"
        if not answer.usage or not answer.memory or answer.text is None:
            return "an answer without text, usage or memory"
        read, wrote = answer.usage["prompt_tokens"], answer.usage["completion_tokens"]
        if not 1 <= wrote <= request["body"]["max_tokens"] or (answer.finish == "length") > (wrote == request["body"]["max_tokens"]):
            return f"{wrote} tokens and finish reason {answer.finish}"
        peak, budget = answer.memory["peak_bytes"], answer.memory["budget_bytes"]
        of = (self.sizes[key] for key in ("token", "q8", "score"))
        allowed = min(PLANS[request["plan"]][1](read + wrote, read, *of), budget or math.inf, self.sizes["memory"])
        if peak > allowed:
            return f"`{request['plan']}` held {peak} bytes at its peak, allowed are {allowed:.0f}"
        return None

    async def watch(self):
        """The server's own account, and the system's, once a second."""
        while True:
            start = time.monotonic()
            try:
                answer = await asyncio.wait_for(ask(self.server.port, "/eunoe/memory", None), 30)
                told = json.loads(answer.parts[0][1])
                row = {"t": round(start - self.start, 1), "seconds": round(answer.seconds, 4)}
                row |= {"resident_bytes": self.server.resident(), "asked_bytes": int(sum(self.asked.values()))}
                row |= {key: told[key] for key in ("live_bytes", "peak_bytes", "running", "waiting", "parked")}
                self.timeline.append(row)
                if max(told["live_bytes"], told["peak_bytes"]) > self.sizes["memory"]:
                    self.fail(f"more than --memory: {told}")
            except (Broken, asyncio.TimeoutError, FileNotFoundError, TypeError) as error:
                if self.server.process.poll() is not None:
                    return self.fail(f"the server ended with status {self.server.process.returncode}: {self.server.tail()}")
                self.fail(f"/eunoe/memory: {type(error).__name__} {error}")
            await asyncio.sleep(max(0, start + 1 - time.monotonic()))


def sizes_of(server):
    told = server.get("/eunoe/plans")
    model = told["model"]
    strips, token = model["layers"] * model["kv_heads"], model["token_bytes"]
    # a block of 32 numbers takes 64 bytes in f16 and 34 in q8; q8 pads nothing, f16 may hold a base of each strip
    q8 = server.post("/v1/completions", {"prompt": "a b c d", "max_tokens": 1, "memory": {"plan": "full | q8"}})
    return {
        "memory": told["memory_bytes"], "context": model["context"], "token": token, "score": 4 * strips,
        "q8": q8["memory"]["peak_bytes"] / (q8["usage"]["total_tokens"] - 1),
    }  # fmt: skip


def at_rest(load, folder):
    """Nothing is left of any request, in memory or outside."""
    server, end = load.server, time.monotonic() + 15
    while True:
        told, metrics = server.get("/eunoe/memory"), server.metrics()
        left = {key: told[key] for key in ("running", "waiting", "parked") if told[key]}
        # what is kept for later texts that begin the same is not left behind
        if metrics["eunoe:kv_bytes"] > metrics.get("eunoe:kv_bytes_cached", 0):
            left["kv_bytes"] = metrics["eunoe:kv_bytes"]
        if not left or time.monotonic() > end:
            break
        time.sleep(0.2)
    if left:
        load.fail(f"left behind: {left}")
    if files := os.listdir(folder):
        load.fail(f"files left outside: {files[:5]}")
    if metrics["eunoe:kv_bytes_peak"] > load.sizes["memory"] or metrics["eunoe:kv_bytes_cap"] != load.sizes["memory"]:
        load.fail(f"peak {metrics['eunoe:kv_bytes_peak']:.0f} of {metrics['eunoe:kv_bytes_cap']:.0f} bytes")
    return metrics


def again(args, load, flags):
    """A sample of the answers, each asked of a server that does nothing else."""
    sample = random.Random(args.seed).sample(load.done, min(args.check, len(load.done)))
    figures = {"asked": len(sample), "same": 0, "by_tokens": 0}
    if "--prefix-cache" in subprocess.run([args.eunoe, "serve", "--help"], stdout=subprocess.PIPE, text=True).stdout:
        flags = [*flags, "--prefix-cache", "0"]  # alone means without what others read
    with EunoeServer(args.eunoe, args.model, args.memory, flags) as server:
        for request, first in sample:
            body = {k: v for k, v in request["body"].items() if k not in ("stream", "stream_options")}
            second = asyncio.run(ask(server.port, request["path"], body)).read()
            differs = [
                key for key in ("status", "text", "finish", "tokens", "log_probs") if getattr(first, key) != getattr(second, key)
            ] + (["usage"] if (first.usage or {}) | {"prompt_tokens_details": 0} != (second.usage or {}) | {"prompt_tokens_details": 0} else [])  # fmt: skip
            figures["by_tokens"] += bool(first.tokens)
            figures["same"] += not differs
            if differs:
                load.fail(f"another answer when asked alone: {', '.join(differs)}; alone: {second.text!r}", request, first)
    return figures


def figures_of(load):
    """What was done, in numbers."""
    done, s = load.done, load.seconds
    streams = [answer for request, answer in done if request["body"].get("stream")]
    wrote = sum(answer.usage["completion_tokens"] for _, answer in done)
    read = sum(answer.usage["prompt_tokens"] for _, answer in done)
    cached = sum((answer.usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0) for _, answer in done)
    plans = collections.Counter(request["plan"] for request, _ in done)
    asked = [row["asked_bytes"] / load.sizes["memory"] for row in load.timeline]
    return {
        "seconds": s, "answers": len(done), "statuses": {str(k): v for k, v in sorted(load.statuses.items())},
        "hung_up": dict(load.cancelled), "streamed": len(streams), "plans": dict(plans),
        "chats": sum("messages" in request["body"] for request, _ in done),
        "requests_per_s": len(done) / s, "written_per_s": wrote / s, "read_per_s": read / s, "cached_of_read": cached / max(1, read),
        "first_token_s": spread([a.first() for a in streams if a.times]),
        "between_tokens_s": spread([gap for a in streams for gap in a.gaps()]),
        "whole_s": spread([a.seconds for _, a in done]),
        "asked_of_memory": {"mean": sum(asked) / max(1, len(asked)), "most": max(asked, default=0)},
        "memory_answer_s": spread([row["seconds"] for row in load.timeline]),
        "prompt_tokens": spread([a.usage["prompt_tokens"] for _, a in done]) | {"most": max((a.usage["prompt_tokens"] for _, a in done), default=0)},
    }  # fmt: skip


def has_shown(load, figures, args):
    """A run in which nothing happened shows nothing."""
    showed = {
        "answers": figures["answers"] > 0,
        "refusals": args.beyond == 0 or figures["statuses"].get("400", 0) > 0,
        "hang-ups": args.cancelled == 0 or sum(load.cancelled.values()) > 0,
        "streams": figures["streamed"] > 0,
        f"texts of {args.pressure:g} times the memory": figures["asked_of_memory"]["most"] >= args.pressure,
        "the check": args.check == 0 or figures["check"]["asked"] >= min(args.check, figures["answers"]) > 0,
    }
    for what in (what for what, shown in showed.items() if not shown):
        load.fail(f"the run was too small to show {what}")


def show(figures):
    ms = lambda key: [f"{figures[key][p] * 1000:.0f} ms" if figures[key][p] is not None else None for p in ("p50", "p95")]
    mib = lambda count: f"{count / 2**20:.1f} MiB"
    print(table(["", ""], [
        ["answers", f"{figures['answers']} in {figures['seconds']:.0f} s, {figures['streamed']} of them streamed"],
        ["requests/s", f"{figures['requests_per_s']:.2f}"],
        ["tokens/s written, read", f"{figures['written_per_s']:.1f}, {figures['read_per_s']:.1f}"],
        ["of the prompts' tokens, known from before", f"{figures['cached_of_read']:.0%}"],
        ["to the first token, p50 and p95", ", ".join(map(str, ms("first_token_s")))],
        ["between tokens, p50 and p95", ", ".join(map(str, ms("between_tokens_s")))],
        ["status", ", ".join(f"{k}: {v}" for k, v in figures["statuses"].items())],
        ["hung up", ", ".join(f"{k}: {v}" for k, v in figures["hung_up"].items())],
        ["KV memory, most", f"{mib(figures['peak_bytes'])} of {mib(figures['memory_bytes'])}"],
        ["asked for at a time", f"{figures['asked_of_memory']['mean']:.1f} times the memory, at most {figures['asked_of_memory']['most']:.1f}"],
        ["put outside", f"{figures['preemptions']} times"],
        ["resident: start, most, end", ", ".join(mib(figures["resident"][key]) for key in ("start", "most", "end"))],
        ["the same when asked alone", f"{figures['check']['same']} of {figures['check']['asked']}, {figures['check']['by_tokens']} of them token by token"],
        ["failures", figures["failed"]],
    ]))  # fmt: skip


def parse():
    parser = parser_of(__doc__, "96MiB")
    share = lambda name, default, what: parser.add_argument(name, type=float, default=default, help=f"{what} (default: {default})")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--check", type=int, default=100, metavar="N", help="answers that are asked again (default: 100)")
    parser.add_argument("--answer", type=int, default=64, help="most tokens of an answer (default: 64)")
    parser.add_argument("--running", type=int, default=32, help="of the server (default: 32)")
    parser.add_argument("--queue", type=int, help="of the server (default: 3/4 of the clients, so that some are told to come back)")
    share("--pressure", 4.0, "KV bytes that all clients ask for at a time, in parts of the memory")
    share("--cancelled", 0.3, "share of the requests that are hung up on")
    share("--shared", 0.3, "share of the requests that begin with one of 8 texts")
    share("--beyond", 0.04, "share of the requests that no memory holds")
    share("--bounded", 0.02, "share of the requests whose text is beyond the memory, in a plan that forgets")
    share("--patience", 660, "seconds after which an answer is taken for lost")
    share("--slack-mib", 256, "MiB that the process may take beside what it had at the start and --memory")
    parser.add_argument("--threads", type=int, help="of the server (default: its own choice)")
    parser.add_argument("--flag", action="append", default=[], metavar="FLAG", help="more for the server: --flag=--prefix-cache=0")
    args = parser.parse_args()
    args.queue = args.queue or max(1, args.clients * 3 // 4)
    return args


def main():
    args = parse()
    stop_well()
    threads = ["--threads", args.threads] if args.threads else []
    flags = ["--running", args.running, "--queue", args.queue, *threads, *args.flag]
    record = record_of("serve-load", args)
    texts = Texts(books.book_paths(args.books))
    with tempfile.TemporaryDirectory() as folder, EunoeServer(args.eunoe, args.model, args.memory, flags, folder=folder) as server:
        texts.measure(server)
        sizes = sizes_of(server)
        load = Load(args, server, Mix(args, texts, sizes))
        resident = {"start": server.resident()}
        asyncio.run(load.run())
        figures = figures_of(load)
        if server.process.poll() is None:
            metrics = at_rest(load, folder)
            resident |= {"most": server.resident("VmHWM"), "end": server.resident()}
            figures |= {"memory_bytes": sizes["memory"], "peak_bytes": metrics["eunoe:kv_bytes_peak"], "resident": resident}
            figures |= {"preemptions": int(metrics["vllm:num_preemptions_total"])}
            if (status := server.end()) != 0:
                load.fail(f"asked to end, the server ended with status {status}")
        else:
            raise SystemExit(f"the server ended under load with status {server.process.returncode}:\n{server.tail()}")
    if resident["most"] > resident["start"] + sizes["memory"] + args.slack_mib * 2**20:
        load.fail(f"resident {resident} of {sizes['memory']} bytes of KV memory")
    figures["check"] = again(args, load, flags)
    has_shown(load, figures, args)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    figures |= {"failed": load.failed, "client_cpu_s": usage.ru_utime + usage.ru_stime}
    record |= {"sizes": sizes, "longest": load.mix.longest, "figures": figures, "failures": load.failures, "timeline": load.timeline}
    write_json(args.json, record)
    show(figures)
    sys.exit(load.failed > 0)


if __name__ == "__main__":
    main()

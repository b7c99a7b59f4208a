"""What the tests of `eunoe serve` share: the server as a process, requests over plain sockets, texts, and figures.

Standard library only, one thread and one connection a request: it runs beside the server on the same cores.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "scripts"), str(ROOT / "bench/peers")]
import books
from machine import machine, program_version
from llama_server import free_port, stop, wait_for

HOST = "127.0.0.1"
# Of an event that is read at once: the record of a memory is the longest.
LIMIT = 1 << 22


def parser_of(doc, memory):
    """What every measurement of the server takes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    books.add_paths(parser, ("--books",))
    parser.add_argument("--eunoe", required=True, help="our program")
    parser.add_argument("--model", default="smollm2-135m", help="name or .gguf (default: %(default)s)")
    parser.add_argument("--memory", default=memory, help="KV memory of the server (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="file to write")
    return parser


def record_of(what, args):
    """What every result begins with: no path of this machine is in it."""
    paths = ("books", "models_dir", "model_path", "eunoe", "llama_server", "json")
    shown = {key: value for key, value in vars(args).items() if key not in paths}
    shown["model"] = Path(args.model).stem if args.model.endswith(".gguf") else args.model
    return {"what": what, "arguments": shown, "machine": machine(), "load_at_start": os.getloadavg()[0],
            "versions": {"eunoe": program_version(args.eunoe)}}  # fmt: skip


class Broken(Exception):
    """The connection ended before the answer did, or what came is no HTTP."""


def stop_well():
    """Asked to end, a script still stops its servers."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class EunoeServer:
    """`eunoe serve` as a context manager, with a folder of its own for what it puts outside of memory."""

    def __init__(self, program, model, memory, flags=(), port=0, folder=None):
        self.port = port or free_port()
        self.argv = [program, "serve", "-m", model, "--port", self.port, "--memory", memory, "--json", *flags]
        self.folder = folder
        self.process = None

    def __enter__(self):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log", errors="replace")
        env = os.environ | ({"TMPDIR": str(self.folder)} if self.folder else {})
        argv = [str(x) for x in self.argv]
        self.process = subprocess.Popen(argv, stdout=self.log, stderr=subprocess.STDOUT, env=env)
        try:
            wait_for(f"http://{HOST}:{self.port}/health", self.process, 120)
        except BaseException:
            stop(self.process)
            print(self.tail(), file=sys.stderr)
            raise
        return self

    def __exit__(self, *_):
        stop(self.process)
        self.log.close()

    def get(self, path):
        with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=60) as reply:
            text = reply.read().decode()
        return json.loads(text) if text.startswith(("{", "[")) else text

    def post(self, path, body):
        """As `get`; anything but 200 raises."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{HOST}:{self.port}{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=600) as reply:
            return json.load(reply)

    def metrics(self):
        """Numbers without labels, by name."""
        lines = (line.split() for line in self.get("/metrics").splitlines() if line and line[0] != "#")
        return {name: float(value) for name, value in (line for line in lines if len(line) == 2) if "{" not in name}

    def resident(self, key="VmRSS"):
        """Bytes of the process in memory; `VmHWM` for the most so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) << 10

    def kill(self):
        """Without a word, as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self, seconds=40):
        """Asks it to end, and gives its exit status."""
        self.process.terminate()
        return self.process.wait(seconds)

    def tail(self, lines=20):
        return "".join(Path(self.log.name).read_text(errors="replace").splitlines(True)[-lines:])


class Answer:
    """What came back: the status, and the body with the time at which each part of it came."""

    def __init__(self):
        self.status, self.headers = None, {}
        self.start, self.end = time.perf_counter(), None
        self.parts = []

    @property
    def seconds(self):
        return self.end - self.start

    def read(self):
        """Takes the body apart: `error` or text, finish reason, tokens, log probabilities, usage, memory, and the times of tokens."""
        self.error = self.text = self.finish = self.usage = self.memory = None
        self.tokens, self.log_probs, self.times, self.is_whole = [], [], [], False
        if "text/event-stream" in self.headers.get("content-type", ""):
            self.text = ""
            for when, event in self.parts:
                self._event(when, event)
        else:
            body = json.loads(b"".join(part for _, part in self.parts) or b"null")
            self.is_whole = True
            self._body(body if isinstance(body, dict) else {}, 0)
        self.parts = []
        return self

    def _event(self, when, event):
        data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
        if data == b"[DONE]":
            self.is_whole = True
        elif data:
            self._body(json.loads(data), when)

    def _body(self, body, when):
        self.error = body.get("error", self.error)
        self.usage = body.get("usage") or self.usage
        self.memory = body.get("memory") or self.memory
        for choice in body.get("choices", ()):
            said = choice.get("delta") or choice.get("message") or {}
            text = choice.get("text") or said.get("content") or ""
            self.text = (self.text or "") + text
            self.finish = choice.get("finish_reason") or self.finish
            self._log_probs(choice.get("logprobs") or {})
            if text:
                self.times.append(when)

    def _log_probs(self, given):
        for step in given.get("content") or ():  # of a chat
            self.tokens.append(step["token"])
            self.log_probs.append(step["logprob"])
        self.tokens += given.get("tokens") or ()  # of a completion
        self.log_probs += given.get("token_logprobs") or ()

    def first(self):
        """Seconds to the first text of a stream."""
        return self.times[0] - self.start if self.times else None

    def gaps(self):
        return [b - a for a, b in zip(self.times, self.times[1:])]


async def ask(port, path, body, answer=None, share=1.0, hard=False):
    """One request on a connection of its own, filling `answer`. Cancelling this closes the socket, `hard` with a reset.

    `share` < 1 sends only that much of the request and waits then, for whoever cancels it.
    """
    answer = answer or Answer()
    reader, writer = await asyncio.open_connection(HOST, port, limit=LIMIT)
    try:
        if hard:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        data = head.encode() + data
        writer.write(data[: int(len(data) * share)])
        await writer.drain()
        await _receive(reader, answer)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise Broken(f"{type(error).__name__}: {error}") from error
    finally:
        writer.transport.abort() if hard else writer.close()
    answer.end = time.perf_counter()
    return answer


async def _receive(reader, answer):
    line = await reader.readline()
    if not line.startswith(b"HTTP/1.1 "):
        raise Broken(f"no status but {line[:80]!r}")
    status = int(line.split()[1])
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        answer.headers[name.lower()] = value.strip()
    answer.status = status
    rest = b""
    async for part in _parts(reader, answer.headers):
        when = time.perf_counter()
        *events, rest = (rest + part).split(b"\n\n") if "text/event-stream" in answer.headers["content-type"] else (part, b"")
        answer.parts += [(when, event) for event in events]


async def _parts(reader, headers):
    if headers.get("transfer-encoding") != "chunked":
        yield await reader.readexactly(int(headers.get("content-length", 0)))
        return
    while size := int(await reader.readline(), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readline()


class Texts:
    """Passages of books, of about so many tokens."""

    def __init__(self, paths, count=12, chars=200_000):
        texts = (path.read_text(encoding="utf-8")[30_000 : 30_000 + chars] for path in paths[:count])  # past the contents
        self.books = [text for text in texts if len(text) > 50_000]
        if not self.books:
            raise SystemExit("no book of 80,000 characters or more")
        self.per_token = 4.0

    def measure(self, server):
        """Characters of a token, from the server's own count."""
        rng, sizes = random.Random(0), []
        for _ in range(12):
            text = self.passage(rng, 8000)
            sizes.append(len(text) / server.post("/tokenize", {"prompt": text})["count"])
        self.per_token = sum(sizes) / len(sizes)

    def passage(self, rng, chars):
        book = rng.choice(self.books)
        chars = min(chars, len(book) // 2)
        start = rng.randrange(len(book) - chars)
        start = book.find(" ", start) + 1
        return book[start : start + chars]

    def of(self, rng, tokens):
        return self.passage(rng, max(4, int(tokens * self.per_token)))


def percentile(values, share):
    """The value at this share of the sorted ones; None of none."""
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def spread(values):
    """Median and 95th percentile, as the results hold them."""
    return {"p50": percentile(values, 0.5), "p95": percentile(values, 0.95), "count": len(values)}


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    text = lambda cell: "–" if cell is None else str(cell).replace("|", "\\|")
    return "\n".join("| " + " | ".join(map(text, cells)) + " |" for cells in lines) + "\n"


def write_json(path, record):
    if path:
        Path(path).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

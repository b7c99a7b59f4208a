#!/usr/bin/env python3
"""llama.cpp's own server on one GGUF model, started, waited for and stopped.

    llama_server.py --server PATH/llama-server --model MODEL.gguf --context 4096 --cache-type-k q8_0 --cache-type-v q8_0

Prints the base address (http://127.0.0.1:PORT/v1) once the model is loaded and runs until interrupted. From another
script: `with LlamaServer(server, model, 4096) as base: …`. One slot, no prompt cache and no context shift, so that an
answer does not depend on what was asked before. Flash attention is off unless asked for or values are quantised, where
llama.cpp demands it. How to build the server: README.md. Python's standard library is enough.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

# Bytes of a block of 32 numbers.
BLOCK_BYTES = {"f16": 64, "q8_0": 34, "q4_0": 18}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def refuse_taken(port):
    """A server that is there already would answer in place of the one that is meant."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError as error:
            raise SystemExit(f"port {port}: {error.strerror}; name another one")


def wait_for(url, process, seconds):
    """Until the address answers 200; gives up when the process ends or time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with status {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"no answer from {url} within {seconds} s")


def stop(process, seconds=10):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class LlamaServer:
    """A context manager that gives the base address."""

    def __init__(
        self, server, model, context, k="f16", v="f16", flash=None, threads=None, port=0, seconds=120, env=None
    ):
        flash = flash or ("off" if v == "f16" else "on")
        if v != "f16" and flash == "off":
            raise SystemExit(f"llama.cpp quantises values (`{v}`) only with flash attention on")
        self.port, self.seconds, self.process, self.env = port or free_port(), seconds, None, env or {}
        self.base = f"http://127.0.0.1:{self.port}/v1"
        self.argv = [str(server), "--model", str(model), "--ctx-size", str(context), "--port", str(self.port)]
        self.argv += ["--host", "127.0.0.1", "--parallel", "1", "--cache-type-k", k, "--cache-type-v", v]
        self.argv += ["--flash-attn", flash, "--no-cache-prompt", "--cache-ram", "0", "--no-context-shift"]
        self.argv += ["--offline", "--no-ui", "--fit", "off", "--alias", f"{Path(model).stem}-llama.cpp-{k}-{v}"]
        if threads:
            self.argv += ["--threads", str(threads), "--threads-batch", str(threads)]

    def __enter__(self):
        refuse_taken(self.port)
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log", errors="replace")
        # Threads that wait by spinning take ten times as long beside a busy neighbour.
        env = os.environ | {"OMP_WAIT_POLICY": "passive"} | self.env
        self.process = subprocess.Popen(self.argv, stdout=self.log, stderr=subprocess.STDOUT, env=env)
        try:
            wait_for(f"http://127.0.0.1:{self.port}/health", self.process, self.seconds)
        except BaseException:
            stop(self.process)
            print("".join(Path(self.log.name).read_text(errors="replace").splitlines(True)[-20:]), file=sys.stderr)
            raise
        return self.base

    def __exit__(self, *_):
        stop(self.process)
        self.log.close()


def kv_bytes(token_numbers, tokens, k="f16", v="f16"):
    """Bytes of so many tokens, each with `token_numbers` numbers in its keys and as many in its values."""
    return token_numbers // 32 * (BLOCK_BYTES[k] + BLOCK_BYTES[v]) * tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found = os.environ.get("LLAMA_SERVER", "llama-server")
    parser.add_argument("--server", default=found, metavar="PATH", help="llama-server (default: $LLAMA_SERVER)")
    parser.add_argument("--model", type=Path, required=True, metavar="MODEL.gguf")
    parser.add_argument("--context", type=int, default=4096, metavar="TOKENS", help="prompt and answer (default: 4096)")
    parser.add_argument("--cache-type-k", choices=BLOCK_BYTES, default="f16")
    parser.add_argument("--cache-type-v", choices=BLOCK_BYTES, default="f16")
    parser.add_argument("--flash", choices=["on", "off"], help="default: on where values are quantised")
    parser.add_argument("--threads", type=int, help="default: llama.cpp's own choice")
    parser.add_argument("--port", type=int, default=8080, help="0: any free one (default: 8080)")
    parser.add_argument("--ask", metavar="PROMPT", help="print the body of one completion of 16 tokens, and stop")
    args = parser.parse_args()
    if not args.model.is_file():
        parser.error(f"no model at `{args.model}`")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    types = args.cache_type_k, args.cache_type_v
    server = LlamaServer(args.server, args.model, args.context, *types, args.flash, args.threads, args.port)
    with server as base:
        print(base, flush=True)
        if args.ask is not None:
            body = json.dumps({"prompt": args.ask, "max_tokens": 16, "temperature": 0}).encode()
            request = urllib.request.Request(f"{base}/completions", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request) as reply:
                return print(reply.read().decode())
        try:
            sys.exit(server.process.wait())
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()

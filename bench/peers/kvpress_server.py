#!/usr/bin/env python3
"""kvpress behind an OpenAI-compatible address: one GGUF model, dequantised, under one press.

    kvpress_server.py --model MODEL.gguf --press snapkv --ratio 0.75 --port 8090
    kvpress_server.py --model MODEL.gguf --press observed_attention --keep 256
    kvpress_server.py --model MODEL.gguf --check-tokens target/release/eunoe TEXT.txt...
    kvpress_server.py --model MODEL.gguf --check-text target/release/eunoe TEXT.txt...

GET /health, GET /v1/models, POST /v1/completions with a string or a list of token ids; greedy only, one request at a
time. Special tokens in the text are read as such. The whole prompt is read under the press, question included, and
trimmed at its end; the first token of the answer still comes from the whole prompt. `--ratio` is kvpress's
compression_ratio, the share that is removed; `--keep` sets it for each prompt so that exactly so many slots stay. An
answer carries `memory`: kept_share and bytes once the prompt is read, counted on the tensors of the cache as if they
were f16 (they are f32), and the most bytes at any moment. `--press h2o` is not kvpress's, but ours by its hooks.

`--check-tokens` compares token ids with ours, `--check-text` the first tokens of greedy answers, ours under `--plan`;
they exit with 1 where something differs.
Needs requirements-kvpress.txt. Needs no network and uses none.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

# Threads that wait by spinning take ten times as long beside a busy neighbour.
os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_WAIT_POLICY": "passive"}

import gguf
import torch
from kvpress import ObservedAttentionPress, SnapKVPress, StreamingLLMPress
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, DynamicCache


@dataclass
class SummedAttentionPress(ObservedAttentionPress):
    """Not kvpress's: `h2o(prefill=dense)` by its hooks, for parity. Sums where theirs averages; protects both ends."""

    recent: int = 1
    sinks: int = 0

    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        scores = attentions.sum(2).view(*keys.shape[:2], -1, keys.shape[2]).sum(2)
        scores[..., keys.shape[2] - self.recent :] = scores[..., : self.sinks] = torch.inf
        return scores


PRESSES = {
    "none": None,
    "streaming_llm": StreamingLLMPress,
    "snapkv": SnapKVPress,
    "observed_attention": ObservedAttentionPress,
    "h2o": SummedAttentionPress,
}
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# tokenizer.ggml.pre → the cuts, each within those before it.
PRE = {"smollm": [r"\p{N}", GPT2], "qwen2": [QWEN2]}
CONTROL, USER = 3, 4
MISSING = "<missing byte>"
ENDS = ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>"]


class Refused(Exception):
    """A request that cannot be answered, and what is said about it."""

    def __init__(self, message, code=None, param=None):
        super().__init__(message)
        self.body = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def read_tokenizer(reader):
    """The file's own vocabulary and merges: transformers' conversion drops the cuts that `smollm` makes at digits."""
    field = {name: reader.fields.get(f"tokenizer.ggml.{name}") for name in ("pre", "tokens", "merges", "token_type")}
    pre = field["pre"].contents() if field["pre"] else "?"
    if pre not in PRE or not field["merges"]:
        raise SystemExit(f"pre-tokenizer `{pre}` is not one of {', '.join(PRE)}")
    tokens, kinds = field["tokens"].contents(), field["token_type"].contents()
    merges = [tuple(merge.split(" ", 1)) for merge in field["merges"].contents()]
    vocab = {token: index for index, token in enumerate(tokens)}
    # Bytes that the vocabulary lacks become a token of their own, dropped later: their neighbours must not merge.
    vocab[MISSING] = len(tokens)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=MISSING))
    cuts = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in PRE[pre]]
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, bytewise])
    tokenizer.decoder = decoders.ByteLevel()
    for kind, special in ((CONTROL, True), (USER, False)):
        named = [token for token, own in zip(tokens, kinds) if own == kind]
        tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token in named])
    return tokenizer


class Rival:
    """One model under one press."""

    def __init__(self, path, press="none", ratio=0.0, keep=None, threads=None, ends=None):
        self.press, self.ratio, self.keep, self.given = press, ratio, keep, ends or {}
        self.name = f"{path.stem}-kvpress-{press}" + (f"-keep-{keep}" if keep else f"-ratio-{ratio}" if ratio else "")
        if threads:
            torch.set_num_threads(threads)
        reader = gguf.GGUFReader(path)
        self.tokenizer = read_tokenizer(reader)
        eos = reader.fields["tokenizer.ggml.eos_token_id"].contents()
        self.ends = {eos, *(i for i in map(self.tokenizer.token_to_id, ENDS) if i is not None)}
        # Its score is the attention itself, which the fused kernels do not give.
        attention = "eager" if press in ("observed_attention", "h2o") else "sdpa"
        self.model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation=attention, local_files_only=True
        ).eval()
        self.context = self.model.config.max_position_embeddings

    def encode(self, text):
        missing = self.tokenizer.token_to_id(MISSING)
        return [token for token in self.tokenizer.encode(text, add_special_tokens=False).ids if token != missing]

    def decode(self, tokens):
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def pressed(self, length):
        """The press for a prompt of so many tokens, as a context; kvpress keeps int(length · (1 - ratio))."""
        if self.press == "none" or self.keep is not None and self.keep >= length:
            return contextlib.nullcontext()
        ratio = self.ratio if self.keep is None else 1 - (self.keep + 0.5) / length
        press = PRESSES[self.press](compression_ratio=ratio, **self.given)
        kept = int(length * (1 - ratio))
        least = sum(getattr(press, name, 0) for name in ("window_size", "n_sink", "recent", "sinks"))
        if kept <= least:
            raise Refused(f"{self.press} keeps {kept} of {length} tokens, more than {least} are needed", "too_short")
        return press(self.model)

    @torch.inference_mode()
    def complete(self, tokens, most, stop=()):
        """Greedy: (tokens, text, finish reason, memory)."""
        if len(tokens) + most > self.context:
            message = f"{len(tokens)} tokens of prompt and {most} of answer exceed the window of {self.context}"
            raise Refused(message, "context_length_exceeded", "prompt")
        if not tokens or most < 1:
            raise Refused("a prompt of at least one token and max_tokens of at least 1 are needed")
        cache, start = DynamicCache(), time.perf_counter()
        with self.pressed(len(tokens)):
            logits = self.model(torch.tensor([tokens]), past_key_values=cache, logits_to_keep=1).logits
        memory = self.memory(cache, len(tokens)) | {"prefill_s": time.perf_counter() - start}
        written, text, reason, start = [], "", "length", time.perf_counter()
        while len(written) < most:
            chosen = int(logits[0, -1].argmax())
            if chosen in self.ends:
                reason = "stop"
                break
            written.append(chosen)
            text = self.decode(written)
            at = min((i for i in map(text.find, stop) if i >= 0), default=-1)
            if at >= 0:
                text, reason = text[:at], "stop"
                break
            # Without position_ids the model would go on from the number of slots that are left.
            position = torch.tensor([[len(tokens) + len(written) - 1]])
            logits = self.model(torch.tensor([[chosen]]), past_key_values=cache, position_ids=position).logits
        memory["decode_s"] = time.perf_counter() - start
        memory["peak_bytes"] = max(memory["peak_bytes"], f16_bytes(cache))
        return written, text, reason, memory

    def memory(self, cache, length):
        """What the tensors of the cache hold once the prompt is read, as if they were f16."""
        slots = [layer.keys.shape[1] * layer.keys.shape[2] for layer in cache.layers]
        whole = [layer.keys.shape[1] * length for layer in cache.layers]
        slot_bytes = f16_bytes(cache) // sum(slots)
        # A layer is trimmed as soon as it has read the prompt, so at the peak only one is whole.
        peak = max(sum(slots[:i]) + whole[i] for i in range(len(slots)))
        return {
            "press": self.press,
            "kept": cache.layers[0].keys.shape[2],
            "kept_share": sum(slots) / sum(whole),
            "kv_bytes_if_f16": f16_bytes(cache),
            "peak_bytes": slot_bytes * peak,
        }


def f16_bytes(cache):
    return 2 * sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)


def answer(rival, request):
    """The body of a completion."""
    fixed = {"temperature": 0, "n": 1, "best_of": 1, "stream": False, "echo": False, "logprobs": None, "suffix": None}
    for name, only in fixed.items():
        if request.get(name) not in (only, None):
            raise Refused(f"`{name}` can only be {json.dumps(only)} here", param=name)
    prompt = request.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if isinstance(prompt, str):
        prompt = rival.encode(prompt)
    elif not isinstance(prompt, list) or not all(isinstance(token, int) for token in prompt):
        raise Refused("`prompt` is one text or one list of token ids", param="prompt")
    stop, most = request.get("stop") or [], request.get("max_tokens")
    stop = [stop] if isinstance(stop, str) else stop
    written, text, reason, memory = rival.complete(prompt, 16 if most is None else most, stop)
    read, made = len(prompt), len(written)
    return {
        "id": f"cmpl-{time.time_ns():x}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": rival.name,
        "choices": [{"index": 0, "text": text, "finish_reason": reason, "logprobs": None}],
        "usage": {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made},
        "memory": memory,
    }


def handler(rival):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def send(self, status, body):
            body = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def missing(self):
            self.send(404, {"error": {"message": f"no {self.path}", "type": "not_found", "param": None, "code": None}})

        def do_GET(self):
            if self.path == "/v1/models":
                model = {"id": rival.name, "object": "model", "created": 0, "owned_by": "kvpress"}
                self.send(200, {"object": "list", "data": [model]})
            elif self.path == "/health":
                self.send(200, {"status": "ok"})
            else:
                self.missing()

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path != "/v1/completions":
                return self.missing()
            try:
                request = json.loads(body)
                if not isinstance(request, dict):
                    raise Refused("the body is one JSON object")
                self.send(200, answer(rival, request))
            except Refused as refused:
                self.send(400, refused.body)
            except ValueError as error:
                self.send(400, Refused(f"not JSON: {error}").body)

        def log_message(self, form, *args):
            pass

    return Handler


def pieces(file):
    """Whole lines, about 48,000 characters each."""
    piece, size = [], 0
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        piece.append(line)
        size += len(line)
        if size > 48_000:
            yield "".join(piece)
            piece, size = [], 0
    yield "".join(piece)


def check_tokens(rival, model, eunoe, files):
    """Our ids against theirs; `eunoe tokenize` reads special tokens as plain text, so a space is put into them."""
    differing, count = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for piece in (piece for file in files for piece in pieces(file)):
            piece, file = piece.replace("<|", "< |"), Path(folder) / "piece.txt"
            file.write_bytes(piece.encode())
            argv = [eunoe, "tokenize", "-m", str(model), "--file", str(file), "--json"]
            ours = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)["tokens"]
            theirs = rival.encode(piece)
            count += len(ours)
            if ours != theirs:
                at = parting(ours, theirs)
                print(f"token {at} of a piece: eunoe {ours[at:at + 6]}, here {theirs[at:at + 6]}")
                differing += 1
    print(f"{count} tokens, {differing} pieces differ")
    return differing == 0


def parting(ours, theirs):
    """How many tokens are the same from the start."""
    return next((i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]), min(len(ours), len(theirs)))


def check_text(rival, model, eunoe, files, plan="full", exact=True, prompts=10, tokens=32):
    """Greedy continuations of passages, ours under a plan: how many tokens agree."""
    equal = 0
    for number in range(prompts):
        text = Path(files[number % len(files)]).read_text(encoding="utf-8")
        start = text.find("\n\n", len(text) * (number + 1) // (prompts + 1)) + 2
        passage = text[start : start + 600 * (1 + number % 3)].rstrip()
        if number % 2 and rival.tokenizer.token_to_id("<|im_start|>") is not None:
            passage = f"<|im_start|>user\n{passage}<|im_end|>\n<|im_start|>assistant\n"
        argv = [eunoe, "run", "-m", str(model), "--raw", "--kv", plan, "-n", str(tokens), "--json", passage]
        ours = json.loads(subprocess.run(argv + ["--exact"] * exact, check=True, capture_output=True).stdout)
        read = rival.encode(passage)
        written, theirs, _, _ = rival.complete(read, tokens)
        same, agree = parting(rival.encode(ours["text"]), written), ours["text"] == theirs
        equal += agree and len(read) == ours["usage"]["prompt_tokens"]
        told = "equal" if agree else f"part after {same} tokens: {ours['text'][-40:]!r}, here {theirs[-40:]!r}"
        print(f"prompt {number}, {len(read)} tokens (ours {ours['usage']['prompt_tokens']}): {told}")
    print(f"{equal} of {prompts} answers of {tokens} tokens agree")
    return equal == prompts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", type=Path, metavar="TEXT.txt", help="with --check-tokens or --check-text")
    parser.add_argument("--model", type=Path, required=True, metavar="MODEL.gguf")
    parser.add_argument("--press", choices=PRESSES, default="none")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--ratio", type=float, default=0.0, metavar="R", help="share that is removed, 0 to below 1")
    size.add_argument("--keep", type=int, metavar="N", help="slots per layer and KV head that stay, instead of a share")
    parser.add_argument("--recent", type=int, help="with --press h2o: newest tokens that stay")
    parser.add_argument("--sinks", type=int, help="with --press h2o: first tokens that stay")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090, help="0: any free one (default: 8090)")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--check-tokens", metavar="EUNOE", help="the eunoe executable")
    parser.add_argument("--check-text", metavar="EUNOE", help="the eunoe executable")
    parser.add_argument("--plan", default="full", help="with --check-text: our memory plan (default: full)")
    parser.add_argument("--fast", action="store_true", help="with --check-text: our default arithmetic, not --exact")
    args = parser.parse_args()
    if not 0 <= args.ratio < 1 or args.keep is not None and args.keep < 1:
        parser.error("--ratio is from 0 to below 1, --keep at least 1")
    if (args.press == "none") != (args.keep is None and args.ratio == 0):
        parser.error("a press needs --ratio or --keep, and --press none takes neither")
    if (args.check_text or args.check_tokens) and not args.texts:
        parser.error("--check-tokens and --check-text need texts")
    if not args.model.is_file():
        parser.error(f"no model at `{args.model}`")
    ends = {name: value for name in ("recent", "sinks") if (value := getattr(args, name)) is not None}
    if ends and args.press != "h2o":
        parser.error("--recent and --sinks are for --press h2o: kvpress's own presses have fixed ones")
    rival = Rival(args.model, args.press, args.ratio, args.keep, args.threads, ends)
    if args.check_tokens:
        sys.exit(0 if check_tokens(rival, args.model, args.check_tokens, args.texts) else 1)
    if args.check_text:
        sys.exit(0 if check_text(rival, args.model, args.check_text, args.texts, args.plan, not args.fast) else 1)
    server = HTTPServer((args.host, args.port), handler(rival))
    print(f"http://{args.host}:{server.server_port}/v1", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()

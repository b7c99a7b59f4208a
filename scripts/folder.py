"""A GGUF model (`llama`, `qwen2`) as a folder: config.json, tokenizer.json, tokenizer_config.json, safetensors.

    python scripts/folder.py MODEL.gguf FOLDER [--dtype F32|F16|BF16] [--shards N] [--eunoe PROGRAM --text FILE]

Written from the formats' descriptions, as a check of how Eunoe reads folders: weights are dequantised to f32 and rounded once,
and rows of `llama`'s queries and keys go back from neighbours to halves, which folders rotate.

With --eunoe, the program reads both. Exit status 1: a token id of the text or a greedy answer differs, or in exact mode a
logprob by more than 1e-3 (with --dtype F32; smaller types lose more).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from reference import ADJACENT, ROPE_PAIRS, Reference

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LOGPROB_LIMIT, CONTEXT = 1e-3, 200

CONTROL, USER = 3, 4
# kinds of GGUF tokens that stand for nothing: rows of the embedding without a token
UNUSED = 5

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(cuts):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": cuts}


def split(numbers):
    return {
        "type": "Split",
        "pattern": {"Regex": WORDS + numbers + REST},
        "behavior": "Isolated",
        "invert": False,
    }


PRE = {
    "smollm": [{"type": "Digits", "individual_digits": True}, byte_level(True)],
    "qwen2": [split(r"\p{N}"), byte_level(False)],
    "llama-bpe": [split(r"\p{N}{1,3}"), byte_level(False)],
    "gpt-2": [byte_level(True)],
}


def folder_name(name):
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("blk."):
        _, layer, part = stem.split(".")
        return f"model.layers.{layer}.{LAYER[part]}.{kind}"
    return f"{TOP[stem]}.{kind}"


def halves(rows, head_dim):
    """[h · d, …], pairs (0, 1)(2, 3)… of every head → pairs (0, d/2)(1, d/2 + 1)…"""
    heads = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)


def rounded(values, dtype):
    if dtype == "BF16":  # to nearest, ties to even
        bits = values.view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return values.astype("<f4" if dtype == "F32" else "<f2")


def values(model, name):
    """Dequantised, as folders have them."""
    found = model.weight(name)
    if ROPE_PAIRS[model.arch] == ADJACENT and name.split(".")[-2] in ("attn_q", "attn_k"):
        return halves(found, model.head_dim)
    return found


def write_safetensors(path, model, names, dtype):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        shape = [int(n) for n in reversed(model.tensors[name].shape)]
        size = int(np.prod(shape)) * (4 if dtype == "F32" else 2)
        header[folder_name(name)] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(rounded(values(model, name), dtype).tobytes())


def config(model):
    field = model.reader.fields
    return {
        "model_type": model.arch,
        "hidden_size": model.d_model,
        "intermediate_size": model.meta("feed_forward_length"),
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": model.meta("context_length"),
        "rms_norm_eps": model.eps,
        "rope_theta": model.rope_base,
        "vocab_size": model.vocab,
        "tie_word_embeddings": "output.weight" not in model.tensors,
        "hidden_act": "silu",
        **{f"{x}_token_id": field[f"tokenizer.ggml.{x}_token_id"].contents() for x in ("bos", "eos")},
    }


def tokenizer(field):
    texts = field["tokenizer.ggml.tokens"].contents()
    kinds = field["tokenizer.ggml.token_type"].contents()
    added = [
        {"id": i, "content": text, "special": kind == CONTROL, "normalized": False}
        for i, (text, kind) in enumerate(zip(texts, kinds))
        if kind in (CONTROL, USER)
    ]
    apart = {x["id"] for x in added}
    vocab = {t: i for i, (t, kind) in enumerate(zip(texts, kinds)) if kind != UNUSED and i not in apart}
    pre = PRE[field["tokenizer.ggml.pre"].contents()]
    merges = field["tokenizer.ggml.merges"].contents()
    return {
        "version": "1.0",
        "added_tokens": [{**x, "single_word": False, "lstrip": False, "rstrip": False} for x in added],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre},
        "post_processor": None,
        "decoder": byte_level(True),
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": pre is PRE["llama-bpe"]},
    }


def differences(eunoe, models, text):
    def both(command, *args):
        runs = [[eunoe, command, "-m", str(model), *args, "--json"] for model in models]
        return [json.loads(subprocess.run(run, check=True, capture_output=True).stdout) for run in runs]

    there, here = (x["tokens"] for x in both("tokenize", "--file", text))
    if there != here:
        yield f"{sum(a != b for a, b in zip(there, here))} of {len(there)} token ids, {len(here)} in the folder"
    ids = ",".join(map(str, there[:CONTEXT]))
    tops = both("logits", "--exact", "--top", "1000000", "--tokens", ids)
    there, here = ({c["token"]: c["logprob"] for c in x["top"]} for x in tops)
    far = max(abs(there[token] - here.get(token, -np.inf)) for token in there)
    print(f"{len(there)} logprobs after {CONTEXT} tokens: at most {far:.1e} apart")
    if far > LOGPROB_LIMIT:
        yield f"a logprob by {far:.1e}, limit {LOGPROB_LIMIT:.0e}"
    there, here = (x["text"] for x in both("run", "--exact", "-n", "40", "Name three rivers of Europe."))
    if there != here:
        yield f"the answer: {there!r}, from the folder {here!r}"


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("model")
    args.add_argument("folder", type=Path)
    args.add_argument("--dtype", choices=["F32", "F16", "BF16"], default="F32")
    args.add_argument("--shards", type=int, default=1)
    args.add_argument("--eunoe", help="the program that reads both")
    args.add_argument("--text", help="a text for it")
    args = args.parse_args()
    if bool(args.eunoe) != bool(args.text):
        raise SystemExit("--eunoe and --text go together")
    model = Reference(args.model, keep=False)
    field = model.reader.fields
    args.folder.mkdir(parents=True, exist_ok=True)
    files = ["model.safetensors"]
    if args.shards > 1:
        files = [f"model-{i + 1:05}-of-{args.shards:05}.safetensors" for i in range(args.shards)]
    names = list(model.tensors)
    for i, file in enumerate(files):
        write_safetensors(args.folder / file, model, names[i :: args.shards], args.dtype)
    said = {"config.json": config(model), "tokenizer.json": tokenizer(field), "tokenizer_config.json": {}}
    if args.shards > 1:
        where = {folder_name(name): files[i % args.shards] for i, name in enumerate(names)}
        said["model.safetensors.index.json"] = {"metadata": {}, "weight_map": where}
    if template := field.get("tokenizer.chat_template"):
        said["tokenizer_config.json"] = {"chat_template": template.contents()}
    for name, what in said.items():
        (args.folder / name).write_text(json.dumps(what, ensure_ascii=False), encoding="utf-8")
    found = list(differences(args.eunoe, (args.model, args.folder), args.text)) if args.eunoe else []
    for what in found:
        print(f"DIFFERS: {what}", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()

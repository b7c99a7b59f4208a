"""Our float reference: the forward pass of a GGUF model, written from the equations, in numpy.

Weights are dequantised to f32 and stay there; matrix products are f32; norms, rotations and softmax are computed in f64
and rounded once. Nothing is quantised on the way, no cache, no batching: every row attends to the rows before it.

Architectures: `llama`, `qwen2`, `gemma3`. Anything else is refused.
Axis letters: t rows, m model dim, h heads, g query heads of one KV head, d head dim, v vocabulary.
"""

import argparse

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

# Pairs that RoPE rotates together: (0,1)(2,3)… or (0,d/2)(1,d/2+1)….
ADJACENT, HALVES = "adjacent", "halves"
ROPE_PAIRS = {"llama": ADJACENT, "qwen2": HALVES, "gemma3": HALVES}

# Not in the file where the key is missing: the architecture's published constants.
GEMMA3_LAYERS_PER_GLOBAL = 6
GEMMA3_LOCAL_ROPE_BASE = 10000.0


class Reference:
    """One model. `keep=False` dequantises at every use instead of holding f32 weights (slow, little memory)."""

    def __init__(self, path, keep=True):
        self.path = str(path)
        self.reader = GGUFReader(self.path)
        self.tensors = {t.name: t for t in self.reader.tensors}
        self.keep, self.kept = keep, {}
        self.arch = self.reader.fields["general.architecture"].contents()
        if self.arch not in ROPE_PAIRS:
            raise ValueError(f"architecture `{self.arch}` is not one of {sorted(ROPE_PAIRS)}")
        self.layers = self.meta("block_count")
        self.d_model = self.meta("embedding_length")
        self.heads = self.meta("attention.head_count")
        self.kv_heads = self.meta("attention.head_count_kv", self.heads)
        self.head_dim = self.meta("attention.key_length", self.d_model // self.heads)
        self.eps = self.meta("attention.layer_norm_rms_epsilon")
        self.rope_dim = self.meta("rope.dimension_count", self.head_dim)
        self.rope_base = self.meta("rope.freq_base", 10000.0)
        scaling = self.meta("rope.scaling.type", "none")
        if scaling not in ("none", "linear"):
            raise ValueError(f"rope scaling `{scaling}` is not one of none, linear")
        self.rope_factor = self.meta("rope.scaling.factor", 1.0) if scaling == "linear" else 1.0
        self.window = self.meta("attention.sliding_window", None) if self.arch == "gemma3" else None
        self.layers_per_global = self.meta("attention.sliding_window_pattern", GEMMA3_LAYERS_PER_GLOBAL)
        self.softcap = self.meta("final_logit_softcapping", None)
        self.output = "output.weight" if "output.weight" in self.tensors else "token_embd.weight"
        self.vocab = len(self.tensors["token_embd.weight"].data)

    def meta(self, key, *default):
        field = self.reader.fields.get(f"{self.arch}.{key}")
        if field is not None:
            return field.contents()
        if default:
            return default[0]
        raise KeyError(f"{self.path} has no `{self.arch}.{key}`")

    def weight(self, name):
        """f32, [out, in] for matrices, [n] for vectors."""
        if name not in self.kept:
            tensor = self.tensors[name]
            value = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
            if not self.keep:
                return value
            self.kept[name] = value
        return self.kept[name]

    def embed(self, tokens):
        """[t] → [t, m], only the rows asked for."""
        table = self.tensors["token_embd.weight"]
        x = dequantize(table.data[np.asarray(tokens)], table.tensor_type).astype(np.float32)
        return x * np.float32(np.sqrt(self.d_model)) if self.arch == "gemma3" else x

    def is_local(self, layer):
        return self.window is not None and (layer + 1) % self.layers_per_global != 0

    def norm(self, x, name):
        """x / sqrt(mean x² + eps) · weight over the last axis."""
        wide = x.astype(np.float64)
        scale = 1.0 / np.sqrt(np.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (wide * scale * self.weight(name)).astype(np.float32)

    def linear(self, x, stem):
        y = x @ self.weight(f"{stem}.weight").T
        bias = f"{stem}.bias"
        return y + self.weight(bias) if bias in self.tensors else y

    def rotate(self, x, layer):
        """RoPE on [t, h, d]: pair i of row t turns by t · base^(-2i/rope_dim) / factor."""
        base, factor = (GEMMA3_LOCAL_ROPE_BASE, 1.0) if self.is_local(layer) else (self.rope_base, self.rope_factor)
        pairs = self.rope_dim // 2
        freq = base ** (-np.arange(pairs) * 2.0 / self.rope_dim) / factor
        if "rope_freqs.weight" in self.tensors:
            freq = freq / self.weight("rope_freqs.weight")
        angle = np.arange(len(x))[:, None, None] * freq
        cos, sin = np.cos(angle), np.sin(angle)
        adjacent = ROPE_PAIRS[self.arch] == ADJACENT
        first = slice(0, self.rope_dim, 2) if adjacent else slice(0, pairs)
        second = slice(1, self.rope_dim, 2) if adjacent else slice(pairs, self.rope_dim)
        out = x.copy()
        a, b = x[..., first].astype(np.float64), x[..., second].astype(np.float64)
        out[..., first] = a * cos - b * sin
        out[..., second] = a * sin + b * cos
        return out

    def attend(self, q, k, v, layer, on_attn, tile=256):
        """Causal attention, q [t, h, d], k and v [t, h_kv, d] → [t, h·d].

        `on_attn(layer, kv_head, start, low, attn)` sees every tile of probabilities, attn [g, rows, keys]: row i is
        query `start + i`, column j is key `low + j`.
        """
        t, group = len(q), self.heads // self.kv_heads
        out = np.empty_like(q)
        scale = np.float32(1.0 / np.sqrt(self.head_dim))
        for start in range(0, t, tile):
            end = min(start + tile, t)
            low = max(0, start - self.window + 1) if self.is_local(layer) else 0
            rows, keys = np.arange(start, end)[:, None], np.arange(low, end)[None, :]
            hidden = keys > rows
            if self.is_local(layer):
                hidden = hidden | (rows - keys >= self.window)
            for h in range(self.kv_heads):
                mine = slice(h * group, (h + 1) * group)
                scores = (q[start:end, mine] * scale).transpose(1, 0, 2) @ k[low:end, h].T
                scores = np.where(hidden, -np.inf, scores.astype(np.float64))
                scores -= scores.max(axis=-1, keepdims=True)
                np.exp(scores, out=scores)
                scores /= scores.sum(axis=-1, keepdims=True)
                attn = scores.astype(np.float32)
                if on_attn:
                    on_attn(layer, h, start, low, attn)
                out[start:end, mine] = (attn @ v[low:end, h]).transpose(1, 0, 2)
        return out.reshape(t, -1)

    def gate(self, x):
        """SiLU, or GELU in its tanh form for gemma3."""
        if self.arch == "gemma3":
            inner = np.float32(np.sqrt(2.0 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
            return np.float32(0.5) * x * (1 + np.tanh(inner))
        with np.errstate(over="ignore"):  # exp(-x) = inf gives the right limit, -0
            return x / (1 + np.exp(-x))

    def hidden(self, tokens, on_attn=None):
        """The last layer's rows after the output norm: [t] → [t, m]."""
        x = self.embed(tokens)
        t, gemma = len(x), self.arch == "gemma3"
        for layer in range(self.layers):
            blk = f"blk.{layer}."
            y = self.norm(x, blk + "attn_norm.weight")
            q = self.linear(y, blk + "attn_q").reshape(t, self.heads, self.head_dim)
            k = self.linear(y, blk + "attn_k").reshape(t, self.kv_heads, self.head_dim)
            v = self.linear(y, blk + "attn_v").reshape(t, self.kv_heads, self.head_dim)
            if gemma:
                q = self.norm(q, blk + "attn_q_norm.weight")
                k = self.norm(k, blk + "attn_k_norm.weight")
            y = self.attend(self.rotate(q, layer), self.rotate(k, layer), v, layer, on_attn)
            y = self.linear(y, blk + "attn_output")
            x = x + (self.norm(y, blk + "post_attention_norm.weight") if gemma else y)
            y = self.norm(x, blk + "ffn_norm.weight")
            y = self.gate(self.linear(y, blk + "ffn_gate")) * self.linear(y, blk + "ffn_up")
            y = self.linear(y, blk + "ffn_down")
            x = x + (self.norm(y, blk + "post_ffw_norm.weight") if gemma else y)
        return self.norm(x, "output_norm.weight")

    def project(self, rows):
        """[t, m] → logits [t, v]."""
        logits = rows @ self.weight(self.output).T
        if self.softcap:
            logits = self.softcap * np.tanh(logits / self.softcap)
        return logits

    def logit_tiles(self, tokens, rows=64):
        """Yields (start, logits [≤ rows, v]) so that t × v never has to be held."""
        x = self.hidden(tokens)
        for start in range(0, len(x), rows):
            yield start, self.project(x[start : start + rows])

    def logits(self, tokens):
        """[t] → [t, v], f32."""
        return self.project(self.hidden(tokens))


def log_softmax(logits):
    """f64 over the last axis."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def main():
    args = argparse.ArgumentParser(description="Top next tokens of the float reference.")
    args.add_argument("model")
    args.add_argument("--tokens", required=True, help="comma-separated ids")
    args.add_argument("--top", type=int, default=10)
    args = args.parse_args()
    reference = Reference(args.model)
    last = reference.hidden([int(t) for t in args.tokens.split(",")])[-1:]
    logprobs = log_softmax(reference.project(last))[0]
    for token in np.argsort(-logprobs)[: args.top]:
        print(f"{token}\t{logprobs[token]:.6f}")


if __name__ == "__main__":
    main()

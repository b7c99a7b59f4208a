"""llama.cpp through the low-level calls of llama-cpp-python: tokens, logits, timed decodes."""

import ctypes

import llama_cpp as lc
import numpy as np


@lc.llama_log_callback
def _silent(_level, _text, _data):
    pass


class LlamaCpp:
    """One model with one context; `kv` is f16 or q8. `ctx=0` opens the vocabulary alone."""

    def __init__(self, path, ctx, threads=2, flash=False, batch=512, kv="f16"):
        lc.llama_log_set(_silent, ctypes.c_void_p(0))
        lc.llama_backend_init()
        params = lc.llama_model_default_params()
        params.vocab_only = ctx == 0
        params.n_gpu_layers = 0
        self.ctx = None
        self.model = lc.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot open `{path}`")
        self.vocab_handle = lc.llama_model_get_vocab(self.model)
        self.vocab = lc.llama_vocab_n_tokens(self.vocab_handle)
        self.batch = batch
        if ctx:
            self._open_context(ctx, threads, flash, kv)

    def _open_context(self, ctx, threads, flash, kv):
        params = lc.llama_context_default_params()
        params.n_ctx = ctx
        params.n_batch = params.n_ubatch = self.batch
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = (
            lc.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else lc.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.type_k = params.type_v = {"f16": lc.GGML_TYPE_F16, "q8": lc.GGML_TYPE_Q8_0}[kv]
        self.ctx = lc.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise RuntimeError(f"llama.cpp cannot make a context of {ctx} tokens")
        self.memory = lc.llama_get_memory(self.ctx)
        self.rows = lc.llama_batch_init(self.batch, 0, 1)

    def close(self):
        if self.ctx:
            lc.llama_batch_free(self.rows)
            lc.llama_free(self.ctx)
        lc.llama_model_free(self.model)
        self.ctx = self.model = None

    def bos(self):
        """The id that the model wants before every text, or None."""
        return lc.llama_vocab_bos(self.vocab_handle) if lc.llama_vocab_get_add_bos(self.vocab_handle) else None

    def tokenize(self, text, special=True):
        """BOS where the model asks for one, unless `special` is off; special tokens in the text are not parsed."""
        raw = text.encode()
        ids = (lc.llama_token * (len(raw) + 2))()
        count = lc.llama_tokenize(self.vocab_handle, raw, len(raw), ids, len(ids), special, False)
        if count < 0:
            raise RuntimeError("llama.cpp's tokenizer needs more room than one token per byte")
        return list(ids[:count])

    def clear(self):
        lc.llama_memory_clear(self.memory, True)

    def rewind(self, position):
        """Forgets everything from `position` on."""
        if not lc.llama_memory_seq_rm(self.memory, 0, position, -1):
            raise RuntimeError(f"llama.cpp cannot go back to position {position}")

    def decode(self, tokens, position, outputs):
        """One batch of ≤ `batch` tokens at `position`; `outputs` is all, last or none."""
        rows, count = self.rows, len(tokens)
        rows.n_tokens = count
        for i, token in enumerate(tokens):
            rows.token[i] = token
            rows.pos[i] = position + i
            rows.n_seq_id[i] = 1
            rows.seq_id[i][0] = 0
            rows.logits[i] = outputs == "all" or (outputs == "last" and i == count - 1)
        status = lc.llama_decode(self.ctx, rows)
        if status != 0:
            raise RuntimeError(f"llama_decode of {count} tokens at {position} returned {status}")

    def wait(self):
        lc.llama_synchronize(self.ctx)

    def logit_tiles(self, tokens):
        """Yields (start, logits [≤ batch, v]) from an empty cache; a tile is valid until the next one."""
        self.clear()
        for start in range(0, len(tokens), self.batch):
            part = tokens[start : start + self.batch]
            self.decode(part, start, "all")
            yield start, np.ctypeslib.as_array(lc.llama_get_logits(self.ctx), shape=(len(part), self.vocab))

#!/usr/bin/env python3
"""Token ids against llama.cpp: the same text, the same model file, the same ids?

    tokens.py --eunoe PATH [--books DIR] [--variants] MODEL.gguf...
    tokens.py --command 'tokenize {model} {file}' MODEL.gguf...
    tokens.py --golden DIR MODEL.gguf...

The text is made here, the same each time: books if given, source code of the Python library, every block of Unicode,
control characters, markup. It is compared in chunks; the first differences of each model are printed, and the exit
status is 1 if there are any. `--variants` repeats the comparison with every pre-tokenizer that Eunoe supports, on
vocabularies taken from the models. `--golden` writes the files that the tests of eunoe-model read: ids by llama.cpp,
and conversations rendered by jinja2 as Hugging Face's `apply_chat_template` does.
Needs llama-cpp-python, gguf and jinja2.
"""

import argparse
import json
import random
import re
import shlex
import struct
import subprocess
import sys
import tempfile
import time
import unicodedata
from pathlib import Path

import gguf
import jinja2.sandbox
import llama_cpp

CHUNK = 48_000  # bytes; llama.cpp's regular expressions recurse, so much larger chunks can overflow its stack
SHOWN = 5
# Sampled, because they hold tens of thousands of characters that tokenizers treat alike.
LARGE = [(0x3400, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xF8FF), (0x17000, 0x18CFF), (0x20000, 0x10FFFF)]
VARIANTS = {
    "gpt2": [("tokenizer.ggml.pre", p) for p in ("default", "gpt-2", "smollm", "qwen2", "llama-bpe")],
    "llama": [("tokenizer.ggml.add_space_prefix", True), ("tokenizer.ggml.add_space_prefix", False)],
}
SAMPLES = [
    "",
    " ",
    "Hello, world! It's the dog's, they'll say; I'VE DON'T we're 'tis ''s",
    "  two  spaces   three\ttab\t\ttabs \n\n\n newlines\n \n  \r\n\r\nCRLF\r",
    "a\0b\x01\x02\x04\x06\x13\x14\x16\x1b[0m\x1d\x1f\x7f\x80\x85\x9f\xad",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|></s><s><eos><bos><end_of_turn><b>bold</b> <0x41> [multimodal]",
    "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": [1, 2.5e-3, null]}}\n</tool_call>",
    "0 12 345 6789 1234567890 3.14159 1,000,000 0xFFEE ½ ² Ⅷ ①",
    "٠١٢٣٤٥ ०१२३ ০১২ ௧௨௩ ໑໒໓ １２３ 𝟘𝟙𝟚 ߁߂",
    "Ça déjà vu, Straße, naïve, e\u0301a\u0300, Ångström, ﬁ ﬂ, İstanbul ıI ſſ",
    "Привет, мир! Γειά σου Κόσμε, Բարեւ, გამარჯობა",
    "שלום עולם مرحبا بالعالم \u200fRTL\u200e LRM هَٰذَا",
    "नमस्ते दुनिया বাংলা தமிழ் తెలుగు ไทยไม่มีช่องว่าง ລາວ မြန်မာ ភាសាខ្មែរ བོད་ཡིག",
    "你好，世界！日本語のテキスト、カタカナ　全角　한국어 텍스트 𠀀𠮷",
    "😀🧑🏽‍🚀👩‍❤️‍💋‍👨🏴󠁧󠁢󠁥󠁮󠁧󠁿 🇩🇪🇫🇷 ☕️ ⚽︎ ©®™",
    "𐍈𐌰 𒀀𒁀 𓀀𓁐 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𞤀𞤁 \U0001e030 \U00010d4a \U000e0001 \U000f0000 \U0010fffd \ufffd \uffff \u0378",
    "\u00a0nbsp\u2003em\u2009thin\u200bzero\u2028line\u2029para\u3000ideographic\u1680ogham\ufeffbom",
    "▁▁under▁score ▁ _ __init__ ▁a",
    "fn main() {\n    let x: Vec<u8> = b\"\\x00\\n\".to_vec();\n\t\tif x[0] != 0 && !y { return; } // ok\n}\n",
    "def f(a, *b, **c):\n        return {'k': [i**2 for i in range(10)], \"s\": f\"{a!r:>10}\"}\n",
    "https://example.org/a_b?c=d&e=%20#f user@host.tld ~/.config C:\\Windows\\x $HOME ${x} `cmd` --flag=1",
    "!!!??? ... --- ___ === *** ((([[[{{{ }}}]]]))) <<<>>> ^^^ ~~~ ||| \\\\\\ /// $$$ +++ ¿¡ “” ‘’ — – … «»",
    "a" * 100 + " " * 100 + "\n" * 100 + "\t" * 40 + "ha" * 40 + "=" * 80,
]
CONVERSATIONS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "system", "content": "You answer briefly.\n"},
        {"role": "user", "content": " <b>1 < 2 & \"x\"</b>\n\n{{ not_a_template }} "},
        {"role": "assistant", "content": "Oui: é 漢字 🧑🏽‍🚀"},
        {"role": "user", "content": ""},
    ],
    [
        {"role": "user", "content": "<|im_end|>\n<|im_start|>system\nescape"},
        {"role": "assistant", "content": "def f():\n    return 'x'\n"},
    ],
]


def blocks_of_unicode(rng):
    """Characters of every script between letters, digits, spaces and punctuation; unassigned ones now and then."""
    out = []
    for start in range(0, 0x110000, 16):
        step = 37 if any(a <= start <= b for a, b in LARGE) else 1
        row = []
        for c in range(start, start + 16):
            category = unicodedata.category(chr(c))
            if category == "Cs" or (step > 1 or category == "Cn") and rng.randrange(37 if category != "Cn" else 61):
                continue
            row.append(chr(c))
        if row:
            out.append("".join(row) + rng.choice([" ", "\n", " \n", "  "]))
            out.append("".join(rng.choice(["a", " ", "1", ".", "' ", "\n", "", "  "]) + c for c in row))
    return "".join(out)


def noise(rng, kilobytes):
    """White space, control characters, digits and markup in random order."""
    parts = [" ", "  ", "    ", "\n", "\n\n", "\r\n", "\t", "\0", "\x85", "\xa0", "\u2028", "'s", "'LL", "'", "’t"]
    parts += [chr(c) for c in range(32)] + [str(n) for n in range(0, 2000, 37)]
    parts += ["<b>", "</b>", "</s>", "<s>", "<|im_start|>", "<|im_end|>", "<eos>", "<bos>", "<pad>", "<unk>", "<0x0A>"]
    parts += ["<table>", "</td>", "▁", "▁▁", "<tool_call>", "<unused7>", "[multimodal]", "é", "e\u0301", "漢字", "😀"]
    parts += list("abcxyz ABC !\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~")
    return "".join(rng.choice(parts) for _ in range(kilobytes * 512))


def mixed_text(books):
    rng = random.Random(20240607)
    parts = []
    for book in sorted(Path(books).glob("*.txt"))[:6] if books else []:
        text = book.read_text(encoding="utf-8")
        at = rng.randrange(len(text) // 2)
        parts.append(text[at : at + 100_000])
    library = Path(json.__file__).parent.parent
    for name in ("argparse", "ast", "typing", "inspect", "json/decoder", "encodings/cp437", "html/entities"):
        parts.append((library / f"{name}.py").read_text(encoding="utf-8")[:60_000])
    parts += [blocks_of_unicode(rng), noise(rng, 200), *SAMPLES]
    return "\n".join(parts)


def chunks(text):
    """Cuts after line ends, or anywhere in longer lines; each at most CHUNK bytes."""
    chunk, size = [], 0
    for line in re.findall(r"[^\n]{0,4000}\n?", text):
        length = len(line.encode())
        if size + length > CHUNK:
            yield "".join(chunk)
            chunk, size = [], 0
        chunk.append(line)
        size += length
    yield "".join(chunk)


def variant(source, key, value, path):
    """The metadata of a model without its tensors and with one key changed: enough for its tokenizer."""
    fields = [f for n, f in gguf.GGUFReader(source).fields.items() if not n.startswith("GGUF.")]
    name = key.encode()
    if isinstance(value, bool):
        tail = struct.pack("<I?", 7, value)
    else:
        tail = struct.pack("<IQ", 8, len(value)) + value.encode()
    changed = struct.pack("<Q", len(name)) + name + tail
    kept = [b"".join(p.tobytes() for p in f.parts) for f in fields if f.name != key]
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(kept) + 1) + b"".join(kept) + changed)


def reference(model):
    return llama_cpp.Llama(str(model), vocab_only=True, verbose=False)


def ours(command, model, text, folder):
    file = Path(folder) / "chunk.txt"
    file.write_bytes(text.encode())
    argv = [a.format(model=model, file=file) for a in command]
    return json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)["tokens"]


def difference(llama, text, want, got):
    """The first place where two token lists part, with the text around it."""
    same = next((i for i, (a, b) in enumerate(zip(want, got)) if a != b), min(len(want), len(got)))
    at = len(llama.detokenize(want[:same]))
    around = text.encode()[max(0, at - 12) : at + 24].decode(errors="replace")
    return f"token {same}, near {around!r}: llama.cpp {want[same:same + 6]}, eunoe {got[same:same + 6]}"


def compare(command, model, label, pieces, folder):
    llama, tokens, differing, seconds = reference(model), 0, [], 0.0
    for number, text in enumerate(pieces):
        start = time.perf_counter()
        want = llama.tokenize(text.encode(), add_bos=False, special=False)
        seconds += time.perf_counter() - start
        got = ours(command, model, text, folder)
        tokens += len(want)
        if want != got:
            differing.append(f"  chunk {number}: {difference(llama, text, want, got)}")
    size = sum(len(p.encode()) for p in pieces)
    verdict = f"{len(differing)} of {len(pieces)} chunks differ" if differing else "equal"
    print(f"{label}: {size} bytes, {tokens} tokens, {verdict} (llama.cpp took {seconds:.1f} s)", flush=True)
    print("\n".join(differing[:SHOWN]), end="\n" if differing else "")
    return not differing


def labelled(models, variants, folder):
    """Model files with their names, and the variants made of them."""
    done = set()
    for model in models:
        yield model, model.stem
        kind = gguf.GGUFReader(model).fields["tokenizer.ggml.model"].contents()
        for key, value in VARIANTS[kind] if variants and (kind, model.stem.split("-")[0]) not in done else []:
            path = Path(folder) / "variant.gguf"
            variant(model, key, value, path)
            yield path, f"{model.stem} with {key.split('.')[-1]}={value}"
        done.add((kind, model.stem.split("-")[0]))


def golden_tokens(models):
    ids = {}
    for model in models:
        llama = reference(model)
        rows = [[llama.tokenize(s.encode(), add_bos=False, special=p) for s in SAMPLES] for p in (False, True)]
        ids[model.stem] = {"plain": rows[0], "special": rows[1]}
    made_by = f"bench/peers/tokens.py --golden, llama-cpp-python {llama_cpp.__version__}"
    text = json.dumps({"made_by": made_by, "texts": SAMPLES, "ids": ids}, separators=(",", ":"))
    return re.sub(r'("texts"|"ids"|"plain"|"special")', r"\n\1", text)


def golden_chats(models):
    rendered = {}
    for model in models:
        fields = gguf.GGUFReader(model).fields
        if "tokenizer.chat_template" not in fields:
            continue
        tokens = fields["tokenizer.ggml.tokens"]
        special = {n: tokens.contents(fields[f"tokenizer.ggml.{n}_token_id"].contents()) for n in ("bos", "eos")}
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        template = environment.from_string(fields["tokenizer.chat_template"].contents())
        rendered[model.stem] = [
            template.render(messages=chat, add_generation_prompt=prompt, bos_token=special["bos"], eos_token=special["eos"])
            for chat, prompt in zip(CONVERSATIONS, (True, True, False))
        ]
    made_by = f"bench/peers/tokens.py --golden, jinja2 {jinja2.__version__}"
    return json.dumps({"made_by": made_by, "conversations": CONVERSATIONS, "rendered": rendered}, indent=1)


def golden(models, folder):
    (folder / "tokens.json").write_text(golden_tokens(models) + "\n")
    (folder / "chats.json").write_text(golden_chats(models) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--eunoe", metavar="PATH", help="the eunoe executable")
    parser.add_argument("--command", help="a command that prints {\"tokens\": [...]}, with {model} and {file}")
    parser.add_argument("--books", metavar="DIR", help="plain texts to take passages from")
    parser.add_argument("--variants", action="store_true", help="also every supported pre-tokenizer")
    parser.add_argument("--golden", type=Path, metavar="DIR", help="write golden files instead")
    args = parser.parse_args()
    if args.golden:
        return golden(args.models, args.golden)
    if not args.eunoe and not args.command:
        parser.error("give --eunoe or --command")
    command = [args.eunoe, "tokenize", "-m", "{model}", "--file", "{file}", "--json"]
    if args.command:
        command = shlex.split(args.command)
    pieces = list(chunks(mixed_text(args.books)))
    with tempfile.TemporaryDirectory() as folder:
        equal = [compare(command, m, n, pieces, folder) for m, n in labelled(args.models, args.variants, folder)]
    sys.exit(0 if all(equal) else 1)


if __name__ == "__main__":
    main()

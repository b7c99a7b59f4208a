"""Where the scripts find models and books, and which part of a book they read."""

import hashlib
import os
from pathlib import Path

MODELS = ["smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b", "gemma3-270m"]


def add_paths(parser, names=("--models-dir", "--books")):
    """`--models-dir` and `--books`, with `$EUNOE_MODELS` and `$EUNOE_BOOKS` as defaults."""
    for flag, variable, what in [
        ("--models-dir", "EUNOE_MODELS", "folder of NAME.gguf files"),
        ("--books", "EUNOE_BOOKS", "folder of UTF-8 .txt books"),
    ]:
        if flag not in names:
            continue
        default = os.environ.get(variable)
        parser.add_argument(flag, default=default, required=default is None, help=f"{what} (default: ${variable})")


def model_path(folder, name):
    """A path to a .gguf stays one; a name is looked up in the folder."""
    path = Path(name) if name.endswith(".gguf") else Path(folder) / f"{name}.gguf"
    if not path.is_file():
        raise SystemExit(f"no model at `{path}`: pass --models-dir or a path that ends in .gguf")
    return path


def book_paths(folder):
    paths = sorted(Path(folder).glob("*.txt"))
    if not paths:
        raise SystemExit(f"no .txt books in `{folder}`")
    return paths


def passage(path, at=0.5, chars=20000):
    """Text from the first paragraph that starts after the share `at` of the book."""
    text = path.read_text(encoding="utf-8")
    start = int(len(text) * at)
    paragraph = text.find("\n\n", start)
    start = start if paragraph < 0 else paragraph + 2
    return text[start : start + chars]


def window(path, tokenize, length, at=0.5):
    """Exactly `length` tokens of the passage at `at`; a leading BOS, where the model wants one, counts."""
    tokens = tokenize(passage(path, at, chars=length * 8))
    if len(tokens) < length:
        raise SystemExit(f"`{path.name}` has only {len(tokens)} tokens after {at:.0%}, {length} are needed")
    return tokens[:length]


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

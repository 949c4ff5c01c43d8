"""Writes the quickstart's data: docstrings of the standard library and a tokenizer of their own.

python quickstart_data.py OUT_DIR makes OUT_DIR/train.jsonl and OUT_DIR/tokenizer, the same for
the same Python. Sources are parsed and never imported: importing a module may do anything. Four
long samples stand late in the file, so that the quickstart meets them after it has made progress.
"""

from __future__ import annotations

import ast
import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

VOCABULARY = 8192
SAMPLES = 256
LONG_SAMPLES = 4
LONG_FROM = 0.63  # where in the file the first long sample stands
LONG_APART = 9
# Alike in length, so that every regular batch is about as large as the first.
REGULAR_TOKENS = (252, 288)  # before the prompt, which takes a few more
LONG_TOKENS = 560  # more than the quickstart's sequence of 512, which cuts them
END = "<|end|>"
PAD = "<|pad|>"
SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "turtledemo"}


def docstrings(library: Path) -> Iterator[tuple[str, str, str]]:
    """Module, name and docstring of everything documented in the library."""
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if SKIPPED.intersection(parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                text = ast.get_docstring(node)
                if text and len(text) > 60:
                    yield module, getattr(node, "name", "the module"), text


def train_tokenizer(texts: list[str], folder: Path) -> object:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return tokenizer


def grouped(docs: list[tuple[str, str, str]], sizes: list[int]) -> Iterator[dict[str, str]]:
    """Neighbouring docstrings of one module, gathered until a sample is about full."""
    module, total, parts = "", 0, []
    for (owner, name, text), size in zip(docs, sizes, strict=True):
        if owner != module or total + size > REGULAR_TOKENS[1]:
            if total >= REGULAR_TOKENS[0]:
                yield {"prompt": f"What is in {module}?\n", "completion": "\n\n".join(parts)}
            module, total, parts = owner, 0, []
        if size <= REGULAR_TOKENS[1]:
            total += size
            parts.append(f"{name}: {text}")


def choose(docs: list[tuple[str, str, str]], tokenizer: object) -> list[dict[str, str]]:
    """Regular samples in an even spread over the library, and the long ones in their places."""
    lines = [f"{name}: {text}\n\n" for _, name, text in docs]
    encode = tokenizer.encode_batch  # type: ignore[attr-defined]
    sizes = [len(one.ids) for one in encode(lines)]
    regular = list(grouped(docs, sizes))
    long = [
        {"prompt": f"What is {owner}.{name}?\n", "completion": text}
        for (owner, name, text), size in zip(docs, sizes, strict=True)
        if size >= LONG_TOKENS
    ]
    wanted = SAMPLES - LONG_SAMPLES
    if len(regular) < wanted or len(long) < LONG_SAMPLES:
        raise SystemExit("error: this Python's library has too few docstrings for the quickstart")
    chosen = [regular[at * len(regular) // wanted] for at in range(wanted)]
    for at in range(LONG_SAMPLES):
        place = int(SAMPLES * LONG_FROM) + at * LONG_APART
        chosen.insert(place, long[at * len(long) // LONG_SAMPLES])
    return chosen


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit("usage: python quickstart_data.py OUT_DIR")
    out = Path(sys.argv[1])
    docs = list(dict.fromkeys(docstrings(Path(sysconfig.get_path("stdlib")))))
    tokenizer = train_tokenizer([text for _, _, text in docs], out / "tokenizer")
    rows = choose(docs, tokenizer)
    with (out / "train.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"wrote {len(rows)} samples and a tokenizer to {out}")


if __name__ == "__main__":
    main()

"""Writes files that only their owner reads, whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

_LONGEST_LINE = 100


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents; the folder itself is for its owner alone."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def write_text(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace `path` by `text` atomically; a reader sees the old file or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON, atomically."""
    write_text(path, _laid_out(value) + "\n")


def _laid_out(value: Any, indent: str = "") -> str:
    """JSON as people like to read it: what fits into one line, and holds no more, stands in one."""
    inner = indent + " "
    if isinstance(value, dict):
        begin, end, held = "{", "}", list(value.values())
        rows = [f"{json.dumps(str(k))}: {_laid_out(v, inner)}" for k, v in value.items()]
    elif isinstance(value, (list, tuple)):
        begin, end, held = "[", "]", list(value)
        rows = [_laid_out(item, inner) for item in held]
    else:
        return json.dumps(value)
    line = ", ".join(rows)
    if len(line) <= _LONGEST_LINE and not any(isinstance(v, (dict, list, tuple)) for v in held):
        return begin + line + end
    block = f",\n{inner}".join(rows)
    return f"{begin}\n{inner}{block}\n{indent}{end}"


def read_json(path: Path, at_most_bytes: int = 16 * 2**20) -> Any:
    """Return what a JSON file holds, or None when it is missing, broken or far too large."""
    try:
        if path.stat().st_size > at_most_bytes:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None

"""Reads and writes the files of a run: the owner's alone, whole, and never through a link."""

import contextlib
import errno
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

_LONGEST_LINE = 100


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents; the folder itself is for its owner alone."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not is_real_folder(folder):
        raise OSError(errno.ENOTDIR, "a link or a file lies where a folder is wanted", str(folder))


def is_real_folder(path: Path) -> bool:
    """Return whether a folder lies there, and no link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def open_plain(path: Path, flags: int = os.O_RDONLY, links: bool = False) -> int:
    """Return a descriptor of an ordinary file; raises OSError for a link, a pipe or a device.

    With `links` the path is one the owner named, and a link to an ordinary file is one too.

    A training may put any of them where we look: a pipe would be waited for, a device never ends,
    and a link leads to what is not the run's.
    """
    flags |= 0 if links else os.O_NOFOLLOW
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is no ordinary file", str(path))


def is_plain(path: Path) -> bool:
    """Return whether an ordinary file lies there."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def size_of(path: Path) -> int:
    """Return the bytes of an ordinary file; raises OSError where there is none."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
    return found.st_size


def read_plain(path: Path, at_most_bytes: int, links: bool = False) -> bytes:
    """Return what an ordinary file holds; raises OSError for any other, and for one too large."""
    with os.fdopen(open_plain(path, links=links), "rb") as file:
        held = file.read(at_most_bytes + 1)
    if len(held) > at_most_bytes:
        raise OSError(errno.EFBIG, "it is far too large", str(path))
    return held


def remove_tree(folder: Path) -> None:
    """Remove a folder and all below it, as far as that can be done; links are not followed."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:  # a training may nest folders deeper than Python does
        command = ["rm", "-rf", "--", str(folder)]  # absolute, and so no option
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(command, timeout=60, check=False, stderr=subprocess.DEVNULL)


def write_text(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace `path` by `text` atomically; a reader sees the old file or the new one.

    So does whoever comes after a power cut: that it is the new one takes a `sync` of its folder.
    """
    if not is_real_folder(path.parent):
        raise OSError(errno.ENOTDIR, "a link lies in the place of its folder", str(path))
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # whatever it is: it may lead somewhere, or be waited for
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def sync(path: Path) -> None:
    """Put a file, or the names that a folder holds, on disk, so that a power cut finds it there.

    Some network file systems cannot do that for a folder; then it is left to them.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


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


def read_json(path: Path, at_most_bytes: int = 16 * 2**20, links: bool = False) -> Any:
    """Return what a JSON file holds, or None when it is missing, broken or far too large."""
    try:
        return json.loads(read_plain(path, at_most_bytes, links).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None

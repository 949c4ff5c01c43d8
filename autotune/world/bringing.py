"""Copies a checkpoint of another run among those of this one; the source is only ever read."""

import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autotune.world import checkpoints
from autotune.world.files import is_real_folder, make_folder, open_plain, remove_tree, write_json

CHUNK_BYTES = 64 * 2**20  # between two looks whether somebody wants an end
_DRAFT = ".arriving"


def bring(
    source: Path, into: Path, written: Mapping[str, Any], wants_end: Callable[[], bool]
) -> bool:
    """Make a whole checkpoint in `into` of the one at `source`, at once or not at all.

    It is a copy, not a link: what a training does to its files must not reach another run's.
    `written` are the JSON files that take the place of the source's, by name; our last file is
    one of them. Done before, it is left as it is. Returns False where `wants_end` cut it short;
    raises OSError.
    """
    target, draft = into / source.name, into / _DRAFT
    if isinstance(checkpoints.inspect(target), checkpoints.Checkpoint):
        return True
    remove_tree(draft)
    odd = checkpoints.odd_entry(source)
    if odd or not is_real_folder(into):
        raise OSError(errno.EINVAL, odd or "a link lies in the place of a folder", str(source))
    whole = draft / source.name
    for place, _, names in os.walk(source):
        folder = whole / Path(place).relative_to(source)
        make_folder(folder)
        for name in names:
            if name == checkpoints.BEGUN or (folder == whole and name in written):
                continue
            if not _copy(Path(place) / name, folder / name, wants_end):
                remove_tree(draft)
                return False
        _sync(folder)
    for name, value in written.items():
        write_json(whole / name, value)
    whole.rename(target)
    _sync(into)
    remove_tree(draft)
    return True


def _copy(source: Path, target: Path, wants_end: Callable[[], bool]) -> bool:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.ExitStack() as held:
        reads = open_plain(source)
        held.callback(os.close, reads)
        writes = os.open(target, flags, 0o600)
        held.callback(os.close, writes)
        while _some(reads, writes):
            if wants_end():
                return False
        os.fsync(writes)
    return True


def _some(reads: int, writes: int) -> int:
    """Copy some bytes on, shared between the two files where the file system can; 0 at the end."""
    try:
        return os.copy_file_range(reads, writes, CHUNK_BYTES)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return os.sendfile(writes, reads, None, CHUNK_BYTES)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

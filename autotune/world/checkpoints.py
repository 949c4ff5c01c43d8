"""Which checkpoints of a run are whole, judged by their files and never by loading them."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autotune.world.files import is_real_folder, make_folder, read_json, read_plain, remove_tree

SENTINEL = "autotune-complete.json"  # written last, after a barrier over all ranks
BEGUN = "autotune-begun.json"  # written first, and removed after the last
STATE = "trainer_state.json"  # what HF Trainer counts
ASIDE = "set-aside"  # folder beside the checkpoints, for those that are not started from any more
PLAIN = ("optimizer.pt", "scheduler.pt")  # what a training without DeepSpeed goes on from
MOST_FOLDERS = 64  # in one checkpoint
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint folder."""

    path: Path
    step: int
    attempt: int | None


def step_of(folder: Path) -> int | None:
    """Return N of a folder named `checkpoint-N`."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else None


def inspect(folder: Path) -> Checkpoint | str:
    """Return the checkpoint in `folder`, or the sentence why it cannot be started from."""
    step = step_of(folder)
    if step is None or folder.is_symlink() or not folder.is_dir():
        return "it is not a folder named checkpoint-N"
    sentinel = read_json(folder / SENTINEL)
    if not isinstance(sentinel, dict) or sentinel.get("step") != step:
        return "its last file was not written"
    state = read_json(folder / STATE)
    if not isinstance(state, dict) or state.get("global_step") != step:
        return "trainer_state.json is missing or names another step"
    missing = _missing_shards(folder, sentinel)
    if missing:
        return missing
    attempt = sentinel.get("attempt")
    return Checkpoint(folder, step, attempt if isinstance(attempt, int) else None)


def _missing_shards(folder: Path, sentinel: dict[str, object]) -> str | None:
    if sentinel.get("plain") is True:
        missing = [name for name in PLAIN if not (folder / name).is_file()]
        return f"`{missing[0]}` is missing" if missing else None
    try:
        tag = read_plain(folder / "latest", 1000).decode().strip()
    except (OSError, UnicodeDecodeError):
        return "`latest`, which names the optimizer's shards, is missing"
    if not re.fullmatch(r"global_step\d+(_universal)?", tag):
        return "`latest` names no step"
    if not is_real_folder(folder / tag):
        return "the folder that `latest` names is not there"
    shards = [f for f in (folder / tag).glob("*_optim_states.pt") if _holds_bytes(f)]
    world = sentinel.get("world_size")
    if len(shards) != world:
        return f"{len(shards)} of {world} optimizer shards are there"
    return None


def _holds_bytes(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except OSError:  # a link that leads nowhere
        return False


def odd_entry(folder: Path) -> str:
    """Return what lies there that no save writes: a link, a pipe, a maze of folders; or nothing."""
    looked = [folder]
    for place in looked:
        if not is_real_folder(place):
            return f"{place.name} is no folder"
        for entry in os.scandir(place):
            if entry.is_dir(follow_symlinks=False):
                looked.append(Path(entry.path))
            elif not entry.is_file(follow_symlinks=False):
                return f"{entry.name} is no ordinary file"
        if len(looked) > MOST_FOLDERS:
            return "it holds more folders than a save makes"
    return ""


def newest(folder: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint below `folder`."""
    return next(whole(folder), None)


def whole(folder: Path) -> Iterator[Checkpoint]:
    """Yield the whole checkpoints below `folder`, newest first."""
    if not is_real_folder(folder):
        return  # a link would lead to another run's
    candidates = sorted(
        (f for f in folder.glob("checkpoint-*") if step_of(f) is not None),
        key=lambda f: step_of(f) or 0,
        reverse=True,
    )
    for candidate in candidates:
        found = inspect(candidate)
        if isinstance(found, Checkpoint):
            yield found


def set_aside(checkpoint: Path, by: str) -> Path:
    """Move a checkpoint where neither we nor the trainer look for one, and return that place.

    `by` tells who did it. Done before, as by a supervisor that died after it, it is left as it is.
    """
    place = checkpoint.parent / ASIDE / f"{checkpoint.name}-by-{by}"
    if checkpoint.is_dir() and not place.exists():
        make_folder(place.parent)
        checkpoint.rename(place)
    return place


def remove_broken(folder: Path, newer_than: int) -> list[str]:
    """Remove half-written checkpoints that this run began after step `newer_than`.

    A trainer saving into such a folder would mix its files with the old ones. Only folders that
    say a save of ours began there, and did not end, are touched. Returns their names.
    """
    removed: list[str] = []
    if not is_real_folder(folder):
        return removed
    for candidate in folder.glob("checkpoint-*"):
        step = step_of(candidate)
        if step is None or step <= newer_than or candidate.is_symlink():
            continue
        if (candidate / BEGUN).is_file() and not (candidate / SENTINEL).exists():
            remove_tree(candidate)
            removed.append(candidate.name)
    return removed

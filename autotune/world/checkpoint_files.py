"""Tells by its files alone what a checkpoint in HF Trainer's layout holds, and whether all of it.

Nothing is ever loaded: safetensors files say how long they are, and torch's end with a directory.
"""

import json
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.world.checkpoints import (
    BEGUN,
    PLAIN,
    SENTINEL,
    STATE,
    Checkpoint,
    inspect,
    odd_entry,
    step_of,
)
from autotune.world.files import is_plain, is_real_folder, open_plain, read_json, read_plain

_SHARD = re.compile(r"(bf16_)?zero_pp_rank_(\d{1,6})_mp_rank_(\d{2})_optim_states\.pt")
_RANDOM = re.compile(r"rng_state_(\d{1,6})\.pth")
_WHOLE_WEIGHTS = (
    "model.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "adapter_model.bin",
)  # fmt: skip
_WEIGHT_LISTS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_LONGEST_HEADER = 100 * 10**6  # bytes, as safetensors itself allows
_PICKLE = 0x80  # begins what torch wrote before it took to archives


@dataclass(frozen=True)
class Layout:
    """One whole checkpoint, as its files tell."""

    path: Path
    step: int
    world_size: int
    zero_stage: int  # 0: without DeepSpeed; 2 where it is 1 or 2, which save the same files
    bf16: bool  # whether DeepSpeed says so in the names of its shards
    adapter_rank: int | None  # None: no adapters
    mark: Mapping[str, Any]  # our own last file; empty where another tool saved alone
    model_config: Mapping[str, Any] | None
    bytes: int


class _NotWhole(Exception):
    """The sentence why a checkpoint cannot be gone on from."""


def read_layout(folder: Path) -> Layout | str:
    """Return what `folder` holds, or the sentence why no training can go on from it."""
    try:
        return _layout(folder)
    except _NotWhole as error:
        return str(error)
    except OSError as error:
        return f"{Path(str(error.filename or folder)).name} cannot be read ({error.strerror})"


def _layout(folder: Path) -> Layout:
    step = step_of(folder)
    if step is None:
        raise _NotWhole("it is not named checkpoint-N")
    odd = odd_entry(folder)
    if odd:
        raise _NotWhole(odd)
    mark = _mark(folder)
    state = read_json(folder / STATE)
    if not isinstance(state, dict) or state.get("global_step") != step:
        raise _NotWhole("trainer_state.json is missing or names another step")
    files = [Path(place) / name for place, _, names in os.walk(folder) for name in names]
    torn = next((one.name for one in files if not _is_whole(one)), None)
    if torn is not None:
        raise _NotWhole(f"{torn} is cut off")
    randoms = len([one for one in files if one.parent == folder and _RANDOM.fullmatch(one.name)])
    if (folder / "latest").exists():
        world, stage, bf16 = _shards(folder)
        if randoms > world:
            raise _NotWhole(f"{world} of {randoms} optimizer shards are there")
    else:
        world, stage, bf16 = max(1, randoms), 0, False
        _need_whole_tensors(folder)
    adapters, config = (read_json(folder / n) for n in ("adapter_config.json", "config.json"))
    rank = adapters.get("r") if isinstance(adapters, dict) else None
    return Layout(
        path=folder,
        step=step,
        world_size=world,
        zero_stage=stage,
        bf16=bf16,
        adapter_rank=rank if isinstance(rank, int) else None,
        mark=mark,
        model_config=config if isinstance(config, dict) else None,
        bytes=sum(one.lstat().st_size for one in files),
    )


def _mark(folder: Path) -> Mapping[str, Any]:
    """Return what our own last file says; a save of ours that did not come to it is refused."""
    mark = read_json(folder / SENTINEL)
    if isinstance(mark, dict):
        found = inspect(folder)
        if not isinstance(found, Checkpoint):
            raise _NotWhole(found)
        return mark
    if (folder / BEGUN).exists():
        raise _NotWhole("its last file was not written")
    return {}


def _shards(folder: Path) -> tuple[int, int, bool]:
    """Return world size, ZeRO stage and whether in bf16, of what DeepSpeed saved."""
    try:
        tag = read_plain(folder / "latest", 1000).decode().strip()
    except UnicodeDecodeError:
        tag = ""
    if not re.fullmatch(r"global_step\d{1,12}", tag) or not is_real_folder(folder / tag):
        raise _NotWhole("`latest` does not name DeepSpeed's folder of a step")
    names = sorted(one.name for one in (folder / tag).iterdir())
    found = [match for match in map(_SHARD.fullmatch, names) if match]
    if not found:
        raise _NotWhole("DeepSpeed left no optimizer shards in it, so it is only a model")
    if any(match[3] != "00" for match in found):
        raise _NotWhole("its tensors are cut for tensor parallelism, which nothing here carries")
    ranks = {int(match[2]) for match in found}
    missing = set(range(max(ranks) + 1)) - ranks
    if missing:
        raise _NotWhole(f"the optimizer shard of rank {min(missing)} is missing")
    per_rank = any(re.fullmatch(r"(bf16_)?zero_pp_rank_.*_model_states\.pt", n) for n in names)
    if not per_rank and "mp_rank_00_model_states.pt" not in names:
        raise _NotWhole("DeepSpeed's model states are missing")
    return len(ranks), 3 if per_rank else 2, found[0][1] is not None


def _need_whole_tensors(folder: Path) -> None:
    """Refuse a checkpoint without DeepSpeed that lacks weights, optimizer or schedule."""
    for name in PLAIN:
        if not is_plain(folder / name):
            text = f"`{name}` is missing: a model alone is no training to go on with; name it as "
            raise _NotWhole(text + "the model instead")
    if any(is_plain(folder / name) for name in _WHOLE_WEIGHTS):
        return
    for name in _WEIGHT_LISTS:
        listed = read_json(folder / name)
        named = listed.get("weight_map") if isinstance(listed, dict) else None
        if isinstance(named, dict):
            _need_each(folder, map(str, named.values()))
            return
    raise _NotWhole("it holds no weights")


def _need_each(folder: Path, names: Iterable[str]) -> None:
    missing = next((one for one in sorted(set(names)) if not is_plain(folder / one)), None)
    if missing is not None:
        raise _NotWhole(f"{missing} is missing")


def _is_whole(path: Path) -> bool:
    """Return whether a file of tensors has its end; of any other kind nothing is known."""
    if path.suffix == ".safetensors":
        return _whole_safetensors(path)
    if path.suffix not in (".pt", ".pth", ".bin"):
        return True
    with os.fdopen(open_plain(path), "rb") as file:
        return file.read(1) == bytes([_PICKLE]) or zipfile.is_zipfile(file)


def _whole_safetensors(path: Path) -> bool:
    """Return whether the file is as long as its header says."""
    with os.fdopen(open_plain(path), "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _LONGEST_HEADER:
            return False
        raw = file.read(length)
        size = os.fstat(file.fileno()).st_size
    try:
        header = json.loads(raw)
        ends = [int(one["data_offsets"][1]) for n, one in header.items() if n != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return False
    return size == 8 + length + max(ends, default=0)

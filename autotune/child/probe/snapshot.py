"""Writes down what fills the memory of a rank that was refused some, where the owner asks for it.

On CUDA it is what torch's own `_dump_snapshot` writes, for its viewer (pytorch.org/memory_viz):
every block, and the newest of the allocations before, recorded from the moment CUDA is used. On the
CPU torch keeps no such record: there it is a JSON file with the largest tensors that Python holds.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
from typing import Any

from . import events, figures, last_words, moments, room, settings, state

ENTRY_BYTES = 400  # of one recorded allocation in the file, with its stack; a rough guess is enough
MOST_GROUPS = 4096  # of tensors alike in shape, type and device


class TooLarge(Exception):
    """More was written than may be."""


def listen() -> None:
    """Where it is asked for, record from here on and write at a refusal."""
    if settings.get("snapshot_bytes"):
        moments.on("armed", record)
        moments.on("refused", refused)
        moments.on("ending", lambda error: refused(error, state.phase))


def record() -> None:
    """Let CUDA's allocator keep its newest steps, once CUDA is used; never to begin with it."""
    torch = sys.modules["torch"]
    if not hasattr(torch, "cuda"):
        return
    entries = max(1000, settings.get("snapshot_bytes") // ENTRY_BYTES)

    def begin() -> None:
        torch.cuda.memory._record_memory_history(
            context="alloc", stacks="python", max_entries=entries
        )

    torch.cuda._lazy_call(begin)


def refused(error: BaseException | None, phase: str) -> None:
    """Write the file of this rank; a later refusal's takes its place."""
    if error is None or getattr(error, "autotune_shown", False) or not room.is_refusal(error):
        return
    with contextlib.suppress(AttributeError):
        error.autotune_shown = True  # type: ignore[attr-defined]
    most, cuda = int(settings.get("snapshot_bytes")), figures.cuda_in_use()
    if cuda is None:
        name = f"snapshot-rank{state.rank()}.json"
        content, left_out = of_host(error, phase, most)
        write(name, most, lambda file: file.write(content))
    else:
        name = f"snapshot-rank{state.rank()}.pickle"
        left_out = of_cuda(name, cuda, most)
    size = os.path.getsize(os.path.join(folder(), name))
    events.emit("snapshot", file=name, bytes=size, left_out=left_out)


def folder() -> str:
    """The attempt's, which holds the folder of the events."""
    return os.path.dirname(str(settings.get("events")))


def write(name: str, most: int, put: Any) -> None:
    """Let `put` write into a file of the owner's alone, whole or not at all; raises TooLarge."""
    draft = os.path.join(folder(), name + ".draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as raw:
            put(Bounded(raw, most))
        os.replace(draft, os.path.join(folder(), name))
    except BaseException:
        os.unlink(draft)
        raise


class Bounded:
    """A file that takes `most` bytes."""

    def __init__(self, file: Any, most: int) -> None:
        self._file = file
        self._left = most

    def write(self, data: Any) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge("the snapshot is larger than its bound")
        return int(self._file.write(data))


# ---------------------------------------------------------------------------------------- CUDA


def of_cuda(name: str, cuda: Any, most: int) -> str:
    """Write torch's snapshot, shortened until it fits; the sentence of what was left out."""
    import pickle  # the form torch's viewer reads; torch has imported it

    found = cuda.memory._snapshot()
    recorded = sum(map(len, found.get("device_traces", ())))
    while True:
        try:
            write(name, most, lambda file: pickle.dump(found, file))
            break
        except TooLarge:
            if not shorten(found):
                raise
    kept = sum(map(len, found.get("device_traces", ())))
    left = [f"all but the newest {kept} of {recorded} recorded events"] if kept < recorded else []
    left += ["where each block was allocated"] if found.get("shortened") else []
    return ", and ".join(left)


def shorten(found: dict[str, Any]) -> bool:
    """Drop the older half of what was recorded, at last the stacks; False: nothing is left to."""
    traces = found.get("device_traces", [])
    if any(traces):
        found["device_traces"] = [one[(len(one) + 1) // 2 :] for one in traces]
        return True
    if found.get("shortened"):
        return False
    found["shortened"] = True
    for segment in found.get("segments", ()):
        for part in (segment, *segment.get("blocks", ())):
            part["frames"] = []
    return True


# ----------------------------------------------------------------------------------------- host


def of_host(error: BaseException, phase: str, most: int) -> tuple[bytes, str]:
    """The JSON of what this process holds, and the sentence of what was left out."""
    import resource

    groups, tensors, size = tensors_alike()
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    told = {
        "time": time.time(),
        "rank": state.rank(),
        "step": state.step,
        "phase": phase,
        "error": last_words.of(error),
        "memory": figures.memory(),
        "limit_before_bytes": room.limit_before(),
        "hard_limit_bytes": None if hard == resource.RLIM_INFINITY else hard,
        "soft_limit_bytes": None if soft == resource.RLIM_INFINITY else soft,
        "tensors": tensors,
        "tensor_bytes": size,
        "not_seen": "tensors that only autograd or native code holds",
    }
    keep = groups[:MOST_GROUPS]
    while True:
        content = (json.dumps({**told, "largest": keep}, default=str) + "\n").encode()
        if len(content) <= most or not keep:
            break
        keep = keep[: len(keep) // 2]
    left = len(groups) - len(keep)
    return content, f"the smallest {left} of {len(groups)} kinds of tensors" if left else ""


def tensors_alike() -> tuple[list[dict[str, Any]], int, int]:
    """Live tensors by kind, the largest first, how many they are, and their bytes.

    A storage counts once, with the first tensor found in it.
    """
    tensor, parameter = sys.modules["torch"].Tensor, sys.modules["torch"].nn.Parameter
    storages: set[Any] = set()
    alike: dict[Any, list[int]] = {}
    for one in gc.get_objects():
        if not issubclass(type(one), tensor):  # isinstance would wake lazy objects
            continue
        try:
            storage = one.untyped_storage()
            where = (str(one.device), storage.data_ptr())
            if where in storages or not storage.nbytes():
                continue
            kind = "parameter" if isinstance(one, parameter) else "tensor"
            key = (tuple(one.shape), str(one.dtype).removeprefix("torch."), where[0], kind)
            found = alike.setdefault(key, [0, 0])
            found[0] += 1
            found[1] += storage.nbytes()
            storages.add(where)
        except (AttributeError, NotImplementedError, RuntimeError):  # without a storage of its own
            continue
    groups = [
        {"kind": kind, "shape": shape, "dtype": dtype, "device": device, "count": n, "bytes": size}
        for (shape, dtype, device, kind), (n, size) in alike.items()
    ]
    groups.sort(key=lambda one: -int(str(one["bytes"])))
    return groups, len(storages), sum(size for _, size in alike.values())

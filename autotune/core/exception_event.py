"""Reads what a rank reported of its own end, taking nothing it says on trust."""

import re
from collections.abc import Mapping
from typing import Any

from autotune.core.evidence import RankException, Snapshot
from autotune.core.tame import number, phase_of, size

MOST_MESSAGE = 8000
MOST_TRACEBACK = 64_000
_SNAPSHOT = re.compile(r"snapshot-rank\d{1,5}\.(?:json|pickle)")


def exception_of(rank: int, fields: Mapping[str, Any]) -> RankException:
    """Return the exception in the fields of an event; what has a wrong type is left out."""
    memory = fields.get("memory")
    memory = memory if isinstance(memory, Mapping) else {}
    kind = fields.get("type")
    message = fields.get("message")
    traceback = fields.get("traceback")
    return RankException(
        rank=rank,
        type=kind[:200] if isinstance(kind, str) and kind else "Exception",
        message=message[:MOST_MESSAGE] if isinstance(message, str) else "",
        phase=phase_of(fields.get("phase")),
        step=size(fields.get("step")),
        traceback=traceback[-MOST_TRACEBACK:] if isinstance(traceback, str) else "",
        at=number(fields.get("t")),
        data_bytes=size(memory.get("data_bytes")),
        allocated_bytes=size(memory.get("allocated_bytes")),
        reserved_bytes=size(memory.get("reserved_bytes")),
    )


def snapshot_of(rank: int, fields: Mapping[str, Any]) -> Snapshot | None:
    """Return the snapshot in the fields of an event; None where it names no file of our making."""
    file, left_out = fields.get("file"), fields.get("left_out")
    if not isinstance(file, str) or not _SNAPSHOT.fullmatch(file):
        return None
    said = left_out[:200] if isinstance(left_out, str) else ""
    return Snapshot(rank, file, size(fields.get("bytes")), said)

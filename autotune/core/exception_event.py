"""Reads the exception a rank reported about itself, taking nothing it says on trust."""

from collections.abc import Mapping
from typing import Any

from autotune.core.evidence import RankException
from autotune.core.failure import Phase

MOST_MESSAGE = 8000
MOST_TRACEBACK = 64_000


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
        phase=_phase(fields.get("phase")),
        step=_count(fields.get("step")),
        traceback=traceback[-MOST_TRACEBACK:] if isinstance(traceback, str) else "",
        at=_number(fields.get("t")),
        data_bytes=_count(memory.get("data_bytes")),
        allocated_bytes=_count(memory.get("allocated_bytes")),
        reserved_bytes=_count(memory.get("reserved_bytes")),
    )


def _phase(value: Any) -> Phase | None:
    try:
        return Phase(value)
    except ValueError:
        return None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value)

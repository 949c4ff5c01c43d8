"""Nouns with defaults, so that a test says only what it is about."""

from typing import Any

from autotune.core.evidence import Evidence, Memory, OomFigures, RankException, Sign
from autotune.core.failure import Failure, Role

GIB = 2**30
A_SHORTAGE = (
    "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)


def evidence(**changes: Any) -> Evidence:
    """Return what was seen of an attempt that exited with 1."""
    return Evidence(**{"attempt": 1, "exit_code": 1, **changes})


def sign(failure: Failure, line: int = 10, role: Role = Role.ROOT, **changes: Any) -> Sign:
    """Return a sign of `failure` found in one line."""
    given = {"signature": f"a_{failure.value}", "text": f"words of {failure.value}", **changes}
    return Sign(failure=failure, role=role, line=line, **given)


def exception(kind: str = "RuntimeError", rank: int = 0, **changes: Any) -> RankException:
    """Return an exception that ended a rank."""
    return RankException(**{"rank": rank, "type": kind, "message": "", **changes})


def cpu_memory(limit: int = 2 * GIB, **changes: Any) -> Memory:
    """Return the memory of a job on the CPU accelerator under a limit."""
    return Memory(device="cpu", limit_bytes=limit, **changes)


def figures(**gib: float) -> OomFigures:
    """Return figures given in GiB, named without `_bytes`."""
    return OomFigures(**{f"{name}_bytes": int(size * GIB) for name, size in gib.items()})

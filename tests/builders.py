"""Nouns with defaults, so that a test says only what it is about."""

from typing import Any

from autotune.core.carry import Carry, CarryKind
from autotune.core.evidence import Evidence, Memory, OomFigures, RankException, Sign
from autotune.core.failure import Failure, Role
from autotune.core.plan import Plan
from autotune.core.record import Launch

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


def a_plan(**changes: Any) -> Plan:
    """Return a plan of two ranks with the main example's batch."""
    given: dict[str, Any] = {
        "world_size": 2, "micro_batch": 8, "accumulation": 1, "eval_micro_batch": 8,
        "method": "full", "quantization": "none", "dtype": "bf16",
        "activation_checkpointing": False, "zero_stage": 2, "offload_optimizer": False,
        "offload_param": False, "reduce_bucket": 5_000_000, "allgather_bucket": 5_000_000,
        "gather_on_save": True,
    }  # fmt: skip
    return Plan(**{**given, **changes})


def a_launch(attempt: int = 1, **changes: Any) -> Launch:
    """Return the launch of a fresh attempt."""
    given: dict[str, Any] = {
        "attempt": attempt, "plan": a_plan(), "carry": Carry(CarryKind.FRESH, "nothing saved"),
        "checkpoint": None, "checkpoint_step": 0, "remedy": None, "why": "a test",
    }  # fmt: skip
    return Launch(**{**given, **changes})

"""Outcomes with defaults, so that a test says only what it is about."""

from typing import Any

from autotune.core.evidence import Memory
from autotune.core.failure import Failure
from autotune.core.memory.forecast import Forecast, Moment
from autotune.core.memory.shape import Linear, ModelShape
from autotune.core.memory.workload import Subject
from autotune.core.outcome import Outcome, outcome_of
from autotune.core.plan import Plan
from autotune.core.prior import Kind
from tests.builders import diagnosis, evidence, plan

MIB = 2**20
LLAMA = Kind("llama", "full", "cpu", "closed form", "1.0")


def shape(**changes: Any) -> ModelShape:
    """Return a small Llama."""
    given: dict[str, Any] = {
        "family": "llama", "layers": 4, "hidden": 256, "heads": 4, "kv_heads": 4, "head_dim": 64,
        "inner": 688, "vocab": 8192, "gated": True, "tied": True,
        "linears": (Linear("q_proj", 256, 256),), "embedding_parameters": 8192 * 256,
        "head_parameters": 0, "other_parameters": 2304,
    }  # fmt: skip
    return ModelShape(**given | changes)


def subject(**changes: Any) -> Subject:
    """Return a job on the CPU with rows of 512 tokens."""
    given: dict[str, Any] = {"shape": shape(), "device": "cpu", "sequence": 512}
    return Subject(**given | changes)


def forecast(peak: int = 1000 * MIB, **changes: Any) -> Forecast:
    """Return a prediction, by default of 1000 MiB."""
    given: dict[str, Any] = {
        "tensors": peak // 2, "peak_at": Moment.SECOND_BACKWARD,
        "parts": {"activations": peak // 2, "process": peak - peak // 2}, "spread": 0.05,
    }  # fmt: skip
    return Forecast(peak=peak, **given | changes)


def outcome(
    needed_mib: int = 1100,
    predicted_mib: int = 1000,
    died: bool = False,
    of: Plan | None = None,
    job: Subject | None = None,
    day: str = "2026-11-21",
    step_seconds: float | None = 2.0,
) -> Outcome:
    """Return what an attempt taught that needed so much, or at least so much when it died."""
    seen = evidence(memory=Memory(device="cpu", peak_bytes=needed_mib * MIB), finished=not died)
    made = outcome_of(
        job or subject(),
        of or plan(),
        forecast(predicted_mib * MIB),
        seen,
        diagnosis() if died else diagnosis(Failure.NONE),
        day=day,
        capacity_bytes=needed_mib * MIB if died else 4096 * MIB,
        step_seconds=step_seconds,
        versions={"autotune": "1.0", "torch": "2.13.0"},
    )
    assert made is not None
    return made

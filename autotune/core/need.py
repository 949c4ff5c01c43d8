"""How much of a device must be free before a plan that a neighbour crowded out is tried again."""

from autotune.core.history import Attempt
from autotune.core.policy import Thresholds


def needed_bytes(crowded: Attempt, limit: int | None, limits: Thresholds) -> int | None:
    """Return the bytes each GPU must show as free; None where nothing that was seen tells.

    What the rank held when it was refused, and what it was refused. It may come to need more, so
    this is the least and no promise; a job with a limit may come to need all of that.
    """
    if limit is not None:
        return limit
    if crowded.diagnosis is None or crowded.evidence is None:
        return None
    figures = crowded.diagnosis.figures
    requested = figures.requested_bytes or 0
    inside = max(figures.reserved_bytes or 0, figures.allocated_bytes or 0)
    if crowded.evidence.memory.device == "cuda":
        inside = max(inside, crowded.evidence.memory.peak_bytes or 0)
    held = max(figures.process_bytes or 0, inside + limits.cuda_context if inside else 0)
    if not held and not requested:
        return None
    return (held or limits.cuda_context) + requested

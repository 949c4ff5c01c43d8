"""How much of a device must be free before a plan is started, or tried again after a neighbour."""

from autotune.core.history import Attempt, Story
from autotune.core.plan import Plan
from autotune.core.policy import Thresholds
from autotune.core.record import Foreseen


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


def needed_to_start(
    plan: Plan, foreseen: Foreseen | None, story: Story, limit: int | None
) -> int | None:
    """Return the bytes each GPU must show as free before a plan is started; None: nobody knows.

    What the plan was seen to hold when it trained; else the upper end of what was predicted of it;
    else what the owner allows. None of them is more than the owner's limit.
    """
    same = [one for one in story.attempts if one.plan == plan]
    seen = [
        one.evidence.memory.peak_bytes or 0
        for one in same
        if one.evidence and one.evidence.started_training and one.evidence.memory.device == "cuda"
    ]
    told = [one.launch.foreseen for one in same if one.launch.foreseen]
    foreseen = foreseen or (told[-1] if told else None)
    needed = max(seen, default=0) or (foreseen.high_bytes if foreseen else limit)
    return min(needed, limit) if needed and limit else needed

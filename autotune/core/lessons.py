"""What each attempt of a run taught about the predictions made for it."""

from autotune.core.evidence import Diagnosis, Evidence
from autotune.core.failure import Phase
from autotune.core.foresight import Foresight
from autotune.core.history import Attempt, Story
from autotune.core.memory.belief import Belief
from autotune.core.memory.learning import Lesson, bound_of, learn

_ASIDE = (Phase.EVAL, Phase.SAVE)  # what fails in them says nothing of the training step


def learned(story: Story, foresight: Foresight) -> Belief:
    """Return what is believed after every ended attempt of the story."""
    lessons = [lesson_of(attempt, foresight) for attempt in story.attempts if attempt.evidence]
    return learn(foresight.prior, lessons)


def lesson_of(attempt: Attempt, foresight: Foresight) -> Lesson:
    """Return what one attempt measured, against the forecast of its plan."""
    seen, found = attempt.evidence, attempt.diagnosis
    if seen is None:
        raise AssertionError("an attempt that still runs teaches nothing yet")
    held, missing = _shortage(found) if found else (None, None)
    return Lesson(
        plan=attempt.plan,
        forecast=foresight.forecast(attempt.plan),
        probes=seen.probes,
        oom_bytes=too_few(seen, found) if found else None,
        fragmentation_bytes=missing,
        allocated_bytes=held,
        ran_peak=_peak(seen, foresight) if seen.finished else None,
        sequence=foresight.workload(attempt.plan).sequence,
    )


def too_few(seen: Evidence, found: Diagnosis) -> int | None:
    """Return the bytes that a rank had and that were too few, as a forecast's peak is meant.

    None where the attempt did not die of its own size.
    """
    figures, memory = found.figures, seen.memory
    if memory.device == "cpu":
        held = max((one.data_bytes or 0 for one in seen.exceptions), default=0)
        available = max(memory.limit_bytes or 0, held + (figures.requested_bytes or 0))
    else:
        total = memory.device_total_bytes or figures.capacity_bytes or 0
        free = total - (memory.device_others_bytes or 0)
        available = min(memory.limit_bytes, free) if memory.limit_bytes and free else free
    return bound_of(found.failure, available, found.phase in _ASIDE)


def _shortage(found: Diagnosis) -> tuple[int | None, int | None]:
    """Return what was allocated at the failure, and what was reserved beside it."""
    figures = found.figures
    if figures.allocated_bytes is None or figures.reserved_bytes is None:
        return None, None
    return figures.allocated_bytes, max(0, figures.reserved_bytes - figures.allocated_bytes)


def _peak(seen: Evidence, foresight: Foresight) -> int | None:
    """Return the highest peak of a whole training; on a GPU what lies outside is added."""
    if seen.memory.peak_bytes is None:
        return None
    if foresight.subject.device == "cuda":
        return None  # the allocator's own peak is in the probes; what lies outside was not seen
    return max(seen.memory.peak_bytes, *(one.peak_bytes for one in seen.probes), 0)

"""What a resumed attempt is held against, so that it goes on as the one before it ended."""

from statistics import median

from autotune.core.carry import CarryKind
from autotune.core.failure import Failure
from autotune.core.history import Attempt, Story
from autotune.core.plan import Plan
from autotune.core.policy import Thresholds
from autotune.core.resumed import Band, Expected
from autotune.core.trail import HELD, Told, losses_of

# Settings that move the loss of the same weights on the same rows by more than rounding does.
MOVES_LOSS = ("method", "quantization", "dtype", "four_bit_compute", "sequence", "lora_rank")
# Settings that make another step of the same gradients, or draw other samples under packing.
MOVES_STEPS = (*MOVES_LOSS, "optimizer")

# Times the scatter of single steps by which the median of eight later ones may lie higher. Such a
# median of normal draws scatters by 0.44 of that, so chance alone does not do it.
SCATTERS = 4.0
FROM_MAD = 1.4826  # times the median absolute deviation: the standard deviation of normal draws
FLAT = 0.01  # a band is at least this share of the loss wide
FEWEST = 8  # losses that make a band


def tolerance_between(before: Plan, after: Plan, limits: Thresholds) -> float | None:
    """Return the share of a loss that rounding explains; None where the plans differ in more."""
    if any(getattr(before, name) != getattr(after, name) for name in MOVES_LOSS):
        return None
    return limits.loss_departs if after.dtype == "fp32" else limits.loss_departs_16bit


def expected_of(
    story: Story, step: int, writer: Plan, plan: Plan, carry: CarryKind, limits: Thresholds
) -> Expected | None:
    """Return what an attempt of `plan` that goes on from `step` is held against.

    `writer` is the plan that the checkpoint was written under. None at the first step.
    """
    if step == 0:
        return None
    tolerance = tolerance_between(writer, plan, limits)
    return Expected(tolerance, _replay(story, step, plan, carry), _band(story, step, tolerance))


def _replay(story: Story, step: int, plan: Plan, carry: CarryKind) -> tuple[Told, ...]:
    """Return the steps right after `step` that were trained before, as far as they must agree."""
    found: dict[int, Told] = {}
    for attempt in _trusted(story):
        trail = attempt.evidence.trail if attempt.evidence else None
        if trail is None:
            continue
        as_before = all(getattr(attempt.plan, name) == getattr(plan, name) for name in MOVES_STEPS)
        moments = carry in (CarryKind.SAME, CarryKind.STAGED)
        for told in trail.known().values():
            if not step < told.step <= step + HELD:
                continue
            found[told.step] = Told(
                told.step,
                told.loss if as_before and moments else None,
                told.samples if attempt.plan.sequence == plan.sequence else None,
            )
    return tuple(found[one] for one in sorted(found))


def _band(story: Story, step: int, tolerance: float | None) -> Band | None:
    """Return how the losses scattered in the newest attempt before `step`."""
    if tolerance is None:
        return None
    for attempt in reversed(_trusted(story)):
        trail = attempt.evidence.trail if attempt.evidence else None
        losses = losses_of(one for one in trail.recent if one.step <= step) if trail else []
        if len(losses) >= FEWEST:
            middle = median(losses)
            scatter = FROM_MAD * median(abs(one - middle) for one in losses)
            return Band(middle, max(SCATTERS * scatter, FLAT * middle))
    return None


def _trusted(story: Story) -> list[Attempt]:
    """Return the attempts, without those that did not go on as they should have."""
    return [one for one in story.attempts if one.failure is not Failure.CHECKPOINT_MISMATCH]

"""How long a plan is expected to run until something ends it: what the save interval rests on."""

import math

from autotune.core.failure import Failure
from autotune.core.history import Attempt, Story
from autotune.core.plan import Plan
from autotune.core.policy import Thresholds
from autotune.core.record import Risk

UNKNOWN_FIT = 0.5  # the chance that a plan holds of which nothing was predicted
SUREST = 0.999  # no prediction is trusted beyond it


def risk_of(story: Story, plan: Plan, p_fit: float | None, limits: Thresholds) -> Risk:
    """Return the mean time between failures of `plan`, in seconds, unproven and proven.

    Unproven: it holds over `limits.unproven` with the chance `p_fit`, at a constant rate. Proven:
    one failure in `limits.mean_failure` is assumed, and what the run has seen of this plan is
    added, which is the mean rate of a gamma distribution that learns (A. Gelman and others,
    "Bayesian Data Analysis", 3rd edition 2013, section 2.6).
    """
    same = [one for one in story.attempts if one.plan == plan and one.evidence is not None]
    failed = sum(map(_failed, same))
    seconds = sum(one.evidence.seconds or 0.0 for one in same if one.evidence)
    proven = (limits.mean_failure + seconds) / (1 + failed)
    if any(map(has_proven_itself, same)):
        return Risk(proven, proven)
    chance = min(UNKNOWN_FIT if p_fit is None else p_fit, SUREST)
    unproven = -limits.unproven / math.log(chance) if chance > 0 else 0.0
    return Risk(round(min(unproven, proven), 1), round(proven, 1))


def has_proven_itself(attempt: Attempt) -> bool:
    """Whether an attempt took steps under its plan and saved them."""
    seen = attempt.evidence
    if seen is None or not seen.started_training or seen.checkpoint_step is None:
        return False
    return seen.checkpoint_step > attempt.launch.checkpoint_step


def _failed(attempt: Attempt) -> bool:
    """Whether something struck the training that trained, which neither we nor the owner ended."""
    started = attempt.evidence is not None and attempt.evidence.started_training
    return started and attempt.failure not in (None, Failure.NONE)

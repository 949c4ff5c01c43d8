"""The values by which a resumed attempt is held to the one before it, and what came of that."""

from dataclasses import dataclass

from autotune.core.trail import Told


@dataclass(frozen=True)
class Band:
    """Where the losses before a resume lay."""

    median: float
    spread: float  # a median of later steps that lies higher than this above is no chance


@dataclass(frozen=True)
class Expected:
    """What a resumed attempt is held against."""

    tolerance: float | None = None  # share of a loss; None: the plan moves it by more than rounding
    replay: tuple[Told, ...] = ()  # steps that were trained before, as far as they must agree
    band: Band | None = None  # for a checkpoint without a reference loss


@dataclass(frozen=True)
class Continued:
    """What a resumed attempt told of itself before its first step, or after a few."""

    step: int
    check: str  # "reference": the loss of fixed rows; "band": the weaker one; "none"
    loss: float | None = None
    saved_loss: float | None = None  # the same before the resume
    tolerance: float | None = None  # share of the loss; None: it was only recorded
    spread: float | None = None  # of a band
    rate: float | None = None  # learning rate after the resume
    rate_expected: float | None = None  # that the schedule gives at this step

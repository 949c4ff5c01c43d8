"""A rung is one kind of change to a plan: what it is, whether it applies, and the next plan."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from autotune.core.evidence import Diagnosis
from autotune.core.plan import Device, Plan


class Result(str, Enum):
    """What a rung does to what is learned."""

    SAME = "same"  # the same mathematics, up to the order of floating-point sums
    CLOSE = "close"  # an approximation the default ladder allows
    CHANGED = "changed"  # another result; needs its name under `allow`


@dataclass(frozen=True)
class Surroundings:
    """What a rung may look at beside the plan; nothing here changes during a run's attempt."""

    device: Device
    knobs: frozenset[str]  # fields of Plan that the framework can set
    versions: dict[str, str] = field(default_factory=dict)  # of the training's Python
    has_evaluation: bool = False
    platform: str = "linux"  # "linux", "wsl" or "tegra"


@dataclass(frozen=True)
class Scene:
    """The plan that failed, why, and where it ran."""

    plan: Plan
    diagnosis: Diagnosis
    around: Surroundings


@dataclass(frozen=True)
class Rung:
    """One kind of change.

    `applies` returns None for yes, else the sentence why not; `apply` may be called only after a
    yes, leaves its input alone and is deterministic. Applied again and again, a rung must come
    to an end (`retry_unchanged` and its kin, which change nothing, are ended by the policy).
    """

    name: str
    summary: str
    result: Result
    knobs: frozenset[str]  # the fields of Plan it changes
    applies: Callable[[Scene], str | None]
    apply: Callable[[Scene], Plan]

    @property
    def changes_nothing(self) -> bool:
        """Whether it starts the same plan again."""
        return not self.knobs

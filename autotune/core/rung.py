"""A rung is one kind of change to a plan: what it is, whether it applies, and the next plan."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from autotune.core.evidence import Diagnosis
from autotune.core.failure import Phase
from autotune.core.plan import Device, Plan


class Result(str, Enum):
    """What a rung does to what is learned."""

    SAME = "same"  # the same mathematics, up to the order of floating-point sums
    CLOSE = "close"  # an approximation the default ladder allows
    CHANGED = "changed"  # another result; needs its name under `allow`


class Deed(str, Enum):
    """What a rung needs done beside the plan, before the attempt starts."""

    WAIT_FOR_ROOM = "wait_for_room"  # until the device shows as much free memory as was missing
    SET_ASIDE = "set_aside"  # the newest checkpoint; the one before it is started from
    START_OVER = "start_over"  # every checkpoint is set aside; the run begins anew
    REBUILD_OPS = "rebuild_ops"  # compiled extensions are emptied, in the run and in our cache


@dataclass(frozen=True)
class Surroundings:
    """What a rung may look at beside the plan; nothing here changes during a run's attempt."""

    device: Device
    knobs: frozenset[str]  # fields of Plan that the framework can set
    lacks: Mapping[str, str] = field(default_factory=dict)  # the others, each with the reason
    versions: dict[str, str] = field(default_factory=dict)  # of the training's Python
    # The same with the packages that are laid over it, by what a plan pins.
    pinned: Mapping[tuple[str, ...], dict[str, str]] = field(default_factory=dict)
    has_evaluation: bool = False
    packing: bool = False  # rows are put end to end up to the sequence
    platform: str = "linux"  # "linux", "wsl" or "tegra"
    gpus: tuple[int, ...] = ()  # the job's GPUs by NVML's index, in the order of the ranks
    pins: tuple[str, ...] = ()  # the packages that the job names for `pin_packages`
    broken_gpus: tuple[int, ...] = ()  # those of them that do not answer, or broke in the attempt

    def versions_for(self, plan: Plan) -> dict[str, str]:
        """Return the versions that a training of this plan imports, as far as they are known."""
        return self.pinned.get(plan.pins, self.versions)


# The last of a checkpoint, the states of the random numbers, is read when training begins.
_READS_CHECKPOINT = (Phase.RESUME, Phase.TRAIN, None)


@dataclass(frozen=True)
class Scene:
    """The plan that failed, why, where it ran, and from which checkpoint it could start again."""

    plan: Plan
    diagnosis: Diagnosis
    around: Surroundings
    checkpoints: tuple[int, ...] = ()  # steps of the whole ones, newest first
    started_from: int = 0  # the step of the one it read as it lies; 0: none, or a converted copy
    beside_neighbour: bool = False  # others who were there before may be why memory was refused

    def clears_newest(self) -> str | None:
        """Return why the newest checkpoint is not to blame, or None where it may be."""
        if not self.checkpoints or self.started_from != self.checkpoints[0]:
            return (
                "the attempt did not read the newest checkpoint as it lies, so that one is not to"
                " blame"
            )
        # The model's own files and the data break with the same words as a checkpoint.
        if self.diagnosis.phase not in _READS_CHECKPOINT:
            return "it died where no checkpoint is read, so the newest one is not to blame"
        return None


@dataclass(frozen=True)
class Rung:
    """One kind of change.

    `applies` returns None for yes, else the sentence why not; `apply` may be called only after a
    yes, leaves its input alone and is deterministic. Applied again and again, a rung must come
    to an end (`retry_unchanged` and its kin, which change nothing, are ended by the policy).
    `gives_up` is what a rung throws away that its owner has paid for: it then needs its name
    under `allow`, whatever its result.
    """

    name: str
    summary: str
    result: Result
    knobs: frozenset[str]  # the fields of Plan it changes
    applies: Callable[[Scene], str | None]
    apply: Callable[[Scene], Plan]
    deed: Deed | None = None
    gives_up: str = ""

    @property
    def keeps_plan(self) -> bool:
        """Whether it starts the same plan again."""
        return not self.knobs

    @property
    def changes_nothing(self) -> bool:
        """Whether it starts the same plan again, from the same checkpoint."""
        return self.keeps_plan and self.deed not in (Deed.SET_ASIDE, Deed.START_OVER)


def out_of_reach(rung: Rung, scene: Scene, after: Plan | None = None) -> list[str]:
    """Return the fields of the plan that this rung would change here and the tool cannot set.

    A rung may be able to change more than it does: without a knob for offloaded activations an
    offloaded optimizer can still be brought back. `after` is what it makes of the plan, where that
    is known already.
    """
    missing = rung.knobs - scene.around.knobs
    if not missing or missing == rung.knobs:
        return sorted(missing)
    if after is None:
        if rung.applies(scene) is not None:
            return []
        after = rung.apply(scene)
    return sorted(name for name in missing if getattr(after, name) != getattr(scene.plan, name))

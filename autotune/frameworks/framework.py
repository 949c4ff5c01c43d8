"""What every framework answers: where a plan starts, and which files and program carry it out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from autotune.core.fault import Fault
from autotune.core.job import Job
from autotune.core.plan import Device, Plan
from autotune.core.record import Risk
from autotune.core.resumed import Expected


@dataclass(frozen=True)
class Looked:
    """What was found at the paths a job names; the framework judges it, the world read it."""

    model_config: Mapping[str, Any] | None = None
    faults: tuple[Fault, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)  # digest of each file, by its key
    checkpoint_bytes: int | None = None  # estimated size of one checkpoint; None: unknown
    deepspeed: Mapping[str, Any] = field(default_factory=dict)  # the user's own configuration
    allocator: str = ""  # allocator settings of the environment the training inherits
    weight_bytes: int = 0  # of the model's weight files; 0: it is drawn, or unknown
    notes: tuple[Fault, ...] = ()  # what may surprise, and stops nothing


@dataclass(frozen=True)
class Setting:
    """One attempt to be described: the plan, where it runs and what it starts from."""

    job: Job
    looked: Looked
    job_folder: str
    plan: Plan
    device: Device
    attempt: int
    folder: str  # of the attempt
    checkpoints: str  # folder the training writes checkpoints into
    control: str | None
    resume: str | None = None
    load_universal: bool = False
    ds_overrides: tuple[tuple[str, bool | int], ...] = ()  # by dotted path
    mode: str = "train"  # or "prove"
    expected: Expected | None = None  # what a resume is held against
    risk: Risk | None = None  # for the save interval; None: a tenth of the run
    limit_bytes: int | None = None  # of one rank: RLIMIT_DATA, or the allocator's cap on a GPU


@dataclass(frozen=True)
class Program:
    """What each rank runs, and the files it reads, by name inside the attempt's folder."""

    argv: tuple[str, ...]
    files: Mapping[str, str]
    own_events: bool = False  # it writes the events that the probe would write for it


class Framework(Protocol):
    """One training tool. Pure: it describes and does not run."""

    name: str
    knobs: frozenset[str]  # fields of Plan it can set

    def start(self, job: Job, looked: Looked, world_size: int) -> Plan:
        """Return the plan of the job's own settings."""
        ...

    def faults(self, job: Job, looked: Looked, world_size: int, where: str) -> list[Fault]:
        """Return everything wrong with the job's settings."""
        ...

    def program(self, setting: Setting) -> Program:
        """Return what the launcher starts and the files that go with it."""
        ...

    def has_evaluation(self, job: Job) -> bool:
        """Return whether the job evaluates during training."""
        ...

    def packs(self, job: Job) -> bool:
        """Return whether rows are put end to end up to the sequence."""
        ...

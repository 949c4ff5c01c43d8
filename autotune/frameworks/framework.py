"""What every framework answers: where a plan starts, and which files and program carry it out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from autotune.core.fault import Fault
from autotune.core.job import Batch, Job
from autotune.core.memory.workload import Tile
from autotune.core.plan import Device, Plan
from autotune.core.record import Risk
from autotune.core.resumed import Expected

# Which of our launchers starts the ranks of a program that does not start its own.
LauncherKind = Literal["deepspeed", "torchrun"]


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
    # The user's own files, by the path under which `wants` asked for them.
    texts: Mapping[str, str] = field(default_factory=dict)
    # Those of them that are YAML or JSON, as plain values; a Fault where one cannot be read so.
    documents: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)  # installed in the job's Python


@dataclass(frozen=True)
class Meeting:
    """The machines of one training: how many, which one this is, and where the first is reached."""

    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"


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
    resume: str | None = None  # the checkpoint's folder, absolute
    load_universal: bool = False
    ds_overrides: tuple[tuple[str, bool | int], ...] = ()  # by dotted path
    mode: str = "train"  # or "prove"
    expected: Expected | None = None  # what a resume is held against
    risk: Risk | None = None  # for the save interval; None: a tenth of the run
    limit_bytes: int | None = None  # of one rank: RLIMIT_DATA, or the allocator's cap on a GPU
    python: str = "python"  # the job's interpreter
    port: int = 29500  # a free TCP port on this machine, for the ranks to meet
    devices: tuple[int, ...] = ()  # GPU indices, in the order of the ranks; none on the CPU
    trainer: str = "finetune.py"  # where the built-in trainer's one file lies
    meeting: Meeting = Meeting()

    @property
    def ranks_here(self) -> int:
        """How many ranks each node starts."""
        return self.plan.world_size // self.meeting.nodes


@dataclass(frozen=True)
class Program:
    """What is started, and the files it reads, by name inside the attempt's folder.

    With `starts_ranks`, `argv` is a whole command, interpreter first, that starts its own ranks;
    else it is a script with its arguments, which `launcher` starts once for each rank.
    """

    argv: tuple[str, ...]
    files: Mapping[str, str]  # changed copies; the user's own files are never written
    own_events: bool = False  # it writes the events that the probe would write for it
    starts_ranks: bool = False
    env: Mapping[str, str] = field(default_factory=dict)  # more environment of the training
    folder: str | None = None  # where it starts; None: in the attempt's folder
    launcher: LauncherKind = "deepspeed"  # torchrun stands in where DeepSpeed is not installed
    exit_tells: bool = False  # nothing but its exit code says that it came to its end


@dataclass(frozen=True)
class KnownGood:
    """What a finished run leaves: the tool's own config in its own format, and how to start it.

    `argv`, `starts_ranks`, `env`, `folder` and `launcher` are as in Program; paths of files in the
    known-good folder are relative to it where `folder` is None, absolute else.
    """

    files: Mapping[str, str]
    argv: tuple[str, ...]
    settings: Mapping[str, Any]  # of a job.yaml that starts at the plan, with `start: as_given`
    starts_ranks: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = None
    launcher: LauncherKind = "deepspeed"
    copies: Mapping[str, str] = field(default_factory=dict)  # whole files, name to where they lie


@dataclass(frozen=True)
class Trained:
    """What of a job decides its memory, whatever the plan."""

    sequence: int | None  # tokens of the longest row; None: nothing says it
    lora_rank: int = 0
    lora_targets: tuple[str, ...] = ()  # names of modules; none: every linear layer
    lora_dropout: float = 0.0
    trust_remote_code: bool = False
    tile: Tile | None = None  # of a loss in pieces; None: as the built-in trainer takes it
    optimizer: str = ""  # one that no plan can say, by its own name; "": the plan's


class Framework(Protocol):
    """One training tool. Pure: it describes and does not run.

    `start`, `faults` and what follows are asked once `wants` has been answered in full, and only
    of a job whose settings have the shape of `schema`.
    """

    @property
    def name(self) -> str:
        """As the job file names it."""
        ...

    @property
    def schema(self) -> type[BaseModel]:
        """The shape of the job's `settings`."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Distributions that the job's Python must have; DeepSpeed is asked for by the plan."""
        ...

    @property
    def surveys(self) -> bool:
        """Whether its program can say how long the rows are without training."""
        ...

    @property
    def proves(self) -> bool:
        """Whether its program can train one step of a checkpoint and stop (mode `prove`)."""
        ...

    def usual(self, config: str) -> tuple[str, ...] | None:
        """Return the tool's usual command on its own config file; None where there is none."""
        ...

    def wants(self, job: Job, looked: Looked) -> tuple[str, ...]:
        """Return which of the user's files are needed, relative to `folder` of the settings.

        `looked` holds those read so far; it is asked again until it names nothing new.
        """
        ...

    def lacks(self, job: Job, looked: Looked) -> Mapping[str, str]:
        """Return the fields of Plan that it has no knob for, each with the sentence why."""
        ...

    def ranks(self, job: Job, looked: Looked) -> int | None:
        """Return how many ranks the user's own command starts; None where it does not say."""
        ...

    def batch(self, job: Job, looked: Looked, ranks: int) -> Batch | Fault:
        """Return the batches of the user's own config over so many ranks."""
        ...

    def model(self, job: Job, looked: Looked) -> str | Mapping[str, Any] | None:
        """Return the model: a folder or config.json (against the job file's folder), or a config.

        None where only a name in a hub is known.
        """
        ...

    def asks_modelscope(self, job: Job, looked: Looked, environment: Mapping[str, str]) -> bool:
        """Return whether a model that is only named is ModelScope's, and not Hugging Face's.

        `environment` is what the training inherits.
        """
        ...

    def start(self, job: Job, looked: Looked, world_size: int) -> Plan:
        """Return the plan of the job's own settings."""
        ...

    def faults(self, job: Job, looked: Looked, world_size: int, where: str) -> list[Fault]:
        """Return everything wrong with the job's settings and the user's own files."""
        ...

    def notes(self, job: Job, looked: Looked, world_size: int, where: str) -> list[Fault]:
        """Return what is switched off or changed under every plan, and what may surprise."""
        ...

    def trained(self, job: Job, looked: Looked) -> Trained:
        """Return what decides memory beside the model and the plan."""
        ...

    def has_evaluation(self, job: Job, looked: Looked) -> bool:
        """Return whether the job evaluates during training."""
        ...

    def packs(self, job: Job, looked: Looked) -> bool:
        """Return whether rows are put end to end up to the sequence."""
        ...

    def program(self, setting: Setting) -> Program:
        """Return what is started and the files that go with it."""
        ...

    def known_good(self, setting: Setting) -> KnownGood:
        """Return the tool's own config of this plan; `setting.folder` is where it will lie."""
        ...

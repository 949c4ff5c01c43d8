"""The job file: what the owner asked for, and nothing we inferred."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from autotune.core.secret import is_a_secret, names_a_secret
from autotune.core.units import parse_bytes, parse_seconds, parse_share

Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Seconds = Annotated[float, BeforeValidator(parse_seconds)]
Share = Annotated[float, BeforeValidator(parse_share)]
FrameworkName = Literal[
    "finetune", "hf", "trl", "llamafactory", "deepke", "axolotl", "ms_swift", "deepspeed", "command"
]
Indices = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]

_VERSIONS = r"\s*(==|!=|<=|>=|<|>|~=)\s*[0-9A-Za-z.*+!]+\s*"
_REQUIREMENT = re.compile(
    rf"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,_-]+\])?({_VERSIONS}(,{_VERSIONS})*)?", re.ASCII
)
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]{0,252}", re.ASCII)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def as_settings(value: Any) -> Any:
    """Return a text alone as the settings it stands for: the tool's own config file."""
    return {"config": value} if isinstance(value, str) else value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Batch(_Strict):
    """Samples per optimizer step over all ranks, kept for ever, and per rank and pass."""

    global_: int = Field(alias="global", ge=1, description="samples per optimizer step, all ranks")
    micro: int = Field(ge=1, description="samples per rank and forward pass to start with")


class Devices(_Strict):
    """Which devices the job may use and how much of each."""

    use: Literal["auto"] | Annotated[int, Field(ge=1)] | Indices = Field(
        default="auto",
        description="auto: every GPU, or up to 2 ranks on the CPU; N: that many; [0, 2]: these",
    )
    memory_limit: Bytes | None = Field(
        default=None, description="per rank: allocator cap on a GPU, RLIMIT_DATA on the CPU"
    )
    host_memory_limit: Bytes | None = Field(
        default=None, description="for the whole training, by a memory cgroup where one can be made"
    )


class Launcher(_Strict):
    """How the ranks are started, and on how many machines."""

    kind: Literal["deepspeed"] = "deepspeed"
    nodes: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="machines that train together; on each but the first: autotune join RUN",
    )
    address: str | None = Field(
        default=None,
        description="how the other nodes reach the first: a name or an IP address; default: its"
        " host name",
    )
    port: Annotated[int, Field(ge=1024, le=65535)] | None = Field(
        default=None, description="where the ranks meet on the first node; default: a free one"
    )

    @field_validator("address")
    @classmethod
    def _address_is_a_name_or_number(cls, address: str | None) -> str | None:
        if address is not None and not _ADDRESS.fullmatch(address):
            raise ValueError(f"{address!r} is no host name and no IP address")
        return address


class Checkpoints(_Strict):
    """How often to save, how many to keep, and which one of another run to go on from."""

    every: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto",
        description="optimizer steps between checkpoints; auto: by the cost of a save and the risk",
    )
    keep: int = Field(default=3, ge=2, description="checkpoints kept; the newest may be half-made")
    continue_from: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="a checkpoint of another run, or a folder of them, copied when this run begins",
    )


class Limits(_Strict):
    """Where autotune stops trying."""

    attempts: int = Field(default=20, ge=1, description="attempts that spent a rung")
    wall: Seconds = Field(default=48 * 3600.0, description="time in attempts, waits not counted")
    wait: Seconds = Field(default=12 * 3600.0, description="time spent waiting in all")
    log_bytes: Bytes = Field(
        default=2 * 2**30,
        ge=2**20,
        description="disk for one attempt's log, and for each of its ranks' events",
    )
    logs_bytes: Bytes = Field(
        default=8 * 2**30,
        ge=2**20,
        description="disk for the logs and events of all attempts that are over",
    )
    logs_age: Seconds = Field(
        default=30 * 86400.0, description="how long those are kept whole; then head and tail are"
    )


class Pins(_Strict):
    """Package versions that may be laid over the training's Python, where `allow` says so."""

    packages: list[str] = Field(
        default=[], description="requirements; default: what is known to help against a failure"
    )
    wheels: str | None = Field(
        default=None, description="a folder of wheels; the package index is then not asked"
    )
    use: Literal["when_needed", "always"] = Field(
        default="when_needed", description="always: from the first attempt on"
    )

    @field_validator("packages")
    @classmethod
    def _packages_are_names_and_versions(cls, packages: list[str]) -> list[str]:
        for one in packages:
            if not _REQUIREMENT.fullmatch(one):
                raise ValueError(f"{one!r} is no package with versions, such as transformers<5")
        return packages

    @model_validator(mode="after")
    def _always_needs_names(self) -> "Pins":
        if self.use == "always" and not self.packages:
            raise ValueError("`use: always` needs `packages`")
        return self


class Job(_Strict):
    """One training job, as its owner wrote it."""

    name: str = Field(description="letters, digits, dot, dash and underscore; names the run folder")
    framework: FrameworkName = Field(description="what trains: finetune is the built-in trainer")
    settings: Annotated[dict[str, Any], BeforeValidator(as_settings)] = Field(
        description="the framework's own settings, or the path of the tool's own config"
    )
    batch: Batch | None = Field(
        default=None, description="default: as the tool's own config says; finetune needs it"
    )
    start: Literal["predicted", "as_given"] = Field(
        default="predicted",
        description="predicted: attempt 1 is the cheapest plan predicted to fit, its longest batch"
        " rehearsed; as_given: the job's own settings, no rehearsal",
    )
    devices: Devices = Devices()
    launcher: Launcher = Launcher()
    policy: str = Field(default="default", description="a name in policies/ or a path")
    allow: list[str] = Field(default=[], description="result-changing rungs and consents, by name")
    forbid: list[str] = Field(default=[], description="rungs never to take, by name")
    checkpoints: Checkpoints = Checkpoints()
    climb_back: Share = Field(
        default=0.05,
        description="share of the run's time for trying plans predicted to be faster; 0: never",
    )
    limits: Limits = Limits()
    probe: Literal["on", "off"] = Field(
        default="on", description="look into the training's processes and save them from inside"
    )
    snapshot: Annotated[Bytes, Field(ge=2**16)] | None = Field(
        default=None,
        description="most bytes of a file in which a rank that was refused memory shows what fills"
        " it; default: none is made",
    )
    proof: bool = Field(default=True, description="prove the known-good in a throwaway process")
    learn: bool = Field(
        default=True,
        description="keep outcomes in a local store, so that the next job starts right",
    )
    python: str | None = Field(default=None, description="the training's Python; default: ours")
    pins: Pins = Pins()
    env: dict[str, str] = Field(default={}, description="environment of the training, no secrets")
    env_from: list[str] = Field(default=[], description="names passed through from our environment")

    @field_validator("name")
    @classmethod
    def _name_is_a_plain_file_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise ValueError(
                "a name is 1 to 100 letters, digits, dots, dashes and underscores, "
                "beginning with a letter or digit"
            )
        return name

    @field_validator("climb_back")
    @classmethod
    def _most_of_the_run_trains(cls, share: float) -> float:
        if not 0 <= share <= 0.5:
            raise ValueError(f"{share:.0%} is no share from 0% to 50% of the run's time")
        return share

    @field_validator("snapshot")
    @classmethod
    def _a_snapshot_needs_the_probe(cls, size: int | None, info: ValidationInfo) -> int | None:
        if size is not None and info.data.get("probe") == "off":
            raise ValueError("a snapshot is made by the probe: leave `probe` on, or this key out")
        return size

    @field_validator("env")
    @classmethod
    def _env_holds_no_secret(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            if not _ENV_NAME.fullmatch(name) or "\0" in value:
                raise ValueError(f"{name!r} is not a name and value an environment can hold")
            if names_a_secret(name) or is_a_secret(value):
                raise ValueError(
                    f"`{name}` looks like a secret; put the name under `env_from` and export it"
                )
        return env

    @field_validator("env_from")
    @classmethod
    def _env_from_holds_names(cls, names: list[str]) -> list[str]:
        for name in names:
            if not _ENV_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of an environment variable")
        return names


def batch_of(job: Job) -> Batch:
    """Return the job's batches, which are filled in before a framework describes anything."""
    if job.batch is None:
        raise AssertionError("the batches were not filled in")
    return job.batch


def absolute(path: str, folder: str) -> str:
    """Return `path` read against the folder of the file that names it."""
    return str(PurePosixPath(folder) / path)

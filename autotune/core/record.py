"""The steps autotune can decide on, and the records its journal is made of."""

from dataclasses import dataclass, field
from typing import Any, Literal

from autotune.core.carry import Carry
from autotune.core.codec import CodecError, from_plain, to_plain
from autotune.core.evidence import Diagnosis, Evidence
from autotune.core.failure import Failure
from autotune.core.inherited import Inherited
from autotune.core.plan import Change, Plan
from autotune.core.resumed import Expected

SCHEMA = 1


@dataclass(frozen=True)
class PassedOver:
    """A rung that was looked at and not taken, and why."""

    rung: str
    why: str


@dataclass(frozen=True)
class Remedy:
    """What was chosen against a failure, by which rule, and what was passed over on the way."""

    rung: str
    changes: tuple[Change, ...]
    rule: int  # its place in the policy, counted from 1
    why: str
    spend: bool
    pause_seconds: float = 0.0
    passed_over: tuple[PassedOver, ...] = ()
    also: tuple[str, ...] = ()  # further rungs taken in the same leap
    answers: str = ""  # what its rule matches; empty: written when rules were known by place alone

    @property
    def rungs(self) -> tuple[str, ...]:
        """Every rung that was taken."""
        return (self.rung, *self.also)


@dataclass(frozen=True)
class Foreseen:
    """What was predicted of a plan before it was launched; bytes are those of one rank."""

    peak_bytes: int
    low_bytes: int  # with `high_bytes` a 90 % interval
    high_bytes: int
    capacity_bytes: int
    p_fit: float
    step_time_factor: float  # seconds per optimizer step over those of the job's own settings
    method: str  # closed form or trace
    considered: int  # candidate plans it was chosen from
    learned: str = ""  # what measurements had taught by then


@dataclass(frozen=True)
class Risk:
    """Seconds between two failures of a plan, on average, as assumed for the save interval."""

    unproven: float  # until it has taken steps, evaluated and saved
    proven: float


@dataclass(frozen=True)
class Launch:
    """Start an attempt."""

    attempt: int
    plan: Plan
    carry: Carry
    checkpoint: str | None  # name of the checkpoint it starts from, inside the run folder
    checkpoint_step: int
    remedy: Remedy | None
    why: str
    set_aside: tuple[str, ...] = ()  # checkpoints moved out of the way first, inside the run folder
    rebuild_ops: bool = False  # compiled extensions are emptied first
    steps_again: int = 0  # trained before, and lost with what is set aside
    foreseen: Foreseen | None = None  # None: nothing could be predicted, or nobody asked
    trial_of: int | None = None  # the attempt whose plan held, and is gone back to
    expected: Expected | None = None  # None at the first step
    risk: Risk | None = None  # None: written by an autotune that knew of none
    devices: tuple[int, ...] = ()  # GPUs by NVML's index, in the order of the ranks; () on the CPU


@dataclass(frozen=True)
class Wait:
    """Let time pass, so that something outside can change.

    With `free_bytes` it is over as soon as every GPU of the job has that much free, though not
    before `at_least` seconds; where NVML cannot tell, time alone decides. With `for_devices` it is
    over as soon as nothing is to be waited for any more.
    """

    seconds: float
    why: str
    free_bytes: int | None = None
    at_least: float = 0.0
    for_devices: bool = False


@dataclass(frozen=True)
class Prove:
    """Load the last checkpoint in a throwaway process, run one step and one evaluation."""

    plan: Plan
    attempt: int  # that finished
    checkpoint: str
    checkpoint_step: int
    devices: tuple[int, ...] = ()  # as of a launch


@dataclass(frozen=True)
class Finish:
    """The training ran; write the known-good."""

    plan: Plan
    attempt: int
    why: str


@dataclass(frozen=True)
class GiveUp:
    """Nothing is left that the owner allows."""

    why: str
    passed_over: tuple[PassedOver, ...] = ()
    cure: str = ""  # one thing a person can do


@dataclass(frozen=True)
class Stop:
    """End now, to be gone on with later."""

    why: str


Step = Launch | Wait | Prove | Finish | GiveUp | Stop


@dataclass(frozen=True)
class RunStarted:
    """The first record: which job, under which policy, where."""

    run_id: str
    job_name: str
    identity: str  # digest of what makes it this job: name, framework, settings, global batch
    plan: Plan  # the job's own settings
    device: str
    versions: dict[str, str] = field(default_factory=dict)
    policy: str = ""
    policy_digest: str = ""
    autotune: str = ""
    inputs: dict[str, str] = field(default_factory=dict)  # digests of what is named by path
    inherited: Inherited | None = None  # None: it begins at the first step


@dataclass(frozen=True)
class WentOn:
    """A supervisor took the run up again, perhaps with an edited job or policy."""

    pid: int
    policy: str
    policy_digest: str
    job_digest: str
    autotune: str = ""


@dataclass(frozen=True)
class Decided:
    """A step was decided on; written before it is done."""

    step: Step


@dataclass(frozen=True)
class Prepared:
    """What an attempt starts from was made, its checkpoint's copy or its packages, or was not."""

    attempt: int
    ok: bool
    resume: str | None = None  # inside the run folder
    why: str = ""
    seconds: float = 0.0
    what: Literal["checkpoint", "packages"] = "checkpoint"

    @property
    def failure(self) -> Failure:
        """What an attempt ends with that could not be started for it."""
        packages = self.what == "packages"
        return Failure.MISSING_DEPENDENCY if packages else Failure.CHECKPOINT_MISMATCH


@dataclass(frozen=True)
class Unseated:
    """A launch or proof did not begin, since somebody else has taken its devices meanwhile."""

    why: str


@dataclass(frozen=True)
class AttemptStarted:
    """The training's processes run; id, start and boot name the launcher without doubt."""

    attempt: int
    pid: int
    process_started: float  # as the kernel counts it, seconds
    boot_id: str


@dataclass(frozen=True)
class AttemptEnded:
    """An attempt is over and nothing of it runs any more."""

    attempt: int
    evidence: Evidence
    diagnosis: Diagnosis


@dataclass(frozen=True)
class Waited:
    """A wait is over."""

    seconds: float
    room: bool | None = None  # whether the memory waited for is there; None: nobody could tell


@dataclass(frozen=True)
class Proved:
    """What the throwaway process found."""

    ok: bool
    why: str
    step: int | None = None
    loss: float | None = None
    eval_loss: float | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class StopAsked:
    """Somebody asked the run to end."""

    by: str


@dataclass(frozen=True)
class Ended:
    """The supervisor's last word on this start."""

    state: str  # finished | gave_up | stopped
    exit_code: int


Event = (
    RunStarted | WentOn | Decided | Prepared | Unseated | AttemptStarted | AttemptEnded | Waited
    | Proved | StopAsked | Ended
)  # fmt: skip

_STEPS: dict[str, type[Any]] = {
    "launch": Launch, "wait": Wait, "prove": Prove, "finish": Finish, "give_up": GiveUp,
    "stop": Stop,
}  # fmt: skip
_EVENTS: dict[str, type[Any]] = {
    "run_started": RunStarted, "went_on": WentOn, "decided": Decided, "prepared": Prepared,
    "unseated": Unseated, "attempt_started": AttemptStarted, "attempt_ended": AttemptEnded,
    "waited": Waited, "proved": Proved, "stop_asked": StopAsked, "ended": Ended,
}  # fmt: skip
_NAMES = {kind: name for name, kind in (_STEPS | _EVENTS).items()}


def encode(event: Event, at: float) -> dict[str, Any]:
    """Return one journal line; `at` is wall-clock seconds, for people only."""
    head = {"v": SCHEMA, "at": round(at, 3), "event": _NAMES[type(event)]}
    if isinstance(event, Decided):
        return {**head, "step": _NAMES[type(event.step)], **to_plain(event.step)}
    return {**head, **to_plain(event)}


def decode(line: dict[str, Any]) -> Event:
    """Return the event of one journal line; raises CodecError when it is not one of ours."""
    if line.get("v") != SCHEMA:
        raise CodecError(f"journal schema {line.get('v')!r} is not the {SCHEMA} we write")
    kind = _EVENTS.get(str(line.get("event")))
    if kind is None:
        raise CodecError(f"{line.get('event')!r} is not an event we write")
    if kind is not Decided:
        event: Event = from_plain(kind, line)
        return event
    step = _STEPS.get(str(line.get("step")))
    if step is None:
        raise CodecError(f"{line.get('step')!r} is not a step we decide on")
    return Decided(from_plain(step, line))

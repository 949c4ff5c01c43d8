"""What was seen of one attempt, and what could not be seen."""

from dataclasses import dataclass, field

from autotune.core.failure import Failure, Phase, Role, Trait
from autotune.core.memory.probe import Probe
from autotune.core.pace import Pace
from autotune.core.resumed import Continued
from autotune.core.stack import Stack
from autotune.core.stall import Stall
from autotune.core.trail import Trail


@dataclass(frozen=True)
class OomFigures:
    """The figures of an out-of-memory message, in bytes; None where it names none."""

    requested_bytes: int | None = None
    capacity_bytes: int | None = None
    limit_bytes: int | None = None
    free_bytes: int | None = None
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    process_bytes: int | None = None
    other_processes_bytes: int | None = None


@dataclass(frozen=True)
class Sign:
    """One signature found in one line of output."""

    signature: str
    failure: Failure
    role: Role
    line: int  # counted from 1 within the text of the attempt
    text: str  # shortened to what a person wants to read
    rank: int | None = None
    phase: Phase | None = None
    figures: OomFigures | None = None
    cure: str = ""  # one thing a person can do, where the signature knows it
    raised: bool = False  # on the line that shows an exception
    uncaught: bool = False  # below a traceback that begins in a module: nothing caught it


@dataclass(frozen=True)
class RankException:
    """The exception that ended a rank, as the rank itself reported it."""

    rank: int
    type: str
    message: str
    phase: Phase | None = None
    step: int | None = None
    traceback: str = ""
    at: float | None = None  # wall clock of the rank, seconds; orders ranks of one machine
    data_bytes: int | None = None  # VmData of the rank when it failed
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    signs: tuple[Sign, ...] = ()  # found in its words, those of the last exception first


@dataclass(frozen=True)
class Gap:
    """A reading we do not have, and why; never a zero."""

    reading: str
    why: str


@dataclass(frozen=True)
class CurvePoint:
    """The highest of the samples up to one moment, since the point before it."""

    seconds: float  # since the attempt's start
    step: int | None = None  # last optimizer step reported by then
    rank_bytes: int | None = None  # of the rank that held most, as in `Memory.peak_bytes`
    host_bytes: int | None = None  # resident set of the whole process tree


@dataclass(frozen=True)
class Memory:
    """Memory as sampled while the attempt ran; bytes, None where there was no reading."""

    device: str | None = None  # "cpu" or "cuda"; None when nothing is known of the job
    limit_bytes: int | None = None  # per rank, the cap this attempt ran under
    peak_bytes: int | None = None  # highest of any rank: VmData on the CPU, reserved on CUDA
    host_limit_bytes: int | None = None
    host_peak_bytes: int | None = None  # resident set of the whole process tree
    cgroup_oom_kills: int | None = None  # counted during this attempt
    device_total_bytes: int | None = None
    device_others_bytes: int | None = None  # held by processes that are not ours
    device_free_low_bytes: int | None = None  # least that any of our cards had free
    device_free_before_bytes: int | None = None  # the same before a rank of ours held any
    curve: tuple[CurvePoint, ...] = ()  # oldest first, never more than 64 points


@dataclass(frozen=True)
class KernelEvent:
    """One thing the kernel's log told during the attempt, and whether it befell us."""

    kind: str  # oom_kill, xid, trap, hung_task, memory_failure or fork_refused
    text: str  # the line, shortened
    seconds: float | None = None  # since the attempt's start
    ours: bool | None = None  # None: nobody can tell
    rank: int | None = None  # whose process it was
    pid: int | None = None  # as the machine counts, which a container does not
    task: str = ""
    constraint: str = ""  # of an oom_kill: memcg (a cgroup was full), none (the machine) …
    cgroup: str = ""  # where the process lived
    resident_bytes: int | None = None
    virtual_bytes: int | None = None
    bus_id: str = ""  # of the GPU an Xid speaks of, as 0000:3b:00
    code: int | None = None  # of an Xid


@dataclass(frozen=True)
class Card:
    """What became of the health of one of our GPUs; None where the driver does not tell."""

    index: int
    bus_id: str = ""
    lost: bool = False  # it answered when the attempt began and does not any more
    uncorrected_errors: int | None = None  # of its memory, new since then
    remap_pending: bool | None = None  # new since then
    remap_failed: bool | None = None
    slowed_by: tuple[str, ...] = ()  # heat or power, at the end; context only


@dataclass(frozen=True)
class Machine:
    """What the machine's counters and its kernel's log say of the attempt's time."""

    kernel: tuple[KernelEvent, ...] = ()
    kernel_read: bool | None = None  # the whole of the log; None when nobody looked
    oom_kills: int | None = None  # by the kernel, on the whole machine
    cgroup_kills: int | None = None  # in the memory cgroup that autotune itself lives in
    counted_seconds: float | None = None  # when a cgroup of ours last counted a kill
    cgroup_refusals: int | None = None  # how often that cgroup was at its limit
    cgroup_limit_bytes: int | None = None  # of that cgroup
    memory_bytes: int | None = None
    available_low_bytes: int | None = None  # least that was available at a sample
    swap_bytes: int | None = None
    swap_free_low_bytes: int | None = None
    stalled_seconds: float | None = None  # that all tasks waited for memory
    shm_bytes: int | None = None  # size of /dev/shm
    shm_free_low_bytes: int | None = None
    lock_limit_bytes: int | None = None  # RLIMIT_MEMLOCK of the ranks; None: no limit
    process_limit: int | None = None  # RLIMIT_NPROC; None: no limit that binds us
    threads_peak: int | None = None  # of the whole process tree
    cards: tuple[Card, ...] = ()


@dataclass(frozen=True)
class Rescued:
    """How the last step of a training that was refused memory was saved, or why it was not."""

    step: int | None
    ok: bool  # it is a checkpoint of its own now
    why: str = ""  # it is not
    seconds: float = 0.0  # that the ranks held for it


@dataclass(frozen=True)
class Snapshot:
    """What filled a rank's memory when it was refused some, in a file of the attempt's folder."""

    rank: int
    file: str
    bytes: int | None = None
    left_out: str = ""  # because the file would have grown beyond its bound


@dataclass(frozen=True)
class Evidence:
    """Everything a diagnosis may rest on for one attempt."""

    attempt: int
    exit_code: int | None = None  # of the launcher, as the shell would show it (128 + signal)
    signal: int | None = None  # that ended the launcher itself
    ended_by_us: str | None = None  # why autotune ended it, if it did; see core/vigil.py
    finished: bool = False  # by the files it left; by its exit code where it leaves none to tell
    step: int | None = None  # last optimizer step reported
    total_steps: int | None = None
    checkpoint_step: int | None = None  # of the newest complete checkpoint
    started_training: bool = False  # at least one optimizer step was reported
    phase: Phase | None = None  # the last phase reported by any rank
    signs: tuple[Sign, ...] = ()
    exceptions: tuple[RankException, ...] = ()
    memory: Memory = field(default_factory=Memory)
    seconds: float | None = None
    gaps: tuple[Gap, ...] = ()
    machine: Machine = field(default_factory=Machine)
    stall: Stall | None = None  # the silence for which autotune ended it
    stacks: tuple[Stack, ...] = ()  # of every rank, taken before it was ended
    ignored: tuple[str, ...] = ()  # settings of the plan that the ranks say are not in force
    diverged: str | None = None  # the sentence why it learned nothing any more
    probes: tuple[Probe, ...] = ()  # one for each moment reached, of the rank that held most
    pace: Pace | None = None  # of the optimizer steps, as rank 0 reported them
    longest: int | None = None  # padded tokens of the longest row, where the trainer looked
    rescued: Rescued | None = None  # None: no rank said that it was refused memory
    trail: Trail | None = None  # of its optimizer steps; None: it told of none
    continued: Continued | None = None  # how it went on from a checkpoint, where it says so
    global_batch: int | None = None  # in force, as the ranks read it from what trains
    snapshots: tuple[Snapshot, ...] = ()  # one for each rank that made one
    told_to_end: str | None = None  # who of the attempt was told so from outside, and by what


@dataclass(frozen=True)
class Reason:
    """One piece of what a diagnosis rests on."""

    signature: str
    role: Role
    line: int | None
    text: str
    why: str = ""  # it was outranked; empty for what the diagnosis rests on


@dataclass(frozen=True)
class Diagnosis:
    """The named failure, where it began, and why we say so."""

    failure: Failure
    confidence: float  # 0 to 1
    why: str  # one sentence for a person
    rank: int | None = None
    phase: Phase | None = None
    figures: OomFigures = field(default_factory=OomFigures)
    secondary: tuple[Failure, ...] = ()
    evidence: tuple[Reason, ...] = ()
    outranked: tuple[Reason, ...] = ()  # matched, each with why it did not win
    traits: tuple[Trait, ...] = ()
    cure: str = ""  # one thing a person can do about it, "" where nothing certain is known

    def rests_on(self, *signatures: str) -> bool:
        """Return whether one of these signatures is what names the failure."""
        return any(one.signature in signatures for one in self.evidence)

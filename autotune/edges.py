"""The few small protocols through which the loops touch the world."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from autotune.core.evidence import Evidence, Gap, Machine, Memory, RankException, Rescued, Sign
from autotune.core.history import Story
from autotune.core.outlook import Saved
from autotune.core.plan import Plan
from autotune.core.record import (
    AttemptEnded,
    AttemptStarted,
    Event,
    Finish,
    Launch,
    Prepared,
    Prove,
    Proved,
)
from autotune.core.rhythm import Work
from autotune.core.stack import Stack
from autotune.core.view import View


class Clock(Protocol):
    """Time: durations from `monotonic`, dates for people from `now`."""

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""
        ...

    def now(self) -> float:
        """Return wall-clock seconds since the epoch."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return after about `seconds`."""
        ...


class Journal(Protocol):
    """The run's only state."""

    def append(self, event: Event) -> None:
        """Put one event on disk before returning; raises CannotRecord."""
        ...


@dataclass(frozen=True)
class Command:
    """A program to start: an argument list, its whole environment and its folder."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    folder: str


@dataclass(frozen=True)
class Exit:
    """How a child ended."""

    code: int | None  # as a shell shows it: 128 + signal
    signal: int | None


@dataclass(frozen=True)
class Interrupts:
    """What people and the system asked for since the start."""

    stop_by: str | None = None  # "Ctrl-C", "SIGTERM", "autotune stop"
    hurry: bool = False  # asked twice


class Asked(Protocol):
    """Where requests to end come in."""

    def read(self) -> Interrupts:
        """Return what was asked for so far."""
        ...


class Child(Protocol):
    """One running attempt with everything it started."""

    @property
    def identity(self) -> AttemptStarted:
        """What names the launcher without doubt, for a supervisor that comes after us."""
        ...

    def poll(self) -> Exit | None:
        """Return how the launcher ended, or None while it runs; collects adopted children too."""
        ...

    def end(self, term_grace: float, hurry: bool = False) -> bool:
        """End every process of the attempt and return whether none is left."""
        ...


class Channel(Protocol):
    """What a running attempt says: its output and its events."""

    @property
    def view(self) -> View:
        """What the events add up to."""
        ...

    @property
    def output_bytes(self) -> int:
        """How much output was read so far."""
        ...

    @property
    def output_lines(self) -> int:
        """How many lines of it were complete."""
        ...

    def poll(self) -> None:
        """Read what is new; never raises, whatever was written."""
        ...

    def close(self) -> None:
        """Read the rest, after nothing writes any more, and bring the log to its final form."""
        ...

    def signs(self) -> tuple[Sign, ...]:
        """Return the signatures found in the output."""
        ...

    def exceptions(self) -> tuple[RankException, ...]:
        """Return what ended each rank, as the ranks reported it."""
        ...

    def gaps(self) -> tuple[Gap, ...]:
        """Return what could not be read or kept."""
        ...


class Sampler(Protocol):
    """Memory of the attempt, sampled while it runs."""

    @property
    def latest_bytes(self) -> int | None:
        """The last reading of the rank that holds most."""
        ...

    def sample(self) -> None:
        """Take one reading; never raises."""
        ...

    def reading(self) -> tuple[Memory, tuple[Gap, ...]]:
        """Return the highest of everything sampled, and what could not be read."""
        ...

    def machine(self) -> Machine:
        """Return what the machine's counters and its kernel's log said meanwhile."""
        ...


class Live(Protocol):
    """A started attempt and everything needed to watch it."""

    @property
    def child(self) -> Child:
        """Its processes."""
        ...

    @property
    def channel(self) -> Channel:
        """What it says."""
        ...

    @property
    def sampler(self) -> Sampler:
        """What it holds."""
        ...

    @property
    def exit_tells(self) -> bool:
        """Whether nothing but its exit code says that it came to its end."""
        ...

    def rank_died(self) -> bool:
        """Return whether a rank is gone that did not say it was done."""
        ...

    def ranks_live(self) -> bool:
        """Return whether a rank still runs that has not said it was done."""
        ...

    def work(self) -> Work:
        """Return what its processes can be seen doing; never raises."""
        ...

    def take_stacks(self) -> tuple[Stack, ...]:
        """Return what every rank is doing, and lay it into the attempt's folder; never raises."""
        ...

    def ask_save(self, by: str) -> None:
        """Tell the ranks to save at the next step boundary and end."""
        ...

    def ignored(self) -> tuple[str, ...]:
        """Return which settings of the plan the ranks say are not in force."""
        ...

    def tell_end(self) -> None:
        """Tell the ranks that what comes next is no wish to save; never raises."""
        ...

    def rescue(self) -> bool:
        """Save the last step of ranks that hold their exit; return whether they still hold."""
        ...

    def rescued(self) -> Rescued | None:
        """Return how that ended; None where no rank was refused memory."""
        ...

    def settle(self) -> tuple[Gap, ...]:
        """Return once the memory of the dead attempt is back, or say that it is not."""
        ...


class Stage(Protocol):
    """Where attempts happen: everything the run's loop cannot decide but must have done."""

    def saved(self) -> Saved | None:
        """Return the newest complete checkpoint."""
        ...

    def earlier(self) -> tuple[Saved, ...]:
        """Return the complete checkpoints before the newest one, newest first."""
        ...

    def free_bytes(self, plan: Plan) -> int | None:
        """Return what is free on the fullest GPU of a plan; None: nobody can tell."""
        ...

    def seat(self, devices: tuple[int, ...]) -> str:
        """Take the leases of these GPUs and work on them; return who has one, or ""."""
        ...

    def clear_way(self, launch: Launch) -> None:
        """Do what a rung needs done beside the plan; done twice, it is as done once."""
        ...

    def prepare(self, launch: Launch) -> Prepared | None:
        """Convert the checkpoint of `launch` into a staged copy; None when nothing is needed."""
        ...

    def start(self, launch: Launch, resume: str | None) -> Live:
        """Start the attempt; raises CannotLaunch."""
        ...

    def recover(self, launch: Launch, started: AttemptStarted | None) -> Evidence | None:
        """End what a dead supervisor left of this attempt and return what is known of it.

        None when it had not been started; `started` is None when that was not written down.
        """
        ...

    def prove(self, step: Prove) -> Proved | None:
        """Load the last checkpoint in a throwaway process, run one step and one evaluation.

        None when somebody asked for a stop before it was over.
        """
        ...

    def write_known_good(self, step: Finish, story: Story) -> None:
        """Write the known-good folder, with the story as comments."""
        ...

    def tidy(self, launch: Launch) -> None:
        """Remove the checkpoints that this attempt left half-written."""
        ...

    def keep(self, launch: Launch, ended: AttemptEnded) -> None:
        """Lay the evidence of an ended attempt beside its output, for people."""
        ...


class Teller(Protocol):
    """Where the loops tell people what happens."""

    def event(self, event: Event) -> None:
        """Tell of something that was written to the journal."""
        ...

    def progress(self, attempt: int, view: View, bytes_now: int | None) -> None:
        """Tell how a running attempt is doing."""
        ...

    def note(self, text: str) -> None:
        """Tell one sentence."""
        ...

"""What a run tells a service manager: entries with fields for its journal, one line of status."""

import contextlib
import time
from collections.abc import Callable

from autotune.cli.terminal import JsonTeller, Terminal, describe
from autotune.core.record import (
    AttemptEnded,
    Decided,
    Ended,
    Event,
    Launch,
    Prove,
    StopAsked,
    Wait,
)
from autotune.core.sentence import say, say_attempt, say_wait
from autotune.core.view import View
from autotune.edges import Teller
from autotune.world.notify import Notifier
from autotune.world.systemd_journal import (
    ERROR,
    INFO,
    WARNING,
    SystemdJournal,
    stderr_is_the_journal,
)

# Between entries about steps: the status line is always new, and a month of them fills no journal.
STEP_ENTRY_SECONDS = 60.0


class Tellers:
    """Tells several."""

    def __init__(self, *tellers: Teller) -> None:
        """Tell them in this order."""
        self._tellers = tellers

    def event(self, event: Event) -> None:
        """Tell of something that was written to the journal."""
        for one in self._tellers:
            one.event(event)

    def progress(self, attempt: int, view: View, bytes_now: int | None) -> None:
        """Tell how a running attempt is doing."""
        for one in self._tellers:
            one.progress(attempt, view, bytes_now)

    def note(self, text: str) -> None:
        """Tell one sentence."""
        for one in self._tellers:
            one.note(text)


class JournalTeller:
    """Tells systemd's journal: the sentence as its message, what it speaks of as fields."""

    def __init__(
        self,
        journal: SystemdJournal,
        job: str,
        run: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Name the job and the run in every entry."""
        self._journal = journal
        self._always = {"SYSLOG_IDENTIFIER": "autotune", "AUTOTUNE_JOB": job, "AUTOTUNE_RUN": run}
        self._attempt: int | None = None
        self._monotonic = monotonic
        self._step: int | None = None
        self._step_at = -STEP_ENTRY_SECONDS

    def event(self, event: Event) -> None:
        """Tell of something that was written to the run's own journal."""
        of = event.step if isinstance(event, Decided) else event
        self._attempt = getattr(of, "attempt", self._attempt)
        kind = type(of).__name__
        failure = event.diagnosis.failure.value if isinstance(event, AttemptEnded) else None
        text = say(event)
        if text:
            self._tell(text, kind, _priority(event), AUTOTUNE_FAILURE=failure)

    def progress(self, attempt: int, view: View, bytes_now: int | None) -> None:
        """Tell each new step that was noticed, once a minute at most."""
        now = self._monotonic()
        if view.step in (None, self._step) or now - self._step_at < STEP_ENTRY_SECONDS:
            return
        self._step, self._step_at, self._attempt = view.step, now, attempt
        self._tell(
            describe(view, bytes_now, None), "Step", INFO, AUTOTUNE_STEP=view.step,
            AUTOTUNE_STEPS=view.total, AUTOTUNE_LOSS=view.loss, AUTOTUNE_BYTES=bytes_now,
        )  # fmt: skip

    def note(self, text: str) -> None:
        """Tell one sentence."""
        self._tell(text, "Note", INFO)

    def _tell(self, text: str, kind: str, priority: int, **fields: object) -> None:
        about = {"AUTOTUNE_EVENT": kind, "AUTOTUNE_ATTEMPT": self._attempt}
        entry = {"MESSAGE": text, "PRIORITY": priority, **self._always, **about, **fields}
        self._journal.send(entry)  # what it did not take stands in the run's own journal


class StatusTeller:
    """Tells the manager in one line what `autotune status` says."""

    def __init__(self, notifier: Notifier, limit_bytes: int | None) -> None:
        """Show memory against `limit_bytes`."""
        self._notifier = notifier
        self._limit = limit_bytes
        self._attempt = ""

    def event(self, event: Event) -> None:
        """Say what begins."""
        step = event.step if isinstance(event, Decided) else None
        if isinstance(step, Launch):
            self._attempt = say_attempt(step)
            self._notifier.status(self._attempt)
        elif isinstance(step, Wait):
            self._notifier.status(say_wait(step))
        elif isinstance(step, Prove) or isinstance(event, StopAsked):
            self._notifier.status(say(event) or "")
        elif isinstance(event, Ended):
            self._notifier.status(say(event) or "")
            self._notifier.stop()

    def progress(self, attempt: int, view: View, bytes_now: int | None) -> None:
        """Say how the attempt is doing."""
        begin = "stopping: " if self._notifier.stopping else ""
        said = self._attempt or f"attempt {attempt}"  # begun by a supervisor before us
        line = f"{begin}{said}; {describe(view, bytes_now, self._limit)}"
        self._notifier.status(line)

    def note(self, text: str) -> None:
        """Say nothing: a note is no state."""


def teller(
    as_json: bool, limit_bytes: int | None, notifier: Notifier, job: str, run: str
) -> Teller:
    """Return who tells of a run: the journal where stderr leads there, else people or a collector.

    `limit_bytes` is what the memory of a rank is shown against.
    """
    said: Teller | None = None
    if stderr_is_the_journal():
        with contextlib.suppress(OSError):
            said = JournalTeller(SystemdJournal(), job, run)
    if said is None:
        said = JsonTeller() if as_json else Terminal(limit_bytes)
    return Tellers(said, StatusTeller(notifier, limit_bytes))


def _priority(event: Event) -> int:
    if isinstance(event, Ended):
        return ERROR if event.state == "gave_up" else INFO
    failed = isinstance(event, AttemptEnded) and event.diagnosis.failure.value != "none"
    return WARNING if failed else INFO

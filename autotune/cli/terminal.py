"""The recovery story as it happens: one line per event, one per step, on stderr."""

import contextlib
import sys
import time
from typing import TextIO

from autotune.core.record import Event
from autotune.core.sentence import printable, say
from autotune.core.units import show_bytes
from autotune.core.view import View

STEP_LINE_SECONDS = 2.0  # between step lines, so that a fast training does not flood


class Terminal:
    """Tells people; its own trouble (a closed pipe) never reaches the run."""

    def __init__(self, limit_bytes: int | None, stream: TextIO = sys.stderr) -> None:
        """Write to `stream`; memory is shown against `limit_bytes`."""
        self._limit = limit_bytes
        self._stream = stream
        self._began = time.monotonic()
        self._shown: tuple[int, int | None, str] | None = None
        self._shown_at = 0.0

    def event(self, event: Event) -> None:
        """Tell of something that was written to the journal."""
        text = say(event)
        if text:
            self._line(text)

    def note(self, text: str) -> None:
        """Tell one sentence."""
        self._line(text)

    def progress(self, attempt: int, view: View, bytes_now: int | None) -> None:
        """Tell how a running attempt is doing, when there is something new."""
        now = time.monotonic()
        phase = view.phase.value if view.phase else "starting"
        shown = (attempt, view.step, "" if view.step is not None else phase)
        ending = view.step is not None and view.step == view.total
        if shown == self._shown or (now - self._shown_at < STEP_LINE_SECONDS and not ending):
            return
        self._shown, self._shown_at = shown, now
        self._line("  " + describe(view, bytes_now, self._limit))

    def _line(self, text: str) -> None:
        seconds = int(time.monotonic() - self._began)
        stamp = f"{seconds // 60:3d}:{seconds % 60:02d}  "
        # When nobody reads any more, the journal still has it all.
        with contextlib.suppress(OSError, ValueError):
            for line in text.split("\n"):
                print(stamp + printable(line), file=self._stream, flush=True)
                stamp = " " * len(stamp)


class JsonTeller:
    """Tells a log collector: one JSON object per event on stderr, through structlog."""

    def __init__(self) -> None:
        """Configure structlog for this process."""
        import structlog

        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )
        self._log = structlog.get_logger()
        self._step: int | None = None

    def event(self, event: Event) -> None:
        """Tell of something that was written to the journal."""
        text = say(event)
        if text:
            self._tell(text, kind=type(event).__name__)

    def note(self, text: str) -> None:
        """Tell one sentence."""
        self._tell(text, kind="note")

    def progress(self, attempt: int, view: View, bytes_now: int | None) -> None:
        """Tell each new step that was noticed."""
        if view.step is None or view.step == self._step:
            return
        self._step = view.step
        self._tell(
            "step", kind="step", attempt=attempt, step=view.step, total=view.total,
            loss=view.loss, bytes=bytes_now,
        )  # fmt: skip

    def _tell(self, text: str, **fields: object) -> None:
        # When nobody reads any more, the journal still has it all.
        with contextlib.suppress(OSError, ValueError):
            self._log.info(text, **fields)


def describe(view: View, bytes_now: int | None, limit: int | None) -> str:
    """Return step, loss and memory against the limit in one line."""
    memory = f"{show_bytes(bytes_now)}" + (f" of {show_bytes(limit)}" if limit else "")
    if view.step is None:
        return f"{view.phase.value if view.phase else 'starting'}, memory {memory}"
    loss = "?" if view.loss is None else f"{view.loss:.4f}"
    return f"step {view.step}/{view.total or '?'}  loss {loss}  memory {memory}"

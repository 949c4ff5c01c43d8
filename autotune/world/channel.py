"""What a running attempt says, read as it comes: its output for signs, its events for a view."""

from pathlib import Path

from autotune.core.evidence import Gap, RankException, Sign
from autotune.core.scan import Scanner, with_signs
from autotune.core.signature import Signatures
from autotune.core.view import View
from autotune.world.event_file import EventFolder
from autotune.world.output import OutputTail

NOT_INSIDE = Gap(
    "events from inside",
    "no process of the training loaded the probe: it ended before torch was imported, is no Python,"
    " or runs under -S, -E or -I",
)


class AttemptChannel:
    """The output and the events of one attempt's folder."""

    def __init__(
        self,
        folder: Path,
        signatures: Signatures,
        log_bytes: int,
        secrets: tuple[bytes, ...] = (),
    ) -> None:
        """Read from the beginning of both; neither need exist yet; `secrets` are left out."""
        self.view = View()
        self._signatures = signatures
        self._scanner = Scanner(signatures)
        self._output = OutputTail(
            folder / "output.log", self._scanner.read, log_bytes, secrets=secrets
        )
        self._events = EventFolder(folder / "events", log_bytes, secrets)
        self._probed = (folder / "probe").is_dir()
        self._closed = False

    @property
    def output_bytes(self) -> int:
        """How much output was read so far, skipped parts included."""
        return self._output.offset

    @property
    def output_lines(self) -> int:
        """How many lines of it were complete."""
        return self._output.lines

    def poll(self) -> None:
        """Read what is new, within bounds."""
        self._output.poll()
        self._read_events()

    def close(self) -> None:
        """Read the rest, after nothing writes any more, and bring the log to its final form."""
        self._output.drain()
        while self._read_events():
            pass
        self._output.compact()
        self._closed = True

    def signs(self) -> tuple[Sign, ...]:
        """Return the signatures found in the output."""
        return self._scanner.signs()

    def exceptions(self) -> tuple[RankException, ...]:
        """Return what ended each rank, with the signatures found in its words."""
        return tuple(with_signs(e, self._signatures) for e in self.view.last_words())

    def gaps(self) -> tuple[Gap, ...]:
        """Return what could not be read or kept."""
        gaps = (*self._output.gaps(), *self._events.gaps(), *self.view.gaps())
        return (*gaps, NOT_INSIDE) if self._is_outside() else gaps

    def last_lines(self, count: int) -> list[str]:
        """Return the end of the output as a person would have seen it."""
        return self._output.last_lines(count)

    def _is_outside(self) -> bool:
        """Whether the attempt is over and the probe that was laid for it never spoke."""
        return self._closed and self._probed and not self.view.inside

    def _read_events(self) -> int:
        events = self._events.poll()
        for event in events:
            self.view.see({**event.fields, "kind": event.kind, "rank": event.rank})
        return len(events)

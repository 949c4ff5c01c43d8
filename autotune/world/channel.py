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


def output_name(node: int) -> str:
    """Return what a node's output is called in the attempt's folder."""
    return f"output-{node}.log" if node else "output.log"


class AttemptChannel:
    """The output and the events of one attempt's folder."""

    def __init__(
        self,
        folder: Path,
        signatures: Signatures,
        log_bytes: int,
        secrets: tuple[bytes, ...] = (),
        nodes: int = 1,
    ) -> None:
        """Read from the beginning of both; neither need exist yet; `secrets` are left out.

        Each of several nodes writes an output of its own, and each rank its own events.
        """
        self.view = View()
        self._signatures = signatures
        self._scanners = [Scanner(signatures) for _ in range(nodes)]
        self._outputs = [
            OutputTail(folder / output_name(node), scanner.read, log_bytes, secrets=secrets)
            for node, scanner in enumerate(self._scanners)
        ]
        self._events = EventFolder(folder / "events", log_bytes, secrets)
        self._probed = (folder / "probe").is_dir()
        self._closed = False

    @property
    def output_bytes(self) -> int:
        """How much output was read so far, skipped parts included."""
        return sum(output.offset for output in self._outputs)

    @property
    def output_lines(self) -> int:
        """How many lines of it were complete."""
        return sum(output.lines for output in self._outputs)

    def poll(self) -> None:
        """Read what is new, within bounds."""
        for output in self._outputs:
            output.poll()
        self._read_events()

    def close(self) -> None:
        """Read the rest, after nothing writes any more, and bring the log to its final form."""
        for output in self._outputs:
            output.drain()
        while self._read_events():
            pass
        for output in self._outputs:
            output.compact()
        self._closed = True

    def signs(self) -> tuple[Sign, ...]:
        """Return the signatures found in the output."""
        return tuple(sign for scanner in self._scanners for sign in scanner.signs())

    def exceptions(self) -> tuple[RankException, ...]:
        """Return what ended each rank, with the signatures found in its words."""
        return tuple(with_signs(e, self._signatures) for e in self.view.last_words())

    def gaps(self) -> tuple[Gap, ...]:
        """Return what could not be read or kept."""
        unread = (gap for output in self._outputs for gap in output.gaps())
        gaps = (*unread, *self._events.gaps(), *self.view.gaps())
        return (*gaps, NOT_INSIDE) if self._is_outside() else gaps

    def last_lines(self, count: int) -> list[str]:
        """Return the end of the first node's output as a person would have seen it."""
        return self._outputs[0].last_lines(count)

    def _is_outside(self) -> bool:
        """Whether the attempt is over and the probe that was laid for it never spoke."""
        return self._closed and self._probed and not self.view.inside

    def _read_events(self) -> int:
        events = self._events.poll()
        for event in events:
            self.view.see({**event.fields, "kind": event.kind, "rank": event.rank})
        return len(events)

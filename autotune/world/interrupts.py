"""Ctrl-C and SIGTERM as something to ask about instead of something that happens to us."""

import signal
from types import FrameType

from autotune.edges import Interrupts

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


class SignalWatch:
    """Counts requests to end; the first asks for a save, a second one hurries."""

    def __init__(self) -> None:
        """Start counting; nothing is caught before `install`."""
        self._names: list[str] = []

    def install(self) -> None:
        """Catch the signals that ask us to end, for the rest of the process."""
        for number in _NAMES:
            # Under nohup a hang-up is ignored already, and shall stay so.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def read(self) -> Interrupts:
        """Return what was asked for so far."""
        by = self._names[0] if self._names else None
        return Interrupts(stop_by=by, hurry=len(self._names) > 1)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._names.append(_NAMES[signal.Signals(number)])

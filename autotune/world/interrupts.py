"""Signals that ask us to end, as something to ask about and not as something that befalls us."""

import signal
from types import FrameType

from autotune.edges import Interrupts

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
# What schedulers send some time before the end, and hooks pass on; what follows does not hurry.
_NOTICES = {signal.SIGUSR1: "SIGUSR1", signal.SIGUSR2: "SIGUSR2"}


class SignalWatch:
    """Counts requests to end; the first asks for a save, a second one hurries."""

    def __init__(self) -> None:
        """Start counting; nothing is caught before `install`."""
        self._names: list[str] = []
        self._notices: list[str] = []

    def install(self) -> None:
        """Catch the signals that ask us to end, for the rest of the process."""
        for number in (*_NAMES, *_NOTICES):
            # Under nohup a hang-up is ignored already, and shall stay so.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def read(self) -> Interrupts:
        """Return what was asked for so far."""
        by = next(iter((*self._notices, *self._names)), None)
        return Interrupts(stop_by=by, hurry=len(self._names) > 1)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number in _NOTICES:
            self._notices.append(_NOTICES[signal.Signals(number)])
        else:
            self._names.append(_NAMES[signal.Signals(number)])

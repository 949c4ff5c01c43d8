"""Tells systemd how the supervisor is: ready, doing what, still turning, about to end."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping

from autotune.world.clock import SystemClock

LONGEST_STATUS = 1000  # bytes; systemd cuts longer datagrams off without a word
EXTENSION_SECONDS = 120.0  # within which a supervisor that is saving speaks again
EXTEND_EVERY_SECONDS = 20.0
START_SECONDS = 3600.0  # as the unit's TimeoutStartSec
_NAMES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Speaks the protocol of sd_notify(3); without anybody who listens it says nothing.

    Whatever becomes of a message, no call raises: a run never fails for want of a listener.
    """

    def __init__(
        self,
        address: str | None,
        watchdog_seconds: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Speak to `address`, a path or an abstract name behind `@`; None: to nobody."""
        self._address = address
        self._watchdog = watchdog_seconds
        # Half of what systemd waits for, as sd_watchdog_enabled(3) says.
        self._every = watchdog_seconds / 2 if watchdog_seconds else None
        self._monotonic = monotonic
        self._beaten_at: float | None = None
        self._extended_at: float | None = None
        self._status = ""
        self.stopping = False
        self.environment: dict[str, str] = {}  # by which it was found, for who comes after us

    def ready(self) -> None:
        """Say that the run is supervised from now on; systemd starts its watchdog."""
        self._send("READY=1")
        if self._watchdog:
            self._send(f"WATCHDOG_USEC={int(self._watchdog * 1e6)}")  # as long as ever again
        self.beat()

    def begin_anew(self) -> None:
        """Say that this process starts over, which takes as long without a beat as a start."""
        if self._watchdog:
            self._send(f"WATCHDOG_USEC={int(START_SECONDS * 1e6)}")

    def status(self, line: str) -> None:
        """Say in one line what is being done, unless that was the last thing said."""
        line = " ".join(line.splitlines())
        if line != self._status:
            self._status = line
            self._send("STATUS=" + line.encode()[:LONGEST_STATUS].decode(errors="ignore"))

    def beat(self) -> None:
        """Say that the loop turns; to be called from nowhere but the loop itself.

        While a save is under way it also asks for the time until the next beats.
        """
        now = self._monotonic()
        if self._every and (self._beaten_at is None or now - self._beaten_at >= self._every):
            self._beaten_at = now
            self._send("WATCHDOG=1")
        last = self._extended_at
        if self.stopping and (last is None or now - last >= EXTEND_EVERY_SECONDS):
            self._extended_at = now
            self._send(f"EXTEND_TIMEOUT_USEC={int(EXTENSION_SECONDS * 1e6)}")

    def stop(self) -> None:
        """Say, once, that the end has begun."""
        if not self.stopping:
            self.stopping = True
            self._send("STOPPING=1")
            self.beat()

    def _send(self, text: str) -> None:
        if self._address is None:
            return
        # The first byte of an abstract name is a zero.
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with (
            contextlib.suppress(OSError, ValueError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker,
        ):
            speaker.settimeout(1)  # a manager that does not read holds nobody up
            speaker.sendto(text.encode(), name)


def listening(environ: MutableMapping[str, str] | None = None) -> Notifier:
    """Return what speaks to who started us; its names leave the environment.

    What we start shall not speak for us.
    """
    environ = os.environ if environ is None else environ
    held = {name: environ.pop(name, "") for name in _NAMES}
    address = held["NOTIFY_SOCKET"]
    if not address.startswith(("/", "@")):
        return Notifier(None)
    seconds = None
    if held["WATCHDOG_PID"] in ("", str(os.getpid())) and held["WATCHDOG_USEC"].isdecimal():
        seconds = int(held["WATCHDOG_USEC"]) / 1e6
    notifier = Notifier(address, seconds)
    notifier.environment = {name: value for name, value in held.items() if value}
    return notifier


class BeatingClock(SystemClock):
    """The machine's clocks, for loops that live on sleeping: each sleep is a turn of theirs."""

    def __init__(self, notifier: Notifier) -> None:
        """Tell `notifier` of each turn."""
        self._notifier = notifier

    def sleep(self, seconds: float) -> None:
        """Return after about `seconds`."""
        self._notifier.beat()
        super().sleep(seconds)

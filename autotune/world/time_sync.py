"""Whether somebody keeps the clock, whether it jumps, and whether the machine has slept."""

import ctypes
import time
from datetime import datetime, timezone

from autotune.core.doctor.facts import Clock

_UNSYNCHRONISED = 0x0040  # STA_UNSYNC of adjtimex(2)


class _Timex(ctypes.Structure):
    """The beginning of struct timex; the kernel writes more than we read."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 512),
    )


class ClockWatch:
    """Compares the clock with one that only goes forward, from its making to its reading."""

    def __init__(self) -> None:
        """Begin to watch."""
        self._apart = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def read(self) -> Clock:
        """Return what the clock did since, and who keeps it."""
        apart = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        asleep = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        return Clock(
            synchronised=_synchronised(),
            jumped_seconds=round(apart - self._apart, 3),
            asleep_seconds=max(0.0, asleep),
            year=datetime.now(timezone.utc).year,
        )


def _synchronised() -> bool | None:
    """Ask the kernel, which an NTP client tells; None where it may not be asked."""
    try:
        asked = _Timex(modes=0)  # modes 0 changes nothing
        if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(asked)) < 0:
            return None
    except (OSError, AttributeError):
        return None
    return not asked.status & _UNSYNCHRONISED

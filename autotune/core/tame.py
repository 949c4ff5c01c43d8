"""Reads plain values out of what ranks report, taking nothing on trust: None for what is none."""

import math
import re
from typing import Any

from autotune.core.failure import Phase

MOST_SIZE = 2**62  # no count of bytes, rows or tokens is larger
_FINGERPRINT = re.compile("[0-9a-f]{16}")


def whole(value: Any) -> int | None:
    """Return a whole number of any sign."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def size(value: Any) -> int | None:
    """Return a count of something there can be."""
    count = whole(value)
    return count if count is not None and 0 <= count < MOST_SIZE else None


def number(value: Any) -> float | None:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number larger than any float
        return None


def fingerprint(value: Any) -> str | None:
    """Return 64 bits as 16 hexadecimal digits."""
    return value if isinstance(value, str) and _FINGERPRINT.fullmatch(value) else None


def phase_of(value: Any) -> Phase | None:
    """Return the phase of this name."""
    return next((phase for phase in Phase if phase.value == value), None)

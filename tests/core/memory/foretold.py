"""Forecasts, probes and plans with defaults, so that a test says only what it is about."""

from typing import Any

from autotune.core.memory.forecast import Bytes, Forecast, Moment
from autotune.core.memory.probe import Probe
from autotune.core.plan import Plan
from tests.builders import plan

GIB = 2**30


def forecast(peak: float = 10, spread: float = 0.05, **changes: Any) -> Forecast:
    """Return a forecast of `peak` GiB: 60 % of it is there after loading, backward is the peak."""
    whole = int(peak * GIB)
    size = whole - changes.get("outside", 0)
    given: dict[str, Any] = {
        "peak": whole,
        "tensors": size,
        "peak_at": Moment.BACKWARD,
        "parts": {"weights": int(size * 0.6), "activations": size - int(size * 0.6)},
        "moments": {
            Moment.LOAD: Bytes(int(size * 0.6), int(size * 0.6)),
            Moment.FORWARD: Bytes(int(size * 0.9), int(size * 0.8)),
            Moment.BACKWARD: Bytes(size, int(size * 0.7)),
        },
        "spread": spread,
    }
    return Forecast(**given | changes)


def probe(moment: Moment, gib: float, **changes: Any) -> Probe:
    """Return what a GPU's allocator showed of a moment."""
    size = int(gib * GIB)
    given: dict[str, Any] = {"peak_bytes": size, "held_bytes": size, "reserved_bytes": size}
    return Probe(moment, **given | changes)


def a_plan(**changes: Any) -> Plan:
    """Return a plan of one rank whose allocator grows its segments."""
    given: dict[str, Any] = {"world_size": 1, "allocator": (("expandable_segments", "True"),)}
    return plan(**given | changes)

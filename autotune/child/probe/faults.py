"""Keeps every fault of the probe away from the training, and measures what its hooks cost."""

import time

TYPE_CHECKING = False  # typing itself would be an import the program may never make
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

count = 0  # faults swallowed so far
seconds = 0.0  # spent inside hooks so far, by the thread that trains and by those of ours
_told: "set[str]" = set()
_inside = False


def guarded(function: "Callable[..., Any]") -> "Callable[..., Any]":
    """`function`, returning None where it raises an Exception; interrupts pass.

    The first fault at each place is reported as a `probe_gap`.
    """

    where = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"

    def safely(*args: "Any", **kwargs: "Any") -> "Any":
        global seconds, _inside
        began = time.perf_counter()
        outermost, _inside = not _inside, True
        try:
            return function(*args, **kwargs)
        except Exception as error:
            note(where, error)
            return None
        finally:
            if outermost:
                seconds += time.perf_counter() - began
                _inside = False

    safely.__wrapped__ = function  # type: ignore[attr-defined]
    return safely


def note(where: str, error: BaseException) -> None:
    """Count a fault, and report the first of its place."""
    global count
    count += 1
    try:
        if where in _told:
            return
        _told.add(where)
        from . import events

        text = f"{type(error).__name__}: {error}"[:500]
        events.emit("probe_gap", where=where.rpartition("autotune_probe.")[2], error=text)
    except Exception:  # then it is only counted; the next event that comes through says how many
        pass

"""Reports the exception that ends this rank, whoever has taken Python's own hook."""

import sys

from . import events, faults, moments, room, state

TYPE_CHECKING = False  # typing itself would be an import the program may never make
if TYPE_CHECKING:
    from typing import Any

_reported = False
_previous: "Any" = None


def install() -> None:
    """Stand before the exception hook that is there, and look again when Python ends."""
    global _previous
    import atexit  # compiled into the interpreter

    if _previous is None:
        _previous = sys.excepthook
        sys.excepthook = hook
        atexit.register(faults.guarded(at_exit))


def hook(kind: "Any", error: BaseException, trace: "Any") -> None:
    """Report, then let the hook before us say what it would have said."""
    faults.guarded(report)(error)
    (_previous or sys.__excepthook__)(kind, error, trace)


def at_exit() -> None:
    """Report what a program's own hook kept to itself: Python remembers it before it calls any."""
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    if error is not None:
        report(error)
    elif state.armed():
        moments.tell("ending", error=None)
        events.report("left", step=state.step)


def report(error: BaseException) -> None:
    """Write the `exception` event, once; a KeyboardInterrupt is told like any other."""
    global _reported
    if _reported or not state.armed():
        return
    _reported = True
    room.make(error)
    moments.tell("ending", error=error)
    import traceback  # the process is ending; most programs have it already

    from . import figures

    text = "".join(traceback.format_exception(error))[-8000:]
    # Where it was seen first: by now the training that it left has ended.
    memory, phase = figures.memory(), getattr(error, "autotune_told", state.phase)
    events.report(
        "exception", phase=phase, step=state.step, memory=memory, traceback=text, **of(error)
    )


def of(error: BaseException) -> "dict[str, str]":
    """An exception's type and message, as events hold them."""
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    return {"type": name, "message": str(error)[:4000]}

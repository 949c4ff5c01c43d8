"""Tells the words a training died with from those it went on after."""

from collections.abc import Iterable

from autotune.core.evidence import Evidence, Sign
from autotune.core.failure import Failure, Role
from autotune.core.signature import PROGRESS

FLUSHED_LINES = 5  # of a buffer, printed when its process ends


def not_outlived(signs: Iterable[Sign], evidence: Evidence) -> list[Sign]:
    """Leave out what the training went on after; all of it remains where nothing else does.

    Diverged numbers are never outlived: a training of nan goes on for ever. Lines from a buffer
    may come after the death of their writer, so an exit that was no success keeps its words, and
    an exception that nothing caught is not outlived by the few lines that follow it.
    """
    signs = list(signs)
    completed = max((s.line for s in evidence.signs if _completes(s)), default=0)
    last = max((s.line for s in evidence.signs if _steps(s)), default=0)

    def remains(sign: Sign) -> bool:
        flushed = FLUSHED_LINES if sign.uncaught else 0
        lived = sign.line < completed or sign.line + flushed < last
        return sign.failure is Failure.NUMERIC_DIVERGENCE or not lived

    remaining = [sign for sign in signs if remains(sign)]
    died = bool(evidence.exit_code or evidence.signal or evidence.exceptions)
    return signs if died and not remaining else remaining


def _completes(sign: Sign) -> bool:
    """The words of a run that completed; a traceback's frame has a phase and is none."""
    return sign.failure is Failure.NONE and sign.phase is None and sign.role is Role.CONFIRMS


def _steps(sign: Sign) -> bool:
    return sign.signature in PROGRESS

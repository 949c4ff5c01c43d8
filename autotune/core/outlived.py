"""Tells the words a training died with from those it went on after."""

from collections.abc import Iterable

from autotune.core.evidence import Evidence, Sign
from autotune.core.failure import Failure, Role


def not_outlived(signs: Iterable[Sign], evidence: Evidence) -> list[Sign]:
    """Leave out what the training went on after; all of it remains where nothing else does.

    Diverged numbers are never outlived: a training of nan goes on for ever. Lines from a buffer
    may come after the death of their writer, so an exit that was no success keeps its words.
    """
    signs = list(signs)
    last = max((s.line for s in evidence.signs if _is_life(s)), default=0)
    remaining = [s for s in signs if s.line >= last or s.failure is Failure.NUMERIC_DIVERGENCE]
    died = bool(evidence.exit_code or evidence.signal or evidence.exceptions)
    return signs if died and not remaining else remaining


def _is_life(sign: Sign) -> bool:
    """A step taken, or the words of a run that completed; a traceback's frame is neither."""
    if sign.failure is not Failure.NONE or sign.phase is not None:
        return False
    return sign.role is Role.CONFIRMS or sign.signature in PROGRESS


# Context entries that only a living training prints.
PROGRESS = frozenset({"step_counted", "loss_reported"})

"""Says why a sign that was seen did not become the diagnosis."""

from collections.abc import Iterable

from autotune.core.evidence import Evidence, Reason, Sign
from autotune.core.failure import Failure, Role
from autotune.core.outlived import not_outlived

EARLIER_RUN = "ended an earlier run in this log"


def why_outranked(sign: Sign, winner: Failure, rests_on: Iterable[Sign], evidence: Evidence) -> str:
    """Return in a few words why `winner` was named and not what this sign says."""
    lines = [one.line for one in rests_on]
    if winner is Failure.NONE and evidence.finished:
        return "the training finished all the same"
    if sign.role is Role.CASCADE:
        return "a consequence of another death"
    if sign.failure is Failure.NONE:
        return "words of a healthy run"
    if sign not in not_outlived([sign], _survived(evidence)):
        return "the training went on after it"
    if sign.role is Role.CONFIRMS:
        return "proves nothing by itself"
    if sign.failure is Failure.USER_CODE_ERROR:
        return "an exception without a name, beside one that has a name"
    if lines and sign.line > min(lines):
        return "later than the cause"
    if not lines:
        return "other evidence than words decided"
    return "what the ranks report of themselves decided"


def of_earlier_run(signs: Iterable[Sign]) -> tuple[Reason, ...]:
    """Return what ended a run that stands above the newest in the same log."""
    return tuple(Reason(s.signature, s.role, s.line, s.text, EARLIER_RUN) for s in signs)


def _survived(evidence: Evidence) -> Evidence:
    """The same signs of an attempt that did not die: only their order is asked for."""
    return Evidence(attempt=evidence.attempt, signs=evidence.signs)

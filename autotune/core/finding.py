"""One finding of a diagnosis, and the diagnosis it becomes once all evidence is added."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from autotune.core.evidence import Diagnosis, Evidence, OomFigures, Reason, Sign
from autotune.core.failure import Failure, Phase, Role
from autotune.core.oom_kind import kind_of_oom
from autotune.core.outranked import why_outranked

MOST_REASONS = 20


@dataclass(frozen=True)
class Finding:
    """A failure that some evidence names, before it is compared with the rest."""

    failure: Failure
    confidence: float
    why: str
    rests_on: tuple[Sign, ...] = ()
    rank: int | None = None
    phase: Phase | None = None
    figures: OomFigures = field(default_factory=OomFigures)


def complete(evidence: Evidence, finding: Finding) -> Diagnosis:
    """Add the figures' verdict, what else was seen and what was outranked."""
    if finding.failure is Failure.DEVICE_OOM:
        failure, because = kind_of_oom(finding.figures, evidence.memory)
        why = f"{finding.why}; {because}" if because else finding.why
        finding = replace(finding, failure=failure, why=why)
    rests = {(s.signature, s.line) for s in finding.rests_on}
    others = [s for s in evidence.signs if (s.signature, s.line) not in rests]
    outranked = [
        s for s in others if s.failure is not finding.failure and s.role is not Role.CONTEXT
    ]
    return Diagnosis(
        failure=finding.failure,
        confidence=finding.confidence,
        why=finding.why,
        rank=finding.rank if finding.rank is not None else _rank_of_copy(evidence, finding),
        phase=finding.phase,
        figures=finding.figures,
        secondary=_secondary(finding.failure, others),
        evidence=_reasons(
            (*finding.rests_on, *(s for s in others if s.failure is finding.failure))
        ),
        outranked=tuple(_outranked(s, finding, evidence) for s in outranked[:MOST_REASONS]),
    )


def _rank_of_copy(evidence: Evidence, finding: Finding) -> int | None:
    """Torch prints a traceback once more with its rank before each line."""
    texts = {sign.text for sign in finding.rests_on}
    copies = (s.rank for s in evidence.signs if s.rank is not None and s.text in texts)
    return next(copies, None)


def _secondary(failure: Failure, signs: Iterable[Sign]) -> tuple[Failure, ...]:
    family = failure.value.split("_")[:2]
    seen = dict.fromkeys(
        s.failure for s in signs
        if s.role is not Role.CONTEXT
        and s.failure not in (failure, Failure.NONE, Failure.UNKNOWN)
        and s.failure.value.split("_")[:2] != family
    )  # fmt: skip
    return tuple(seen)


def _outranked(sign: Sign, finding: Finding, evidence: Evidence) -> Reason:
    why = why_outranked(sign, finding.failure, finding.rests_on, evidence)
    return Reason(sign.signature, sign.role, sign.line, sign.text, why)


def _reasons(signs: Iterable[Sign]) -> tuple[Reason, ...]:
    kept = list(signs)[:MOST_REASONS]
    return tuple(Reason(s.signature, s.role, s.line, s.text) for s in kept)

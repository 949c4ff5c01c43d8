"""One finding of a diagnosis, and the diagnosis it becomes once all evidence is added."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from autotune.core.evidence import Diagnosis, Evidence, KernelEvent, OomFigures, Reason, Sign
from autotune.core.failure import Failure, Phase, Role, Trait
from autotune.core.oom_kind import kind_of_oom

NAMES_RANK = "launcher_names_rank"  # the signature of a launcher's table of ranks


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
    shown: tuple[Reason, ...] = ()  # what it rests on beside signs, as people are shown it
    traits: tuple[Trait, ...] = ()

    def resting_on(self, *events: KernelEvent) -> "Finding":
        """Return it with lines of the kernel's log among what it rests on."""
        told = tuple(Reason("kernel_log", Role.ROOT, None, event.text) for event in events)
        return replace(self, shown=(*self.shown, *told))


def with_trait(finding: Finding, trait: Trait) -> Finding:
    """Return the finding with one more trait."""
    return replace(finding, traits=(*finding.traits, trait))


def words_of(evidence: Evidence, finding: Finding) -> str:
    """Return the words a finding rests on, with the whole of what its rank raised."""
    said = [finding.why, *(sign.text for sign in finding.rests_on)]
    for exception in evidence.exceptions:
        if exception.rank == finding.rank:
            said += [exception.message, exception.traceback]
    return "\n".join(said)


def complete(evidence: Evidence, finding: Finding) -> Diagnosis:
    """Add the figures' verdict, what else was seen and what was outranked."""
    named = finding.failure
    if finding.failure is Failure.DEVICE_OOM:
        failure, because = kind_of_oom(finding.figures, evidence.memory)
        why = f"{finding.why}; {because}" if because else finding.why
        finding = replace(finding, failure=failure, why=why)
    rests = {(s.signature, s.line) for s in finding.rests_on}
    others = [s for s in evidence.signs if (s.signature, s.line) not in rests]
    return Diagnosis(
        failure=finding.failure,
        confidence=finding.confidence,
        why=finding.why,
        rank=finding.rank if finding.rank is not None else _rank_elsewhere(evidence, finding),
        phase=finding.phase,
        figures=finding.figures,
        secondary=_secondary(finding.failure, others),
        evidence=(
            *finding.shown,
            *_reasons((*finding.rests_on, *(s for s in others if s.failure is finding.failure))),
        ),
        outranked=_reasons(
            s for s in others if s.failure is not finding.failure and s.role is not Role.CONTEXT
        ),
        traits=finding.traits,
        # Words that turned out to hide something else have the wrong cure.
        cure=next((s.cure for s in finding.rests_on if s.cure and s.failure is named), ""),
    )


def _rank_elsewhere(evidence: Evidence, finding: Finding) -> int | None:
    """Torch prints a traceback once more with its rank; a launcher names the first rank to fail."""
    if finding.failure is Failure.NONE:
        return None
    texts = {sign.text for sign in finding.rests_on}
    ranked = [s for s in evidence.signs if s.rank is not None]
    copies = [s.rank for s in ranked if s.text in texts]
    named = [s.rank for s in ranked if s.signature == NAMES_RANK]
    return next(iter([*copies, *named[-1:]]), None)


def _secondary(failure: Failure, signs: Iterable[Sign]) -> tuple[Failure, ...]:
    family = failure.value.split("_")[:2]
    seen = dict.fromkeys(
        s.failure for s in signs
        if s.role is not Role.CONTEXT
        and s.failure not in (failure, Failure.NONE, Failure.UNKNOWN)
        and s.failure.value.split("_")[:2] != family
    )  # fmt: skip
    return tuple(seen)


def _reasons(signs: Iterable[Sign], most: int = 20) -> tuple[Reason, ...]:
    return tuple(Reason(s.signature, s.role, s.line, s.text) for s in list(signs)[:most])

"""Explains lines of a log as the supervisor would have understood them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from autotune.core.codec import to_plain
from autotune.core.diagnosis import diagnose
from autotune.core.evidence import Diagnosis, Evidence, Memory, Reason
from autotune.core.failure import Failure
from autotune.core.outranked import of_earlier_run
from autotune.core.scan import Scanner
from autotune.core.signature import Signatures

# A log without a word of failure, of which nothing else is known.
HEALTHY_SO_FAR = 0.3
Remedies = Callable[[Diagnosis], list[dict[str, str]]]


@dataclass(frozen=True)
class Explanation:
    """One log, understood."""

    diagnosis: Diagnosis
    lines: int
    signs_left_out: int = 0


def explain_lines(
    lines: Iterable[bytes | str],
    signatures: Signatures,
    exit_code: int | None = None,
    evidence: Evidence | None = None,
) -> Explanation:
    """Return the diagnosis of a log; reads the lines once and keeps none of them."""
    scanner = Scanner(signatures, appended=True)
    for line in lines:
        scanner.feed(line)
    return explain_scanned(scanner, signatures.device, exit_code, evidence)


def explain_scanned(
    scanner: Scanner,
    device: str | None = None,
    exit_code: int | None = None,
    evidence: Evidence | None = None,
) -> Explanation:
    """Return the diagnosis of what a scanner has read."""
    known = evidence or Evidence(attempt=1, exit_code=exit_code, memory=Memory(device=device))
    known = replace(known, signs=scanner.signs())
    diagnosis = diagnose(known)
    bare = evidence is None and not exit_code and scanner.lines > 0
    if bare and diagnosis.failure is Failure.UNKNOWN and not _only_deaths(known):
        diagnosis = replace(
            diagnosis,
            failure=Failure.NONE,
            confidence=HEALTHY_SO_FAR,
            why="nothing in the log is a word of failure; how the process ended is not known",
        )
    earlier = of_earlier_run(scanner.earlier())
    diagnosis = replace(diagnosis, outranked=(*diagnosis.outranked, *earlier))
    return Explanation(diagnosis, scanner.lines, scanner.left_out)


def _only_deaths(evidence: Evidence) -> bool:
    """A launcher's report of a death is no cause, and no health either."""
    return any(sign.failure is Failure.UNKNOWN for sign in evidence.signs)


def as_plain(explanation: Explanation, remedy_for: Remedies) -> dict[str, Any]:
    """Return what `explain --json` prints for one log; unknown values are None."""
    diagnosis = explanation.diagnosis
    return {
        "failure": diagnosis.failure.value,
        "confidence": round(diagnosis.confidence, 3),
        "why": diagnosis.why,
        "secondary": [failure.value for failure in diagnosis.secondary],
        "rank": diagnosis.rank,
        "phase": to_plain(diagnosis.phase),
        "memory": to_plain(diagnosis.figures),
        "evidence": [_plain(r) for r in (*diagnosis.evidence, *diagnosis.outranked)],
        "remedy": remedy_for(diagnosis),
    }


def _plain(reason: Reason) -> dict[str, Any]:
    plain = {
        "signature": reason.signature,
        "role": reason.role.value,
        "line": reason.line,
        "text": reason.text,
    }
    return plain | ({"outranked": reason.why} if reason.why else {})


def as_text(explanation: Explanation, name: str, remedy_for: Remedies) -> list[str]:
    """Return what a person reads: what was seen, what it is called, why, what was outranked."""
    diagnosis = explanation.diagnosis
    where = [f"on rank {diagnosis.rank}"] if diagnosis.rank is not None else []
    where += [f"during {diagnosis.phase.value}"] if diagnosis.phase else []
    lines = [
        f"{name}: {diagnosis.failure.value}"
        + "".join(f" {part}" for part in where)
        + f" (confidence {diagnosis.confidence:.2f})",
        f"  why: {diagnosis.why}",
    ]
    lines += [f"  seen: {_place(r)}, {r.signature}: {r.text}" for r in diagnosis.evidence[:5]]
    lines += [
        f"  outranked: line {r.line}, {r.signature} ({r.why or r.role.value}): {r.text}"
        for r in diagnosis.outranked[:5]
    ]
    if diagnosis.secondary:
        lines.append(f"  also: {', '.join(f.value for f in diagnosis.secondary)}")
    lines += [f"  remedy: {r.get('rung')}: {r.get('why')}" for r in remedy_for(diagnosis)]
    return lines


def _place(reason: Reason) -> str:
    return "beside the log" if reason.line is None else f"line {reason.line}"

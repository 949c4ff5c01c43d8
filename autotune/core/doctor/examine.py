"""Judges all that was found on a machine, the worst first, with a verdict in one sentence."""

import textwrap
from collections.abc import Sequence

from autotune.core.doctor import gpus, host, place, stack
from autotune.core.doctor.facts import Facts
from autotune.core.doctor.finding import Finding, Severity, hidden_by, in_order, notice

SCHEMA = 1
_NARROWEST = 60  # columns


def examine(facts: Facts) -> list[Finding]:
    """Return every finding: problems first, among them first those that hide others."""
    found = [*gpus.judge(facts), *stack.judge(facts), *host.judge(facts), *place.judge(facts)]
    found += [
        notice(f"{area}.unread", f"it could not be looked at: {why}", "it is not known", "see why")
        for area, why in facts.unread.items()
    ]
    return in_order(found)


def is_fit(findings: Sequence[Finding]) -> bool:
    """Return whether nothing was found that stops a training."""
    return all(one.severity is not Severity.PROBLEM for one in findings)


def as_plain(findings: Sequence[Finding]) -> dict[str, object]:
    """Return the findings as `autotune doctor --json` prints them (README.md describes it)."""
    hidden = hidden_by(findings)
    return {
        "schema": SCHEMA,
        "fit": is_fit(findings),
        "problems": _count(findings, Severity.PROBLEM),
        "notices": _count(findings, Severity.NOTICE),
        "findings": [
            {
                "name": one.name,
                "area": one.area,
                "severity": one.severity.value,
                "what": one.what,
                "cost": one.cost or None,
                "do": one.do or None,
                "hides": list(one.hides),
            }
            for one in findings
        ],
        "hidden": hidden,
    }


def as_text(findings: Sequence[Finding], width: int = 100) -> list[str]:
    """Return what people read: each finding with its cost and its cure, then the verdict."""
    wide = max((len(one.area) for one in findings), default=0)
    lines = []
    for one in findings:
        head = f"{one.severity.value:7}  {one.area:{wide}}  "
        said = [one.what]
        said += [f"costs: {one.cost}"] if one.cost else []
        said += [f"do: {one.do}"] if one.do else []
        for text in said:
            lines += _wrapped(text, head, max(_NARROWEST, width))
            head = " " * len(head)
    return [*lines, "", *_wrapped(verdict(findings), "", max(_NARROWEST, width))]


def _wrapped(text: str, head: str, width: int) -> list[str]:
    # A path or a command is not cut: it is there to be copied.
    return textwrap.wrap(
        text, width, initial_indent=head, subsequent_indent=" " * len(head),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def verdict(findings: Sequence[Finding]) -> str:
    """Return what it comes to, in one sentence."""
    problems, notices = _count(findings, Severity.PROBLEM), _count(findings, Severity.NOTICE)
    noticed = f"{notices} {'thing' if notices == 1 else 'things'} to know"
    if not problems:
        return f"fit: nothing stops a training ({noticed})"
    hidden = sorted(hidden_by(findings))
    more = f"; what lies behind cannot be told yet: {', '.join(hidden)}" if hidden else ""
    what = "1 problem stops" if problems == 1 else f"{problems} problems stop"
    return f"not fit: {what} a training ({noticed}){more}"


def _count(findings: Sequence[Finding], severity: Severity) -> int:
    return sum(one.severity is severity for one in findings)

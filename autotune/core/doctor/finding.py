"""One thing that was found about a machine: how bad it is, what it costs, and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    """How bad a finding is; the exit code of `autotune doctor` rests on `problem` alone."""

    PROBLEM = "problem"  # it stops a training, or makes of it something else than was meant
    NOTICE = "notice"  # it costs time, memory or certainty
    OK = "ok"


@dataclass(frozen=True)
class Finding:
    """What was found, in sentences; `name` is stable and may be keyed off."""

    name: str  # area.what, such as `torch.driver`
    severity: Severity
    what: str
    cost: str = ""
    do: str = ""
    hides: tuple[str, ...] = ()  # areas that cannot be judged before this is mended

    @property
    def area(self) -> str:
        """Return the part of the machine that it is about."""
        return self.name.split(".")[0]


def ok(name: str, what: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(name, Severity.OK, what)


def notice(name: str, what: str, cost: str, do: str) -> Finding:
    """Return what costs something and stops nothing."""
    return Finding(name, Severity.NOTICE, what, cost, do)


def problem(name: str, what: str, cost: str, do: str, hides: Sequence[str] = ()) -> Finding:
    """Return what stops a training; `hides` names the areas that it keeps from being judged."""
    return Finding(name, Severity.PROBLEM, what, cost, do, tuple(hides))


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Return the worst first, and of equals those first that hide others, else as they came."""
    bad = list(Severity)
    return sorted(findings, key=lambda one: (bad.index(one.severity), -len(one.hides)))


def hidden_by(findings: Sequence[Finding]) -> dict[str, str]:
    """Return for each area that is hidden the name of the finding that hides it."""
    return {area: one.name for one in reversed(findings) for area in one.hides}

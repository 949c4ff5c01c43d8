"""What the default policy would try against a diagnosis, for logs that belong to no job."""

from functools import cache
from pathlib import Path

from autotune.cli.wiring import all_rungs
from autotune.core.evidence import Diagnosis
from autotune.core.facts import FACTS
from autotune.core.failure import Failure
from autotune.core.policy import ANYTHING, Policy
from autotune.core.rung import Rung
from autotune.world.policy_file import find_policy, load_policy

PIN = "pin_packages"  # needs its name under `allow`, and packages to lay over


def remedies_for(diagnosis: Diagnosis) -> list[dict[str, str]]:
    """Return the rungs of the first rule that asks for nothing a bare log cannot tell.

    Facts that rest on the diagnosis are read from it; facts about a plan are unknown here, and a
    rule that needs one is passed over. Last stands `stop`, with what a person can do: alone where
    nothing is tried, else for the case that no rung helps.
    """
    if diagnosis.failure is Failure.NONE:
        return []
    rungs, policy = _default()
    for rule in policy.rules:
        if rule.when not in (ANYTHING, diagnosis.failure.value):
            continue
        if all(_holds(fact, diagnosis) for fact in rule.and_):
            named = [{"rung": name, "why": rungs[name].summary} for name in rule.try_]
            # What only other packages would mend is mended by whoever installs them.
            if all(one["rung"] == PIN for one in named):
                return [{"rung": "stop", "why": diagnosis.cure or rule.advice or rule.why}]
            last = diagnosis.cure or rule.advice
            return [*named, {"rung": "stop", "why": last}] if last else named
    return []


@cache
def _default() -> tuple[dict[str, Rung], Policy]:
    """The rungs there are and the policy that is shipped, read once for many logs."""
    rungs = all_rungs()
    return rungs, load_policy(find_policy("default", Path()), rungs)


def _holds(fact: str, diagnosis: Diagnosis) -> bool:
    try:
        return FACTS[fact](_Bare(diagnosis))  # type: ignore[arg-type]
    except AttributeError:
        return False


class _Bare:
    """A scene of which only the diagnosis is known."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        self.diagnosis = diagnosis

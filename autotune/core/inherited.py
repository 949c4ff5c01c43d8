"""The checkpoint of another run that a run was asked to go on from."""

from dataclasses import dataclass

from autotune.core.plan import Plan


@dataclass(frozen=True)
class Inherited:
    """The checkpoint of another run that this one was asked to go on from."""

    asked: str  # as the job names it
    source: str  # its folder; only ever read
    step: int
    plan: Plan  # that it was written under, as far as its run or its files tell

"""What a run can predict with: its subject, the room there is, and what was learned before it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from autotune.core.history import Story
from autotune.core.memory.belief import Belief
from autotune.core.memory.forecast import Forecast
from autotune.core.memory.predict import forecast
from autotune.core.memory.step_time import calibrated, step_seconds
from autotune.core.memory.traced import Traced
from autotune.core.memory.workload import Subject, Workload
from autotune.core.plan import Plan


@dataclass(frozen=True)
class Foresight:
    """Plain values, so that a decision that rests on them can be made again.

    `traced` holds the traces of plans near the limit; the closed form predicts the others.
    `seconds` are optimizer steps of like jobs on this machine, measured in earlier runs.
    """

    subject: Subject
    capacity: int  # bytes of one rank: the limit, else the device
    host_room: int | None = None  # bytes of this machine's memory for one of its ranks
    prior: Belief = field(default_factory=Belief)
    traced: Mapping[Plan, Traced] = field(default_factory=dict)
    seconds: Mapping[Plan, float] = field(default_factory=dict)

    def workload(self, plan: Plan) -> Workload:
        """Return what decides the memory of a plan."""
        return Workload(self.subject, plan)

    def time_of(self, story: Story) -> Callable[[Plan], float]:
        """Return the seconds per optimizer step of a plan, as predicted and as measured."""
        measured = dict(self.seconds)
        for attempt in story.attempts:
            pace = attempt.evidence.pace if attempt.evidence else None
            if pace is not None and pace.seconds:
                measured[attempt.plan] = pace.seconds
        return calibrated(lambda plan: step_seconds(self.workload(plan)), measured)

    def forecast(self, plan: Plan) -> Forecast:
        """Return what is predicted of a plan."""
        return forecast(self.workload(plan), self.traced.get(plan))

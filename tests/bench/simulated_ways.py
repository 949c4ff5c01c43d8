"""The ways of choosing that are tried on simulated jobs: the planner, and blind ladders."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autotune.core.candidates import Candidate
from autotune.core.climb import EVEN
from autotune.core.memory.belief import Belief
from autotune.core.memory.forecast import Forecast
from autotune.core.memory.learning import Lesson, learn
from autotune.core.plan import Plan, largest_split
from autotune.core.planner import IMPOSSIBLE, Pick, Prospect, near_limit, pick, prospects
from autotune.core.rung import Scene
from tests.bench.simulated_cells import AROUND, DIAGNOSIS, RUNGS, Cell, ladder, reach

AT_MOST = 20  # attempts
ROUNDS = 3  # of closer looks before a choice
WORTH = 0.05  # of a step's time, what a trial must promise to save (core/climb.py)
TRIALS = 2


@dataclass
class Outcome:
    """How one way of choosing fared in one cell."""

    attempts: int
    plan: Plan | None  # that ran
    lost_seconds: float = 0.0  # in starts that failed
    story: tuple[str, ...] = ()


def start_seconds(cell: Cell) -> float:
    """What a start costs: half a minute, and the weights from disk at 1 GB/s."""
    return 30 + 2 * cell.work.start.subject.shape.parameters / 1e9


class Planned:
    """The planner on one cell, which learns from every attempt as a run does."""

    def __init__(self, cell: Cell, rounds: int) -> None:
        self.cell, self.rounds = cell, rounds
        self.traced: dict[Plan, Forecast] = {}
        self.lessons: list[Lesson] = []
        self.failed = 0

    def forecast_of(self, plan: Plan) -> Forecast:
        return self.traced.get(plan) or self.cell.work.forecast(plan)

    def expect(self, found: Sequence[Candidate]) -> list[Prospect]:
        """What is expected of plans, those near the limit after a trace."""
        belief, capacity = learn(Belief(), self.lessons), self.cell.capacity
        time_of = self.cell.work.foretold_seconds

        def seen_of(some: Sequence[Candidate]) -> list[Prospect]:
            return prospects(some, self.forecast_of, belief, capacity, time_of)

        seen = seen_of(found)
        for _ in range(self.rounds):
            close = [(i, seen[i].plan) for i in near_limit(seen, capacity)]
            # What waits on the host is not traced.
            new = {i: p for i, p in close if p not in self.traced and not p.activation_offload}
            if not new:
                break
            self.traced.update(
                {plan: self.cell.work.traced_forecast(plan) for plan in new.values()}
            )
            again = seen_of([found[0], *(found[i] for i in new)])[1:]  # the first is times' measure
            for i, one in zip(new, again, strict=True):
                seen[i] = one
        return seen

    def untried(self, start: Plan) -> list[Candidate]:
        """All that can be made of a plan, but what was launched."""
        tried = {one.plan for one in self.lessons}
        return [one for one in reach(start) if one.plan not in tried]

    def land(self, table: Counter[tuple[int, bool]] | None = None) -> Outcome:
        """Launch until one plan runs or none is left."""
        cell, own = self.cell, self.cell.work.start.plan
        start, story = own, []
        while self.failed < AT_MOST:
            seen, choice = self.choose(start)
            if choice.index is None and start != own:  # as core/leap.py does
                seen, choice = self.choose(own)
            if table is not None and not self.lessons:
                _count(table, cell, seen)
            story.append(choice.why)
            if choice.index is None:
                break
            plan = seen[choice.index].plan
            self.lessons.append(cell.lesson(plan, self.forecast_of(plan)))
            if cell.fits(plan):
                lost = self.failed * start_seconds(cell)
                return Outcome(self.failed + 1, plan, lost, tuple(story))
            self.failed += 1
            start = plan
        return Outcome(self.failed, None, self.failed * start_seconds(cell), tuple(story))

    def choose(self, start: Plan) -> tuple[list[Prospect], Pick]:
        """The planner's choice among all that can be made of a plan."""
        found = self.untried(start)
        seen = self.expect(found) if found else []
        return seen, pick(seen, self.cell.capacity)

    def climb(self, landed: Outcome) -> Outcome:
        """Try the fastest plan worth a trial, twice; a trial that fails leads back."""
        now, cell, attempts, lost = landed.plan, self.cell, landed.attempts, landed.lost_seconds
        for _ in range(TRIALS if now else 0):
            assert now is not None
            own = cell.work.start.plan
            most = cell.work.foretold_seconds(now) * (1 - WORTH)
            quick = [
                one
                for one in self.untried(own)
                if cell.work.foretold_seconds(one.plan) <= most
                and one.plan.quantization == now.quantization
            ]
            seen = self.expect(quick) if quick else []
            better = [one for one in seen if one.p_fit >= EVEN and not one.refused]
            if not better:
                break
            held = cell.work.foretold_seconds(now)
            trial = max(
                better,
                key=lambda one: one.p_fit * (held - cell.work.foretold_seconds(one.plan)),
            ).plan
            self.lessons.append(cell.lesson(trial, self.forecast_of(trial)))
            attempts, lost = attempts + 1, lost + start_seconds(cell)
            if cell.fits(trial) and cell.time(trial) < cell.time(now):
                now = trial
        return Outcome(attempts, now, lost, landed.story)


def _count(table: Counter[tuple[int, bool]], cell: Cell, expected: list[Prospect]) -> None:
    """A sample of the odds, in twentieths; most plans are certain either way and say nothing."""
    for one in expected[::7]:
        if IMPOSSIBLE < one.p_fit < 1 - IMPOSSIBLE:
            table[int(one.p_fit * 20), cell.fits(one.plan)] += 1


def climbed(cell: Cell, step: Callable[[Plan], Plan | None]) -> Outcome:
    """One change after each failure, whatever the failure was."""
    plan: Plan | None = cell.work.start.plan
    for failed in range(AT_MOST):
        if plan is None:
            return Outcome(failed, None, failed * start_seconds(cell))
        if cell.fits(plan):
            return Outcome(failed + 1, plan, failed * start_seconds(cell))
        plan = step(plan)
    return Outcome(AT_MOST, None, AT_MOST * start_seconds(cell))


def next_rung(plan: Plan) -> Plan | None:
    """The first rung of the default ladder that applies."""
    here = Scene(plan, DIAGNOSIS, AROUND)
    usable = (RUNGS[name] for name in ladder() if RUNGS[name].applies(here) is None)
    return next((rung.apply(here) for rung in usable if not rung.keeps_plan), None)


def smaller(factor: float) -> Callable[[Plan], Plan | None]:
    """The micro-batch times `factor`, as far as the global batch allows."""

    def step(plan: Plan) -> Plan | None:
        if plan.micro_batch == 1:
            return None
        per_rank = plan.micro_batch * plan.accumulation
        micro = largest_split(per_rank, max(1, int(plan.micro_batch * factor)))
        return plan.but(micro_batch=micro, accumulation=per_rank // micro)

    return step

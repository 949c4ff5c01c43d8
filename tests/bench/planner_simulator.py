"""Plays thousands of jobs against the planner and against blind ladders; prints the figures.

python -m tests.bench.planner_simulator --seed TEXT [--judge] [--minutes M]
"""

import argparse
import multiprocessing
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import takewhile

from autotune.core.candidates import WORST
from autotune.core.memory.belief import Belief
from autotune.core.memory.predict import forecast
from autotune.core.memory.step_time import step_seconds
from autotune.core.memory.workload import Subject, Workload
from autotune.core.plan import Plan
from autotune.core.planner import pick, prospects
from autotune.core.rung import Result
from tests.bench.planner_traces import FOR_CHANGING
from tests.bench.simulated_cells import (
    CONTEXT,
    Cell,
    cells,
    reach,
    start_of,
)
from tests.bench.simulated_truth import GIB, load_traces
from tests.bench.simulated_ways import ROUNDS, Outcome, Planned, climbed, next_rung, smaller

PLANNER = "the planner"
TRACING = "the planner, traces near the limit"
CLIMBING = "the same, then climbing back"
PARTS = 40  # of a model's cells, played in a random order


@dataclass
class Tally:
    """What is counted of one way of choosing over all cells."""

    attempts: list[int] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)  # of the best plan's, in the best class
    lost: list[float] = field(default_factory=list)
    unsolved: list[str] = field(default_factory=list)
    worse_class: int = 0
    proofs: list[int] = field(default_factory=list)  # launches, in cells where nothing fits
    long_proofs: list[str] = field(default_factory=list)

    def add(self, cell: Cell, out: Outcome, best: dict[Result, tuple[float, Plan]]) -> None:
        """Count one cell; `best` is the least time in each class that fits."""
        if not best:
            self.proofs.append(out.attempts)
            if out.attempts > 2 and out.story:
                self.long_proofs.append("\n    ".join([cell.told, *out.story]))
            return
        if out.plan is None:
            self.unsolved.append(_told_of(cell, out, best))
            return
        self.attempts.append(out.attempts)
        self.lost.append(out.lost_seconds)
        first = min(best, key=WORST.index)
        mine = {one.plan: one.result for one in cell.work.found}.get(out.plan, Result.SAME)
        if mine is first:
            self.speeds.append(min(1.0, best[first][0] / cell.time(out.plan)))
        else:
            self.worse_class += 1


def _told_of(cell: Cell, out: Outcome, best: dict[Result, tuple[float, Plan]]) -> str:
    """Return how a cell came to be given up."""
    fit = sum(cell.fits(one.plan) for one in cell.work.found)
    plan = next(iter(best.values()))[1]
    truth, told = cell.peak(plan) / GIB, cell.work.forecast(plan).peak / GIB
    lines = [f"{cell.told}: {fit} of {len(cell.work.found)} fit; one takes {truth:.2f} GiB,"]
    lines += [f" forecast {told:.2f}, bias {cell.wrong.bias:+.3f}, {out.attempts} failed;"]
    return "".join([*lines, *(f"\n    {why}" for why in out.story)])


Played = tuple[dict[str, Tally], Counter[tuple[int, bool]]]


def play(chosen: Iterable[Cell]) -> Played:
    """Return how every way of choosing fared, and how often the planner's odds came true."""
    table: Counter[tuple[int, bool]] = Counter()
    blind: dict[str, Callable[[Plan], Plan | None]] = {
        "the ladder, blind": next_rung,
        "halving the micro-batch": smaller(0.5),
        "0.9 of the micro-batch": smaller(0.9),
    }
    tallies = {name: Tally() for name in (PLANNER, TRACING, CLIMBING, *blind)}
    for cell in chosen:
        best: dict[Result, tuple[float, Plan]] = {}
        for one in cell.work.found:
            if cell.fits(one.plan):
                known = best.get(one.result)
                if known is None or cell.time(one.plan) < known[0]:
                    best[one.result] = (cell.time(one.plan), one.plan)
        closer = Planned(cell, ROUNDS)
        landed = closer.land()
        tallies[PLANNER].add(cell, Planned(cell, 0).land(table), best)
        tallies[TRACING].add(cell, landed, best)
        tallies[CLIMBING].add(cell, closer.climb(landed), best)
        for name, step in blind.items():
            tallies[name].add(cell, climbed(cell, step), best)
    return tallies, table


def ranking() -> str:
    """Return how long forecasting and ranking 500 plans takes, the median of nine."""
    cell = next(cells(FOR_CHANGING[1], "ranking", 0, PARTS))
    shape, capacity = cell.work.start.subject.shape, cell.capacity
    found = [*reach(start_of("lora", 4, 16)), *reach(start_of("full", 4, 16))][:500]
    took = []
    for sequence in range(1000, 1009):  # another subject each time: nothing is known of it
        subject = Subject(shape, "cuda", sequence, lora_rank=16, cuda_context=CONTEXT)
        began = time.process_time()
        works = {one.plan: Workload(subject, one.plan) for one in found}
        foretold = {plan: forecast(work) for plan, work in works.items()}
        between = time.process_time()
        seconds = {plan: step_seconds(work) for plan, work in works.items()}
        seen = prospects(
            found, foretold.__getitem__, Belief(), capacity, seconds.__getitem__
        )  # fmt: skip
        pick(seen, capacity)
        took.append((between - began, time.process_time() - between))
    first, second = (statistics.median(one) * 1000 for one in zip(*took, strict=True))
    return f"{len(found)} plans: forecast in {first:.0f} ms of a core, ranked in {second:.0f} ms"


def show(tallies: dict[str, Tally], table: Counter[tuple[int, bool]]) -> None:
    """Print both tables, and every cell that was given up wrongly."""
    one = tallies[PLANNER]
    solvable = len(one.attempts) + len(one.unsolved)
    print(f"{solvable} cells in which a plan fits, {len(one.proofs)} in which none does\n")
    print(
        "| | attempts, median / p95 / mean | first fits | unsolved | speed of the best, median /"
        " mean / p5 | other class | seconds lost, mean | ended in ≤ 2 where none fits |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, tally in tallies.items():
        tries, speeds = sorted(tally.attempts), sorted(tally.speeds)
        within = sum(n <= 2 for n in tally.proofs) / max(1, len(tally.proofs))
        print(
            f"| {name} | {statistics.median(tries):.0f} / {tries[int(len(tries) * 0.95)]} /"
            f" {statistics.mean(tries):.2f} | {tries.count(1) / len(tries):.1%} |"
            f" {len(tally.unsolved)} ({len(tally.unsolved) / solvable:.1%}) |"
            f" {statistics.median(speeds):.1%} /"
            f" {statistics.mean(speeds):.1%} / {speeds[int(len(speeds) * 0.05)]:.1%} |"
            f" {tally.worse_class / solvable:.1%} | {statistics.mean(tally.lost):.0f} |"
            f" {within:.1%} |"
        )
    print("\n| said to fit with | plans | fitted |\n|---|---|---|")
    for part in range(20):
        fitted, not_so = table[part, True], table[part, False]
        if fitted + not_so:
            share = fitted / (fitted + not_so)
            print(f"| {part * 5} to {part * 5 + 5} % | {fitted + not_so} | {share:.0%} |")
    for name in (PLANNER, TRACING):
        for told in tallies[name].unsolved:
            print(f"\n{name}, given up: {told}")
        for told in tallies[name].long_proofs:
            print(f"\n{name}, proven late: {told}")


def merged(parts: Iterable[Played]) -> Played:
    """Return what was counted in all parts together."""
    tallies, table = defaultdict[str, Tally](Tally), Counter[tuple[int, bool]]()
    for some, odds in parts:
        table.update(odds)
        for name, tally in some.items():
            for each, value in vars(tally).items():
                setattr(tallies[name], each, getattr(tallies[name], each) + value)
    return tallies, table


def play_part(asked: tuple[str, str, int, int]) -> Played:
    """Play a part of one model's cells of a seed."""
    name, seed, part, parts = asked
    return play(cells(name, seed, part, parts))


def main() -> None:
    """Play, and print the tables for RESULTS.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", required=True, help="of the errors, the hardware and the order")
    parser.add_argument("--judge", action="store_true", help="the models kept for judging")
    parser.add_argument("--minutes", type=float, default=600, help="what is done by then counts")
    asked = parser.parse_args()
    until = time.monotonic() + 60 * asked.minutes
    names = [name for name in load_traces() if (name in FOR_CHANGING) is not asked.judge]
    parts = [(name, asked.seed, part, PARTS) for name in names for part in range(PARTS)]
    random.Random(asked.seed).shuffle(parts)
    with multiprocessing.Pool(2) as pool:
        played = pool.imap_unordered(play_part, parts)
        done = list(takewhile(lambda _: time.monotonic() < until, played))
    show(*merged(done))
    print(f"\n{len(done)} of {len(parts)} parts, models {', '.join(names)}; {ranking()}")


if __name__ == "__main__":
    main()

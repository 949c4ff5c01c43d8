"""Simulates neighbours who come and go on shared GPUs, and counts rungs that were taken for them.

Run it with `python -m tests.bench.neighbours [--runs N] [--first SEED]`. Each run is drawn from a
seed: what the job needs, how many GPUs it may use, who comes when and how much they take, and what
can be seen of it. What is refused is refused by arithmetic; diagnosis, decision and story are
autotune's own. A job that fits an empty card and is given another plan has met a wrong rung. Where
something is known of its need, from a limit or a prediction, none is to be expected; where nothing
is, a start cannot wait for room, and a neighbour who was there before it and has less than a
quarter of the card counts as part of the machine.
"""

import argparse
import collections
import dataclasses
import random
from typing import Any

from autotune.core.decide import next_step
from autotune.core.diagnosis import diagnose
from autotune.core.evidence import Evidence, Memory, OomFigures
from autotune.core.failure import Failure
from autotune.core.history import Story, tell
from autotune.core.outlook import Outlook
from autotune.core.plan import Plan
from autotune.core.record import (
    AttemptEnded,
    Decided,
    Finish,
    Launch,
    RunStarted,
    Step,
    Wait,
    Waited,
)
from autotune.core.seats import Seat, Seating
from tests import builders

GIB = builders.GIB
CARD = 80 * GIB
DRIVER = GIB // 2  # that an empty card does not show as free
CONTEXT = GIB // 2
TICK = 10.0  # seconds between two requests of the training
LENGTH = 3600.0  # of an undisturbed training
HORIZON = 3 * 86400.0  # by which every neighbour has left
WAYS = ("nvml", "container")  # process ids join, or do not


@dataclasses.dataclass(frozen=True)
class Visit:
    """One neighbour on one GPU."""

    gpu: int
    begins: float
    ends: float
    size: int


@dataclasses.dataclass(frozen=True)
class Result:
    """How one simulated run went."""

    finished: bool
    fits: bool  # an empty card is enough for the job's own plan
    crowded: int  # attempts that a neighbour really ended
    known: bool  # something says how much must be free before a start
    wrong_rungs: int
    unnamed: int  # attempts ended by a neighbour and named as something else
    moved: bool  # trained on more than one GPU
    right_rung: bool  # too large for any card, and given another plan
    waited: float  # seconds


class World:
    """GPUs, neighbours and one job, at one moment after another."""

    def __init__(self, seed: int) -> None:
        """Draw everything from the seed."""
        self.draw = draw = random.Random(seed)
        self.gpus = draw.choice([1, 1, 2, 4])
        self.way = draw.choice(WAYS)
        self.fits = draw.random() < 0.9
        self.peak = int((draw.uniform(10, 76) if self.fits else draw.uniform(84, 120)) * GIB)
        self.may_move = draw.random() < 0.5
        self.knows = draw.random() < 0.5  # a limit says how much must be free
        self.at = 0.0
        self.visits = []
        for gpu in range(self.gpus):
            for _ in range(draw.randrange(6)):
                begins = draw.uniform(-3600, 6 * 3600)
                size = int(draw.uniform(1, 75) * GIB)
                self.visits.append(Visit(gpu, begins, begins + draw.expovariate(1 / 3600), size))

    def others(self, gpu: int, held: int = 0) -> int:
        """Return what neighbours hold; each takes what it finds, beside what we hold."""
        left, taken = CARD - DRIVER - held, 0
        for one in self.visits:
            if one.gpu == gpu and one.begins <= self.at < one.ends:
                taken += min(one.size, left - taken)
        return taken

    def seating(self) -> Seating:
        """Return how the GPUs are now."""
        seats = []
        for gpu in range(self.gpus):
            others = self.others(gpu)
            seats.append(Seat(gpu, CARD - DRIVER - others, others <= GIB))
        return Seating(tuple(seats), self.may_move)

    def train(self, launch: Launch) -> Evidence:
        """Return how an attempt ends."""
        gpu = launch.devices[0]
        before = CARD - DRIVER - self.others(gpu)
        held, began = 0, self.at
        while self.at - began < LENGTH:
            rise = min(1.0, 0.3 + (self.at - began) / 120)  # the model, then the first steps
            wanted = int(self.peak * rise * self.draw.uniform(0.9, 1.0))
            others = self.others(gpu, held)
            if wanted > held and CONTEXT + wanted + others > CARD - DRIVER:
                return self._refused(launch, wanted - held, held, others, before, began)
            held = wanted
            self.at += TICK
        return builders.evidence(
            attempt=launch.attempt, exit_code=0, finished=True, seconds=self.at - began
        )

    def _refused(
        self, launch: Launch, requested: int, held: int, others: int, before: int, began: float
    ) -> Evidence:
        free = CARD - DRIVER - CONTEXT - held - others
        figures = OomFigures(
            requested_bytes=requested, capacity_bytes=CARD, free_bytes=max(0, free),
            process_bytes=held + CONTEXT, allocated_bytes=held, reserved_bytes=held,
        )  # fmt: skip
        memory = Memory(
            device="cuda",
            peak_bytes=held + CONTEXT if self.way == "nvml" else None,
            device_total_bytes=CARD,
            device_others_bytes=others if self.way == "nvml" else None,
            device_free_before_bytes=before,
        )
        found = builders.sign(Failure.DEVICE_OOM, figures=figures)
        return builders.evidence(
            attempt=launch.attempt, signs=(found,), memory=memory, seconds=self.at - began,
            checkpoint_step=0, started_training=self.at - began > 120,
        )  # fmt: skip


def outlook(world: World, start: Plan) -> Outlook:
    """Return what a decision of the simulated run rests on."""
    limit = world.peak + CONTEXT + GIB if world.knows and world.fits else None
    limits = {"attempts": 40, "wall": "100d", "wait": "10d"}
    devices: dict[str, Any] = {"memory_limit": limit}
    return builders.outlook(
        job=builders.job(devices=devices, limits=limits, proof=False),
        start=start,
        seating=world.seating(),
    )


def wait(world: World, story: Story, step: Wait, start: Plan) -> Waited:
    """Let time pass as the supervisor does."""
    began = world.at
    while True:
        if step.for_devices:
            then = dataclasses.replace(story, pending=None)
            if not isinstance(next_step(then, outlook(world, start)), Wait):
                return Waited(world.at - began)
        elif step.free_bytes is not None and world.at - began >= step.at_least:
            seats = world.seating().seats
            if min(seats[gpu].free_bytes or 0 for gpu in story.devices) >= step.free_bytes:
                return Waited(world.at - began, room=True)
        if world.at - began >= step.seconds:
            return Waited(world.at - began, None if step.for_devices else False)
        world.at += TICK


def simulate(seed: int) -> Result:
    """Return how the run of one seed goes, from its first decision to its end."""
    world, start = World(seed), builders.plan(world_size=1)
    story = tell(Story(), RunStarted(str(seed), "a-job", "identity", start, "cuda"))
    crowded = unnamed = 0
    while True:
        step: Step = next_step(story, outlook(world, start))
        story = tell(story, Decided(step))
        if isinstance(step, Wait):
            story = tell(story, wait(world, story, step, start))
            continue
        other = isinstance(step, Launch) and step.plan != start
        if other or not isinstance(step, Launch):  # what another plan needs is not simulated
            return Result(
                finished=isinstance(step, Finish),
                fits=world.fits,
                known=world.knows,
                crowded=crowded,
                wrong_rungs=int(other and world.fits),
                unnamed=unnamed,
                moved=len({one.launch.devices for one in story.attempts}) > 1,
                right_rung=other and not world.fits,
                waited=story.waited_seconds,
            )
        seen = world.train(step)
        named = diagnose(seen)
        if not seen.finished and world.fits:
            crowded += 1
            unnamed += named.failure is not Failure.DEVICE_OOM_COTENANT
        story = tell(story, AttemptEnded(step.attempt, seen, named))


def main() -> None:
    """Print what came of many runs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    for known in (True, False):
        total: collections.Counter[str] = collections.Counter()
        for seed in range(given.first, given.first + given.runs):
            if World(seed).knows is known:
                total.update(_counted(simulate(seed)))
        print("something is known of the need:" if known else "nothing is known of the need:")
        for what, count in total.items():
            print(f"{count:7d}  {what}")


def _counted(one: Result) -> dict[str, int]:
    return {
        "jobs that fit an empty card": one.fits,
        "of these finished with their own plan": one.fits and one.finished,
        "attempts ended by a neighbour": one.crowded,
        "of these named otherwise": one.unnamed,
        "wrong rungs": one.wrong_rungs,
        "runs that moved": one.fits and one.moved,
        "jobs too large for a card": not one.fits,
        "of these given a rung": one.right_rung,
        "minutes that jobs too large for a card waited": round(one.waited / 60) * (not one.fits),
    }


if __name__ == "__main__":
    main()

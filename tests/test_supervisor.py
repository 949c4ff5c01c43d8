"""A wait ends when NVML shows room, by the clock where it cannot tell, and at once for a stop."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from autotune.core.failure import Failure
from autotune.core.history import Story
from autotune.core.outlook import Outlook
from autotune.core.pauses import LONGEST_SECONDS, pause
from autotune.core.record import Decided, Event, Launch, StopAsked, Unseated, Wait, Waited
from autotune.core.seats import Seat, Seating
from autotune.edges import Interrupts
from autotune.supervisor import Supervisor
from tests import builders

ROOM = 10 * builders.GIB


@dataclasses.dataclass
class FakeClock:
    """Time passes only where somebody sleeps."""

    at: float = 0.0

    def monotonic(self) -> float:
        """Return what was slept so far."""
        return self.at

    def now(self) -> float:
        """Return the same as a date."""
        return self.at

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.at += seconds


class Started(Exception):
    """The next attempt was about to be started."""


@dataclasses.dataclass
class FakeStage:
    """A stage whose GPUs have room from some moment on, or cannot be asked."""

    clock: FakeClock
    room_at: float | None = None
    mute: bool = False
    asked: int = 0
    taken_by: Iterator[str] = dataclasses.field(default_factory=lambda: iter(()))

    def free_bytes(self, plan: Any) -> int | None:
        """Return what is free now."""
        del plan
        self.asked += 1
        there = self.room_at is not None and self.clock.at >= self.room_at
        return None if self.mute else ROOM if there else 0

    def seat(self, devices: tuple[int, ...]) -> str:
        """Find the devices taken, until nobody else has them."""
        del devices
        return next(self.taken_by, "")

    def clear_way(self, launch: Launch) -> None:
        """Say that it came so far."""
        raise Started(launch.why)


@dataclasses.dataclass
class Told:
    """Keeps what is written down and asks for a stop when the time has come."""

    clock: FakeClock
    stop_at: float | None = None
    events: list[Event] = dataclasses.field(default_factory=list)

    def append(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event)

    def event(self, event: Event) -> None:
        """Hear of it."""

    def read(self) -> Interrupts:
        """Return whether a stop was asked for."""
        stop = self.stop_at is not None and self.clock.at >= self.stop_at
        return Interrupts(stop_by="Ctrl-C" if stop else None)


def supervise(stage: FakeStage, told: Told, limit: str = "20m") -> int | None:
    """Go on after a neighbour crowded the job out; None when an attempt was started."""
    crowded = builders.attempt(1, failure=Failure.DEVICE_OOM_COTENANT)
    figures = builders.figures(requested=2, process=6)
    why = builders.diagnosis(Failure.DEVICE_OOM_COTENANT, figures=figures)
    job = builders.job(limits={"wait": limit})
    supervisor = Supervisor(
        story=builders.story(dataclasses.replace(crowded, diagnosis=why)),
        outlook=lambda _: builders.outlook(job=job),
        journal=told,
        stage=stage,  # type: ignore[arg-type]
        clock=stage.clock,
        asked=told,
        tell=told,  # type: ignore[arg-type]
    )
    try:
        return supervisor.run()
    except Started:
        return None


def waits(told: Told) -> list[Waited]:
    """Return how each wait ended."""
    return [event for event in told.events if isinstance(event, Waited)]


def test_a_wait_ends_as_soon_as_there_is_room() -> None:
    clock = FakeClock()
    told = Told(clock)
    assert supervise(FakeStage(clock, room_at=40.0), told) is None
    (waited,) = waits(told)
    assert waited.room
    assert 40 <= waited.seconds <= 40 + LONGEST_SECONDS
    first = told.events[0]
    assert isinstance(first, Decided)
    assert isinstance(first.step, Wait)
    assert first.step.free_bytes == 8 * builders.GIB


def test_room_is_waited_for_in_pauses_that_are_each_written_down() -> None:
    clock = FakeClock()
    told = Told(clock)
    assert supervise(FakeStage(clock, room_at=610.0), told) is None
    *before, last = waits(told)
    assert before == [Waited(300.0, False), Waited(300.0, False)]
    assert last.room
    assert 10 <= last.seconds <= 20


def test_the_plan_is_tried_once_more_when_the_time_for_waiting_is_over() -> None:
    clock = FakeClock()
    told = Told(clock)
    assert supervise(FakeStage(clock), told, limit="7m") is None
    assert waits(told) == [Waited(300.0, False), Waited(120.0, False)]


def test_where_nvml_cannot_tell_the_pause_alone_is_waited() -> None:
    clock = FakeClock()
    told, stage = Told(clock), FakeStage(clock, mute=True)
    assert supervise(stage, told) is None
    assert waits(told) == [Waited(300.0, room=None)]
    assert stage.asked > 1


@pytest.mark.parametrize("mute", [True, False])
def test_a_stop_ends_a_wait_for_room_at_once(mute: bool) -> None:
    clock = FakeClock()
    told = Told(clock, stop_at=30.0)
    assert supervise(FakeStage(clock, mute=mute), told) == 4
    assert waits(told) == []
    assert StopAsked("Ctrl-C") in told.events
    assert clock.at < 40


def test_pauses_grow_to_half_a_minute_and_two_runs_do_not_look_in_step() -> None:
    ours, theirs = ([pause(n, name) for n in range(50)] for name in ("ours", "theirs"))
    assert ours == [pause(n, "ours") for n in range(50)]
    assert all(a != b for a, b in zip(ours, theirs, strict=True))
    assert all(LONGEST_SECONDS * 2 / 3 <= one <= LONGEST_SECONDS for one in ours[5:])
    assert ours[0] <= 2
    assert sum(ours[:4]) <= 30


def start(told: Told, stage: FakeStage, free_at: float, wait: str = "20m") -> int | None:
    """Begin a run on one GPU that somebody else has leased until `free_at`."""

    def outlook(_: Story) -> Outlook:
        holder = "" if stage.clock.at >= free_at else "bob's job theirs (process 7)"
        seating = Seating((Seat(0, holder=holder),), may_move=False)
        plan, job = builders.plan(world_size=1), builders.job(limits={"wait": wait})
        return builders.outlook(start=plan, job=job, seating=seating)

    supervisor = Supervisor(
        story=builders.story(),
        outlook=outlook,
        journal=told,
        stage=stage,  # type: ignore[arg-type]
        clock=stage.clock,
        asked=told,
        tell=told,  # type: ignore[arg-type]
    )
    try:
        return supervisor.run()
    except Started:
        return None


def test_a_start_waits_for_a_leased_gpu_and_says_for_whom() -> None:
    clock = FakeClock()
    told = Told(clock)
    assert start(told, FakeStage(clock), free_at=700.0) is None
    steps = [event.step for event in told.events if isinstance(event, Decided)]
    assert [type(step) for step in steps] == [Wait, Wait, Wait, Launch]
    assert isinstance(steps[0], Wait)
    assert steps[0].why == "GPU 0 is leased to bob's job theirs (process 7)"
    assert 700 <= clock.at <= 700 + LONGEST_SECONDS
    assert isinstance(steps[-1], Launch)
    assert steps[-1].devices == (0,)


def test_a_gpu_that_stays_leased_is_given_up_with_whose_it_is_and_never_started_on() -> None:
    clock = FakeClock()
    told = Told(clock)
    assert start(told, FakeStage(clock), free_at=1e9, wait="12m") == 1
    assert clock.at == 720
    given_up = told.events[-2]
    assert isinstance(given_up, Decided)
    assert "leased to bob's job theirs" in str(given_up.step)
    assert "limits.wait" in str(given_up.step)


def test_a_gpu_taken_between_the_look_and_the_start_is_waited_for_and_the_launch_stands() -> None:
    clock = FakeClock()
    told = Told(clock)
    stage = FakeStage(clock, taken_by=iter(["GPU 0 is leased to bob"]))
    assert start(told, stage, free_at=0.0) is None
    kinds = [type(event) for event in told.events]
    assert kinds == [Decided, Unseated, Decided, Waited, Decided]
    assert told.events[0] == told.events[-1]
    assert clock.at >= 10


def test_a_lease_that_looks_free_and_is_refused_for_ever_fills_no_journal() -> None:
    clock = FakeClock()
    told = Told(clock)
    stage = FakeStage(clock, taken_by=itertools.repeat("GPU 0 is leased to bob"))
    assert start(told, stage, free_at=0.0, wait="1h") == 1
    assert len(told.events) <= 3600 / 10 * 4 + 4
    assert "leased to bob" in str(told.events[-2])


def test_a_stop_ends_a_wait_for_devices_at_once() -> None:
    clock = FakeClock()
    told = Told(clock, stop_at=30.0)
    assert start(told, FakeStage(clock), free_at=1e9) == 4
    assert clock.at < 40

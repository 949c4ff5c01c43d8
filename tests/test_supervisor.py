"""A wait ends when NVML shows room, by the clock where it cannot tell, and at once for a stop."""

import dataclasses
from typing import Any

import pytest

from autotune.core.failure import Failure
from autotune.core.record import Decided, Event, Launch, StopAsked, Wait, Waited
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

    def free_bytes(self, plan: Any) -> int | None:
        """Return what is free now."""
        del plan
        self.asked += 1
        there = self.room_at is not None and self.clock.at >= self.room_at
        return None if self.mute else ROOM if there else 0

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


def waits(told: Told) -> list[Event]:
    """Return how each wait ended."""
    return [event for event in told.events if isinstance(event, Waited)]


def test_a_wait_ends_as_soon_as_there_is_room() -> None:
    clock = FakeClock()
    told = Told(clock)
    assert supervise(FakeStage(clock, room_at=40.0), told) is None
    assert waits(told) == [Waited(40.0, room=True)]
    first = told.events[0]
    assert isinstance(first, Decided)
    assert isinstance(first.step, Wait)
    assert first.step.free_bytes == 8 * builders.GIB


def test_room_is_waited_for_in_pauses_that_are_each_written_down() -> None:
    clock = FakeClock()
    told = Told(clock)
    assert supervise(FakeStage(clock, room_at=610.0), told) is None
    assert waits(told) == [Waited(300.0, False), Waited(300.0, False), Waited(10.0, True)]


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

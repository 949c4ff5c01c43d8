"""How much silence a run's own rhythm explains, and what counts as a sign of work."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.failure import Phase
from autotune.core.rhythm import MOST_BETWEEN_LOOKS, WORK_BYTES, Doing, Pulse, Rhythm, Work, beat
from tests import builders

LIMITS = builders.shipped().limits
MINUTE = 60.0
TRAINING = Pulse(marks=9, phase=Phase.TRAIN, reports=True, stepped=True)
LOADING = Pulse(marks=2, phase=Phase.LOAD, reports=True)


def pass_time(rhythm: Rhythm, seconds: float, pulse: Pulse) -> Rhythm:
    """Look every five seconds for so long, and see the same each time."""
    at, end = rhythm.at or 0.0, (rhythm.at or 0.0) + seconds
    while at < end:
        at = min(at + 5.0, end)
        rhythm = beat(rhythm, at, pulse)
    return rhythm


def stepping(seconds: float, steps: int = 3) -> Rhythm:
    """Return the rhythm of a training whose steps take so long."""
    rhythm = beat(Rhythm(), 0.0, TRAINING)
    for step in range(1, steps + 1):
        rhythm = pass_time(rhythm, seconds, replace(TRAINING, marks=8 + step))
        rhythm = beat(rhythm, rhythm.at or 0.0, replace(TRAINING, marks=9 + step))
    return rhythm


@pytest.mark.parametrize(
    ("pulse", "minutes", "doing"),
    [
        (Pulse(), 30, Doing.START),
        (LOADING, 30, Doing.START),
        (TRAINING, 10, Doing.STEP),
        (replace(TRAINING, phase=Phase.EVAL), 30, Doing.EVAL),
        (replace(TRAINING, phase=Phase.SAVE), 30, Doing.SAVE),
        (replace(TRAINING, phase=Phase.FINISH), 30, Doing.END),
    ],
)
def test_each_thing_it_does_has_an_allowance_of_its_own(
    pulse: Pulse, minutes: int, doing: Doing
) -> None:
    rhythm = beat(Rhythm(), 0.0, pulse)
    assert pulse.doing is doing
    assert not pass_time(rhythm, minutes * MINUTE, pulse).is_broken(LIMITS)
    assert pass_time(rhythm, minutes * MINUTE + 1, pulse).is_broken(LIMITS)


def test_long_steps_explain_longer_silence_in_steps_evaluations_and_saves() -> None:
    rhythm = stepping(5 * MINUTE)
    assert rhythm.explained(LIMITS) == 50 * MINUTE
    saving = beat(rhythm, rhythm.at or 0.0, replace(rhythm.pulse, phase=Phase.SAVE))
    assert saving.explained(LIMITS) == 50 * MINUTE


def test_a_long_evaluation_explains_the_next_one_and_not_a_step() -> None:
    evaluating = replace(TRAINING, phase=Phase.EVAL, marks=10)
    rhythm = beat(beat(Rhythm(), 0.0, TRAINING), 1.0, evaluating)
    rhythm = beat(pass_time(rhythm, 20 * MINUTE, evaluating), 1201.0, replace(TRAINING, marks=11))
    assert rhythm.explained(LIMITS) == 10 * MINUTE
    again = beat(rhythm, 1202.0, replace(evaluating, marks=12))
    assert again.explained(LIMITS) == 200 * MINUTE


def test_the_start_is_no_rhythm_for_the_steps() -> None:
    rhythm = pass_time(beat(Rhythm(), 0.0, LOADING), 25 * MINUTE, LOADING)
    rhythm = beat(rhythm, 1500.0, replace(TRAINING, marks=3))
    assert rhythm.explained(LIMITS) == 10 * MINUTE


@pytest.mark.parametrize(
    ("pulse", "ends"), [(LOADING, True), (replace(TRAINING, phase=Phase.EVAL), True),
                        (TRAINING, False)],
)  # fmt: skip
def test_printing_is_progress_except_between_reported_steps(pulse: Pulse, ends: bool) -> None:
    rhythm = pass_time(beat(Rhythm(), 0.0, pulse), MINUTE, pulse)
    printed = beat(rhythm, 61.0, replace(pulse, output_bytes=100))
    assert (printed.silent == 0) is ends


def test_where_nothing_reports_the_output_is_the_rhythm() -> None:
    rhythm = beat(Rhythm(), 0.0, Pulse())
    rhythm = beat(pass_time(rhythm, 8 * MINUTE, Pulse()), 480.0, Pulse(output_bytes=80))
    assert rhythm.silent == 0
    assert rhythm.explained(LIMITS) == 80 * MINUTE


def test_time_in_which_nobody_looked_is_nobodys_silence() -> None:
    rhythm = beat(beat(Rhythm(), 0.0, TRAINING), 1e6, TRAINING)
    assert rhythm.silent == MOST_BETWEEN_LOOKS


def work(**seen: Any) -> Pulse:
    return replace(TRAINING, work=Work(**seen))


@pytest.mark.parametrize(
    ("before", "after", "works"),
    [
        ({"moved_bytes": 10}, {"moved_bytes": 10 + WORK_BYTES}, True),
        ({"moved_bytes": 10}, {"moved_bytes": 9 + WORK_BYTES}, False),
        ({"held_bytes": 10}, {"held_bytes": 10 + WORK_BYTES}, True),
        ({"held_bytes": WORK_BYTES}, {"held_bytes": 0}, False),
        ({}, {"compilers": ((7, 1.0),)}, True),
        ({"compilers": ((7, 1.0),)}, {"compilers": ((7, 2.0),)}, True),
        ({"compilers": ((7, 1.0),)}, {"compilers": ((7, 1.0),)}, False),  # it hangs itself
        ({"processes": frozenset({1})}, {"processes": frozenset({1, 2})}, False),
    ],
)
def test_visible_work_ends_a_silence(
    before: dict[str, Any], after: dict[str, Any], works: bool
) -> None:
    rhythm = pass_time(beat(Rhythm(), 0.0, TRAINING), MINUTE, TRAINING)
    rhythm = beat(beat(rhythm, 61.0, work(**before)), 71.0, work(**after))
    assert (rhythm.silent == 0) is works


def test_slow_writing_adds_up_and_what_is_printed_does_not() -> None:
    rhythm = beat(beat(Rhythm(), 0.0, TRAINING), 10.0, work())
    half = WORK_BYTES // 2
    assert beat(rhythm, 20.0, work(moved_bytes=half)).silent > 0
    rhythm = beat(rhythm, 20.0, work(moved_bytes=half))
    assert beat(rhythm, 30.0, work(moved_bytes=2 * half)).silent == 0
    printed = replace(work(moved_bytes=2 * half), output_bytes=2 * half)
    assert beat(rhythm, 30.0, printed).silent > 0


def test_a_process_that_ends_takes_no_silence_away() -> None:
    rhythm = beat(beat(Rhythm(), 0.0, TRAINING), 10.0, work(moved_bytes=10**12))
    rhythm = beat(rhythm, 20.0, work(moved_bytes=0))
    assert rhythm.silent == 20.0
    assert beat(rhythm, 30.0, work(moved_bytes=WORK_BYTES)).silent == 0


def test_a_launcher_that_still_starts_processes_is_at_work() -> None:
    first = Pulse(work=Work(processes=frozenset({1})))
    rhythm = beat(beat(Rhythm(), 0.0, Pulse()), 10.0, first)
    assert beat(rhythm, 20.0, Pulse(work=Work(processes=frozenset({1, 2})))).silent == 0


def test_the_processes_are_looked_at_only_in_a_silence_and_now_and_then() -> None:
    rhythm = beat(Rhythm(), 0.0, TRAINING)
    assert not rhythm.wants_work(LIMITS)
    rhythm = pass_time(rhythm, 10, TRAINING)
    assert rhythm.wants_work(LIMITS)
    looked = beat(rhythm, 11.0, work())
    assert not looked.wants_work(LIMITS)
    assert pass_time(looked, 10, TRAINING).wants_work(LIMITS)


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 3), st.integers(0, 10**6)), max_size=60)
)
def test_silence_is_never_negative_nor_longer_than_the_time_that_passed(
    looks: list[tuple[float, int, int]],
) -> None:
    rhythm, at, marks = Rhythm(), 0.0, 0
    for passed, more, moved in looks:
        at, marks = at + passed, marks + more
        rhythm = beat(rhythm, at, replace(work(moved_bytes=moved), marks=marks))
        assert 0 <= rhythm.silent <= rhythm.unreported <= at
        assert rhythm.explained(LIMITS) >= LIMITS.silence_step

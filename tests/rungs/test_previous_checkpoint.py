"""Only a checkpoint that the attempt started from is set aside, and never the last."""

import dataclasses

import pytest

from autotune.cli.wiring import all_rungs
from autotune.core.failure import Phase
from autotune.core.rung import Deed, Scene
from tests import builders

RUNGS = all_rungs()


def scene(*checkpoints: int, started_from: int = 0) -> Scene:
    """Return a scene with these whole checkpoints, newest first."""
    return dataclasses.replace(builders.scene(), checkpoints=checkpoints, started_from=started_from)


def test_the_newest_is_set_aside_when_the_attempt_started_from_it() -> None:
    rung = RUNGS["previous_checkpoint"]
    assert rung.deed is Deed.SET_ASIDE
    assert rung.applies(scene(20, 10, started_from=20)) is None
    assert rung.applies(scene(30, 20, started_from=20)) is not None
    assert rung.applies(scene(started_from=0)) == "nothing has been saved yet"


def test_the_last_whole_checkpoint_is_never_taken_away_by_it() -> None:
    why = RUNGS["previous_checkpoint"].applies(scene(10, started_from=10))
    assert why == "no whole checkpoint before the one of step 10 is left"
    assert RUNGS["start_over"].applies(scene(10, started_from=10)) is None


@pytest.mark.parametrize("name", ["previous_checkpoint", "start_over"])
def test_a_checkpoint_is_not_blamed_for_what_broke_where_none_is_read(name: str) -> None:
    held = scene(20, 10, started_from=20)
    for phase in Phase:
        died = dataclasses.replace(held, diagnosis=builders.diagnosis(phase=phase))
        blamed = RUNGS[name].applies(died) is None
        assert blamed is (phase in (Phase.RESUME, Phase.TRAIN))


def test_starting_over_names_what_it_gives_up() -> None:
    giving_up = {name for name, rung in RUNGS.items() if rung.gives_up}
    assert giving_up == {"start_over"}

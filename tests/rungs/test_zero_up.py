"""A higher ZeRO stage shares out one thing more, so it needs somebody to share with."""

import pytest

from autotune.core.plan import changes
from autotune.rungs.zero_up import RUNG
from tests import builders


@pytest.mark.parametrize(("before", "after"), [(1, "2"), (2, "3")])
def test_one_stage_is_climbed_at_a_time(before: int, after: str) -> None:
    plan = builders.plan(zero_stage=before)
    (change,) = changes(plan, RUNG.apply(builders.scene(plan)))
    assert (change.setting, change.after) == ("zero_stage", after)


def test_there_is_nothing_above_stage_three() -> None:
    assert RUNG.applies(builders.scene(builders.plan(zero_stage=3))) == (
        "ZeRO is at stage 3 already"
    )


@pytest.mark.parametrize(("stage", "device"), [(0, "cuda"), (1, "cpu"), (2, "cpu")])
def test_one_rank_that_would_gain_nothing_stays_where_it_is(stage: int, device: str) -> None:
    plan, where = builders.plan(world_size=1, zero_stage=stage), builders.around(device=device)
    reason = RUNG.applies(builders.scene(plan, where=where))
    assert reason is not None
    assert "one rank" in reason


@pytest.mark.parametrize("stage", [1, 2])
def test_one_rank_on_a_gpu_goes_straight_to_where_weights_can_lie_on_the_host(stage: int) -> None:
    scene = builders.scene(builders.plan(world_size=1, zero_stage=stage))
    assert RUNG.applies(scene) is None
    assert RUNG.apply(scene).zero_stage == 3

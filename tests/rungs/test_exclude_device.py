"""A broken GPU leaves, and the ranks that remain make up the same global batch."""

from typing import Any

import pytest

from autotune.cli.wiring import all_rungs
from autotune.core.failure import Failure
from autotune.core.rung import Scene
from tests import builders

RUNG = all_rungs()["exclude_device"]


def broken(rank: int | None = None, silent: tuple[int, ...] = (), **plan: Any) -> Scene:
    """Return a plan on as many GPUs as it has ranks, one of which failed."""
    of = builders.plan(**{"world_size": 4, "micro_batch": 4, **plan})
    gpus = tuple(range(of.world_size + len(of.excluded)))
    where = builders.around(gpus=gpus, broken_gpus=silent)
    return builders.scene(of, builders.diagnosis(Failure.GPU_HARDWARE, rank=rank), where)


@pytest.mark.parametrize(
    ("world_size", "micro", "accumulation", "left", "then"),
    [(4, 3, 1, 3, (2, 2)), (4, 4, 1, 2, (4, 2)), (3, 4, 1, 2, (3, 2)), (2, 8, 1, 1, (8, 2)),
     (8, 1, 7, 7, (1, 8)), (7, 1, 1, 1, (1, 7))],
)  # fmt: skip
def test_the_most_ranks_that_share_the_batch_exactly_remain(
    world_size: int, micro: int, accumulation: int, left: int, then: tuple[int, int]
) -> None:
    scene = broken(0, world_size=world_size, micro_batch=micro, accumulation=accumulation)
    plan = RUNG.apply(scene)
    assert (plan.world_size, plan.excluded) == (left, (0,))
    assert (plan.micro_batch, plan.accumulation) == then
    assert plan.global_batch == scene.plan.global_batch


def test_a_rank_is_counted_among_the_gpus_that_are_still_in_use() -> None:
    assert RUNG.apply(broken(2, excluded=(0,))).excluded == (0, 3)


def test_a_gpu_that_is_gone_from_the_machine_is_not_counted_twice() -> None:
    plan = builders.plan(world_size=2, micro_batch=4, excluded=(0,))
    why = builders.diagnosis(Failure.GPU_HARDWARE, rank=1)
    scene = builders.scene(plan, why, builders.around(gpus=(1, 2)))
    assert (RUNG.apply(scene).excluded, RUNG.apply(scene).world_size) == ((0, 2), 1)


def test_what_does_not_answer_says_more_than_the_rank_that_spoke() -> None:
    assert RUNG.apply(broken(0, silent=(3,))).excluded == (3,)


def test_nothing_is_left_out_by_guessing() -> None:
    assert RUNG.applies(broken()) == "nothing that was seen tells which GPU is the broken one"
    assert RUNG.applies(broken(9)) == "nothing that was seen tells which GPU is the broken one"


def test_a_single_gpu_cannot_be_left_out() -> None:
    assert RUNG.applies(broken(0, world_size=1)) == "the job has only this one GPU"
    assert RUNG.applies(broken(silent=(0, 1), world_size=2)) == "no GPU would be left"

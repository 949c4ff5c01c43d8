"""A smaller micro-batch is any exact split of the samples per rank, at most half of the old one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.rungs.smaller_micro_batch import RUNG
from tests import builders


@pytest.mark.parametrize(
    ("world", "micro", "accumulation", "expected"),
    [
        (2, 8, 1, (4, 2)),
        (2, 15, 1, (5, 3)),  # not 7, which does not divide 15
        (2, 5, 3, (1, 15)),
        (3, 7, 2, (2, 7)),  # 14 per rank
        (3, 13, 1, (1, 13)),  # a prime
        (1, 3, 4, (1, 12)),
        (3, 9, 2, (3, 6)),
        (8, 6, 5, (3, 10)),
    ],
)
def test_the_split_is_exact(
    world: int, micro: int, accumulation: int, expected: tuple[int, int]
) -> None:
    plan = builders.plan(world_size=world, micro_batch=micro, accumulation=accumulation)
    after = RUNG.apply(builders.scene(plan))
    assert (after.micro_batch, after.accumulation) == expected
    assert after.global_batch == plan.global_batch


@given(micro=st.integers(2, 500), accumulation=st.integers(1, 50))
def test_the_micro_batch_is_at_least_halved(micro: int, accumulation: int) -> None:
    plan = builders.plan(micro_batch=micro, accumulation=accumulation)
    assert RUNG.apply(builders.scene(plan)).micro_batch <= micro // 2


def test_an_evaluation_batch_comes_down_with_it_and_never_goes_up() -> None:
    above = builders.plan(micro_batch=8, eval_micro_batch=8)
    below = builders.plan(micro_batch=8, eval_micro_batch=1)
    assert RUNG.apply(builders.scene(above)).eval_micro_batch == 4
    assert RUNG.apply(builders.scene(below)).eval_micro_batch == 1


def test_a_micro_batch_of_one_cannot_be_less() -> None:
    reason = RUNG.applies(builders.scene(builders.plan(micro_batch=1, accumulation=8)))
    assert reason == "the micro-batch is 1 already"

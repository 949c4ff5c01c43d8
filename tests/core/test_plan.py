"""Plans are compared and derived, and every split of a batch is exact."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.plan import Change, changes, largest_split
from tests import builders


def test_the_global_batch_is_made_of_ranks_passes_and_samples() -> None:
    plan = builders.plan(world_size=3, micro_batch=5, accumulation=4)
    assert plan.global_batch == 60


def test_a_plan_compared_with_itself_has_no_changes() -> None:
    assert changes(builders.plan(), builders.plan()) == ()


def test_changes_are_named_in_the_order_a_plan_lists_its_settings() -> None:
    before = builders.plan()
    after = before.but(zero_stage=3, accumulation=2, micro_batch=4)
    assert [change.setting for change in changes(before, after)] == [
        "micro_batch", "accumulation", "zero_stage"
    ]  # fmt: skip


def test_a_change_reads_as_people_say_it() -> None:
    before = builders.plan()
    after = before.but(
        micro_batch=4,
        activation_checkpointing=True,
        gather_on_save=False,
        allocator=(("expandable_segments", "True"), ("max_split_size_mb", "128")),
    )
    assert [str(change) for change in changes(before, after)] == [
        "micro_batch 8 → 4",
        "activation_checkpointing off → on",
        "gather_on_save on → off",
        "allocator unset → expandable_segments:True,max_split_size_mb:128",
    ]
    assert changes(before, after)[0] == Change("micro_batch", "8", "4")


@pytest.mark.parametrize(
    ("per_rank", "at_most", "expected"), [(15, 7, 5), (15, 15, 15), (7, 3, 1), (8, 100, 8)]
)
def test_the_largest_split_divides_exactly(per_rank: int, at_most: int, expected: int) -> None:
    assert largest_split(per_rank, at_most) == expected


@given(per_rank=st.integers(1, 2000), at_most=st.integers(1, 2000))
def test_no_larger_split_was_missed(per_rank: int, at_most: int) -> None:
    split = largest_split(per_rank, at_most)
    assert split <= at_most
    assert per_rank % split == 0
    assert not [n for n in range(split + 1, min(per_rank, at_most) + 1) if per_rank % n == 0]


def test_a_setting_that_a_plan_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError, match="micro_bach"):
        builders.plan().but(micro_bach=4)

"""Buckets shrink in one step, and a bucket that is small already is not made larger."""

from autotune.rungs.shrink_buckets import RUNG, SMALL
from tests import builders


def test_default_buckets_shrink_a_hundredfold_at_once() -> None:
    after = RUNG.apply(builders.scene())
    assert (after.reduce_bucket, after.allgather_bucket) == (SMALL, SMALL)


def test_a_small_bucket_beside_a_large_one_stays() -> None:
    plan = builders.plan(reduce_bucket=1_000_000, allgather_bucket=500_000_000)
    after = RUNG.apply(builders.scene(plan))
    assert (after.reduce_bucket, after.allgather_bucket) == (1_000_000, SMALL)


def test_a_restart_is_not_worth_less_than_half() -> None:
    near = builders.plan(reduce_bucket=2 * SMALL - 1, allgather_bucket=SMALL)
    at = near.but(reduce_bucket=2 * SMALL)
    assert RUNG.applies(builders.scene(near)) is not None
    assert RUNG.applies(builders.scene(at)) is None

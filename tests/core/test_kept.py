"""Of the signs of a long output enough are kept to name the cause, and never more than a bound."""

from autotune.core.failure import Failure, Role
from autotune.core.kept import MOST_SIGNS, Kept
from tests.builders import sign


def test_hundreds_of_ranks_that_report_a_consequence_leave_room_for_the_cause() -> None:
    kept = Kept()
    for rank in range(1000):
        for line in range(6):
            kept.keep(sign(Failure.COLLECTIVE_ERROR, role=Role.CASCADE, line=line, rank=rank))
    assert kept.left_out > 0
    root = sign(Failure.DEVICE_OOM, role=Role.ROOT, line=9999, rank=1001)
    kept.keep(root)
    assert kept.all()[-1] == root


def test_causes_are_bounded_too() -> None:
    kept = Kept()
    for rank in range(1000):
        for line in range(6):
            kept.keep(sign(Failure.DEVICE_OOM, role=Role.ROOT, line=line, rank=rank))
    assert len(kept.all()) <= MOST_SIGNS

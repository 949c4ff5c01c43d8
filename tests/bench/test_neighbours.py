"""Under simulated neighbours no plan is changed for their sake, and ours are not their fault."""

import pytest

from tests.bench.neighbours import World, simulate

SEEDS = 60

pytestmark = pytest.mark.long


def test_no_rung_is_taken_for_a_neighbour_and_every_job_that_fits_trains_by_its_own_plan() -> None:
    ran = [simulate(seed) for seed in range(SEEDS)]
    known = [one for one in ran if one.known and one.fits]
    assert sum(one.wrong_rungs for one in known) == 0
    assert all(one.finished for one in known)
    assert sum(one.crowded for one in ran) >= 5  # neighbours do get in the way
    assert sum(one.moved for one in ran) >= 1


def test_a_job_that_fits_no_card_is_not_blamed_on_the_neighbours_for_ever() -> None:
    ran = [simulate(seed) for seed in range(SEEDS) if not World(seed).fits]
    assert len(ran) >= 2
    assert all(one.right_rung for one in ran)

"""When a running attempt is left alone, told to save, or ended."""

from autotune.core.vigil import Act, Glance, Vigil, watch_over
from tests import builders

LIMITS = builders.shipped().limits


def acts(*glances: Glance) -> tuple[list[Act], Vigil]:
    """Return what is done at each glance, and what was noticed in the end."""
    vigil, done = Vigil(), []
    for glance in glances:
        vigil, act = watch_over(vigil, glance, LIMITS)
        done.append(act)
    return done, vigil


def test_a_healthy_attempt_is_left_alone() -> None:
    assert acts(Glance(0), Glance(1e6))[0] == [Act.LEAVE, Act.LEAVE]


def test_a_stop_asks_for_a_save_once_and_ends_when_its_grace_is_over() -> None:
    done, vigil = acts(
        Glance(10, stop_asked=True), Glance(600, stop_asked=True), Glance(610, stop_asked=True)
    )
    assert done == [Act.ASK_SAVE, Act.LEAVE, Act.END]
    assert vigil.ended_by_us == "stop"


def test_a_notice_from_outside_asks_for_a_save_and_is_told_as_one() -> None:
    done, vigil = acts(Glance(10, noticed=True), Glance(609, noticed=True), Glance(610))
    assert done == [Act.ASK_SAVE, Act.LEAVE, Act.END]
    assert vigil.ended_by_us == "preempted"
    _, vigil = acts(Glance(10, noticed=True, stop_asked=True))
    assert vigil.ended_by_us == "stop"  # the supervisor was told too, so the run ends


def test_asking_twice_kills_at_once() -> None:
    done, vigil = acts(Glance(0, stop_asked=True), Glance(1, stop_asked=True, hurry=True))
    assert done == [Act.ASK_SAVE, Act.KILL]
    assert vigil.ended_by_us == "stop"


def test_the_first_ranks_death_ends_the_group_after_its_grace() -> None:
    done, vigil = acts(
        Glance(0, rank_died=True), Glance(29, rank_died=True), Glance(30, rank_died=True)
    )
    assert done == [Act.LEAVE, Act.LEAVE, Act.END]
    assert vigil.ended_by_us == "rank_died"


def test_the_wall_limit_saves_before_it_ends() -> None:
    done, vigil = acts(Glance(0, seconds_left=1), Glance(1, seconds_left=0))
    assert done == [Act.LEAVE, Act.ASK_SAVE]
    assert vigil.ended_by_us == "wall"

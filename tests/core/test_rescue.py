"""When ranks are told to save, how long they are waited for, and when they are let go."""

from autotune.core.evidence import Rescued
from autotune.core.rescue import Deed, Parts, Rescue, attend, published

PATIENCE = 60.0


def test_ranks_that_hold_are_told_to_save_the_step_they_hold() -> None:
    rescue, deed = attend(Rescue(), 10.0, {1: 7}, 4, Parts(), PATIENCE)
    assert deed is Deed.ASK
    assert rescue.step == 7
    assert rescue.under_way


def test_nothing_is_done_while_nobody_holds() -> None:
    assert attend(Rescue(), 10.0, {}, 4, Parts(), PATIENCE) == (Rescue(), Deed.LEAVE)


def test_a_step_with_a_checkpoint_of_its_own_is_not_saved_again() -> None:
    rescue, deed = attend(Rescue(), 10.0, {0: 4}, 4, Parts(), PATIENCE)
    assert deed is Deed.RELEASE
    assert rescue.over == Rescued(4, True)


def test_ranks_that_hold_after_different_steps_are_let_go() -> None:
    rescue, deed = attend(Rescue(), 10.0, {0: 4, 1: 5}, None, Parts(), PATIENCE)
    assert deed is Deed.RELEASE
    assert rescue.over is not None
    assert not rescue.over.ok
    assert "different steps" in rescue.over.why


def asked() -> Rescue:
    return attend(Rescue(), 10.0, {0: 7}, None, Parts(), PATIENCE)[0]


def test_as_long_as_something_is_written_the_ranks_are_waited_for() -> None:
    rescue, at = asked(), 10.0
    for written in range(1, 10):
        at += PATIENCE - 1
        rescue, deed = attend(rescue, at, {0: 7}, None, Parts(written), PATIENCE)
        assert deed is Deed.LEAVE
    rescue, deed = attend(rescue, at + PATIENCE + 1, {0: 7}, None, Parts(9), PATIENCE)
    assert deed is Deed.RELEASE
    assert rescue.over is not None
    assert "60 s" in rescue.over.why


def test_a_rank_that_could_not_save_lets_all_of_them_go() -> None:
    rescue, deed = attend(asked(), 11.0, {0: 7}, None, Parts(why="a rank is inside"), PATIENCE)
    assert deed is Deed.RELEASE
    assert rescue.over == Rescued(7, False, "a rank is inside", 1.0)


def test_a_rank_that_died_is_not_waited_for_unless_its_part_is_there() -> None:
    _, deed = attend(asked(), 12.0, {0: 7}, None, Parts(5, whole=True), PATIENCE, died=True)
    assert deed is Deed.PUBLISH
    _, deed = attend(asked(), 12.0, {0: 7}, None, Parts(5, told=True), PATIENCE, died=True)
    assert deed is Deed.LEAVE
    rescue, deed = attend(asked(), 12.0, {0: 7}, None, Parts(5), PATIENCE, died=True)
    assert deed is Deed.RELEASE
    assert rescue.over is not None
    assert "died" in rescue.over.why


def test_what_is_whole_is_published_and_then_it_is_over() -> None:
    rescue, deed = attend(asked(), 12.0, {0: 7}, None, Parts(5, whole=True), PATIENCE)
    assert deed is Deed.PUBLISH
    done = published(rescue, 12.5, "")
    assert done.over == Rescued(7, True, "", 2.5)
    assert attend(done, 13.0, {0: 7}, 7, Parts(), PATIENCE) == (done, Deed.LEAVE)


def test_what_cannot_be_published_is_not_taken_for_saved() -> None:
    done = published(asked(), 12.5, "the disk is full")
    assert done.over == Rescued(7, False, "the disk is full", 2.5)

"""The files by which nodes of one run speak: who is there, who fell silent, who answered."""

from pathlib import Path

import pytest

from autotune.world.files import make_folder
from autotune.world.nodes import KILL_SECONDS, LOST_SECONDS, Board, Members, Node, Terms
from tests.test_supervisor import FakeClock

TERMS = Terms(nodes=3, ranks=2, device="cuda", job="small", run_id="ab12")


class Silent:
    """Hears what people would be told."""

    def __init__(self) -> None:
        """Have heard nothing."""
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    found = Board(tmp_path)
    for number in (1, 2):
        make_folder(found.path)
        make_folder(found.node_folder(number))
    return found


def test_a_node_is_there_once_it_beats_and_lost_once_it_stands_still(board: Board) -> None:
    clock = FakeClock()
    board.say(1, Node("old", beat=7))  # of a node that died with an earlier supervisor
    members = Members(board.run, TERMS, clock)
    assert members.missing() == (1, 2)
    board.say(1, Node("one", beat=8))
    board.say(2, Node("two", beat=1))
    assert members.missing() == ()
    clock.sleep(LOST_SECONDS - 1)
    board.say(2, Node("two", beat=2))
    assert members.missing() == ()
    clock.sleep(2)
    assert members.missing() == (1,)
    board.say(1, Node("one", beat=9))
    assert members.missing() == ()


def both_there(board: Board) -> tuple[Members, FakeClock]:
    clock = FakeClock()
    members = Members(board.run, TERMS, clock)
    for number in (1, 2):
        board.say(number, Node(f"host{number}", beat=1, total_bytes=number * 10**9))
    assert set(members.present()) == {1, 2}
    return members, clock


def test_a_start_has_ended_when_all_ended_well_or_one_did_not(board: Board, tmp_path: Path) -> None:
    members, _ = both_there(board)
    folder = tmp_path / "attempts" / "001"
    make_folder(folder)
    order = members.start(folder, {1: {"argv": ["a"]}, 2: {"argv": ["b"]}})
    assert board.order() == order
    assert order.folder == "attempts/001"
    assert members.ended(order) is None  # neither has seen to it yet
    board.say(1, Node("host1", beat=2, answered=order.number, code=0))
    board.say(2, Node("host2", beat=2, answered=order.number, runs=True))
    assert members.ended(order) is None
    board.say(2, Node("host2", beat=3, answered=order.number, code=0))
    ended = members.ended(order)
    assert ended is not None
    assert ended[0].code == 0
    board.say(2, Node("host2", beat=4, answered=order.number, code=137, signal=9))
    ended = members.ended(order)
    assert ended is not None
    assert (ended[0].code, ended[0].signal, ended[1]) == (137, 9, "node 2 (host2)")


def test_a_node_that_could_not_start_or_fell_silent_ends_the_attempt(board: Board) -> None:
    members, clock = both_there(board)
    order = members.end(10.0)
    board.say(1, Node("host1", beat=2, answered=order.number, code=0))
    board.say(2, Node("host2", beat=2, answered=order.number, why="no such interpreter"))
    ended = members.ended(order)
    assert ended is not None
    assert ended[1] == "node 2 (host2): no such interpreter"
    clock.sleep(LOST_SECONDS + 1)
    ended = members.ended(order)
    assert ended is not None
    assert ended[1] == "node 1 has fallen silent"


def test_an_end_is_waited_for_until_nothing_is_left_or_the_time_is_over(board: Board) -> None:
    members, clock = both_there(board)
    order = members.end(5.0)
    board.say(1, Node("host1", beat=2, answered=order.number))
    board.say(2, Node("host2", beat=2, answered=order.number, gone=False))
    assert members.left(order) == ("node 2 (host2) still has processes of it",)
    assert 5.0 + KILL_SECONDS <= clock.monotonic() < 6.0 + KILL_SECONDS
    board.say(2, Node("host2", beat=3, answered=order.number))
    assert members.left(order) == ()


def test_the_smallest_device_of_the_other_nodes_is_what_every_rank_must_fit(board: Board) -> None:
    members, _ = both_there(board)
    assert members.smallest_bytes() == 10**9


def test_the_first_node_says_for_whom_it_waits_and_hears_a_stop(board: Board) -> None:
    members, clock = both_there(board)
    clock.sleep(LOST_SECONDS + 1)
    heard = Silent()
    assert not members.wait(lambda: clock.at > LOST_SECONDS + 3, heard)  # type: ignore[arg-type]
    assert heard.notes == [f"waiting for node 1 and node 2; on each: autotune join {board.run}"]


def test_orders_are_counted_on_by_a_supervisor_that_comes_after(board: Board) -> None:
    members, clock = both_there(board)
    first = members.end(1.0)
    later = Members(board.run, TERMS, clock)
    assert later.end(1.0).number == first.number + 1


def test_the_place_of_a_node_is_held_by_one_process_alone(board: Board) -> None:
    held = board.take_seat(1)
    assert held is not None
    assert board.take_seat(1) is None
    assert board.take_seat(2) is not None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"host": 7}', '{"host": "a", "beat": "x"}'])
def test_a_file_of_another_shape_is_a_node_that_never_spoke(board: Board, text: str) -> None:
    (board.node_folder(1) / "seen.json").write_text(text)
    assert board.node(1) is None
    (board.path / "order.json").write_text(text)
    assert board.order().want == "none"
    (board.path / "leader.json").write_text(text)
    assert (board.terms(), board.leader_beat()) == (None, 0)

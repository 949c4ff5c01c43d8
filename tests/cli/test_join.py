"""`autotune join`: what a node is refused for, and how it does what the first one orders."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autotune.cli import join as verb
from autotune.cli.join import COME_SECONDS, Member, join
from autotune.core.fault import AlreadyRunning, InputError
from autotune.edges import Interrupts
from autotune.world import nodes
from autotune.world.clock import SystemClock
from autotune.world.files import make_folder, write_json
from autotune.world.gpu import Gpus
from autotune.world.nodes import Board, Members, Node, Order, Pulse, Terms

TERMS = Terms(nodes=2, ranks=1, device="cpu", job="small", run_id="ab12")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(nodes, "BEAT_SECONDS", 0.02)
    for name in ("NODE_RANK", "SLURM_NODEID"):
        monkeypatch.delenv(name, raising=False)
    make_folder(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def led(run: Path) -> Iterator[Members]:
    members = Members(run, TERMS, SystemClock())
    members.begin()
    yield members
    members.done(0)


def fault(run: Path, node: int | None = None) -> str:
    with pytest.raises(InputError) as caught:
        join(run, node)
    (one,) = caught.value.faults
    return f"{one.what}; {one.hint}"


def test_a_run_that_nobody_leads_is_waited_for_and_then_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "COME_SECONDS", 0.0)
    assert "no first node leads this run; start `autotune run` there" in fault(run)
    Board(run).lead(TERMS, 7)  # of a supervisor that is dead
    assert "no first node leads this run" in fault(run)


@pytest.mark.usefixtures("led")
def test_a_number_that_the_run_does_not_have_or_that_is_taken_is_refused(run: Path) -> None:
    assert "this is to be node 2, and the run has nodes 0 to 1" in fault(run, 2)
    held = Board(run).take_seat(1)
    assert held is not None
    with pytest.raises(AlreadyRunning, match="each of the 1 other nodes"):
        join(run, None)
    os.close(held)


@pytest.mark.usefixtures("led")
def test_a_run_that_others_may_write_to_or_that_is_anothers_gives_no_orders(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "nodes").chmod(0o777)
    assert "every" in fault(run)
    (run / "nodes").chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: run.stat().st_uid + 1)
    assert "another user's, whose orders are not taken" in fault(run)


def test_a_machine_with_too_few_gpus_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "find_gpus", lambda: Gpus(None))
    members = Members(run, Terms(2, 4, "cuda", "small", "ab12"), SystemClock())
    members.begin()
    try:
        assert "the run asks 4 GPUs of each node, and 0 are here" in fault(run)
    finally:
        members.done(0)


class Scripted(SystemClock):
    """A clock on which the next thing happens at each sleep; `leap` is added to the time."""

    def __init__(self, *turns: Callable[[], object]) -> None:
        """Have nothing happen after the last."""
        self.turns = list(turns)
        self.leap = 0.0

    def monotonic(self) -> float:
        """Return the machine's time, and what was leapt."""
        return super().monotonic() + self.leap

    def sleep(self, seconds: float) -> None:
        """Do the next thing, as soon as it may be done."""
        super().sleep(0.01)
        if self.turns and self.turns[0]() is not False:
            self.turns.pop(0)


class Heard:
    """Signals that came, as many as `count`."""

    def __init__(self, count: int = 0) -> None:
        """Have heard so many."""
        self.count = count

    def read(self) -> Interrupts:
        """Return what was asked for."""
        return Interrupts("SIGTERM" if self.count else None, self.count > 1)


class Scene:
    """A member of a run whose first node does as a test says."""

    def __init__(self, run: Path) -> None:
        """Begin with nothing ordered."""
        self.board = Board(run)
        self.number = 0
        self.told: list[Node] = []
        make_folder(self.board.path)
        make_folder(self.board.node_folder(1))
        self.board.lead(TERMS, 1)

    def serve(self, *turns: Callable[[], object], heard: Heard | None = None) -> int:
        clock = Scripted(*turns)
        self.clock = clock
        member = Member(self.board, TERMS, 1, (), 10**9, clock)
        return member.serve(heard or Heard(), Pulse(clock))  # type: ignore[arg-type]

    def start(self, *argv: str) -> None:
        folder = self.board.run / "attempts" / "001"
        make_folder(folder)
        held = {
            "argv": argv, "python": sys.executable, "env": {"SAID": "so"}, "env_from": [],
            "folder": str(folder), "output": "output-1.log",
        }  # fmt: skip
        order = self.order("start", folder="attempts/001")
        write_json(self.board.start_file(order, 1), held)
        self.board.give(order)

    def order(self, want: Any, **more: Any) -> Order:
        self.number += 1
        return Order(self.number, want, **more)

    def give(self, want: Any, **more: Any) -> None:
        self.board.give(self.order(want, **more))

    def see(self, when: Callable[[Node], object]) -> Callable[[], bool]:
        """Return a turn that keeps what the node says, once it says this."""

        def turn() -> bool:
            if when(self.node):
                self.told.append(self.node)
            return bool(self.told)

        return turn

    @property
    def node(self) -> Node:
        found = self.board.node(1)
        assert found is not None
        return found


def test_a_node_starts_tells_how_it_ended_and_goes_with_the_runs_exit_code(run: Path) -> None:
    scene = Scene(run)
    says = "import os, sys; print(os.environ['SAID']); sys.exit(7)"
    code = scene.serve(
        lambda: scene.start(sys.executable, "-c", says),
        scene.see(lambda node: node.code is not None),
        lambda: scene.give("done", code=4),
    )
    assert code == 4
    assert (scene.told[0].code, scene.told[0].runs, scene.told[0].answered) == (7, False, 1)
    assert (run / "attempts" / "001" / "output-1.log").read_text() == "so\n"


def test_what_is_ordered_to_end_is_gone_when_the_node_says_so(run: Path) -> None:
    scene = Scene(run)
    forever = "import time, signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True); "
    forever += "time.sleep(1000)"
    output = run / "attempts" / "001" / "output-1.log"
    code = scene.serve(
        lambda: scene.start(sys.executable, "-c", forever),
        lambda: output.exists() and output.read_text() == "1\n",
        lambda: scene.give("end", grace=0.1),
        scene.see(lambda node: node.answered == 2),
        lambda: scene.give("done"),
    )
    assert code == 0
    assert scene.told[0].gone
    assert scene.told[0].signal == 9


def test_a_program_that_cannot_be_started_is_told_of_in_words(run: Path) -> None:
    scene = Scene(run)
    scene.serve(
        lambda: scene.start("/nowhere/python", "-c", "1"),
        scene.see(lambda node: node.why),
        lambda: scene.give("done"),
    )
    assert "could not be started" in scene.told[0].why
    assert (scene.told[0].runs, scene.told[0].gone) == (False, True)


def test_an_order_from_before_this_life_is_not_done_again(run: Path) -> None:
    scene = Scene(run)
    scene.start(sys.executable, "-c", "1")
    scene.serve(
        scene.see(lambda _: True),
        lambda: scene.give("done"),
    )
    assert (scene.told[0].answered, scene.told[0].runs, scene.told[0].why) == (
        1,
        False,
        "the node was started anew",
    )
    assert not (run / "attempts" / "001" / "output-1.log").exists()


def test_a_first_node_that_is_silent_for_long_is_left(run: Path) -> None:
    scene = Scene(run)

    def leap() -> None:
        scene.clock.leap = COME_SECONDS + 1

    assert scene.serve(leap) == 3


def test_a_signal_asks_the_whole_run_to_save_and_a_second_one_leaves(run: Path) -> None:
    scene = Scene(run)
    heard = Heard(1)

    def again() -> None:
        assert "SIGTERM on node 1" in (run / "control.json").read_text()
        heard.count = 2

    assert scene.serve(again, heard=heard) == 4

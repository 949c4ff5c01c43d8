"""How a run's first machine speaks with its others: small files of the run folder, which all see.

`nodes/leader.json` says what every node must give and `nodes/order.json` what the first one wants
now; `nodes/N/seen.json` says how node N is. Beats are counted and never held against a clock: the
clocks of two machines differ.
"""

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from autotune.core.codec import CodecError, from_plain, to_plain
from autotune.edges import Clock, Exit, Teller
from autotune.world.files import make_folder, open_plain, read_json, write_json

BEAT_SECONDS = 2.0
LOST_SECONDS = 60.0  # for so long a shared file system may show what was
KILL_SECONDS = 40.0  # that a node may take beyond the grace, until it says that all are gone
_MOST_BYTES = 2**16

Want = Literal["none", "start", "end", "done"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Terms:
    """What every node must give: so many ranks on this kind of device."""

    nodes: int
    ranks: int  # of each node
    device: str
    job: str
    run_id: str


@dataclass(frozen=True)
class Order:
    """What the first node wants of the others; each order has a number of its own."""

    number: int = 0
    want: Want = "none"
    folder: str = ""  # of the attempt, relative to the run folder
    hurry: bool = False  # with `end`: no grace
    grace: float = 0.0  # seconds between SIGTERM and SIGKILL
    code: int = 0  # with `done`: the exit code of the run


@dataclass(frozen=True)
class Node:
    """How one of the other nodes is, in its own words."""

    host: str
    beat: int = 0
    answered: int = 0  # number of the last order that was seen to
    runs: bool = False  # its launcher
    code: int | None = None  # how that ended
    signal: int | None = None
    gone: bool = True  # nothing of the attempt is left there
    why: str = ""  # it could not do what was wanted
    total_bytes: int | None = None  # memory of its smallest device, or its room for one rank


class Board:
    """The folder in which the nodes of one run write to each other."""

    def __init__(self, run: Path) -> None:
        """Name the files; nothing is made."""
        self.run = run
        self.path = run / "nodes"
        self._leader = self.path / "leader.json"
        self._order = self.path / "order.json"

    def node_folder(self, number: int) -> Path:
        """Return the folder of one node; the first, which leads, has none."""
        return self.path / str(number)

    def lead(self, terms: Terms, beat: int) -> None:
        """Write what is asked of every node, and that the first is there."""
        make_folder(self.path)
        write_json(self._leader, {"beat": beat, "terms": to_plain(terms)})

    def terms(self) -> Terms | None:
        """Return what is asked of every node; None where the run asks for none yet."""
        return _held(Terms, self._led().get("terms"))

    def leader_beat(self) -> int:
        """Return the count of the first node's beats."""
        beat = self._led().get("beat")
        return beat if isinstance(beat, int) else 0

    def give(self, order: Order) -> None:
        """Write an order."""
        write_json(self._order, to_plain(order))

    def order(self) -> Order:
        """Return the last order."""
        return _held(Order, read_json(self._order, _MOST_BYTES)) or Order()

    def say(self, number: int, node: Node) -> None:
        """Write how a node is."""
        write_json(self.node_folder(number) / "seen.json", to_plain(node))

    def node(self, number: int) -> Node | None:
        """Return how a node says it is; None where it never said."""
        return _held(Node, read_json(self.node_folder(number) / "seen.json", _MOST_BYTES))

    def start_file(self, order: Order, number: int) -> Path:
        """Return the file that says what a node is to start."""
        return self.run / order.folder / f"node-{number}.json"

    def take_seat(self, number: int) -> int | None:
        """Hold the place of one node; None where another process has it.

        The lock dies with the process; the descriptor is to be kept. Raises OSError.
        """
        make_folder(self.path)
        make_folder(self.node_folder(number))
        held = open_plain(self.node_folder(number) / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            return None
        return held

    def _led(self) -> dict[str, Any]:
        held = read_json(self._leader, _MOST_BYTES)
        return held if isinstance(held, dict) else {}


def _held(kind: type[_T], value: object) -> _T | None:
    with contextlib.suppress(CodecError, ValueError, TypeError):
        return from_plain(kind, value)
    return None


class Pulse:
    """Tells whether somebody still counts: a number that stands still for long is of nobody."""

    def __init__(self, clock: Clock) -> None:
        """Have seen nothing yet."""
        self._clock = clock
        self._last: tuple[object, float] | None = None

    def silent_seconds(self, beat: object) -> float:
        """Return for how long the number has not changed while we looked."""
        now = self._clock.monotonic()
        if self._last is None or self._last[0] != beat:
            self._last = (beat, now)
        return now - self._last[1]


class Members:
    """The other nodes, as the one that leads sees and orders them."""

    def __init__(self, run: Path, terms: Terms, clock: Clock) -> None:
        """Know which must come; nothing is written before `begin`."""
        self.board = Board(run)
        self.terms = terms
        self.numbers = range(1, terms.nodes)
        self._clock = clock
        self._pulses = {number: Pulse(clock) for number in self.numbers}
        self._first = {number: self.board.node(number) for number in self.numbers}
        self._order = self.board.order()
        self._over = threading.Event()
        self._beats: threading.Thread | None = None

    def begin(self) -> None:
        """Begin to beat, so that the others see that somebody leads."""
        beat = self.board.leader_beat() + 1
        self.board.lead(self.terms, beat)
        self._beats = threading.Thread(target=self._beat, args=(beat,), daemon=True)
        self._beats.start()

    def missing(self) -> tuple[int, ...]:
        """Return the nodes that are not there: never came, or have fallen silent."""
        return tuple(number for number in self.numbers if self._present(number) is None)

    def present(self) -> dict[int, Node]:
        """Return the nodes that are there."""
        found = {number: self._present(number) for number in self.numbers}
        return {number: node for number, node in found.items() if node is not None}

    def smallest_bytes(self) -> int | None:
        """Return the memory of the smallest device of any other node: every rank must fit."""
        sizes = [node.total_bytes for node in self.present().values() if node.total_bytes]
        return min(sizes, default=None)

    def wait(self, stop_asked: Callable[[], bool], tell: Teller) -> bool:
        """Wait until every node is there; return whether they are, or somebody asked for a stop."""
        told: tuple[int, ...] = ()
        while missing := self.missing():
            if stop_asked():
                return False
            if missing != told:
                which = " and ".join(f"node {number}" for number in missing)
                tell.note(f"waiting for {which}; on each: autotune join {self.board.run}")
                told = missing
            self._clock.sleep(1.0)
        return True

    def start(self, folder: Path, commands: dict[int, dict[str, Any]]) -> Order:
        """Have each node start its ranks as `commands` says; return the order."""
        relative = str(folder.relative_to(self.board.run))
        order = replace(Order(self._order.number + 1, "start"), folder=relative)
        for number, command in commands.items():
            write_json(self.board.start_file(order, number), command)
        return self._give(order)

    def end(self, grace: float, hurry: bool = False) -> Order:
        """Have each node end what runs of the last attempt there."""
        return self._give(Order(self._order.number + 1, "end", hurry=hurry, grace=grace))

    def done(self, code: int) -> None:
        """Let the others go: the run is over, and this was its exit code."""
        self._give(Order(self._order.number + 1, "done", code=code))
        self._over.set()
        if self._beats is not None:
            self._beats.join()

    def ended(self, order: Order) -> tuple[Exit, str] | None:
        """Return how a start ended, and where, once one node failed, is lost, or all are through.

        None while they run.
        """
        through = []
        for number in self.numbers:
            node = self._present(number)
            if node is None:
                return Exit(None, None), f"node {number} has fallen silent"
            if node.answered != order.number or node.runs:
                continue
            if node.why:
                return Exit(None, None), f"node {number} ({node.host}): {node.why}"
            if node.code != 0:
                return Exit(node.code, node.signal), f"node {number} ({node.host})"
            through.append(number)
        return (Exit(0, None), "") if len(through) == len(self.numbers) else None

    def clear(self, grace: float) -> tuple[str, ...]:
        """Have each node end what an attempt left there; return those that did not, in words."""
        return self.left(self.end(grace))

    def left(self, order: Order) -> tuple[str, ...]:
        """Wait until the nodes have ended what they should; return those that did not, in words."""
        seconds = KILL_SECONDS + (0.0 if order.hurry else order.grace)
        deadline = self._clock.monotonic() + seconds
        while True:
            left = tuple(self._unanswered(order))
            if not left or self._clock.monotonic() >= deadline:
                return left
            self._clock.sleep(0.2)

    def _unanswered(self, order: Order) -> list[str]:
        told = []
        for number in self.numbers:
            node = self._present(number)
            if node is None:
                told.append(f"node {number} has fallen silent")
            elif node.answered != order.number:
                told.append(f"node {number} ({node.host}) has not answered")
            elif not node.gone:
                told.append(f"node {number} ({node.host}) still has processes of it")
        return told

    def _present(self, number: int) -> Node | None:
        node = self.board.node(number)
        if node is None:
            return None
        silent = self._pulses[number].silent_seconds((node.host, node.beat))
        if node == self._first[number]:  # what a dead member left lies there too
            return None
        self._first[number] = None
        return node if silent < LOST_SECONDS else None

    def _give(self, order: Order) -> Order:
        self.board.give(order)
        self._order = order
        return order

    def _beat(self, beat: int) -> None:
        while not self._over.wait(BEAT_SECONDS):
            beat += 1
            with contextlib.suppress(OSError):  # a full disk is told of where it matters
                self.board.lead(self.terms, beat)

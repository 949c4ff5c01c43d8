"""`autotune join RUN`: gives this machine's devices to a run that another machine leads."""

import contextlib
import os
import socket
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autotune.core.fault import AlreadyRunning, CannotLaunch, CannotRecord, Fault, InputError
from autotune.core.seats import first_devices
from autotune.edges import Clock, Command, Interrupts
from autotune.ground import VISIBLE
from autotune.world.environment import child_environment
from autotune.world.files import is_real_folder, read_json
from autotune.world.gpu import Gpus, find_gpus
from autotune.world.host import room_of_a_rank
from autotune.world.interrupts import SignalWatch
from autotune.world.leases import Leases
from autotune.world.nodes import BEAT_SECONDS, LOST_SECONDS, Board, Node, Order, Pulse, Terms
from autotune.world.notify import BeatingClock, listening
from autotune.world.process import (
    RunningAttempt,
    Survivors,
    become_subreaper,
    end_all,
    keep_memory_private,
)
from autotune.world.run_folder import RunFolder
from autotune.world.seats import look
from autotune.world.trust import open_to_all

COME_SECONDS = 600.0  # for the first node to begin, or to come back
LOOK_SECONDS = 0.5


def join(run: Path, node: int | None) -> int:
    """Do what the first node orders until it says that the run is over; return its exit code.

    Raises InputError where this machine cannot give what the run asks, AlreadyRunning where the
    node's place is taken.
    """
    signals, notifier = SignalWatch(), listening()
    signals.install()
    clock = BeatingClock(notifier)
    board = Board(run.absolute())
    said = node if node is not None else _said_rank()
    pulse = Pulse(clock)
    _say(f"waiting for the first node to begin in {board.run}", board.terms() is None)
    terms = _terms(board, pulse, clock, signals)
    if terms is None:
        return 4
    _trust(board)
    number, held = _seat(board, terms, said)
    leases = Leases(terms.job)
    try:
        become_subreaper()
        keep_memory_private()
        gpus = find_gpus()
        devices = _devices(gpus, terms, leases, clock, signals)
        if devices is None:
            return 4
        notifier.ready()
        member = Member(board, terms, number, devices, _room(gpus, devices, terms), clock)
        return member.serve(signals, pulse)
    except OSError as error:
        text = f"a file of the run could not be written ({error.strerror})"
        place = str(error.filename or board.run)
        raise CannotRecord(Fault(text, place, "mend the folder, then start this again")) from error
    finally:
        leases.release()
        os.close(held)


@dataclass
class Member:
    """One of the other nodes, from its coming to the end of the run."""

    board: Board
    terms: Terms
    number: int
    devices: tuple[int, ...]
    room: int | None
    clock: Clock
    state: Node = field(init=False)
    running: RunningAttempt | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """End what an earlier life of this node left, and take no order that was for it."""
        order = self.board.order()
        if order.folder:
            end_all(Survivors(self._mark(order)), term_grace=5)
        why = "the node was started anew" if order.want == "start" else ""
        self.state = Node(
            host=socket.gethostname(),
            answered=order.number,
            why=why,
            total_bytes=self.room,
        )

    def serve(self, signals: SignalWatch, pulse: Pulse) -> int:
        """Beat, look for orders and see to them, until the last."""
        _say(f"node {self.number} of the run in {self.board.run}: ready")
        beaten = asked = None
        while True:
            self._look()
            now = self.clock.monotonic()
            if beaten is None or now - beaten >= BEAT_SECONDS:
                self._tell()
                beaten = now
            order = self.board.order()
            if order.number != self.state.answered:
                if order.want == "done":
                    self._end(order)
                    return order.code
                self._obey(order)
            heard = signals.read()
            if heard.stop_by and asked is None:
                asked = heard.stop_by
                _say(f"{asked}: the run is told to save and stop; once more leaves it at once")
                RunFolder(self.board.run).ask_stop(f"{asked} on node {self.number}")
            if heard.hurry or self._is_left(pulse, heard):
                self._end(Order(hurry=heard.hurry, grace=10.0))
                self._tell()
                return 4 if heard.stop_by else 3
            self.clock.sleep(LOOK_SECONDS)

    def _is_left(self, pulse: Pulse, heard: Interrupts) -> bool:
        """Whether nobody leads any more, and nothing of ours is still to save itself."""
        silent = pulse.silent_seconds(self.board.leader_beat())
        if silent < LOST_SECONDS or self.state.runs:
            return False
        if heard.stop_by is None and silent < COME_SECONDS:
            return False
        _say(f"the first node has said nothing for {silent:.0f} s: this node leaves the run")
        return True

    def _look(self) -> None:
        """See whether the launcher has ended."""
        if self.running is None or not self.state.runs:
            return
        ended = self.running.poll()
        if ended is not None:
            self.state = replace(self.state, runs=False, code=ended.code, signal=ended.signal)
            self._tell()

    def _obey(self, order: Order) -> None:
        self._end(order)
        if order.want == "start":
            self._start(order)
        else:
            self.state = replace(self.state, answered=order.number)
        self._tell()

    def _start(self, order: Order) -> None:
        self.state = replace(
            self.state, answered=order.number, code=None, signal=None, why="", gone=False
        )
        try:
            self.running = self._started(order)
            self.state = replace(self.state, runs=True)
            _say(f"started {order.folder}")
        except (CannotLaunch, OSError, KeyError, TypeError, ValueError) as error:
            what = error.faults[0].what if isinstance(error, CannotLaunch) else str(error)
            self.state = replace(self.state, why=what or "its ranks did not start", gone=True)
            _say(f"could not start {order.folder}: {what}")

    def _started(self, order: Order) -> RunningAttempt:
        path = self.board.start_file(order, self.number)
        held: Any = read_json(path)
        if not isinstance(held, dict):
            raise OSError(0, f"{path} cannot be read")
        ours = dict(held["env"])
        if self.devices:
            ours[VISIBLE] = ",".join(str(index) for index in self.devices)
        python = str(held["python"])
        env = child_environment(python, {}, [str(name) for name in held["env_from"]], ours)
        command = Command(tuple(held["argv"]), env, str(held["folder"]))
        return RunningAttempt(
            0, self._mark(order), command, path.parent / Path(str(held["output"])).name
        )

    def _mark(self, order: Order) -> str:
        return f"{self.terms.run_id}/{Path(order.folder).name}/node-{self.number}"

    def _end(self, order: Order) -> None:
        """End what runs here; nothing is left afterwards, or the first node is told so."""
        gone = True
        if self.running is not None:
            gone = end_all(self.running, order.grace, order.hurry)
            self._look()
            self.running = None
        self.state = replace(self.state, runs=False, gone=gone)

    def _tell(self) -> None:
        self.state = replace(self.state, beat=self.state.beat + 1)
        with contextlib.suppress(OSError):  # silence is understood too
            self.board.say(self.number, self.state)


def _trust(board: Board) -> None:
    """Refuse a run through which somebody else could give us orders."""
    refused, _ = open_to_all([board.run, board.path])
    if refused:
        raise InputError(*refused)
    if not is_real_folder(board.path) or board.path.lstat().st_uid != os.geteuid():
        text = "this run is another user's, whose orders are not taken"
        raise InputError(Fault(text, str(board.run), "join as the user who began the run"))


def _said_rank() -> int | None:
    """Return the node's number as a launcher or Slurm names it."""
    for name in ("NODE_RANK", "SLURM_NODEID"):
        said = os.environ.get(name, "")
        if said.isascii() and said.isdecimal() and int(said) > 0:
            return int(said)
    return None


def _terms(board: Board, pulse: Pulse, clock: Clock, signals: SignalWatch) -> Terms | None:
    """Wait for what the first node asks; None where somebody wants an end before."""
    began = clock.monotonic()
    first = board.leader_beat()
    while True:
        beat, terms = board.leader_beat(), board.terms()
        pulse.silent_seconds(beat)
        if terms is not None and beat != first:
            return terms
        if signals.read().stop_by:
            return None
        if clock.monotonic() - began >= COME_SECONDS:
            text = "no first node leads this run"
            hint = "start `autotune run` there, with `launcher: {nodes: N}` in the job"
            raise InputError(Fault(text, str(board.run), hint))
        clock.sleep(LOOK_SECONDS)


def _seat(board: Board, terms: Terms, said: int | None) -> tuple[int, int]:
    """Return the node's number and what holds its place."""
    if said is not None and said >= terms.nodes:
        text = f"this is to be node {said}, and the run has nodes 0 to {terms.nodes - 1}"
        raise InputError(Fault(text, str(board.run), "name one of 1 and above with --node-rank"))
    for number in [said] if said is not None else range(1, terms.nodes):
        held = board.take_seat(number)
        if held is not None:
            return number, held
    which = f"node {said}" if said is not None else f"each of the {terms.nodes - 1} other nodes"
    text = f"{which} of this run is there already"
    raise AlreadyRunning(Fault(text, str(board.run), "end that one first, or raise `nodes`"))


def _devices(
    gpus: Gpus, terms: Terms, leases: Leases, clock: Clock, signals: SignalWatch
) -> tuple[int, ...] | None:
    """Return the GPUs to give, leased; none on the CPU. None where somebody wants an end before."""
    if terms.device == "cpu":
        return ()
    given = tuple(gpu.index for gpu in gpus.present())
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        named = [part.strip() for part in visible.split(",")]
        given = tuple(int(part) for part in named if part.isdecimal() and int(part) in given)
    told = ""
    while True:
        chosen = first_devices(terms.ranks, look(gpus, given, leases), 0, None)
        if chosen is None:
            text = f"the run asks {terms.ranks} GPUs of each node, and {len(given)} are here"
            raise InputError(Fault(text, gpus.why_none or VISIBLE, "name more, or ask for fewer"))
        holder = leases.take(gpus.uuid_of(index) for index in chosen)
        if holder is None:
            return chosen
        if str(holder) != told:
            told = str(holder)
            _say(f"waiting for a GPU that is leased to {told}")
        if signals.read().stop_by:
            return None
        clock.sleep(LOOK_SECONDS * 10)


def _room(gpus: Gpus, devices: tuple[int, ...], terms: Terms) -> int | None:
    """Return the memory of the smallest of these devices, bytes; or of the host, for each rank."""
    if devices:
        return gpus.only(devices).total_bytes()
    return room_of_a_rank(None, terms.ranks)


def _say(text: str, when: bool = True) -> None:
    if when:
        print(text, file=sys.stderr, flush=True)

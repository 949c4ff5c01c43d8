"""Programs that really hang: their stacks are taken without harm and say what they wait for."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from autotune.child import finetune
from autotune.core.diagnosis import diagnose
from autotune.core.evidence import Diagnosis, Evidence
from autotune.core.failure import Failure
from autotune.core.stack import Stack, with_waiting
from autotune.core.stall import still_moving
from autotune.world import stacks
from autotune.world.environment import free_port
from autotune.world.signature_file import load_signatures
from autotune.world.stacks import StackTaker

ROOT = Path(__file__).parents[2]
HANGING = ROOT / "tests" / "zoo" / "hanging.py"
SIGNATURES = load_signatures(device="cpu")
LIMIT_SECONDS = 120
needs_py_spy = pytest.mark.skipif(
    not (shutil.which("py-spy") or Path(sys.executable).with_name("py-spy").exists()),
    reason="py-spy is not installed",
)


class Attempt:
    """The folder of an attempt and the programs that hang in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ops = folder / "ops"
        self.running: list[subprocess.Popen[str]] = []
        for name in ("events", "stacks"):
            (folder / name).mkdir()
        self.taker = StackTaker(folder / "stacks", self.ops, sys.executable)

    def start(self, kind: str, *argument: str, ops: Path | None = None) -> int:
        """Start a program and return its process id once it hangs."""
        self.begin(kind, *argument, ops=ops)
        self.wait_until_ready(self.running[-1])
        return self.running[-1].pid

    def begin(self, kind: str, *argument: str, ops: Path | None = None) -> None:
        words = [str(HANGING), kind, str(self.folder / "events"), str(len(self.running)), *argument]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        env["TORCH_EXTENSIONS_DIR"] = str(ops or self.ops)
        self.running.append(
            subprocess.Popen(
                [sys.executable, *words], env=env, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            )
        )  # fmt: skip

    def wait_until_ready(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"

    def take(self) -> tuple[Stack, ...]:
        ranks = {rank: child.pid for rank, child in enumerate(self.running)}
        taken = self.taker.take(ranks, list(ranks.values()))
        return tuple(with_waiting(stack, SIGNATURES) for stack in taken)

    def take_until(self, condition: Callable[[tuple[Stack, ...]], object]) -> tuple[Stack, ...]:
        """Take stacks until they show what is waited for: `ready` is said a moment before."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not condition(taken := self.take()):
            assert time.monotonic() < deadline, taken
        return taken


@pytest.fixture
def attempt(tmp_path: Path) -> Iterator[Attempt]:
    made = Attempt(tmp_path)
    yield made
    for child in made.running:
        for helper in psutil.Process(child.pid).children(recursive=True):
            helper.kill()
        child.kill()
        child.communicate()


def named(taken: tuple[Stack, ...]) -> Diagnosis:
    found = diagnose(Evidence(1, ended_by_us="hang", stacks=taken))
    assert found.failure is Failure.HANG
    return found


def waits(name: str) -> Callable[[tuple[Stack, ...]], object]:
    return lambda taken: taken[0].waiting and taken[0].waiting.signature == name


def test_the_trainer_and_the_supervisor_mean_the_same_signal() -> None:
    assert finetune.STACK_SIGNAL == stacks.STACK_SIGNAL


@pytest.mark.train
def test_a_stale_build_lock_is_named_with_its_path_and_left_where_it_is(
    attempt: Attempt, tmp_path: Path
) -> None:
    attempt.start("build_lock", ops=tmp_path / "theirs")

    taken = attempt.take_until(waits("waits_for_build_lock"))

    assert taken[0].source == "faulthandler"
    lock = tmp_path / "theirs" / "an_op" / "lock"
    assert f"{lock} is not the run's own, so autotune leaves it alone" in named(taken).why
    assert lock.exists()


@pytest.mark.train
def test_a_loader_whose_worker_never_delivers_is_named(attempt: Attempt) -> None:
    attempt.start("loader")

    taken = attempt.take_until(waits("waits_for_loader_worker"))

    (worker,) = taken[0].helpers
    assert worker.state == "S"
    assert "A worker of its data loader" in named(taken).why
    os.kill(worker.pid, signal.SIGSTOP)
    taken = attempt.take_until(lambda taken: taken[0].helpers[0].state == "T")
    assert f"{worker.pid} is stopped" in named(taken).why


def test_a_download_that_is_never_answered_is_named(attempt: Attempt) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        attempt.start("download", str(server.getsockname()[1]))

        taken = attempt.take_until(waits("waits_for_network"))

    assert "does not answer" in named(taken).why


@pytest.mark.train
def test_the_stopped_one_of_two_ranks_is_named_and_not_the_one_that_waits(
    attempt: Attempt,
) -> None:
    port = str(free_port())
    attempt.begin("collective", port)
    attempt.begin("collective", port)
    for child in attempt.running:
        attempt.wait_until_ready(child)
    pid = attempt.running[1].pid
    os.kill(pid, signal.SIGSTOP)

    def both(taken: tuple[Stack, ...]) -> bool:
        return taken[1].state == "T" and taken[0].waiting is not None

    first = attempt.take_until(both)
    second = attempt.take()

    assert still_moving(first, second, seconds=10) is None
    found = named(second)
    assert found.rank == 1
    assert f"rank 1 (process {pid}) is stopped" in found.why
    assert second[0].waiting is not None
    assert second[0].waiting.signature == "waits_in_collective"


def test_asking_for_stacks_harms_nobody_and_answers_each_time(attempt: Attempt) -> None:
    attempt.start("still")

    def still(taken: tuple[Stack, ...]) -> bool:
        return bool(taken[0].frames) and taken[0].frames[0].function == "still"

    first = attempt.take_until(still)
    second = attempt.take()

    assert attempt.running[0].poll() is None
    assert first[0].frames == second[0].frames
    assert still_moving(first, second, seconds=10) is None


def test_what_computes_is_not_taken_for_a_hang(attempt: Attempt) -> None:
    attempt.start("computing")

    first = attempt.take_until(lambda taken: taken[0].frames)
    used = first[0].cpu_seconds or 0.0
    second = attempt.take_until(lambda taken: (taken[0].cpu_seconds or 0.0) > used + 0.2)

    assert still_moving(first, second, seconds=1) is not None


def test_a_process_without_a_handler_is_never_signalled(tmp_path: Path) -> None:
    (tmp_path / "rank0.txt").write_text("main thread 0x1\n")  # claims to answer
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(1000)"])
    try:
        (taken,) = StackTaker(tmp_path, tmp_path, sys.executable).take({0: child.pid}, [child.pid])
        assert child.poll() is None
        assert taken.state in ("R", "S")
        assert taken.source != "faulthandler"
    finally:
        child.kill()
        child.wait()


def test_a_process_that_is_not_ours_is_not_looked_at(tmp_path: Path) -> None:
    assert StackTaker(tmp_path, tmp_path, sys.executable).take({0: os.getpid()}, []) == ()


def test_a_stack_that_cannot_be_taken_is_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    taker = StackTaker(tmp_path, tmp_path, str(tmp_path / "python"))

    (taken,) = taker.take({0: os.getpid()}, [os.getpid()])

    assert (taken.source, taken.frames) == (None, ())
    assert taken.state == "R"
    (gap,) = taker.gaps()
    assert (gap.reading, "py-spy is not installed" in gap.why) == ("stack of rank 0", True)


def test_a_file_of_stacks_that_is_a_flood_or_a_pipe_does_no_harm(tmp_path: Path) -> None:
    flood = tmp_path / "rank0.txt"
    flood.write_bytes(b"x" * 10**6)
    assert len(stacks._read(flood, 0)) <= stacks.MOST_BYTES + 200
    flood.unlink()
    os.mkfifo(flood)
    assert stacks._size(flood) == 0


@needs_py_spy
def test_py_spy_reads_a_stopped_process_that_cannot_answer(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "print(input())"], stdin=subprocess.PIPE)
    try:
        child.send_signal(signal.SIGSTOP)
        taker = StackTaker(tmp_path, tmp_path, sys.executable)
        deadline = time.monotonic() + LIMIT_SECONDS
        while not (taken := taker.take({0: child.pid}, [child.pid]))[0].frames:
            assert time.monotonic() < deadline
            child.send_signal(signal.SIGCONT)  # it was stopped before Python stood
            child.send_signal(signal.SIGSTOP)
        assert taken[0].source == "py-spy"
        assert taken[0].state in ("T", "S", "R")
    finally:
        child.kill()
        child.communicate()

"""What a process does is seen from outside: its compilers, its bytes, its memory."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from autotune.core.rhythm import Work
from autotune.world.work import work_of

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start programs that talk by lines, and end them afterwards."""
    running: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> "subprocess.Popen[str]":
        child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        running.append(child)
        assert child.stdout is not None
        child.stdout.readline()
        return child

    yield begin
    for child in running:
        child.kill()
        child.communicate()


def until(pid: int, condition: Callable[[Work], bool]) -> Work:
    while not condition(seen := work_of([pid], None)):
        os.sched_yield()
    return seen


def test_a_compiler_is_known_by_its_name_and_works_by_using_the_processor(
    tmp_path: Path, start: Start
) -> None:
    compiler = tmp_path / "cc1plus"
    compiler.symlink_to("/bin/bash")
    pid = start(str(compiler), "-c", "echo ready; while :; do :; done").pid
    first = until(pid, lambda seen: bool(seen.compilers))
    later = until(pid, lambda seen: seen.compilers != first.compilers)
    assert later.compilers[0][1] > first.compilers[0][1]


def test_what_is_written_and_what_is_held_is_counted(tmp_path: Path, start: Start) -> None:
    size = 16 * 2**20
    code = f"""
import signal, sys
print("ready", flush=True)
held = b"x" * {size}
open(sys.argv[1], "wb").write(held)
signal.pause()
"""
    pid = start(sys.executable, "-c", code, str(tmp_path / "f")).pid
    seen = until(pid, lambda seen: seen.moved_bytes >= size)
    assert seen.held_bytes >= size
    assert seen.compilers == ()
    assert work_of([pid], 10**12).held_bytes >= 10**12


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, ValueError, OSError])
def test_bytes_that_the_kernel_does_not_count_leave_the_rest_to_be_seen(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def mute(_: psutil.Process) -> None:
        raise error("/proc/1/io file was empty")

    monkeypatch.setattr(psutil.Process, "io_counters", mute)
    seen = work_of([os.getpid()], None)
    assert seen.moved_bytes == 0
    assert seen.held_bytes > 0


def test_a_process_that_is_gone_is_left_out(start: Start) -> None:
    child = start(sys.executable, "-c", "print()")
    child.wait()
    assert work_of([child.pid], None) == Work(processes=frozenset({child.pid}))

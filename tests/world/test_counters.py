"""Counters of the machine are read as the kernel writes them; what cannot be read is unknown."""

import os
import subprocess
import sys
from pathlib import Path

from autotune.world.cgroup import OwnCgroup, own_cgroup
from autotune.world.counters import Counts, Limits, Room, counts, grown, limits_of, lowest, room
from autotune.world.kindred import Kindred, descendants


def recorded(proc: Path) -> Path:
    (proc / "pressure").mkdir(parents=True)
    (proc / "vmstat").write_text("nr_free_pages 1\noom_kill 45\n")
    (proc / "meminfo").write_text(
        "MemTotal:       64 kB\nMemFree:  1 kB\nMemAvailable:   32 kB\n"
        "SwapTotal:       8 kB\nSwapFree:        4 kB\n"
    )
    (proc / "pressure" / "memory").write_text(
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=7267179\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=3386050\n"
    )
    return proc


def test_counters_are_read_from_a_recorded_machine(tmp_path: Path) -> None:
    proc = recorded(tmp_path / "proc")
    found = counts(None, proc)
    assert found == Counts(45, None, None, 3.38605)
    left = room(proc, shared=tmp_path / "none")
    assert left == Room(64 * 1024, 32 * 1024, 8 * 1024, 4 * 1024, None, None)


def test_a_machine_that_shows_nothing_gives_unknowns_not_zeros(tmp_path: Path) -> None:
    assert counts(None, tmp_path) == Counts(None, None, None, None)
    assert room(tmp_path, tmp_path / "none") == Room()


def test_growth_is_counted_only_where_both_ends_were_read() -> None:
    before, after = Counts(1, None, 3, 1.0), Counts(4, 2, 3, 1.5)
    assert grown(before, after) == Counts(3, None, 0, 0.5)


def test_the_least_that_was_left_is_kept() -> None:
    first = Room(100, 50, 10, 9, 8, 1)
    then = Room(100, 70, 10, None, 8, 5)
    assert lowest(first, then) == Room(100, 50, 10, 9, 8, 1)


def test_this_machine_tells_its_memory() -> None:
    left = room()
    assert left.total is not None
    assert left.available is not None
    assert 0 < left.available <= left.total


def test_our_own_cgroup_tells_its_kills_and_refusals_in_both_versions(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\n")
    (tmp_path / "memory.max").write_text("max\n")
    second = OwnCgroup(tmp_path, "/job", 2)
    assert (second.oom_kills(), second.refusals(), second.limit_bytes()) == (1, 7, None)
    (tmp_path / "memory.oom_control").write_text("under_oom 0\noom_kill 3\n")
    (tmp_path / "memory.failcnt").write_text("20\n")
    (tmp_path / "memory.limit_in_bytes").write_text("50331648\n")
    first = OwnCgroup(tmp_path, "/job", 1)
    assert (first.oom_kills(), first.refusals(), first.limit_bytes()) == (3, 20, 48 * 2**20)
    (tmp_path / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert first.limit_bytes() is None


def test_a_container_that_is_told_a_path_of_the_machine_finds_its_own_root(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    found = own_cgroup(tmp_path)
    assert found is not None
    assert found.path in (tmp_path, tmp_path / "memory")


def test_limits_are_those_of_the_process_asked_about() -> None:
    assert limits_of(2**22 + 1) == Limits()
    if os.geteuid() == 0:
        assert limits_of(os.getpid()).processes is None


def test_the_processes_below_us_are_found_with_their_threads() -> None:
    program = (
        "import subprocess, sys; "
        "subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    found = descendants(os.getpid())
    assert child.pid in found
    below = descendants(child.pid)
    assert len(below) == 1
    assert set(below) < set(found)
    assert min(found.values()) >= 1
    child.communicate(b"\n")


def sleeper() -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def test_who_came_is_seen_at_the_fifth_look_at_the_latest_and_who_went_at_once() -> None:
    kindred = Kindred(os.getpid())
    for _ in range(100):
        kindred.look({})
    first, second = sleeper(), sleeper()
    try:
        for _ in range(5):
            kindred.look({})
        assert {first.pid, second.pid} <= set(kindred.alive)
        third = sleeper()
        kindred.look({third.pid: 0})
        assert third.pid in kindred.alive, "a rank that said its id is there at once"
    finally:
        for one in (first, second, third):
            one.communicate(b"\n")
    kindred.look({})
    assert not {first.pid, second.pid, third.pid} & set(kindred.alive)

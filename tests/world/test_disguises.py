"""Real deaths without words are seen by what the machine says of them."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autotune.core.curve import Course, course_of_host, course_of_rank
from autotune.core.diagnosis import diagnose
from autotune.core.evidence import Diagnosis, Evidence, Gap, Machine, Memory
from autotune.core.failure import Failure, Trait
from autotune.core.scan import Scanner
from autotune.core.signature import CPU
from autotune.core.view import View
from autotune.world.counters import room
from autotune.world.gpu import Gpus
from autotune.world.host import MemorySampler
from autotune.world.signature_file import load_signatures
from tests.world.test_zoo import ZOO, memory_cgroup

__all__ = ["memory_cgroup"]  # a fixture
LOOK_SECONDS = 0.01


class Watched:
    """One program of the zoo as rank 0, sampled while it lives."""

    def __init__(self, name: str, *arguments: str, inside: tuple[str, ...] = ()) -> None:
        self.view = View()
        self.sampler = MemorySampler(CPU, None, lambda: self.view, Gpus(None, "none"), None)
        self.child = subprocess.Popen(
            [*inside, sys.executable, str(ZOO / f"{name}.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.view.ranks[0] = self.child.pid

    def hears(self) -> str:
        assert self.child.stdout is not None
        return self.child.stdout.readline()

    def is_told(self, line: str = "go") -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def until_the_end(self) -> None:
        while True:
            self.sampler.sample()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(LOOK_SECONDS)  # waits for the child, not for time to pass
                return

    def evidence(self, change: Callable[[Machine], Machine] = lambda m: m) -> Evidence:
        memory, gaps = self.sampler.reading()
        scanner = Scanner(load_signatures(device=CPU))
        for line in self.child.communicate()[1].splitlines():
            scanner.feed(line)
        code = self.child.returncode
        return Evidence(
            1, exit_code=max(code, 0) or None, signal=-code if code < 0 else None,
            signs=scanner.signs(), memory=memory, gaps=gaps,
            machine=change(self.sampler.machine()),
        )  # fmt: skip


@pytest.fixture
def watched() -> Iterator[Callable[..., Watched]]:
    """Return what starts a program and watches it; none of them outlives the test."""
    begun: list[Watched] = []

    def start(name: str, *arguments: str, inside: tuple[str, ...] = ()) -> Watched:
        begun.append(Watched(name, *arguments, inside=inside))
        return begun[-1]

    yield start
    for one in begun:
        one.child.kill()
        one.child.wait()


def kernel_log_is_read(evidence: Evidence) -> None:
    if not evidence.machine.kernel_read:
        pytest.skip(f"the kernel's log cannot be read here: {evidence.gaps}")


def test_a_rank_killed_by_its_cgroup_is_found_in_the_kernels_log(
    watched: Callable[..., Watched], memory_cgroup: Path
) -> None:
    rank = watched("killed_by_cgroup", str(memory_cgroup))
    rank.until_the_end()
    seen = rank.evidence()
    assert seen.machine.oom_kills is not None
    assert seen.machine.oom_kills >= 1
    kernel_log_is_read(seen)
    kill = next(event for event in seen.machine.kernel if event.ours)
    assert (kill.kind, kill.pid, kill.rank) == ("oom_kill", rank.child.pid, 0)
    assert kill.constraint == "memcg"
    assert memory_cgroup.name in kill.cgroup
    assert kill.resident_bytes is not None
    found = diagnose(seen)
    assert (found.failure, found.rank) == (Failure.HOST_OOM, 0)
    assert found.confidence > 0.95
    assert f"process {rank.child.pid}" in found.why


def test_a_worker_killed_under_a_rank_that_lives_on_is_the_cause_of_what_it_raises(
    watched: Callable[..., Watched], memory_cgroup: Path
) -> None:
    rank = watched("worker_killed", str(memory_cgroup))
    rank.hears()
    rank.sampler.sample()
    rank.is_told()
    rank.until_the_end()
    seen = rank.evidence()
    assert seen.signal is None
    kernel_log_is_read(seen)
    found = diagnose(seen)
    assert found.failure is Failure.HOST_OOM, found
    assert found.confidence > 0.95
    assert "the worker that prepares batches is gone" in found.why
    unheard = diagnose(rank.evidence(lambda m: Machine()))
    assert unheard.failure is Failure.USER_CODE_ERROR


def test_a_kill_by_hand_leaves_no_record_and_much_doubt(watched: Callable[..., Watched]) -> None:
    rank = watched("leaking")
    rank.is_told()
    assert rank.hears() == "step 1\n"
    rank.sampler.sample()
    rank.child.send_signal(signal.SIGKILL)
    rank.until_the_end()
    found = diagnose(rank.evidence())
    assert found.failure is Failure.HOST_OOM
    assert found.confidence < 0.4
    assert "kill -9" in found.why
    unwatched: Diagnosis = diagnose(Evidence(1, signal=9))
    assert unwatched.confidence > found.confidence


def test_memory_kept_from_every_step_is_seen_as_a_leak(watched: Callable[..., Watched]) -> None:
    rank = watched("leaking")
    for step in range(1, 151):
        rank.is_told()
        assert rank.hears() == f"step {step}\n"
        rank.view.step = step
        rank.sampler.sample()
    curve = rank.sampler.reading()[0].curve
    assert course_of_rank(curve) is Course.LEAKING
    shortage = Memory(device=CPU, curve=curve)
    found = diagnose(Evidence(1, signal=9, memory=shortage))
    assert (Trait.LEAKING in found.traits) is (course_of_host(curve) is Course.LEAKING)


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of one MiB that lives in memory, or skip with the reason."""
    folder = tmp_path / "shm"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_shared_memory_that_runs_out_ends_in_a_bus_error_and_gets_its_name(
    watched: Callable[..., Watched], small_tmpfs: Path
) -> None:
    rank = watched("shared_memory_full", str(small_tmpfs))
    rank.until_the_end()
    left = room(shared=small_tmpfs)

    def as_if_it_were_dev_shm(machine: Machine) -> Machine:
        return Machine(shm_bytes=left.shm, shm_free_low_bytes=left.shm_free)

    seen = rank.evidence(as_if_it_were_dev_shm)
    assert seen.signal == signal.SIGBUS
    found = diagnose(seen)
    assert (found.failure, found.traits) == (Failure.HOST_OOM, (Trait.SHARED_MEMORY_FULL,))
    assert "1.00 MiB" in found.why


@pytest.mark.train
def test_a_data_loaders_worker_killed_by_the_kernel_is_the_hosts(
    watched: Callable[..., Watched], memory_cgroup: Path
) -> None:
    rank = watched("loader_worker", "killed", str(memory_cgroup))
    rank.until_the_end()
    seen = rank.evidence()
    kernel_log_is_read(seen)
    found = diagnose(seen)
    assert found.failure is Failure.HOST_OOM
    assert found.confidence > 0.95
    assert "the kernel killed" in found.why


@pytest.mark.train
def test_a_data_loader_that_finds_shared_memory_full_is_no_full_disk(
    watched: Callable[..., Watched],
) -> None:
    # A mount namespace of its own: the machine's /dev/shm is left alone.
    small = 'mount -t tmpfs -o size=4m tmpfs /dev/shm && exec "$@"'
    inside = ("unshare", "--mount", "sh", "-c", small, "sh")
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted over /dev/shm here")
    rank = watched("loader_worker", "full", inside=inside)
    rank.until_the_end()
    found = diagnose(rank.evidence())
    assert (found.failure, found.traits) == (Failure.HOST_OOM, (Trait.SHARED_MEMORY_FULL,))


def test_threads_refused_to_a_lesser_user_name_the_limit(watched: Callable[..., Watched]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become a lesser user")
    rank = watched("threads_refused")
    rank.is_told()
    assert rank.hears() == "refused\n"
    rank.sampler.sample()
    rank.is_told()
    rank.until_the_end()
    seen = rank.evidence()
    assert seen.machine.process_limit == 24
    found = diagnose(seen)
    assert (found.failure, found.traits) == (Failure.HOST_OOM, (Trait.PROCESS_LIMIT,))
    assert "24" in found.why


def test_an_attempt_that_nobody_watched_has_a_gap_and_no_zeros() -> None:
    sampler = MemorySampler(CPU, None, View, Gpus(None, "none"), None)
    assert sampler.machine() == Machine()
    assert Gap("the machine's counters", "nobody watched the attempt") in sampler.reading()[1]

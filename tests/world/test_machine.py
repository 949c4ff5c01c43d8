"""What the machine says of an attempt is kept short, and what befell others stays theirs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.core.evidence import KernelEvent
from autotune.world.cgroup import Cgroup
from autotune.world.gpu import Gpus
from autotune.world.kernel_log import KernelLog
from autotune.world.kindred import ids_are_the_machines
from autotune.world.machine import MOST_OF_OTHERS, MOST_OURS, MachineWatch
from tests.world.test_gpu import FakeNvml

Write = Callable[..., None]


@pytest.fixture
def kernel(tmp_path: Path) -> tuple[KernelLog, Write]:
    """Return a kernel's log and what writes into it, one record a look."""
    path = tmp_path / "kmsg"
    path.touch()
    told = 0

    def write(text: str) -> None:
        nonlocal told
        told += 1
        with path.open("a") as file:
            file.write(f"4,{told},{told * 10**6},-;{text}\n")

    return KernelLog(path), write


def kill(pid: int, task: str = "python", cgroup: str = "/somewhere/else") -> str:
    return (
        f"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),oom_memcg={cgroup},"
        f"task_memcg={cgroup},task={task},pid={pid},uid=0"
    )


def events(watch: MachineWatch, ranks: dict[int, int]) -> tuple[KernelEvent, ...]:
    return watch.reading(ranks)[0].kernel


def test_a_rank_that_told_its_id_only_after_its_death_is_joined_in_the_end(
    kernel: tuple[KernelLog, Write],
) -> None:
    log, write = kernel
    watch = MachineWatch(None, None, log)
    write(kill(2**22 + 7))
    watch.sample({})
    (found,) = events(watch, {2**22 + 7: 3})
    if not ids_are_the_machines():
        pytest.skip("in a container process ids join nothing")
    assert (found.ours, found.rank) == (True, 3)


def test_many_kills_of_others_leave_room_for_our_own(kernel: tuple[KernelLog, Write]) -> None:
    log, write = kernel
    watch = MachineWatch(None, None, log)
    for number in range(400):
        write(kill(5_000_000 + number, task="firefox"))
        watch.sample({})
    for number in range(60):
        write(kill(6_000_000 + number))
        watch.sample({6_000_000 + number: 0})
    found = events(watch, {6_000_000 + n: n for n in range(60)})
    assert len(found) <= MOST_OURS + MOST_OF_OTHERS
    if ids_are_the_machines():
        assert sum(event.ours is True for event in found) == MOST_OURS
        assert sum(event.ours is False for event in found) == MOST_OF_OTHERS


def test_an_xid_told_twice_is_heard_once_and_another_cards_is_not_ours(
    kernel: tuple[KernelLog, Write],
) -> None:
    log, write = kernel
    nvml = FakeNvml([[], []])
    gpus = Gpus(nvml)
    gpus.indices = (0,)
    watch = MachineWatch(gpus, None, log)
    write("NVRM: Xid (PCI:0000:3a:00): 79, pid='<unknown>', GPU has fallen off the bus.")
    nvml.xids = [(0, 79)]
    watch.sample({})
    write("NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus.")
    nvml.xids = [(0, 48)]
    watch.sample({})
    seen = [(x.bus_id, x.code, x.ours) for x in events(watch, {})]
    assert seen == [
        ("0000:3a:00", 79, True), ("0000:3b:00", 79, False), ("0000:3a:00", 48, True),
    ]  # fmt: skip
    assert nvml.freed == 1


def test_a_job_without_gpus_is_met_by_no_xid(kernel: tuple[KernelLog, Write]) -> None:
    log, write = kernel
    watch = MachineWatch(None, None, log)
    write("NVRM: Xid (PCI:0000:3a:00): 79, pid='<unknown>', GPU has fallen off the bus.")
    watch.sample({})
    assert [event.ours for event in events(watch, {})] == [False]


def test_it_is_noted_when_the_cgroup_of_the_attempt_counts_a_kill(
    kernel: tuple[KernelLog, Write], tmp_path: Path
) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("oom 0\noom_kill 0\n")
    quiet = MachineWatch(None, Cgroup(tmp_path, 1000, 2), kernel[0])
    quiet.sample({})
    assert quiet.reading({})[0].counted_seconds is None
    watch = MachineWatch(None, Cgroup(tmp_path, 1000, 2), kernel[0])
    watch.sample({})
    counter.write_text("oom 1\noom_kill 1\n")
    watch.sample({})
    counter.unlink()  # it is taken away before the last look
    assert watch.reading({})[0].counted_seconds is not None


def test_the_last_look_is_taken_once(kernel: tuple[KernelLog, Write]) -> None:
    log, write = kernel
    watch = MachineWatch(None, None, log)
    watch.sample({})
    first = watch.reading({})
    write(kill(1))
    assert watch.reading({}) is first

"""Every program of the zoo dies for real, and its death gets the right name."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autotune.core.diagnosis import diagnose
from autotune.core.evidence import Diagnosis, Evidence, Memory
from autotune.core.failure import Failure
from autotune.core.scan import Scanner
from autotune.core.signature import CPU
from autotune.world.output import OutputTail
from autotune.world.signature_file import load_signatures
from tests.zoo.expected import ANIMALS, BY_HAND, Animal

ZOO = Path(__file__).parents[1] / "zoo"
SIGNATURES = load_signatures(device=CPU)
LIMIT_SECONDS = 150
CGROUP_BYTES = 48 * 2**20
_NO_FILES: tuple[str, ...] = ("__init__", "expected")


def start(name: str, *arguments: str, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, str(ZOO / f"{name}.py"), *arguments],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        )


def watch(
    child: "subprocess.Popen[bytes]", log: Path, on_poll: Callable[[OutputTail], None] | None = None
) -> tuple[Scanner, int]:
    """Follow the child with the real tail until it has ended; its exit code as it is."""
    scanner = Scanner(SIGNATURES)
    tail = OutputTail(log, scanner.read)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.05)  # waits for the child, not for time to pass
                break
            tail.poll()
            if on_poll:
                on_poll(tail)
    finally:
        child.kill()
        child.wait()
    tail.drain()
    return scanner, child.returncode


def understand(scanner: Scanner, code: int, memory: Memory | None = None) -> Diagnosis:
    return diagnose(
        Evidence(
            attempt=1,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            signs=scanner.signs(),
            memory=memory or Memory(device=CPU),
        )
    )


@pytest.mark.parametrize(
    "animal",
    [pytest.param(a, id=a.name, marks=[pytest.mark.train] if a.train else []) for a in ANIMALS],
)
def test_a_real_death_gets_its_name(animal: Animal, tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    scanner, code = watch(start(animal.name, *animal.arguments, log=log), log)
    diagnosis = understand(scanner, code)
    shown = log.read_bytes()[-3000:].decode("utf-8", "replace")
    assert diagnosis.failure is animal.failure, f"{diagnosis.why}\n{shown}"
    if animal.phase:
        assert diagnosis.phase is animal.phase


def test_ctrl_c_is_a_person_and_our_own_sigint_is_not(tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    child = start("interrupted", log=log)
    sent = False

    def press(tail: OutputTail) -> None:
        nonlocal sent
        if not sent and "ready" in tail.last_lines():
            sent = True
            child.send_signal(signal.SIGINT)

    scanner, code = watch(child, log, press)
    assert understand(scanner, code).failure is Failure.USER_INTERRUPT
    ours = Evidence(attempt=1, signal=2, signs=scanner.signs(), ended_by_us="stop")
    assert diagnose(ours).failure is Failure.NONE


@pytest.fixture
def memory_cgroup() -> Iterator[Path]:
    """Make a memory cgroup of either version, or skip with the reason."""
    name = f"autotune-zoo-{uuid.uuid4().hex[:8]}"
    reason = "no memory controller is mounted"
    for root, limit in ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
                        (Path("/sys/fs/cgroup"), "memory.max")):  # fmt: skip
        folder = root / name
        try:
            folder.mkdir()
        except OSError as error:
            reason = f"a cgroup cannot be made in {root}: {error.strerror}"
            continue
        try:
            (folder / limit).write_text(str(CGROUP_BYTES))
        except OSError as error:
            reason = f"{limit} cannot be set: {error.strerror}"
            folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip(reason)


def oom_kills(folder: Path) -> int | None:
    for name in ("memory.events", "memory.oom_control"):
        with contextlib.suppress(OSError):
            match = re.search(r"^oom_kill (\d+)$", (folder / name).read_text(), re.MULTILINE)
            return int(match[1]) if match else None
    return None


def test_a_kill_by_the_memory_cgroup_is_the_hosts(tmp_path: Path, memory_cgroup: Path) -> None:
    log = tmp_path / "output.log"
    scanner, code = watch(start("killed_by_cgroup", str(memory_cgroup), log=log), log)
    assert code == -signal.SIGKILL
    diagnosis = understand(scanner, code, Memory(cgroup_oom_kills=oom_kills(memory_cgroup)))
    assert diagnosis.failure is Failure.HOST_OOM
    if oom_kills(memory_cgroup):
        assert diagnosis.confidence > 0.9


def test_the_grandchild_outlives_its_family_until_it_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    child = start("grandchild", str(told), log=tmp_path / "output.log")
    assert child.wait(LIMIT_SECONDS) == 0
    while not told.exists():
        os.sched_yield()
    pid = int(told.read_text())
    assert os.getsid(pid) != os.getsid(0)
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, 0)
    os.kill(pid, signal.SIGKILL)


def test_every_program_of_the_zoo_is_in_the_table() -> None:
    programs = {path.stem for path in ZOO.glob("*.py")} - set(_NO_FILES)
    assert programs == {animal.name for animal in ANIMALS} | set(BY_HAND)

"""What the doctor reads of the machine is read from files that may say anything."""

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import pynvml
import pytest

from autotune.core.doctor.facts import Segment
from autotune.world import driver
from autotune.world.build_locks import look_at_builds
from autotune.world.disk_speed import MOST_BYTES, kind_of, look_at_disk
from autotune.world.driver import ask, cards_on_the_bus, look_at_driver, module_version
from autotune.world.gpu import Gpus
from autotune.world.host_memory import host_memory, segments
from autotune.world.own_limits import own_limits
from autotune.world.ports import is_taken, look_at_network
from autotune.world.systemd_seen import look_at_systemd, unit_of
from autotune.world.time_sync import ClockWatch
from tests.world.test_gpu import FakeNvml, Memory

MINE = f"deepspeed_allreduce_buffer_{os.getuid()}_127.0.0.1_40001_0"
MAPPED = f"deepspeed_allreduce_buffer_{os.getuid()}_127.0.0.1_40002_0"


@dataclass
class Driver(FakeNvml):
    """A driver that also tells of itself."""

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        """Return its version."""
        return "580.65.06"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:  # noqa: N802
        """Return the newest CUDA it knows."""
        return 12080

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:  # noqa: N802
        """Return what a card can compute."""
        return 9, 0

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:  # noqa: N802
        """Return whether a card is cut, now and after the next reset; a small one cannot be."""
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def test_a_driver_tells_of_itself_and_of_every_card_answering_or_not() -> None:
    told = ask(Driver([[], []], broken={1}, memory=Memory(80, 30)))
    assert (told.nvml, told.cuda) == ("580.65.06", (12, 8))
    first, second = told.cards
    assert (first.capability, first.total_bytes, first.free_bytes) == ((9, 0), 80, 30)
    assert (first.mig, first.answers) == (None, True)
    assert (second.index, second.answers) == (1, False)


def test_a_driver_that_hangs_is_a_reason_and_not_our_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs() -> Gpus:
        while True:
            time.sleep(60)

    monkeypatch.setattr(driver, "find_gpus", hangs)
    assert look_at_driver(1).why_none == "NVML did not answer within 1 s"


def test_the_kernels_own_driver_and_the_cards_on_the_bus_are_read(tmp_path: Path) -> None:
    assert module_version(tmp_path) is None
    (tmp_path / "driver/nvidia").mkdir(parents=True)
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
    (tmp_path / "driver/nvidia/version").write_text(text)
    assert module_version(tmp_path) == "580.65.06"
    assert cards_on_the_bus(tmp_path) is None
    for name, vendor, kind in (("0", "0x10de", "0x030200"), ("1", "0x10de", "0x040300"),
                               ("2", "0x8086", "0x030000")):  # fmt: skip
        device = tmp_path / "bus/pci/devices" / name
        device.mkdir(parents=True)
        (device / "vendor").write_text(vendor + "\n")
        (device / "class").write_text(kind + "\n")
    assert cards_on_the_bus(tmp_path) == 1  # its sound is a device of its own


def test_segments_of_the_dead_are_told_from_those_in_use_and_none_is_touched(
    tmp_path: Path,
) -> None:
    shared, proc = tmp_path / "shm", tmp_path / "proc"
    (proc / "77").mkdir(parents=True)
    shared.mkdir()
    for name in (MINE, MAPPED, "somebody-elses", "deepspeed_allreduce_buffer_x"):
        (shared / name).write_bytes(b"x" * 4096)
    (shared / f"{MINE}_link").symlink_to("/etc/passwd")
    (proc / "77" / "maps").write_text(f"7f-80 rw-s 0 0:1 9  /dev/shm/{MAPPED}\n")
    assert segments(proc, shared) == (
        Segment(MINE, 4096, True, False), Segment(MAPPED, 4096, True, True),
    )  # fmt: skip
    assert len(list(shared.iterdir())) == 5


def test_memory_is_read_as_far_as_the_kernel_tells(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nCommitLimit: 4 kB\nCommitted_AS: odd\n")
    (tmp_path / "sys/vm").mkdir(parents=True)
    (tmp_path / "sys/vm/overcommit_memory").write_text("2\n")
    found = host_memory(tmp_path, tmp_path / "none")
    assert (found.total_bytes, found.commit_limit_bytes, found.committed_bytes) == (
        8192,
        4096,
        None,
    )
    assert (found.overcommit, found.swap_bytes, found.shm_bytes) == (2, None, None)


def test_locks_and_builds_are_found_in_torchs_cache_and_ours_and_left_alone(
    tmp_path: Path,
) -> None:
    ours, shared = tmp_path / "ours", tmp_path / "torch"
    for place in (ours / "op/lock", shared / "py312_cu128/op/lock"):
        place.parent.mkdir(parents=True)
        place.touch()
    (ours / "built").mkdir()
    (ours / "built" / "built.so").touch()
    found = look_at_builds((ours, tmp_path / "none"), shared)
    assert [(lock.path, lock.ours) for lock in found.locks] == [
        (str(ours / "op/lock"), True), (str(shared / "py312_cu128/op/lock"), False),
    ]  # fmt: skip
    assert found.kept == ("built",)
    assert (ours / "op/lock").exists()


def test_a_disk_is_measured_within_bounds_and_left_as_it_was(tmp_path: Path) -> None:
    found = look_at_disk(tmp_path / "runs" / "not-yet")
    assert found.writable is True
    assert found.bytes_per_second
    assert found.kind
    assert abs(found.skew_seconds or 0) < 60
    assert list(tmp_path.iterdir()) == []
    assert MOST_BYTES <= 64 * 2**20


def test_the_file_system_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    odd = tmp_path / "a b"
    odd.mkdir()
    mounts = tmp_path / "mounts"
    escaped = str(odd).replace(" ", "\\040")
    mounts.write_text(
        "21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        f"22 21 0:5 / {escaped} rw - nfs4 server:/x rw\n"
        "nonsense\n"
    )
    assert kind_of(odd / "runs", mounts) == "nfs4"
    assert kind_of(tmp_path, mounts) == "ext4"
    assert kind_of(tmp_path, tmp_path / "none") is None


def test_the_unit_is_the_innermost_one_of_our_group(tmp_path: Path) -> None:
    group = tmp_path / "cgroup"
    group.write_text(
        "0::/user.slice/user-1000.slice/user@1000.service/app.slice/autotune@x.service\n"
    )
    assert unit_of(group) == "autotune@x.service"
    group.write_text("4:memory:/docker/1\n1:name=systemd:/system.slice/ssh.service\n")
    assert unit_of(group) == "ssh.service"
    group.write_text("0::/\n")
    assert unit_of(group) == ""
    assert unit_of(tmp_path / "none") == ""


def test_a_port_that_somebody_listens_on_is_taken() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert is_taken(port)
    assert not is_taken(port)


def test_this_machine_can_be_looked_at_without_a_reader_that_breaks() -> None:
    network = look_at_network(ask_hub=False)
    assert network.loopback is True
    assert network.hub is None
    assert look_at_systemd().systemd in (True, False)
    assert own_limits().files != 0
    clock = ClockWatch().read()
    assert clock.year is not None
    assert clock.year >= 2024
    assert abs(clock.jumped_seconds or 0) < 60

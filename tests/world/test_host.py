"""Memory of an attempt is sampled from what lives, and what is not known is not claimed."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from autotune.core.evidence import Gap
from autotune.core.view import View
from autotune.world.gpu import Gpus
from autotune.world.host import MemorySampler
from tests.world.test_gpu import GIB, FakeNvml, Held, Memory

STRANGER = 2**22 + 9


@pytest.fixture
def rank() -> Iterator["subprocess.Popen[bytes]"]:
    """Return a process that lives until it is told something."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield child
    child.kill()
    child.communicate()


def sampler_of(view: View, nvml: FakeNvml) -> MemorySampler:
    return MemorySampler("cuda", None, lambda: view, Gpus(nvml), None)


def by_process(sampler: MemorySampler) -> list[Gap]:
    return [gap for gap in sampler.reading()[1] if gap.reading == "gpu memory by process"]


def test_a_neighbour_seen_beside_our_rank_is_remembered_after_its_death(
    rank: "subprocess.Popen[bytes]",
) -> None:
    view = View(ranks={0: rank.pid})
    nvml = FakeNvml([[Held(STRANGER, 50 * GIB)]], memory=Memory(80 * GIB, 29 * GIB))
    sampler = sampler_of(view, nvml)
    sampler.sample()  # it has no context yet
    nvml.cards = [[Held(STRANGER, 50 * GIB), Held(rank.pid, 20 * GIB)]]
    nvml.memory = Memory(80 * GIB, 9 * GIB)
    sampler.sample()
    nvml.cards = [[Held(STRANGER, 50 * GIB)]]
    rank.kill()
    os.waitid(os.P_PID, rank.pid, os.WEXITED | os.WNOWAIT)
    sampler.sample()  # dead, and not yet collected
    rank.wait()
    sampler.sample()
    memory = sampler.reading()[0]
    assert memory.device_others_bytes == 50 * GIB
    assert (memory.peak_bytes, memory.device_free_low_bytes) == (20 * GIB, 9 * GIB)
    assert by_process(sampler) == []


def test_what_was_taken_before_a_rank_held_any_was_others_wherever_ids_join(
    rank: "subprocess.Popen[bytes]",
) -> None:
    view = View()
    nvml = FakeNvml([[Held(STRANGER, 50 * GIB)]], memory=Memory(80 * GIB, 29 * GIB))
    sampler = sampler_of(view, nvml)
    sampler.sample()
    view.ranks[0] = rank.pid
    nvml.memory = Memory(80 * GIB, 9 * GIB)
    sampler.sample()
    assert sampler.reading()[0].device_free_before_bytes == 29 * GIB


def test_in_a_container_nothing_is_claimed_of_neighbours(rank: "subprocess.Popen[bytes]") -> None:
    nvml = FakeNvml([[Held(STRANGER, 70 * GIB)]], memory=Memory(80 * GIB, 9 * GIB))
    sampler = sampler_of(View(ranks={0: rank.pid}), nvml)
    sampler.sample()
    assert sampler.reading()[0].device_others_bytes is None
    assert len(by_process(sampler)) == 1


def test_the_tree_below_us_is_what_the_hosts_memory_is_counted_over(
    rank: "subprocess.Popen[bytes]",
) -> None:
    sampler = MemorySampler("cpu", None, View, Gpus(None, "none"), None)
    sampler.sample()
    memory = sampler.reading()[0]
    assert memory.host_peak_bytes is not None  # though no rank has told its process id
    assert memory.peak_bytes is None
    assert memory.curve[0].host_bytes == memory.host_peak_bytes
    assert os.getpid() not in sampler._around.kindred.names

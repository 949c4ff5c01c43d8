"""What dies before the first look was watched all the same."""

from pathlib import Path
from typing import Any

from autotune.edges import Exit
from autotune.watch import watch
from autotune.world.channel import AttemptChannel
from autotune.world.gpu import Gpus
from autotune.world.host import MemorySampler
from autotune.world.signature_file import load_signatures
from tests import builders
from tests.test_a_week import Weekly


class KilledAtOnce(Weekly):
    """A launcher that somebody kills while we have not looked once."""

    def poll(self) -> Exit:
        """Say how it ended."""
        return Exit(137, 9)


def test_the_machines_counters_speak_of_a_launcher_killed_before_the_first_look(
    tmp_path: Path,
) -> None:
    channel = AttemptChannel(tmp_path, load_signatures(), 2**20)
    sampler = MemorySampler("cpu", None, lambda: channel.view, Gpus(None, "none"), None)
    live: Any = KilledAtOnce(tmp_path, channel, sampler)

    evidence = watch(live, 1, live, live, builders.shipped().limits, None, live)

    # Without a count a kill would be taken for one by the kernel, and a rung for it.
    assert evidence.machine.oom_kills is not None
    assert "the machine's counters" not in {gap.reading for gap in evidence.gaps}

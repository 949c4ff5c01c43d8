"""Runs the command line on a machine whose NVML shows the GPUs that FAKE_GPUS names.

Where FAKE_PLACE names a folder, leases lie there, and `held.json` in it says who is on each GPU:
{"0": [[process id, GiB]]}. Who is dead holds nothing.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace

from autotune.cli import app, wiring
from autotune.world import leases
from autotune.world.gpu import Gpus
from autotune.world.process import process_alive

PRESENT = [int(index) for index in os.environ["FAKE_GPUS"].split(",")]
PLACE = os.environ.get("FAKE_PLACE")


def held_on(index: int) -> list[SimpleNamespace]:
    """Return the living processes that hold memory of a GPU."""
    try:
        told = json.loads(Path(PLACE or "", "held.json").read_text())
    except OSError:
        return []
    return [
        SimpleNamespace(pid=pid, usedGpuMemory=gib * 2**30)
        for pid, gib in told.get(str(index), [])
        if process_alive(pid)
    ]


class FakeNvml:
    """Answers as pynvml does, for cards of 80 GiB."""

    class NVMLError(Exception):
        """What NVML raises for a GPU that is not there."""

    def __getattr__(self, name: str) -> object:
        """Return a number for a constant, and for what these cards do not know one that raises."""
        if not name.startswith(("nvmlDevice", "nvmlEventSet")):
            return 0

        def unsupported(*_: object) -> None:
            raise self.NVMLError(f"{name} is not supported")

        return unsupported

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """Return one more than the highest index."""
        return max(PRESENT) + 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        """Return a handle, or raise for a GPU that fell off the bus."""
        if index not in PRESENT:
            raise self.NVMLError("GPU is lost")
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        """Return a name."""
        return f"Fake {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        """Return a card of which the processes on it hold what they hold."""
        held = sum(one.usedGpuMemory for one in held_on(handle))
        return SimpleNamespace(total=80 * 2**30, free=80 * 2**30 - handle - held)

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        """Return a UUID where jobs are to meet, else none, as a machine without it has."""
        if PLACE is None:
            raise self.NVMLError("no UUID")
        return f"GPU-fake-{handle}"

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[object]:  # noqa: N802
        """Return who is on a card."""
        return list(held_on(handle))


if __name__ == "__main__":
    wiring.find_gpus = lambda: Gpus(FakeNvml())  # type: ignore[attr-defined]
    if PLACE is not None:
        leases.PLACES = (Path(PLACE), Path(PLACE))
    app.main()

"""Runs the command line on a machine whose NVML shows the GPUs that FAKE_GPUS names."""

import os
from types import SimpleNamespace

from autotune.cli import app, wiring
from autotune.world.gpu import Gpus

PRESENT = [int(index) for index in os.environ["FAKE_GPUS"].split(",")]


class FakeNvml:
    """Answers as pynvml does, for empty cards of 80 GiB."""

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
        """Return an empty card."""
        return SimpleNamespace(total=80 * 2**30, free=80 * 2**30 - handle)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[object]:  # noqa: N802
        """Return nobody."""
        del handle
        return []


if __name__ == "__main__":
    wiring.find_gpus = lambda: Gpus(FakeNvml())  # type: ignore[attr-defined]
    app.main()

"""Runs the command line on a machine whose NVML shows the GPUs that FAKE_GPUS names.

Where FAKE_PLACE names a folder, leases lie there, and `held.json` in it says who is on each GPU:
{"0": [[process id, GiB]]}. Who is dead holds nothing. While `hang` is there no call of NVML
returns, and each line of `xids`, "GPU code", is told once to whoever listens by then.
FAKE_PATIENCE is for how many seconds NVML is waited for.
"""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

from autotune.cli import app, wiring
from autotune.world import leases
from autotune.world.gpu import Gpus
from autotune.world.patient_nvml import ANSWER_SECONDS, PatientNvml
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


def told_xids() -> list[str]:
    """Return what the driver has told of so far."""
    try:
        return Path(PLACE or "", "xids").read_text().splitlines()
    except OSError:
        return []


class FakeNvml:
    """Answers as pynvml does, for cards of 80 GiB."""

    class NVMLError(Exception):
        """What NVML raises for a GPU that is not there."""

    class NVMLError_Timeout(NVMLError):  # noqa: N801
        """What NVML raises where nothing is to be told of in time."""

    def __getattribute__(self, name: str) -> object:
        """Return what is there; a function of it hangs for as long as the machine's NVML does."""
        found = object.__getattribute__(self, name)
        if PLACE is None or not name.startswith("nvml"):
            return found

        def hanging(*arguments: object) -> object:
            while Path(PLACE, "hang").exists():
                time.sleep(0.01)
            return found(*arguments)

        return hanging

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

    def nvmlDeviceGetPciInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        """Return where a card sits."""
        return SimpleNamespace(busId=f"00000000:{0x3A + handle:02X}:00.0")

    def nvmlEventSetCreate(self) -> list[str]:  # noqa: N802
        """Return a set that hears of what is told from now on: the lines it has heard of."""
        return told_xids()

    def nvmlDeviceRegisterEvents(self, *_: object) -> None:  # noqa: N802
        """Tell a set of every card."""

    def nvmlEventSetWait_v2(self, heard: list[str], _: int) -> SimpleNamespace:  # noqa: N802
        """Return the next Xid."""
        new = told_xids()[len(heard) :]
        if not new:
            raise self.NVMLError_Timeout
        heard.append(new[0])
        card, code = new[0].split()
        return SimpleNamespace(device=int(card), eventData=int(code))

    def nvmlEventSetFree(self, _: object) -> None:  # noqa: N802
        """Forget a set."""

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[object]:  # noqa: N802
        """Return who is on a card."""
        return list(held_on(handle))


if __name__ == "__main__":
    patience = float(os.environ.get("FAKE_PATIENCE", ANSWER_SECONDS))
    wiring.find_gpus = lambda: Gpus(PatientNvml(FakeNvml(), patience))  # type: ignore[attr-defined]
    if PLACE is not None:
        leases.PLACES = (Path(PLACE), Path(PLACE))
    app.main()

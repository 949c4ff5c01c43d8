"""What the NVIDIA driver tells of itself and its cards, for a look at the whole machine."""

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from autotune.core.codec import from_plain, to_plain
from autotune.core.doctor.facts import Card, Gpus
from autotune.world.gpu import Gpus as Answering
from autotune.world.gpu import find_gpus
from autotune.world.throwaway import Late, in_time

ASK_SECONDS = 20.0  # the first answer of a driver that is not kept loaded takes seconds
_NVIDIA = "0x10de"
_DISPLAY = "0x03"  # PCI's class of what draws, or computes


def look_at_driver(seconds: float = ASK_SECONDS) -> Gpus:
    """Return what is known of driver and cards; one that hangs is a finding, not our end."""
    module, cards = module_version(), cards_on_the_bus()
    try:
        told = from_plain(Gpus, in_time(lambda: to_plain(_asked()), seconds))
    except Late:
        told = Gpus(why_none=f"NVML did not answer within {seconds:g} s")
    except (OSError, ValueError) as error:
        told = Gpus(why_none=f"NVML: {error}")
    return Gpus(
        cards, module, told.nvml, told.cuda, told.why_none, told.hidden, told.cards
    )  # fmt: skip


def _asked() -> Gpus:
    gpus = find_gpus()
    if gpus.why_none:
        hidden = os.environ.get("DS_ACCELERATOR") == "cpu"
        return Gpus(why_none=gpus.why_none, hidden=hidden)
    import pynvml

    return ask(pynvml)


def ask(nvml: Any) -> Gpus:
    """Return what NVML, initialised, tells of the driver and of every card, answering or not."""
    gpus = Answering(nvml)
    present, health = {gpu.index: gpu for gpu in gpus.present()}, gpus.health()
    cards = []
    for index in range(nvml.nvmlDeviceGetCount()):
        gpu, state = present.get(index), health.get(index)
        if gpu is None or state is None or not state.answers:
            cards.append(Card(index, "", answers=False))
            continue
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        capability = _told(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
        mig = _told(nvml, nvml.nvmlDeviceGetMigMode, handle)
        cards.append(
            Card(
                index, gpu.name, (int(capability[0]), int(capability[1])) if capability else None,
                gpu.total_bytes, gpu.free_bytes, state.uncorrected_errors,
                state.remap_pending, state.remap_failed, state.slowed_by,
                None if mig is None else bool(mig[0]),
            )
        )  # fmt: skip
    version = _told(nvml, nvml.nvmlSystemGetDriverVersion)
    cuda = _told(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)
    return Gpus(
        nvml=version.decode() if isinstance(version, bytes) else version,
        cuda=None if cuda is None else (int(cuda) // 1000, int(cuda) % 1000 // 10),
        cards=tuple(cards),
    )


def _told(nvml: Any, ask: Any, *arguments: Any) -> Any:
    """What this card, or this driver, does not know is None."""
    try:
        return ask(*arguments)
    except nvml.NVMLError:
        return None


def module_version(proc: Path = Path("/proc")) -> str | None:
    """Return the version of the driver in the kernel; None where none is loaded."""
    try:
        text = (proc / "driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"Kernel Module(?: for \S+)? +(\d[\d.]+)", text)
    return match[1] if match else None


def cards_on_the_bus(sys: Path = Path("/sys")) -> int | None:
    """Return how many NVIDIA cards PCI shows; None where PCI is not shown."""
    found, seen = 0, False
    with contextlib.suppress(OSError):
        for device in (sys / "bus/pci/devices").iterdir():
            with contextlib.suppress(OSError):
                vendor = (device / "vendor").read_text().strip()
                kind = (device / "class").read_text().strip()
                seen = True
                found += vendor == _NVIDIA and kind.startswith(_DISPLAY)
    return found if seen else None

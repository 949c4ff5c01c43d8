"""The memory this process holds, in bytes, under the names the built-in trainer uses."""

from __future__ import annotations

import os
import sys
from typing import Any

_peak_data = 0


def memory() -> dict[str, int | None]:
    """VmData, VmRSS and its high-water mark, and what CUDA's allocator holds; None: no reading.

    The kernel keeps no high-water mark of VmData: `peak_data_bytes` is the highest that was read.
    """
    global _peak_data
    held = {"VmData:": None, "VmRSS:": None, "VmHWM:": None, **of_process()}
    _peak_data = max(_peak_data, held["VmData:"] or 0)
    figures: dict[str, int | None] = {
        "data_bytes": held["VmData:"],
        "rss_bytes": held["VmRSS:"],
        "peak_rss_bytes": held["VmHWM:"],
        "peak_data_bytes": _peak_data or None,
        "allocated_bytes": None,
        "reserved_bytes": None,
        "peak_allocated_bytes": None,
        "peak_reserved_bytes": None,
    }
    cuda = cuda_in_use()
    if cuda is not None:
        figures["allocated_bytes"] = cuda.memory_allocated()
        figures["reserved_bytes"] = cuda.memory_reserved()
        figures["peak_allocated_bytes"] = cuda.max_memory_allocated()
        figures["peak_reserved_bytes"] = cuda.max_memory_reserved()
    return figures


def of_process() -> dict[str, int]:
    """What /proc/self/status says; empty where it does not."""
    found: dict[str, int] = {}
    try:
        status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        try:  # without Python's buffer, which costs as much as the reading itself
            text = os.read(status, 64 * 1024)
        finally:
            os.close(status)
        for name in ("VmData:", "VmRSS:", "VmHWM:"):
            at = text.find(b"\n" + name.encode())
            if at >= 0:
                found[name] = int(text[at + 1 + len(name) :].split(None, 1)[0]) * 1024
    except (OSError, ValueError):  # a reading we do not have is a gap
        pass
    return found


def cuda_in_use() -> Any:
    """torch.cuda where this process has begun to use it, else None: looking must not begin it."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None

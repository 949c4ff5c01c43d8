"""Enforces the memory limit inside the rank, before its first tensor, where nothing else does.

On the CPU it is the soft RLIMIT_DATA, set when torch has been imported: later, a model would be
there already, and earlier there is nothing to refuse. A program that trains without a launcher is
no rank before its Trainer is made, when the model is there already: where AUTOTUNE_ALONE says that
it is the only one, the limit does not wait for that. A compiler that DeepSpeed starts for one of
its extensions would inherit it and die, so it is lifted while one is built. On CUDA it is the
allocator's own cap, set as soon as CUDA is used, where the allocator's configuration has no key.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from . import faults, hook, moments, settings

ALONE = "AUTOTUNE_ALONE"  # in the environment of a training of one rank without a launcher

_enforced = 0  # the process that has the limit; one forked from it has it too


def listen() -> None:
    """Set the limit as soon as this process is known for a rank, or will be the only one."""
    moments.on("armed", enforce)
    moments.on("ending", lift)
    if os.environ.get(ALONE):
        enforce()


def enforce() -> None:
    """Set what the supervisor asks for; the built-in trainer sets its own and asks for nothing."""
    global _enforced
    limit = settings.get("limit")
    if not limit or _enforced == os.getpid():
        return
    _enforced = os.getpid()
    if limit["device"] == "cpu":
        set_soft(int(limit["bytes"]))
        hook.when_imported("deepspeed.ops.op_builder.builder", spare_compilers)
    else:
        cap_allocator(int(limit["bytes"]))


def set_soft(limit: int) -> None:
    """From here on the kernel refuses this process what lies beyond `limit` bytes of VmData."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def spare_compilers(module: Any) -> None:
    """Lift the limit while an extension is built, and only for that."""
    limit = int(settings.get("limit")["bytes"])
    jit_load = module.OpBuilder.jit_load

    @functools.wraps(jit_load)
    def unlimited(*args: Any, **kwargs: Any) -> Any:
        faults.guarded(lift)()
        try:
            return jit_load(*args, **kwargs)
        finally:
            faults.guarded(set_soft)(limit)

    module.OpBuilder.jit_load = unlimited


def lift(*_: Any, **__: Any) -> None:
    """Raise the soft limit that was set to the hard one: what is left to do needs little."""
    limit = settings.get("limit")
    if limit and limit["device"] == "cpu":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def cap_allocator(limit: int) -> None:
    """Give CUDA's allocator its share of this rank's card; never to begin with CUDA."""
    import torch

    said = os.environ.get("PYTORCH_ALLOC_CONF", "") + os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "")
    if "per_process_memory_fraction" in said:
        return

    def cap() -> None:
        device = int(os.environ.get("LOCAL_RANK", "0"))
        device = device if device < torch.cuda.device_count() else 0
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)

    torch.cuda._lazy_call(cap)

"""Says whether ranks and micro-batches make up the global batch exactly."""

from autotune.core.fault import Fault
from autotune.core.job import Job, batch_of


def batch_faults(job: Job, world_size: int, where: str) -> list[Fault]:
    """Return why the job's batches cannot be made exactly, and which can."""
    batch = batch_of(job)
    total, micro = batch.global_, batch.micro
    if total % world_size:
        text = f"a global batch of {total} cannot be shared equally by {world_size} ranks"
        near = max(world_size, total - total % world_size)
        hint = f"use {near} or {near + world_size}, or another number of devices"
        return [Fault(text, where, hint)]
    per_rank = total // world_size
    if per_rank % micro:
        fits = ", ".join(str(n) for n in range(1, per_rank + 1) if per_rank % n == 0)
        text = f"a global batch of {total} over {world_size} ranks is {per_rank} samples each, "
        text += f"which micro-batches of {micro} cannot make"
        return [Fault(text, where, f"micro-batches that can: {fits}")]
    return []

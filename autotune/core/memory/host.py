"""Host memory of one rank on a machine with GPUs."""

from autotune.core.memory.activations import Activations
from autotune.core.memory.counts import Counts
from autotune.core.memory.loading import load_on_host
from autotune.core.memory.outside import BARE_RANK, in_training
from autotune.core.memory.shares import MASTER, MOMENTS, Shares, shares
from autotune.core.memory.workload import Workload


def host(workload: Workload, counts: Counts, activations: Activations) -> tuple[int, int]:
    """Return the host bytes of one rank, the highest of its life, and how many are pinned.

    On the CPU accelerator both are 0: there everything is counted as the rank's own memory. What
    the process itself takes is assumed to be what it takes on a machine without GPUs, where it was
    measured: the CUDA libraries, which add to it, were not. What is pinned is read off the code.
    """
    plan, at = workload.plan, shares(workload, counts)
    if at.on_cpu:
        return 0, 0
    stays = _offloaded(workload, counts, at)
    # What is being read is gone when the optimizer's part is made.
    base = in_training(workload.subject.base_bytes or BARE_RANK)
    high = max(load_on_host(workload, counts), stays + activations.host + _paged(workload, at))
    if plan.zero_stage == 3 and plan.gather_on_save:
        high = max(high, stays + counts.weight_bytes)
    return base + high, stays if plan.pinned_memory else 0


def _offloaded(workload: Workload, counts: Counts, at: Shares) -> int:
    """Return the host bytes of the offloaded optimizer and parameters.

    Of the optimizer: fp32 weights, their gradients and both states, 16 bytes a parameter of this
    rank's part; beside them stages 1 and 2 keep a 16-bit copy of the part and one gradient
    (`param_buffer_of_bit16_for_cpu_offload_groups`, `temp_grad_buffer_for_cpu_offload`), stage 3
    its 16-bit gradients (`grad_partitions_flat_buffer`).
    """
    plan, total = workload.plan, 0
    if plan.offload_optimizer:
        total += (MASTER + MASTER + MOMENTS + at.width) * at.own
        if plan.zero_stage < 3:
            total += at.largest * at.width
            total += at.own * at.width if plan.accumulation > 1 else 0
    if plan.offload_param and plan.zero_stage == 3:
        total += -(-counts.weight_bytes // plan.world_size)
    return total


def _paged(workload: Workload, at: Shares) -> int:
    """Return the bytes of paged optimizer states, all of which may come to lie on the host."""
    if not workload.plan.optimizer.startswith("paged"):
        return 0
    return (2 if "8bit" in workload.plan.optimizer else MOMENTS) * at.own

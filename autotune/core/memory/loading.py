"""Peaks before the first forward pass that depend on where the weights and states come from."""

from autotune.core.memory.counts import DTYPE_BYTES, Counts
from autotune.core.memory.plain import Stage
from autotune.core.memory.shares import shares, stage_of
from autotune.core.memory.workload import Workload


def resume(workload: Workload, counts: Counts, held: int) -> tuple[Stage, int]:
    """Return the accelerator's moment of a resume above `held` bytes, and the host's bytes.

    `held` is what the creation of the optimizer left. The rank reads its own shard to the host,
    the fp32 weights and both states, beside the 16-bit weights of the model; the states are then
    copied to where the optimizer has its masters (stage_1_and_2.py and stage3.py,
    `load_state_dict`, `_load_legacy_checkpoint`), so they are there before the first forward pass.
    """
    at = shares(workload, counts)
    model = counts.weight_bytes if workload.plan.zero_stage < 3 else 0
    read = model + 4 * at.own + at.state
    there = at.state if at.on_cpu or not at.offloads else 0
    parts = {"optimizer": there, "checkpoint": read if at.on_cpu else 0}
    host = read + (at.state if at.offloads else 0)
    return stage_of(held + there, held, parts), 0 if at.on_cpu else host


def load_on_host(workload: Workload, counts: Counts, rank: int = 0) -> int:
    """Return the host bytes of a rank on a GPU machine at the highest point of loading.

    Stages 1 and 2 read the weights on every rank's host before they move. Under ZeRO 3 rank 0
    reads the whole checkpoint and the others wait for their parts; 4-bit weights are made on the
    device from one 16-bit tensor after another.
    """
    plan = workload.plan
    if workload.subject.device == "cpu":
        return 0
    width = DTYPE_BYTES[plan.dtype]
    whole = counts.parameters * width
    if plan.zero_stage == 3:
        return whole if rank == 0 else counts.largest_tensor * width
    if plan.quantization == "nf4":
        return counts.largest_tensor * width
    return whole

"""The shares of one rank that the memory of every ZeRO stage is made of."""

from collections.abc import Mapping
from dataclasses import dataclass

from autotune.core.memory.counts import DTYPE_BYTES, Counts
from autotune.core.memory.plain import EIGHT_BIT_BLOCK, Stage
from autotune.core.memory.workload import Workload

MASTER, MOMENTS = 4, 8  # bytes a parameter: the fp32 copy, and AdamW's two fp32 states


@dataclass(frozen=True)
class Shares:
    """What the formulas are made of: bytes, unless they say otherwise."""

    width: int  # of one trainable weight
    own: int  # trainable parameters of this rank's partition
    trainable: int  # parameters
    bucket: int  # of the gradients' staging, both halves where reduction overlaps
    largest: int  # parameters of the largest trainable tensor
    master: int
    state: int
    offloads: bool  # the optimizer's part lies in host memory
    on_cpu: bool  # the accelerator's memory is host memory


def shares(workload: Workload, counts: Counts) -> Shares:
    """Return the shares of one rank; the partitions are padded to equal parts, so rounded up."""
    plan, subject = workload.plan, workload.subject
    width = counts.trainable_bytes // counts.trainable if counts.trainable else 0
    width = width or DTYPE_BYTES[plan.dtype]
    own = -(-counts.trainable // plan.world_size)
    halves = 2 if subject.overlap_comm and plan.zero_stage < 3 else 1
    staged = plan.reduce_bucket if subject.contiguous_gradients or plan.zero_stage == 3 else 0
    return Shares(
        width,
        own,
        counts.trainable,
        halves * staged * width,
        min(counts.largest_tensor, counts.trainable),
        # Of fp32 weights too: stage 3 would update those in place, were a device ever equal to its
        # name (stage3.py, _create_fp32_partitions).
        MASTER * own,
        state_bytes(plan.optimizer, own),
        plan.offload_optimizer,
        subject.device == "cpu",
    )


def state_bytes(optimizer: str, own: int) -> int:
    """Return the bytes of the optimizer's state over a flat fp32 partition of `own` parameters.

    AdamW keeps two fp32 states; bitsandbytes' 8-bit one two bytes and two scales per block. Paged
    states lie in memory that moves to the host, and are counted there.
    """
    if optimizer.startswith("paged"):
        return 0
    if optimizer == "adamw_8bit":
        return 2 * own + 2 * 4 * -(-own // EIGHT_BIT_BLOCK)
    return MOMENTS * own


def stage_of(held: int, weights: int, parts: Mapping[str, int]) -> Stage:
    """Return a moment, whose held bytes never exceed its peak."""
    peak = weights + sum(parts.values())
    return Stage(peak, min(held, peak), {"weights": weights, **parts})


def drawn(workload: Workload, counts: Counts) -> int:
    """Return the bytes of a fresh model in full precision that lies beside its 4-bit weights.

    Such weights exist only by loading, so a model that is drawn is whole until it is loaded; on a
    GPU machine it is drawn on the host.
    """
    plan, subject = workload.plan, workload.subject
    if subject.device != "cpu" or not subject.fresh or plan.quantization == "none":
        return 0
    return counts.parameters * DTYPE_BYTES[plan.dtype]

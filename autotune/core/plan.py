"""A plan is every setting of one attempt; plans are compared and derived, never edited."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Method = Literal["full", "lora"]
Quantization = Literal["none", "nf4"]
Dtype = Literal["bf16", "fp16", "fp32"]
Device = Literal["cpu", "cuda"]
Attention = Literal["given", "sdpa", "eager", "flash_attention_2"]
BLOCKING = "CUDA_LAUNCH_BLOCKING"  # read by the CUDA runtime, when the process starts
FourBitCompute = Literal["dtype", "fp32"]
Loss = Literal["whole", "chunked"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"]


@dataclass(frozen=True)
class Plan:
    """Every setting of one attempt that a rung may change, and those it must know to do so.

    Bucket sizes are in elements, as DeepSpeed counts them. `allocator` holds the settings of
    PYTORCH_ALLOC_CONF in the order they are written. `excluded` are GPUs of the job, by NVML's
    index, that no rank runs on any more.
    """

    world_size: int
    micro_batch: int
    accumulation: int
    eval_micro_batch: int
    method: Method
    quantization: Quantization
    dtype: Dtype
    activation_checkpointing: bool
    zero_stage: int
    offload_optimizer: bool
    offload_param: bool
    reduce_bucket: int
    allgather_bucket: int
    gather_on_save: bool
    # Both bind the layout of every checkpoint and are kept as the job's own configuration has them.
    sub_group_size: int = 1_000_000_000
    round_robin_gradients: bool = False
    allocator: tuple[tuple[str, str], ...] = ()
    attention: Attention = "given"  # as the settings say, in journals older than this field
    four_bit_compute: FourBitCompute = "dtype"  # what 4-bit layers multiply in; dtype: the plan's
    loader_workers: int = 0  # processes that read samples; 0: the rank itself does
    pinned_memory: bool = False  # host memory that cannot be swapped, for faster copies
    blocking_launches: bool = (
        False  # each CUDA kernel is waited for, so that errors name their line
    )
    excluded: tuple[int, ...] = ()
    loss: Loss = "whole"  # chunked: the logits exist for a piece of the micro-batch at a time
    activation_offload: bool = False  # what the backward pass needs waits in host memory
    optimizer: Optimizer = "adamw"
    sequence: int = 0  # tokens per sample at most; 0: as the settings say
    lora_rank: int = 0  # 0: as the settings say
    pins: tuple[str, ...] = ()  # requirements of packages laid over the job's Python; none: its own

    @property
    def global_batch(self) -> int:
        """Samples per optimizer step over all ranks."""
        return self.world_size * self.micro_batch * self.accumulation

    def but(self, **changes: Any) -> "Plan":
        """Return this plan with `changes`; TypeError where one is no setting of a plan."""
        if not changes.keys() <= vars(self).keys():
            raise TypeError(f"no settings of a plan: {sorted(changes.keys() - vars(self).keys())}")
        made = object.__new__(Plan)  # thousands are made at once, and `replace` takes ten times
        vars(made).update(vars(self), **changes)
        return made


KNOBS = frozenset(Plan.__dataclass_fields__)  # everything a tool may have a knob for


@dataclass(frozen=True)
class Change:
    """One setting that differs between two plans, as people read it."""

    setting: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.setting} {self.before} → {self.after}"


def changes(before: Plan, after: Plan) -> tuple[Change, ...]:
    """Return what differs between two plans, in the order the plan lists its settings."""
    return tuple(
        Change(f.name, _show(getattr(before, f.name)), _show(getattr(after, f.name)))
        for f in dataclasses.fields(Plan)
        if getattr(before, f.name) != getattr(after, f.name)
    )


def largest_split(per_rank: int, at_most: int) -> int:
    """Return the largest micro-batch ≤ `at_most` that divides `per_rank` samples exactly.

    `per_rank` is the global batch over the world size, so any result keeps the global batch:
    15 samples per rank allow 15, 5, 3 and 1, and halving 15 gives 5.
    """
    return next(size for size in range(min(at_most, per_rank), 0, -1) if per_rank % size == 0)


def _show(value: Any) -> str:
    if value is True:
        return "on"
    if value is False:
        return "off"
    if isinstance(value, tuple):
        parts = (":".join(one) if isinstance(one, tuple) else str(one) for one in value)
        return ",".join(parts) or "unset"
    return str(value)

"""Counts what a plan trains, keeps frozen and keeps in 4-bit, in parameters and in bytes."""

from dataclasses import dataclass
from functools import lru_cache

from autotune.core.memory.shape import Linear, ModelShape
from autotune.core.memory.workload import Workload

DTYPE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
# bitsandbytes: 64 weights share one absmax in fp32; under double quantisation it is one byte, and
# 256 of them share one fp32. Each layer adds its tables of codes.
NF4_BLOCK, NF4_NESTED = 64, 256
NF4_TABLE, NF4_NESTED_TABLE = 512, 1024 + 512


@dataclass(frozen=True)
class Counts:
    """Parameters of a whole model under one plan, and their bytes before any sharding."""

    trainable: int
    frozen: int  # without those in 4-bit
    four_bit: int
    trainable_bytes: int
    frozen_bytes: int
    four_bit_bytes: int  # the scales included
    largest_block: int  # parameters gathered at once under ZeRO-3: a block, or an embedding
    largest_tensor: int  # parameters of the largest single tensor
    tensors: int  # how many trainable tensors there are

    @property
    def parameters(self) -> int:
        """All parameters, adapters included."""
        return self.trainable + self.frozen + self.four_bit

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, unsharded."""
        return self.trainable_bytes + self.frozen_bytes + self.four_bit_bytes


def count(workload: Workload) -> Counts:
    """Return what `workload` trains and keeps; cached, since many plans share it."""
    subject, plan = workload.subject, workload.plan
    return _count(
        subject.shape,
        plan.method == "lora",
        plan.quantization == "nf4",
        DTYPE_BYTES[plan.dtype],
        workload.lora_rank,
        subject.lora_targets,
        4 if subject.adapter_dtype == "fp32" else DTYPE_BYTES[plan.dtype],
        4 if subject.other_weights_fp32 else DTYPE_BYTES[plan.dtype],
        subject.double_quantization,
    )


def adapted(shape: ModelShape, targets: tuple[str, ...]) -> tuple[Linear, ...]:
    """Return the linear layers that get an adapter: those named, or all that can have one."""
    return tuple(
        one for one in shape.linears if not one.stacked and (not targets or one.name in targets)
    )


def nf4_bytes(parameters: int, modules: int, double: bool) -> int:
    """Return the bytes of `parameters` weights of `modules` layers in NF4 with their scales."""
    scales = -(-parameters // NF4_BLOCK)
    if not double:
        return parameters // 2 + 4 * scales + NF4_TABLE * modules
    nested = scales + 4 * -(-scales // NF4_NESTED)
    return parameters // 2 + nested + (NF4_TABLE + NF4_NESTED_TABLE) * modules


@lru_cache(maxsize=256)
def _count(
    shape: ModelShape,
    lora: bool,
    four_bit: bool,
    width: int,
    rank: int,
    targets: tuple[str, ...],
    adapter_width: int,
    other_width: int,
    double: bool,
) -> Counts:
    total, per_block = shape.parameters, shape.block_parameters
    largest = max(per_block, shape.embedding_parameters, shape.head_parameters)
    widest = max((one.inputs * one.outputs for one in shape.linears), default=0)
    tensor = max(widest, shape.embedding_parameters, shape.head_parameters)
    if not lora:
        many = 2 + shape.layers * (2 + sum(2 if one.bias else 1 for one in shape.linears))
        return Counts(total, 0, 0, total * width, 0, 0, largest, tensor, many)
    chosen = adapted(shape, targets)
    modules = sum(one.per_layer * (one.in_layers or shape.layers) for one in chosen)
    added = sum(
        rank * (one.inputs + one.outputs) * one.per_layer * (one.in_layers or shape.layers)
        for one in chosen
    )
    if not four_bit:
        return Counts(
            added, total, 0, added * adapter_width, total * width, 0, largest, tensor, 2 * modules
        )
    packed = packed_modules = 0
    for one in shape.linears:
        if not one.stacked:
            times = one.per_layer * (one.in_layers or shape.layers)
            packed += one.inputs * one.outputs * times
            packed_modules += times
    rest = total - packed
    return Counts(
        added,
        rest,
        packed,
        added * adapter_width,
        rest * other_width,
        nf4_bytes(packed, packed_modules, double),
        largest,
        tensor,
        2 * modules,
    )

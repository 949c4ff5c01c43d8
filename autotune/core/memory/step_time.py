"""Predicts the seconds of an optimizer step under one plan, to compare plans of one job.

The absolute figure is nominal: a GPU of the A100's kind, or two CPU cores. Only the ratio of two
plans is meant, and `calibrated` replaces it by what was measured.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import exp, log, log2
from operator import attrgetter

from autotune.core.memory.activations import LOSS_TOKENS
from autotune.core.memory.counts import DTYPE_BYTES, count
from autotune.core.memory.shape import Linear, ModelShape
from autotune.core.memory.workload import Workload
from autotune.core.plan import Plan

PCIE = 20e9  # bytes per second between GPU and host, one way; version 4 with 16 lanes, pinned
UNPINNED = 2.0  # times as long without pinned memory: copied twice
LINK = 50e9  # bytes per second that a rank sends to the others; between PCIe and NVLink
# Llama-2 7B over 4 A100, step 0.5 s, with ZeRO-Offload 7 s (ZenFlow's report): 1.7e9 parameters
# a rank in some 6 s.
HOST_ADAM = 0.3e9  # parameters per second
EIGHT_BIT = 3200 / 3000  # Llama-2 7B, tokens per second with 32 and with 8 bits (torchao's README)
# On 2 cores a 30M Llama made 2.23 samples/s at micro-batch 2 and 1.38 with checkpointing; 2.14 at
# 4, 1.54 at 8: nothing is gained by a larger one.
CPU_RECOMPUTES = 1.8  # forward passes' worth of time, of three for a whole pass
NF4_TRAFFIC = 0.5 + 2 + 2  # bytes read, written and read again for a weight that is dequantised
EAGER_TRAFFIC = 5 * 2 + 2 * 4  # bytes per attention score: read and written, softmax in float32


@dataclass(frozen=True)
class Speed:
    """What a device does in a second, and what every block costs however small the batch."""

    operations: float
    memory: float  # bytes
    block: float  # seconds to start one block's work, forward and backward
    idle: float  # tokens whose time every pass loses: small products leave a part of it unused


# 45 % of an A100's 312e12; 80 % of its 2e12 bytes; some 60 kernels a block at 8 microseconds.
# With rows of 2048 tokens up to 1.3 times the throughput by larger micro-batches (Narayanan et al.,
# "Efficient Large-Scale Language Model Training on GPU Clusters", 2021, section 3): that would be
# 600 tokens beside the reading of the weights. Half of it is assumed.
GPU = Speed(140e12, 1.6e12, 0.5e-3, 300)
# 2.2 samples of 512 tokens of 30M parameters a second over two ranks; a start costs nothing there.
CPU = Speed(1e11, 1e10, 0.0, 0)


def step_seconds(workload: Workload) -> float:
    """Return nominal seconds per optimizer step; the global batch is the plan's."""
    plan = workload.plan
    speed = CPU if workload.subject.device == "cpu" else GPU
    trained = float(count(workload).trainable)
    passes = plan.accumulation * _micro_step(workload, speed, trained)
    return passes + _update(workload, speed, trained, passes)


def calibrated(
    predicted: Callable[[Plan], float], measured: Mapping[Plan, float]
) -> Callable[[Plan], float]:
    """Return seconds per optimizer step that agree with `measured`.

    A measured plan takes what it took. Another takes its prediction times the mean error of the
    measured ones, where each setting or halving that lies between halves a measurement's weight.
    """
    errors = {
        plan: log(seconds / predicted(plan)) for plan, seconds in measured.items() if seconds > 0
    }

    def time_of(plan: Plan) -> float:
        if plan in errors:
            return measured[plan]
        weights = {one: 0.5 ** _distance(plan, one) for one in errors}
        whole = sum(weights.values())
        off = sum(errors[one] * weight for one, weight in weights.items()) / whole if whole else 0.0
        return predicted(plan) * exp(off)

    return time_of


_settings = attrgetter(
    "method", "quantization", "dtype", "activation_checkpointing", "zero_stage",
    "offload_optimizer", "offload_param", "attention", "loss", "activation_offload", "optimizer",
    "world_size", "sequence",
)  # fmt: skip


def _distance(one: Plan, other: Plan) -> float:
    unlike = sum(a != b for a, b in zip(_settings(one), _settings(other), strict=True))
    return float(unlike + abs(log2(one.micro_batch / other.micro_batch)))


def _micro_step(workload: Workload, speed: Speed, trained: float) -> float:
    """One forward and backward pass over a micro-batch, with what it moves."""
    plan, shape = workload.plan, workload.subject.shape
    operations = speed.operations * (0.5 if plan.dtype == "fp32" else 1.0)
    work = _operations(workload, trained) / operations
    passes = _passes(workload)
    weights = shape.parameters * DTYPE_BYTES[plan.dtype] * passes / speed.memory
    if plan.quantization == "nf4":
        weights += shape.linear_parameters * NF4_TRAFFIC * passes / speed.memory
    if plan.loss == "chunked":  # each piece reads the head anew, and adds to its gradient
        tile = workload.subject.tile
        piece = tile.tokens if tile else LOSS_TOKENS
        again = max(0, workload.tokens // piece - 1) * (4 if plan.method == "full" else 2)
        weights += again * shape.vocab * shape.hidden * DTYPE_BYTES[plan.dtype] / speed.memory
    if plan.attention == "eager":
        scores = workload.tokens * workload.sequence * shape.heads * shape.layers
        work += scores * EAGER_TRAFFIC * passes / speed.memory
    work *= 1 + speed.idle / workload.tokens
    start = shape.layers * speed.block * (1.5 if plan.activation_checkpointing else 1.0)
    return max(work, start) + weights + _moved(workload, trained)


def _passes(workload: Workload) -> int:
    """How often the weights are read: forward, backward, and where it is done again."""
    return 3 if workload.plan.activation_checkpointing else 2


def _operations(workload: Workload, trained: float) -> float:
    """Multiply and add counted as two; 2 a weight forward, 2 for inputs, 2 for weights' gradients.

    Attention, half of its square under a causal mask, takes twice its forward pass backward.
    """
    plan, shape = workload.plan, workload.subject.shape
    full = plan.method == "full"
    adapters = 0.0 if full else trained
    active = _active(shape)
    head = shape.vocab * shape.hidden
    scores = 2 * workload.sequence * shape.heads * shape.head_dim * shape.layers
    forward = 2 * (active + adapters) + scores
    backward = 2 * forward if full else 2 * active + 4 * adapters + 2 * scores
    head_work = (6 if full else 4) * head
    again = 0.0
    if plan.activation_checkpointing:
        again = forward * (CPU_RECOMPUTES if workload.subject.device == "cpu" else 1.0)
    return workload.tokens * (forward + backward + again + head_work)


def _moved(workload: Workload, parameters: float) -> float:
    """Seconds of one pass for what goes between ranks and to the host; half of it is hidden.

    ZeRO 2 reduces gradients in every pass, ZeRO 3 gathers the weights for each pass over them too.
    """
    plan, subject = workload.plan, workload.subject
    if subject.device == "cpu":
        return 0.0
    shape, ranks = subject.shape, plan.world_size
    others = (ranks - 1) / ranks
    trained = parameters * 2
    between = trained * others if plan.zero_stage >= 2 else 0.0
    copied = 0.0
    if plan.zero_stage == 3:
        gathered = shape.parameters * _stored(plan) * _passes(workload)
        between += gathered * others
        copied += gathered / ranks if plan.offload_param else 0.0
    if plan.offload_optimizer:
        copied += trained / (ranks if plan.zero_stage else 1)
    if plan.activation_offload:
        copied += 2 * workload.tokens * shape.layers * _kept_per_token(workload)
    return 0.5 * (between / LINK + copied / PCIE * (1.0 if plan.pinned_memory else UNPINNED))


def _update(workload: Workload, speed: Speed, trained: float, passes: float) -> float:
    """The optimizer's step: 28 bytes a parameter pass through memory (bf16 with float32 Adam)."""
    plan = workload.plan
    share = plan.world_size if plan.zero_stage else 1
    mine = trained / share
    seconds = mine * 28 / speed.memory
    if workload.subject.device == "cpu":
        return seconds
    if plan.offload_optimizer:
        seconds = mine / HOST_ADAM + mine * 2 / PCIE
    elif "8bit" in plan.optimizer:
        seconds += (EIGHT_BIT - 1) * passes * min(1.0, trained / workload.subject.shape.parameters)
    if plan.zero_stage < 2:  # once a step; ZeRO 2 and 3 have done it in every pass
        seconds += 0.5 * trained * 2 * (1 - 1 / plan.world_size) / LINK
    if plan.zero_stage in (1, 2):
        seconds += trained * 2 * (1 - 1 / plan.world_size) / LINK
    return seconds


def _kept_per_token(workload: Workload) -> float:
    """Bytes per token and block that wait for the backward pass, as 16-bit numbers.

    A block's input under checkpointing; else 16 h + 6 q + 4 kv + 8 f, measured by tracing.
    """
    shape = workload.subject.shape
    if workload.plan.activation_checkpointing:
        return 2.0 * shape.hidden
    inner = shape.inner or shape.expert_inner * max(1, shape.experts_per_token)
    heads = (6 * shape.heads + 4 * shape.kv_heads) * shape.head_dim
    return 16.0 * shape.hidden + heads + 8.0 * inner


@lru_cache(maxsize=64)
def _active(shape: ModelShape) -> float:
    """Weights that a token meets: of the experts, those it is sent to."""
    return sum(_active_of_kind(shape, one) for one in shape.linears)


def _active_of_kind(shape: ModelShape, one: Linear) -> float:
    count = float(one.per_layer)
    if shape.experts > 1 and count >= shape.experts:
        count = count * shape.experts_per_token / shape.experts
    return float(one.inputs * one.outputs * count * (one.in_layers or shape.layers))


def _stored(plan: Plan) -> float:
    return 0.56 if plan.quantization == "nf4" else DTYPE_BYTES[plan.dtype]

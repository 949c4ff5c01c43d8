"""The truth that the simulated planner is measured against, and is not told."""

import json
import math
import random
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from autotune.core.memory.forecast import Moment
from autotune.core.memory.shape import ModelShape
from autotune.core.memory.workload import Workload
from autotune.core.plan import Plan
from tests.bench.planner_traces import TRACES, key_of

GIB = 2**30
CUDA_CONTEXT = (0.14, 0.6)  # GiB outside the allocator: measured on one card, and folklore
# Measured over foretold of what one card reserved, 11 published runs (`memory_accuracy`).
RESERVED = (1.149, 0.972, 1.031, 1.011, 1.007, 0.971, 1.001, 1.072, 0.995, 1.018, 1.095)
SMEAR = 0.01  # of a drawn residual: Student-t with 4 degrees of freedom and this scale
# Traced against measured tensors: one run of 11 took 14.7 % more, its attention had no flash
# kernel; the others 0.7 % on average.
KINK, KINK_SHARE, OWN = math.log(1.147), 1 / 11, 0.007
MAX_LIVE, SUB_GROUP = 1e9, 1e9  # elements, DeepSpeed's defaults
NF4 = 0.516  # bytes of a 4-bit weight with its scales


def _drawn(seed: str, draw: Callable[[random.Random], float]) -> list[float]:
    """As many values as give every plan of a job one of its own; a prime, so that none recur."""
    source = random.Random(seed)
    return [draw(source) for _ in range(40_009)]


def tailed(draw: random.Random, scale: float) -> float:
    """Return a value of Student's t with 4 degrees of freedom, within a fifth."""
    square = sum(draw.gauss(0, 1) ** 2 for _ in range(4)) / 4
    return min(max(scale * draw.gauss(0, 1) / math.sqrt(square), -0.2), 0.2)


OWN_ERRORS = _drawn("own errors", lambda draw: tailed(draw, OWN))
OWN_TIMES = _drawn("own times", lambda draw: draw.lognormvariate(0, 0.02))


@dataclass(frozen=True)
class Errors:
    """How far one job's memory is from the reference, drawn once."""

    seed: str
    bias: float
    context: float  # bytes
    offset: int  # of this job in the drawn values
    _kinds: dict[tuple[object, ...], float] = field(default_factory=dict, compare=False)

    def of(self, plan: Plan, number: int) -> float:
        """Return the logarithm of truth over reference: the job's, the kind's, the plan's own."""
        kind = (plan.method, plan.quantization, plan.activation_checkpointing, plan.zero_stage)
        if kind not in self._kinds:
            odd = random.Random(f"{self.seed} {kind}").random() < KINK_SHARE
            self._kinds[kind] = KINK if odd else 0.0
        own = OWN_ERRORS[(self.offset + number) % len(OWN_ERRORS)]
        return self.bias + self._kinds[kind] + own


def errors(seed: str) -> Errors:
    """Return the errors of one job."""
    draw = random.Random(seed)
    bias = math.log(draw.choice(RESERVED)) + tailed(draw, SMEAR)
    return Errors(seed, bias, draw.uniform(*CUDA_CONTEXT) * GIB, draw.randrange(40_009))


@dataclass(frozen=True)
class Passes:
    """What one micro-step takes above weights, gradients and states, bytes."""

    forward: float
    before: float  # the backward pass until the first gradient is made
    after: float  # and from then on
    loss: float
    overhead: float  # reserved beyond what is allocated
    overhead_expandable: float


@dataclass(frozen=True)
class TracedModel:
    """Fake-tensor traces of a model's own code."""

    config: dict[str, Any]
    padded: bool
    rows: dict[str, list[list[int]]]  # see `planner_traces.traced`

    def passes(self, plan: Plan, sequence: int) -> Passes:
        """Return what a micro-step takes, interpolated over the tokens of a micro-batch."""
        rows = self.rows[key_of(plan.method, plan.activation_checkpointing, plan.loss)]
        line = rows[:-1] if self.padded else rows
        tokens = plan.micro_batch * sequence
        found = _between(line, tokens)
        if self.padded:
            # A mask has as many elements as a row has pairs of tokens.
            longest, base = rows[-1], line[0][1]
            same = _between(line, longest[0] * longest[1])
            pairs = longest[0] * longest[1] * (longest[1] - base)
            mask = [max(0.0, a - b) / pairs for a, b in zip(longest[2:5], same, strict=False)]
            found[:3] = [
                a + m * tokens * (sequence - base) for a, m in zip(found, mask, strict=False)
            ]
        return Passes(*found)


def _between(rows: list[list[int]], tokens: int) -> list[float]:
    sizes = [micro * length for micro, length, *_ in rows]
    at = min(max(bisect_left(sizes, tokens), 1), len(rows) - 1)
    share = (tokens - sizes[at - 1]) / (sizes[at] - sizes[at - 1])
    pairs = zip(rows[at - 1][2:], rows[at][2:], strict=True)
    return [max(0.0, a + (b - a) * share) for a, b in pairs]


def load_traces() -> dict[str, TracedModel]:
    """Return the traced models by name."""
    return {name: TracedModel(**one) for name, one in json.loads(TRACES.read_text()).items()}


@dataclass(frozen=True)
class Reference:
    """One plan without any error: bytes allocated at the highest of each moment, in their order."""

    moments: dict[Moment, float]
    weights: float
    overhead: float


def reference(work: Workload, traced: TracedModel) -> Reference:
    """Return what a plan takes: activations as traced, states as DeepSpeed 0.19.8 was measured.

    In bytes a parameter over N ranks: ZeRO 2 keeps 2 + 12/N after its first step, adds 2/N and a
    bucket in the backward pass from the first gradient on (`process_gradients` makes the bucket),
    and 8/N in a step, 6/N in the first; ZeRO 3 keeps 16/N and a bucket, gathers up to 1e9 weights
    at once, and adds 6/N in a step, of one sub-group at most. Offloaded states are not on the
    device, but under ZeRO 2 a 16-bit copy of them is on its way to the host. 4-bit layers unpack
    one weight at a time.
    """
    plan, shape, ranks = work.plan, work.subject.shape, work.plan.world_size
    weights, trained = _sizes(shape, plan, work.lora_rank)
    bucket, own = 2.0 * plan.reduce_bucket, trained / ranks
    master, moved, kept = (0.0, 0.0, 0.0) if plan.offload_optimizer else (4 * own, 8 * own, 2 * own)
    there = 0.0 if plan.offload_optimizer else own
    if plan.zero_stage == 3:
        fetched = ranks > 1 or plan.offload_param
        window = weights * min(1.0, MAX_LIVE / shape.parameters) if fetched else 0.0
        weights = 0.0 if plan.offload_param else weights / ranks
        still, reduced = weights + master + kept + bucket, 0.0
        first = second = 6 * min(there, SUB_GROUP)
        made = still
    else:
        window, still, reduced = 0.0, weights + master, kept + bucket
        first, second = 4 * there, 8 * there
        made = weights + (8 * own if there else 2 * own)
    passes = traced.passes(plan, work.sequence)
    forward = _offloaded(passes.forward, passes, work, passes.loss)
    backward = max(
        forward,
        _offloaded(passes.before, passes, work, passes.loss),
        _offloaded(passes.after, passes, work, 0.0) + reduced,
    )
    if plan.quantization == "nf4":
        unpacked = 2.0 * max(one.inputs * one.outputs for one in shape.linears)
        forward, backward = forward + unpacked, backward + unpacked
    found = {
        Moment.LOAD: weights,
        Moment.OPTIMIZER_CREATION: made,
        Moment.FORWARD: still + window + forward,
        Moment.BACKWARD: still + window + backward,
        Moment.STEP: still + moved + first,
        Moment.SECOND_FORWARD: still + moved + window + forward,
        Moment.SECOND_BACKWARD: still + moved + window + backward,
        Moment.SECOND_STEP: still + moved + second,
    }
    grows = dict(plan.allocator).get("expandable_segments") == "True"
    overhead = passes.overhead_expandable if grows else passes.overhead
    return Reference(found, weights, overhead)


def _sizes(shape: ModelShape, plan: Plan, rank: int) -> tuple[float, float]:
    """Bytes of all weights, and parameters that are trained."""
    total = float(shape.parameters)
    if plan.method == "full":
        return 2 * total, total
    added = rank * sum((one.inputs + one.outputs) * shape.layers for one in shape.linears)
    packed = (2 - NF4) * shape.linear_parameters if plan.quantization == "nf4" else 0.0
    return 2 * (total + added) - packed, float(added)


def _offloaded(size: float, passes: Passes, work: Workload, least: float) -> float:
    """Without what waits on the host: all that is stored but for two layers' and a half."""
    if not work.plan.activation_offload:
        return size
    shape = work.subject.shape
    stored = max(0.0, passes.forward - passes.loss)
    if work.plan.activation_checkpointing:  # the input of each layer, 16 bits
        stored = min(stored, 2.0 * shape.hidden * shape.layers * work.tokens)
    return max(size - stored * max(0.0, 1 - 2.5 / shape.layers), least)


def moments(ref: Reference, off: float) -> dict[Moment, float]:
    """Return what is really allocated where the highest moment is off by `off`, a logarithm.

    Weights are known to the byte: the error is one of all that comes on top of them.
    """
    highest = max(ref.moments.values())
    factor = max(0.3, (highest * math.exp(off) - ref.weights) / max(1.0, highest - ref.weights))
    return {one: ref.weights + (size - ref.weights) * factor for one, size in ref.moments.items()}


@dataclass(frozen=True)
class Hardware:
    """One job's own speeds, which nobody foretold."""

    speed: float  # operations per second
    idle: float  # tokens whose time a micro-step loses
    again: float  # times as long with checkpointing
    unpack: float  # with 4-bit weights
    link: float  # bytes per second between ranks
    bus: float  # to the host
    host: float  # seconds of the host's optimizer a parameter
    copied: float  # times as long with activation offload
    shown: float  # of what is moved between ranks, the share that computing does not hide
    offset: int

    def step_seconds(self, work: Workload, number: int) -> float:
        """Return the seconds of an optimizer step."""
        plan, shape, ranks = work.plan, work.subject.shape, work.plan.world_size
        full = plan.method == "full"
        trained = shape.parameters if full else shape.parameters / 100
        once = work.tokens * shape.parameters * (6 if full else 4) / self.speed
        once *= 1 + self.idle / work.tokens
        once *= self.again if plan.activation_checkpointing else 1
        once *= self.unpack if plan.quantization == "nf4" else 1
        once *= 1.02 if plan.loss == "chunked" else 1
        once *= self.copied if plan.activation_offload else 1
        moved = 2 * trained / self.link if plan.zero_stage >= 2 else 0.0
        if plan.zero_stage == 3:
            stored, _ = _sizes(shape, plan, work.lora_rank)  # 4-bit weights travel as they lie
            whole = stored * (3 if plan.activation_checkpointing else 2)
            moved += whole / self.link
        once += moved * self.shown * (ranks > 1)
        if plan.offload_param:
            once += whole / ranks / self.bus * self.shown
        seconds = plan.accumulation * once
        if plan.offload_optimizer:
            seconds += (self.host + 4 / self.bus) * trained / (ranks if plan.zero_stage else 1)
        return seconds * OWN_TIMES[(self.offset + number) % len(OWN_TIMES)]


def hardware(seed: str) -> Hardware:
    """Return the speeds of one job's hardware."""
    draw = random.Random(f"{seed} hardware")
    return Hardware(
        draw.uniform(6e13, 2e14), draw.uniform(50, 600), draw.uniform(1.2, 1.5),
        draw.uniform(1.05, 1.5), math.exp(draw.uniform(math.log(6e9), math.log(1.2e11))),
        draw.uniform(5e9, 2.2e10), draw.uniform(1.5e-9, 8e-9), draw.uniform(1.0, 1.3),
        draw.uniform(0.2, 0.9), draw.randrange(40_009),
    )  # fmt: skip

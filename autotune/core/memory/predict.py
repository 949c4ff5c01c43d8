"""Puts the parts together: what one rank takes under a plan, moment by moment and at its peak."""

from autotune.core.memory import plain, zero
from autotune.core.memory.activations import LOSS_TOKENS, activations_of
from autotune.core.memory.belief import grows
from autotune.core.memory.counts import count
from autotune.core.memory.forecast import Bytes, Forecast, Moment
from autotune.core.memory.host import host
from autotune.core.memory.outside import CUBLAS_WORKSPACE, LATER, THREAD, outside
from autotune.core.memory.traced import Traced
from autotune.core.memory.workload import Workload

# Root mean squares of the logarithm of told over measured (tests/bench/RESULTS.md, 2026-11-21): of
# what one card reserved in 11 runs (tests/bench/memory_accuracy.py). Of VmData in real trainings on
# the CPU (tests/bench/cpu_memory.py) it is 0.005 in the fitted half and 0.006 in the other; taken
# as three times that, since most kinds of plans were not among the 12 measured.
RESERVED, ON_CPU = 0.057, 0.015
# Assumed, for want of measurements: of a traced plan on a GPU, whose allocator is replayed, and of
# what the model's shape or the plan leaves in doubt.
REPLAYED, DOUBTED = 0.04, 0.12
STACKED = (
    "LoRA on experts that lie in one tensor was never measured: peft may wrap them too, and makes"
    " the whole change of their weights in each pass"
)


def forecast(
    workload: Workload, traced: Traced | None = None, optimizer: str | None = None
) -> Forecast:
    """Return the predicted memory of one rank of `workload`, in bytes.

    `traced` replaces the closed form of the activations by what a trace of the model showed, and
    on a GPU what the allocator reserves beside the tensors by a replay of it.
    `optimizer` names one that no plan can say (`plain.OPTIMIZERS`); under ZeRO the plan's counts.
    """
    subject = workload.subject
    counts = count(workload)
    activations = traced.activations if traced else activations_of(workload)
    if workload.plan.zero_stage:
        stages = zero.moments(workload, counts, activations)
    else:
        stages = plain.moments(workload, counts, activations, optimizer)
    sums = {moment: sum(stage.parts.values()) for moment, stage in stages.items()}
    peak_at = max(sums, key=lambda moment: sums[moment])
    # One for the thread of the forward pass and one for that of the backward.
    workspace = 2 * CUBLAS_WORKSPACE if subject.device == "cuda" else 0
    tensors = sums[peak_at] + workspace
    overhead = _overhead(workload, traced)
    around, on_host = outside(workload), host(workload, counts, activations)
    parts = dict(stages[peak_at].parts) | {
        "workspace": workspace,
        "overhead": overhead,
        "outside": around,
    }
    found = {moment: Bytes(sums[moment], stage.held) for moment, stage in stages.items()}
    if subject.device == "cpu":  # of `outside` a part comes only after the libraries are there
        later = -LATER - (subject.threads - 1) * THREAD // 2  # half of a thread's was there before
        found[Moment.BASE] = Bytes(later, later)
    doubts = _doubts(workload)
    return Forecast(
        peak=tensors + overhead + around,
        tensors=tensors,
        peak_at=peak_at,
        parts=parts,
        moments=found,
        outside=around,
        overhead=overhead,
        host=on_host[0],
        pinned=on_host[1],
        spread=_spread(workload, traced, doubts),
        method="trace" if traced else "closed form",
        doubts=doubts,
    )


def _overhead(workload: Workload, traced: Traced | None) -> int:
    """Return what the allocator of a GPU reserves beside the tensors, in bytes.

    Without a trace: half of the largest tensor of the loss, 4 bytes a logit. That is about the
    median of what one card showed in 11 runs, which `tests/bench/memory_accuracy.py` prints. Of a
    loss in pieces, where nothing was measured, it is one piece's logits: in replays of the
    allocator 0.1 to 2.6 times that under adapters, more where the head is trained.
    """
    if workload.subject.device == "cpu":
        return 0
    if traced is None:
        most = 2 * LOSS_TOKENS if workload.plan.loss == "chunked" else workload.tokens
        return 2 * workload.subject.shape.vocab * min(workload.tokens, most)
    return traced.overhead_expandable_bytes if grows(workload.plan) else traced.overhead_bytes


def _doubts(workload: Workload) -> tuple[str, ...]:
    shape, plan = workload.subject.shape, workload.plan
    targets = workload.subject.lora_targets
    stacked = [one for one in shape.linears if one.stacked]
    reached = not targets or any(one.name in targets for one in stacked)
    if plan.method == "lora" and stacked and reached:
        return (*shape.doubts, STACKED)
    return shape.doubts


def _spread(workload: Workload, traced: Traced | None, doubts: tuple[str, ...]) -> float:
    if doubts:
        return DOUBTED
    if workload.subject.device == "cpu":
        return ON_CPU
    return REPLAYED if traced else RESERVED

"""What a rank allocates under ZeRO 3, moment by moment, as DeepSpeed 0.19 does it."""

from autotune.core.memory.activations import Activations
from autotune.core.memory.counts import DTYPE_BYTES, Counts
from autotune.core.memory.forecast import Moment
from autotune.core.memory.plain import Stage
from autotune.core.memory.shares import MASTER, drawn, shares, stage_of
from autotune.core.memory.workload import Workload

# DeepSpeed's defaults (runtime/zero/config.py), which the configuration written here keeps:
MAX_LIVE = 1_000_000_000  # elements gathered at once, and the distance within which they are kept
PERSISTENT = 100_000  # elements of a tensor below which it is never sharded in use


def moments(workload: Workload, counts: Counts, activations: Activations) -> dict[Moment, Stage]:
    """Return what each moment of a training under ZeRO 3 takes on the accelerator."""
    return _Sharded(workload, counts, activations).moments()


def window(workload: Workload, counts: Counts, traced: bool) -> int:
    """Return the bytes of gathered weights that live at once.

    While the first pass is recorded a module's weights go as soon as it is done. From then on they
    stay as long as `stage3_max_live_parameters` and `stage3_max_reuse_distance` allow
    (partitioned_param_coordinator.py, __params_to_release). One rank alone gathers nothing.
    """
    if workload.plan.world_size == 1 and not _fetches(workload):
        return 0
    elements = counts.trainable + counts.frozen + counts.four_bit
    if not traced:
        return counts.largest_tensor * DTYPE_BYTES[workload.plan.dtype]
    return round(counts.weight_bytes * min(1.0, MAX_LIVE / max(elements, 1)))


def _fetches(workload: Workload) -> bool:
    return workload.plan.offload_param and workload.subject.device != "cpu"


def persistent(workload: Workload, counts: Counts) -> int:
    """Return the bytes of small weights that stay whole: norms, and usually the adapters."""
    if workload.plan.world_size == 1 and not _fetches(workload):
        return 0
    width = DTYPE_BYTES[workload.plan.dtype]
    small = workload.subject.shape.other_parameters * width
    # The mean size decides for all adapters; they are of a few sizes only.
    adapters = counts.trainable / max(counts.tensors, 1)
    if workload.plan.method == "lora" and adapters < PERSISTENT:
        small += counts.trainable_bytes
    return small


class _Sharded:
    """Stage 3: weights, gradients and optimizer in parts, the used weights gathered (stage3.py)."""

    def __init__(self, workload: Workload, counts: Counts, activations: Activations) -> None:
        self.workload, self.counts = workload, counts
        self.plan, self.subject = workload.plan, workload.subject
        self.activations = activations
        self.at = at = shares(workload, counts)
        self.there = not at.offloads or at.on_cpu
        shard = -(-counts.weight_bytes // self.plan.world_size)
        params = self.plan.offload_param and not at.on_cpu
        self.weights = (0 if params else shard) + persistent(workload, counts)
        self.group = min(self.plan.sub_group_size, at.own)
        # `grad_partitions_flat_buffer` and the bucket are made once and stay; with the optimizer
        # offloaded the former lies on the host, with fp32 gradients beside it.
        self.gradients = at.own * at.width if self.there else 0
        if at.offloads and at.on_cpu:
            self.gradients += MASTER * at.own
        self.master = at.master if self.there else 0
        self.state = at.state if self.there else 0
        self.static = self.weights + self.master + self.gradients + at.bucket

    def moments(self) -> dict[Moment, Stage]:
        full = self.static + self.state
        found = {
            Moment.LOAD: self._load(),
            Moment.OPTIMIZER_CREATION: self._creation(),
            Moment.FORWARD: self._forward(0, traced=False),
            Moment.BACKWARD: self._backward(0, traced=False),
            Moment.STEP: self._step(first=True),
            Moment.SECOND_FORWARD: self._forward(self.state, traced=True),
            Moment.SECOND_BACKWARD: self._backward(self.state, traced=True),
            Moment.SECOND_STEP: self._step(first=False),
            Moment.SAVE: self._save(full),
        }
        if self.subject.evaluates:
            found[Moment.EVAL] = self._stage(
                full,
                self.state,
                activations=self.activations.evaluation,
                gathered=window(self.workload, self.counts, True),
            )
        return found

    def _stage(self, held: int, state: int, **parts: int) -> Stage:
        named = {"master": self.master, "gradients": self.gradients, "buckets": self.at.bucket}
        return stage_of(held, self.weights, {**named, "optimizer": state, **parts})

    def _load(self) -> Stage:
        """A fresh model is drawn whole before it is sharded; a stored one is sharded as it comes,
        a tensor at a time (`zero.Init`)."""
        whole = self.counts.weight_bytes
        tensor = self.counts.largest_tensor * DTYPE_BYTES[self.plan.dtype]
        if self.subject.fresh and self.at.on_cpu:
            return stage_of(whole, whole, {"loading": drawn(self.workload, self.counts)})
        return stage_of(self.weights, self.weights, {"loading": tensor})

    def _creation(self) -> Stage:
        """Shards are put into one buffer beside themselves (`defragment`), offloaded ones on the
        host; then each sub-group's fp32 copy is made, from 16 bits twice
        (`_create_fp32_partitions`)."""
        at = self.at
        whole = self.counts.weight_bytes if self.subject.fresh and at.on_cpu else 0
        offloaded = self.plan.offload_param and not at.on_cpu
        beside = self.weights + (0 if offloaded else at.own * at.width)
        twice = self.there and at.width != MASTER
        masters = self.weights + self.master + (MASTER * self.group if twice else 0)
        high = max(whole + self.counts.largest_tensor * at.width if whole else 0, beside, masters)
        high = max(high, self.static)
        return stage_of(self.static, self.weights, {"creation": high - self.weights})

    def _forward(self, state: int, traced: bool) -> Stage:
        return self._stage(
            self.static + state,
            state,
            activations=self.activations.forward,
            gathered=window(self.workload, self.counts, traced),
        )

    def _backward(self, state: int, traced: bool) -> Stage:
        """A full bucket is put in order before it is reduced (coalesced_collectives.py,
        `reduce_scatter_coalesced`); a gradient larger than the bucket lies outside it. Gathered
        weights go as the pass is done with them, the used ones last."""
        at = self.at
        ordered = min(at.bucket, at.trainable * at.width)
        large = at.largest * at.width if at.largest > self.plan.reduce_bucket else 0
        whole, least = (window(self.workload, self.counts, known) for known in (traced, False))
        candidates = [(self.activations.forward, 0, whole)]
        for point in self.activations.backward:
            left = 1.0 - point.gradients / at.trainable if at.trainable else 1.0
            gathered = max(round(whole * max(left, 0.0)), least)
            reduced = max(ordered, large) if point.gradients else 0
            candidates.append((point.activations, reduced, gathered))
        high = max(candidates, key=sum)
        return self._stage(
            self.static + state,
            state,
            activations=high[0],
            reduction=high[1],
            gathered=high[2],
        )

    def _step(self, first: bool) -> Stage:
        """A sub-group's gradients are flattened and made fp32 (`_prepare_fp32_grad_for_sub_group`);
        what is updated is freed before the next."""
        at = self.at
        held = self.static + self.state
        if at.offloads:
            return self._stage(held, self.state)
        deep = MASTER * self.group
        flat = at.width * self.group + (deep if at.width != MASTER else 0)
        before = self.state - (self.state * self.group // at.own if at.own else 0)
        if first and deep + self.state > flat + before:
            return self._stage(held, self.state, step=deep)
        return self._stage(held, before if first else self.state, step=flat)

    def _save(self, full: int) -> Stage:
        """Whole weights are gathered a module at a time and put together on rank 0's host."""
        gather = self.plan.gather_on_save
        whole = self.counts.weight_bytes if gather and self.at.on_cpu else 0
        tensor = self.counts.largest_tensor * DTYPE_BYTES[self.plan.dtype] if gather else 0
        return self._stage(full, self.state, saving=whole + tensor)

"""What a rank allocates under ZeRO 1 and 2, moment by moment, as DeepSpeed 0.19 does it."""

import itertools
from functools import cached_property

from autotune.core.memory.activations import Activations, Point
from autotune.core.memory.counts import Counts
from autotune.core.memory.forecast import Moment
from autotune.core.memory.plain import Stage
from autotune.core.memory.shares import MASTER, drawn, shares, stage_of
from autotune.core.memory.workload import Workload


def moments(workload: Workload, counts: Counts, activations: Activations) -> dict[Moment, Stage]:
    """Return what each moment of a training under ZeRO 1 or 2 takes on the accelerator."""
    return _Partitioned(workload, counts, activations).moments()


class _Partitioned:
    """Stages 1 and 2: the weights whole, the optimizer in parts (stage_1_and_2.py)."""

    def __init__(self, workload: Workload, counts: Counts, activations: Activations) -> None:
        self.plan, self.subject = workload.plan, workload.subject
        self.activations = activations
        self.at = shares(workload, counts)
        self.weights = counts.weight_bytes
        self.drawn = drawn(workload, counts)
        at = self.at
        # On a GPU what is offloaded is no device memory; on the CPU it is the same process's.
        self.there = not at.offloads or at.on_cpu
        self.static = at.master if self.there else 0
        self.extra = self._offload_buffers() if at.offloads else 0
        self.state = at.state if self.there else 0

    def _offload_buffers(self) -> int:
        """The gradient's temporary on the device (`temp_grad_buffer_for_gpu_offload`), and on the
        CPU also its twin, the fp32 gradients and the 16-bit copy of the partition."""
        at = self.at
        device = at.largest * at.width
        return 2 * device + (MASTER + at.width) * at.own if at.on_cpu else device

    def moments(self) -> dict[Moment, Stage]:
        held = self.weights + self.static + self.extra
        full = held + self.state
        found = {
            Moment.LOAD: stage_of(self.weights, self.weights, {"loading": self.drawn}),
            Moment.OPTIMIZER_CREATION: self._creation(held),
            Moment.FORWARD: self._forward(0),
            Moment.BACKWARD: self._backward(0),
            Moment.STEP: self._step(first=True),
            Moment.SECOND_FORWARD: self._forward(self.state),
            Moment.SECOND_BACKWARD: self._backward(self.state),
            Moment.SECOND_STEP: self._step(first=False),
            Moment.SAVE: self._stage(full, self.state, saving=self._saved()),
        }
        if self.subject.evaluates:
            found[Moment.EVAL] = self._stage(
                full, self.state, activations=self.activations.evaluation
            )
        return found

    def _stage(self, held: int, state: int, **parts: int) -> Stage:
        named = {"master": self.static, "offload": self.extra, "optimizer": state, **parts}
        return stage_of(held, self.weights, named)

    def _creation(self, held: int) -> Stage:
        """The flat copy lies beside the weights it is made of; later a gradient of zeros lies
        beside the masters (`initialize_optimizer_states`).

        A GPU that has no room for the copy gets it from the host (`flatten_on_accelerator`), so it
        is no need of one. Room is what the card has free: under a limit below that it is a need.
        """
        at = self.at
        flat = at.trainable * at.width if at.on_cpu else 0
        copy = at.own * at.width if at.width != MASTER else 0
        after = self.static + max(copy, MASTER * at.own if self.there and not at.offloads else 0)
        after += self.extra
        high = max(flat, after)
        return stage_of(held, self.weights, {"creation": high})

    def _kept(self) -> int:
        """Gradients that wait from one micro-batch to the next."""
        if self.plan.accumulation == 1:
            return 0
        if self.plan.zero_stage == 1:
            return self.at.trainable * self.at.width + self.at.bucket
        return 0 if self.at.offloads and not self.at.on_cpu else self.at.own * self.at.width

    def _forward(self, state: int) -> Stage:
        held = self.weights + self.static + self.extra + state
        return self._stage(held, state, activations=self.activations.forward)

    def _backward(self, state: int) -> Stage:
        at, high = self.at, self._highest
        own = 0 if at.offloads else at.own * at.width
        held = self.weights + self.static + self.extra + state + own
        return self._stage(held, state, activations=high[0], gradients=high[1], buckets=high[2])

    @cached_property
    def _highest(self) -> tuple[int, int, int]:
        """The highest of the backward pass: its activations, the gradients that live then and the
        bucket; where micro-batches accumulate, of the last one's. Gradients of an offloaded
        optimizer go into its fp32 ones as they are reduced.

        Stage 2 stages gradients in the bucket and keeps this rank's own in one buffer, made when
        the first bucket is full (`copy_grads_in_partition`); stage 1 keeps all of them until they
        are reduced afterwards.
        """
        at, kept = self.at, self._kept()
        own = 0 if at.offloads else at.own * at.width
        # The largest is the head, made first, or where that is tied the embedding, made last.
        first = at.trainable if self.subject.shape.tied else 1
        candidates: list[tuple[int, int, int]] = [(self.activations.forward, kept, 0)]
        for point in _with_first_bucket(self.activations.backward, self.plan.reduce_bucket):
            made = min(point.gradients, at.trainable)
            if self.plan.zero_stage == 2:
                large = at.largest * at.width if at.largest > self.plan.reduce_bucket else 0
                full = made > min(self.plan.reduce_bucket, at.trainable - 1)
                live = kept + (own if full else 0) + (large if made >= first else 0)
                candidates.append((point.activations, live, at.bucket if made else 0))
            else:
                live = max(kept - at.bucket, 0) or made * at.width
                bucket = at.bucket if made or kept else 0
                candidates.append((point.activations, live, bucket))
        if self.plan.zero_stage == 1:
            # What waited from micro-batch to micro-batch stays when it is moved into the bucket;
            # and on the CPU gloo's ranks were seen to take a bucket more.
            again = self.plan.accumulation > 1 or (at.on_cpu and self.plan.world_size > 1)
            moved = 0 if again or not at.bucket else min(self.plan.reduce_bucket, at.trainable)
            candidates.append((0, (at.trainable - moved) * at.width + own, at.bucket))
        return max(candidates, key=sum)

    def _saved(self) -> int:
        """Weights are views of one buffer, and are copied to be written; tied ones twice."""
        twice = self.subject.shape.embedding_parameters if self.subject.shape.tied else 0
        return self.weights + twice * self.at.width if self.at.on_cpu else 0

    def _step(self, first: bool) -> Stage:
        """The gradients are flattened, then made fp32 beside both (`step`).

        The states come with the first update, beside the fp32 gradients and the ones they are
        made of: all groups' are views of one buffer, which the group without weight decay, the
        later one, still holds.
        """
        at = self.at
        held = self.weights + self.static + self.extra + self.state
        if at.offloads:
            return self._stage(held, self.state)
        flat = 2 * at.own * at.width + (MASTER * at.own if at.width != MASTER else 0)
        beside = (MASTER + at.width) * at.own
        if first and beside + self.state > flat:
            return self._stage(held, self.state, gradients=beside)
        state = 0 if first else self.state
        return self._stage(held, state, gradients=flat)


def _with_first_bucket(points: tuple[Point, ...], bucket: int) -> list[Point]:
    """Return the points and the one between two of them where the first bucket is full."""
    found = list(points)
    for at, (one, two) in enumerate(itertools.pairwise(points), start=1):
        if one.gradients <= bucket < two.gradients:
            way = (bucket - one.gradients) / (two.gradients - one.gradients)
            between = one.activations + round(way * (two.activations - one.activations))
            return [*found[:at], Point(between, bucket + 1), *found[at:]]
    return found

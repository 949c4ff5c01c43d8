"""Moments of a rank that keeps everything itself: no ZeRO, a plain loop with torch's optimizers."""

from collections.abc import Mapping
from dataclasses import dataclass

from autotune.core.memory.activations import Activations
from autotune.core.memory.counts import Counts
from autotune.core.memory.forecast import Bytes, Moment
from autotune.core.memory.workload import Workload

EIGHT_BIT_BLOCK = 256  # elements that share one fp32 scale, in bitsandbytes' optimizers
OPTIMIZERS = (
    "adamw",
    "adamw_foreach",
    "adamw_8bit",
    "paged_adamw",
    "paged_adamw_8bit",
    "adafactor",
)


@dataclass(frozen=True)
class Stage(Bytes):
    """The bytes of one moment, at its highest by name."""

    parts: Mapping[str, int]  # they add up to `peak`


def state_bytes(optimizer: str, counts: Counts) -> tuple[int, int]:
    """Return the bytes of the optimizer's state on the device, and of its temporary in a step.

    torch's AdamW keeps two states in the parameter's dtype; its foreach form makes one more of all
    parameters. bitsandbytes keeps two bytes and two scales; Adafactor a row and a column, and one
    fp32 update of the largest tensor. A paged state lies in memory that moves to the host.
    """
    if optimizer == "adamw_8bit":
        scales = 2 * 4 * -(-counts.trainable // EIGHT_BIT_BLOCK)
        return 2 * counts.trainable + scales, 0
    if optimizer == "adafactor":
        return counts.trainable_bytes // 512, 2 * 4 * counts.largest_tensor
    if optimizer.startswith("paged"):
        return 0, 0
    state = 2 * counts.trainable_bytes
    return state, counts.trainable_bytes if optimizer == "adamw_foreach" else 0


def moments(
    workload: Workload, counts: Counts, activations: Activations, optimizer: str | None = None
) -> dict[Moment, Stage]:
    """Return what each moment of a plain training takes.

    `optimizer` names one that no plan can say, "adamw_foreach" or "adafactor"; None: the plan's.
    """
    state, temporary = state_bytes(optimizer or workload.plan.optimizer, counts)
    weights = counts.weight_bytes
    each = counts.trainable_bytes // max(counts.trainable, 1)
    grads = counts.trainable_bytes
    kept = grads if workload.plan.accumulation > 1 else 0

    def stage(held: int, **parts: int) -> Stage:
        return Stage(weights + sum(parts.values()), held, {"weights": weights, **parts})

    def passes(states: int) -> tuple[Stage, Stage, Stage]:
        high = max(
            activations.backward, key=lambda one: one.activations + max(kept, each * one.gradients)
        )
        live = max(kept, each * high.gradients)
        forward = stage(
            weights + states, optimizer=states, gradients=kept, activations=activations.forward
        )
        backward = stage(
            weights + states + grads,
            optimizer=states,
            gradients=live,
            activations=high.activations,
        )
        step = stage(weights + state, optimizer=state, gradients=grads, step=temporary)
        return forward, backward, step

    first, second = passes(0), passes(state)
    still = stage(weights)
    after = stage(weights + state, optimizer=state)
    found = {
        Moment.LOAD: still,
        Moment.OPTIMIZER_CREATION: still,
        Moment.FORWARD: first[0],
        Moment.BACKWARD: first[1],
        Moment.STEP: first[2],
        Moment.SECOND_FORWARD: second[0],
        Moment.SECOND_BACKWARD: second[1],
        Moment.SECOND_STEP: second[2],
        Moment.SAVE: after,
    }
    if workload.subject.evaluates:
        found[Moment.EVAL] = stage(
            weights + state, optimizer=state, activations=activations.evaluation
        )
    return found

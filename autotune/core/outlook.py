"""What a decision rests on beside the story, and how the newest checkpoint fits a plan."""

from dataclasses import dataclass
from typing import Any

from autotune.core.carry import Carry, SavedShape, WantedShape, decide_carry
from autotune.core.foresight import Foresight
from autotune.core.history import Story
from autotune.core.inherited import Inherited
from autotune.core.job import Job
from autotune.core.plan import Optimizer, Plan
from autotune.core.policy import Policy
from autotune.core.rung import Deed, Rung, Surroundings
from autotune.core.seats import Seating

# What steps in the built-in trainer, by transformers' names; torch's on the host as well.
STEPS_WITH: dict[Optimizer, str] = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}


@dataclass(frozen=True)
class Saved:
    """The newest complete checkpoint of the run."""

    name: str
    step: int
    attempt: int | None  # that wrote it, when it says so


@dataclass(frozen=True)
class Outlook:
    """What a decision rests on beside the story."""

    job: Job
    policy: Policy
    rungs: dict[str, Rung]
    around: Surroundings
    start: Plan
    saved: Saved | None = None
    earlier: tuple[Saved, ...] = ()  # the whole checkpoints before it, newest first
    foresight: Foresight | None = None  # None: nothing can be predicted
    seating: Seating | None = None  # None: no GPU is to be had or waited for
    inherited: Inherited | None = None  # the checkpoint of another run that it goes on from


def carry_to(plan: Plan, story: Story, outlook: Outlook, rung: Rung | None = None) -> Carry:
    """Return how the newest checkpoint that `rung` leaves becomes the start of `plan`."""
    saved = saved_after(rung, outlook)
    shape = SavedShape(**shape_of(writer_of(saved, story, outlook))) if saved is not None else None
    return decide_carry(shape, WantedShape(**shape_of(plan)), frozenset(outlook.job.allow))


def saved_after(rung: Rung | None, outlook: Outlook) -> Saved | None:
    """Return the checkpoint that is the newest once the rung's deed is done."""
    deed = rung.deed if rung else None
    if deed is Deed.START_OVER:
        return None
    if deed is Deed.SET_ASIDE:
        return outlook.earlier[0] if outlook.earlier else None
    return outlook.saved


def writer_of(saved: Saved, story: Story, outlook: Outlook) -> Plan:
    """Return the plan a checkpoint was written under."""
    for attempt in story.attempts:
        if attempt.number == saved.attempt:
            return attempt.plan
    given = outlook.inherited
    if given is not None and saved.attempt is None and saved.step == given.step:
        return given.plan
    return story.last.plan if story.last else outlook.start


def shape_of(plan: Plan) -> dict[str, Any]:
    """Return what of a plan is written into its checkpoints, as core.carry names it."""
    return {
        "zero_stage": plan.zero_stage,
        "world_size": plan.world_size,
        "offload_optimizer": "cpu" if plan.offload_optimizer else "none",
        "offload_param": "cpu" if plan.offload_param else "none",
        "quantization": plan.quantization,
        "method": plan.method,
        "optimizer": STEPS_WITH[plan.optimizer],
        "round_robin_gradients": plan.round_robin_gradients,
        "sub_group_size": plan.sub_group_size,
        "dtype": plan.dtype,
        "lora_rank": plan.lora_rank,
    }

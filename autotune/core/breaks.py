"""Says which setting of an attempt is what broke, and which attempt was the last without it."""

from collections.abc import Sequence
from typing import Any

from autotune.core.diagnosis import NATIVE_CRASH
from autotune.core.failure import Failure, Phase
from autotune.core.history import Attempt, Story

# A failure of the setting itself: while these fields have the value it failed with, it would
# fail again, whatever else changes.
_OFFLOAD = ("offload_optimizer", "offload_param")
BROKEN_BY: dict[Failure, tuple[str, ...]] = {
    Failure.OFFLOAD_DEVICE: _OFFLOAD,
    Failure.HOST_OOM: (*_OFFLOAD, "activation_offload"),  # offloading is what fills the host
    Failure.OP_BUILD: _OFFLOAD,  # its extensions are the ones that need a compiler
    Failure.QUANTIZATION_CONFLICT: ("quantization",),
    Failure.DTYPE_KERNEL_GAP: ("attention",),  # or the precision: then nothing is lost by it
}

# Told to put whole weights on a device, stage 3 is what breaks, whatever the weights' precision.
DEVICE_MAP = "device_map_under_zero_3"

# Where a rung was just taken and no step came after it, the rung is to blame and not the job.
BREAKS_AT_START = frozenset({
    Failure.MISSING_DEPENDENCY, Failure.CONFIG_ERROR, Failure.USER_CODE_ERROR,
    Failure.DTYPE_KERNEL_GAP,
})  # fmt: skip

# A break of these kinds may have a cheaper cure than to give the rung up again.
CURABLE = frozenset({*BROKEN_BY, Failure.DTYPE_KERNEL_GAP})

# How much, and not how: no value of these breaks a training at its start.
_SIZES = frozenset({
    "micro_batch", "accumulation", "eval_micro_batch", "reduce_bucket", "allgather_bucket",
    "sequence", "lora_rank",
})  # fmt: skip


def broken_settings(attempt: Attempt) -> dict[str, Any]:
    """Return the settings, with their values, that the failure is one of.

    Those of BROKEN_BY that were on; and where a rung of ours was taken and the training then did
    not even come to a step, what that rung set. A checkpoint that does not fit is the rung's fault
    only where it was converted for it.
    """
    if attempt.failure is None:
        return {}
    if attempt.diagnosis is not None and attempt.diagnosis.rests_on(DEVICE_MAP):
        return {"zero_stage": attempt.plan.zero_stage}
    values = {name: getattr(attempt.plan, name) for name in BROKEN_BY.get(attempt.failure, ())}
    broken = {name: value for name, value in values.items() if value not in (False, "none")}
    remedy, evidence = attempt.launch.remedy, attempt.evidence
    unfit = attempt.failure is Failure.CHECKPOINT_MISMATCH and attempt.launch.carry.conversions
    at_start = remedy and evidence and not evidence.started_training
    if remedy and at_start and (unfit or attempt.failure in BREAKS_AT_START):
        taken = [change.setting for change in remedy.changes]
        names = [name for name in taken if name not in _SIZES] or taken
        broken.update({name: getattr(attempt.plan, name) for name in names})
    return broken


def broken_now(ran: Sequence[Attempt]) -> dict[str, Any]:
    """Return the settings that broke in the newest of these attempts.

    Where it only tried again what had broken at its start, and broke again, they are what broke.
    """
    last, found = ran[-1], broken_settings(ran[-1])
    for before in reversed(ran[:-1]):
        remedy, evidence = last.launch.remedy, ran[-1].evidence
        again = remedy is not None and not remedy.changes and before.failure is last.failure
        if found or not again or evidence is None or evidence.started_training:
            break
        last, found = before, broken_settings(before)
    return found


def crashed(attempt: Attempt) -> bool:
    """Return whether native code crashed: that can pass, and the policy may try once more."""
    why = attempt.diagnosis
    return why is not None and why.rests_on(NATIVE_CRASH)


def badly_converted(attempt: Attempt) -> bool:
    """Whether its start was a copy that could not be made, or was found to be another training."""
    if attempt.prepared is not None and not attempt.prepared.ok:
        return True
    if not attempt.launch.carry.conversions or attempt.diagnosis is None:
        return False
    at_once = attempt.diagnosis.phase is Phase.RESUME
    return attempt.failure is Failure.CHECKPOINT_MISMATCH and at_once


def broke_at_the_beginning(story: Story) -> bool:
    """Whether what the planner changed before anything ran is what broke."""
    first, last = story.attempts[0].launch, story.attempts[-1]
    leapt = first.remedy is not None and last.launch.remedy is not None
    return leapt and bool(broken_settings(last))


def before_the_break(ran: list[Attempt]) -> int | None:
    """Return the place of the newest attempt without the setting that broke in the last."""
    broken = broken_now(ran)
    for place in range(len(ran) - 2, -1, -1):
        plan = ran[place].plan
        if ran[place].diagnosis and any(getattr(plan, k) != v for k, v in broken.items()):
            return place
    return None

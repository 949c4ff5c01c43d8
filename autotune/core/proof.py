"""Judges what the throwaway process showed of a plan: proven, or unproven and why."""

import math
from typing import Any

from autotune.core.diagnosis import diagnose
from autotune.core.ended import came_to_its_end
from autotune.core.evidence import Evidence
from autotune.core.record import Prove, Proved
from autotune.core.view import View


def judge_proof(view: View, evidence: Evidence, step: Prove) -> Proved:
    """Return what the process that was to prove `step` has shown."""
    proven = view.proven or _by_its_steps(view, step)
    if proven is None:
        found = diagnose(evidence)
        why = f"unproven: the throwaway process ended with {found.failure.value} ({found.why})"
        return Proved(False, why, step.checkpoint_step, peak_bytes=evidence.memory.peak_bytes)

    def number(name: str) -> float | None:
        value = proven.get(name)
        return float(value) if isinstance(value, (int, float)) else None

    own = view.proven is not None
    losses = [number("loss"), *([number("eval_loss")] if own else [])]
    if not all(loss is not None and math.isfinite(loss) for loss in losses):
        why = f"unproven: the throwaway process came to losses of {losses}"
        return Proved(False, why, step.checkpoint_step, peak_bytes=evidence.memory.peak_bytes)
    why = f"loaded the checkpoint of step {step.checkpoint_step} in a process of its own, "
    why += "trained one step on the longest samples and evaluated" if own else "trained one step"
    return Proved(
        True, why, step.checkpoint_step, number("loss"), number("eval_loss"),
        evidence.memory.peak_bytes,
    )  # fmt: skip


def _by_its_steps(view: View, step: Prove) -> dict[str, Any] | None:
    """Return what a tool that knows nothing of proofs has shown: one step more, and a good end."""
    if not came_to_its_end(view) or (view.step or 0) <= step.checkpoint_step:
        return None
    return {"loss": view.loss, "eval_loss": view.eval_loss}

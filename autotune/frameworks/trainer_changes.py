"""What of a user's training arguments is changed: what a plan asks for, and what a run needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from autotune.core.plan import Plan
from autotune.frameworks import trainer_deepspeed
from autotune.frameworks.arguments import flag, integer
from autotune.frameworks.framework import Setting
from autotune.frameworks.trainer import Own
from autotune.frameworks.trainer_keys import (
    ALONE_ON_THE_CPU_SINCE,
    OPTIMIZERS,
    checkpointing_key,
    has,
)

# Saved ten times, where neither the job nor the arguments say how often: a share of the steps.
TENTH = 0.1
RELAUNCHES = "relaunch"  # a mode beside those of Setting: the known-good's own arguments
ALONE = "AUTOTUNE_ALONE"  # as child/probe/limits.py knows it


@dataclass(frozen=True)
class Changes:
    """Arguments to be set, or taken out where None, and files that go into the attempt's folder."""

    values: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)

    def but(self, **more: Any) -> "Changes":
        """Return these with more arguments changed."""
        return replace(self, values={**self.values, **more})


def changes_for(own: Own, start: Plan, setting: Setting) -> Changes:
    """Return everything that an attempt changes against the user's own arguments."""
    of_plan = plan_changes(own, start, setting)
    return Changes({**of_plan.values, **run_changes(own, setting)}, of_plan.files)


def plan_changes(own: Own, start: Plan, setting: Setting) -> Changes:
    """Return what a plan asks for; what it has in common with the start stays as it is written."""
    plan, habits, changed = setting.plan, own.habits, {}
    versions = own.looked.versions
    for key, name in (
        (habits.micro, "micro_batch"),
        (habits.accumulation, "accumulation"),
        (habits.eval_micro, "eval_micro_batch"),
        ("dataloader_num_workers", "loader_workers"),
    ):
        if getattr(plan, name) != getattr(start, name):
            changed[key] = getattr(plan, name)
    if plan.activation_checkpointing != start.activation_checkpointing and habits.checkpointing:
        key = habits.checkpointing
        key = checkpointing_key(own.values, versions) if key == "gradient_checkpointing" else key
        changed[key] = plan.activation_checkpointing
    if plan.dtype != start.dtype:
        changed |= {"bf16": plan.dtype == "bf16", "fp16": plan.dtype == "fp16"}
    if plan.optimizer != start.optimizer:
        names = {value: name for name, value in OPTIMIZERS.items()}
        changed[habits.optimizer] = names[plan.optimizer]
    if plan.pinned_memory != start.pinned_memory:
        changed["dataloader_pin_memory"] = plan.pinned_memory
    if not plan.zero_stage:
        return Changes({**changed, "deepspeed": None} if own.deepspeed is not None else changed)
    text = trainer_deepspeed.with_plan(
        own.deepspeed or {}, start, plan, setting.ds_overrides, setting.load_universal
    )
    changed["deepspeed"] = f"{setting.folder}/{trainer_deepspeed.FILE}"
    return Changes(changed, {trainer_deepspeed.FILE: text})


def run_changes(own: Own, setting: Setting) -> dict[str, Any]:
    """Return what is ours under every plan: where and how often is saved, what is resumed."""
    changed: dict[str, Any] = {
        "output_dir": setting.checkpoints,
        own.habits.resume: setting.resume,
        "save_total_limit": setting.job.checkpoints.keep,
    }
    if own.on("save_only_model"):
        changed["save_only_model"] = False
    if own.on("auto_find_batch_size"):
        changed["auto_find_batch_size"] = False
    if not has(own.looked.versions, "5.0"):
        changed["overwrite_output_dir"] = True  # else the folder's own checkpoints are in the way
    return changed | (_one_step(own, setting) if setting.mode == "prove" else _saves(own, setting))


def trains_alone(own: Own, ranks: int) -> bool:
    """Return whether each of so many ranks on the CPU would train alone without `use_cpu`."""
    return ranks > 1 and has(own.looked.versions, ALONE_ON_THE_CPU_SINCE, "accelerate")


def _saves(own: Own, setting: Setting) -> dict[str, Any]:
    """Return how often is saved; with the best model loaded at the end it follows evaluation."""
    if own.on("load_best_model_at_end"):
        return {}
    every, given = setting.job.checkpoints.every, integer(own.values.get("save_steps"))
    if every == "auto":
        every_steps: float = given if given is not None and given >= 1 else TENTH
    else:
        every_steps = every
    return {"save_strategy": "steps", "save_steps": every_steps}


def _one_step(own: Own, setting: Setting) -> dict[str, Any]:
    """Return what makes the tool train one step of the checkpoint and keep nothing of it."""
    step = int(PurePosixPath(setting.resume or "checkpoint-0").name.rpartition("-")[2])
    changed: dict[str, Any] = {
        "output_dir": f"{setting.folder}/output",
        "max_steps": step + 1,
        "save_strategy": "no",
        "save_steps": None,
    }
    if own.on("load_best_model_at_end"):
        changed["load_best_model_at_end"] = False
    if flag(own.values.get("push_to_hub", False)):
        changed["push_to_hub"] = False
    return changed


def alone(setting: Setting) -> dict[str, str]:
    """Return the environment of a program whose only rank no launcher names."""
    only = setting.plan.world_size == 1 and setting.mode != RELAUNCHES
    return {ALONE: "1"} if only else {}


def relaunch(setting: Setting) -> Setting:
    """Return the setting of the known-good: saved beside it, begun anew."""
    return replace(setting, checkpoints=f"{setting.folder}/output", resume=None, mode=RELAUNCHES)

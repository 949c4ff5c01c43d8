"""Finds the checkpoint of another run that a job goes on from, and judges it before any start."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.core.carry import CarryKind, SavedShape, WantedShape, decide_carry
from autotune.core.fault import CannotRecord, Fault, InputError
from autotune.core.history import Story, fold
from autotune.core.inherited import Inherited
from autotune.core.job import Job
from autotune.core.outlook import shape_of
from autotune.core.plan import Plan
from autotune.core.sentence import say_plan
from autotune.core.units import show_bytes
from autotune.world.checkpoint_files import Layout, read_layout
from autotune.world.checkpoints import SENTINEL, STATE, step_of
from autotune.world.files import read_json
from autotune.world.journal import read_journal
from autotune.world.run_folder import RunFolder, holder
from autotune.world.trust import open_to_all

_MODEL_KEYS = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")


@dataclass(frozen=True)
class Wanted:
    """What the job would train, for a checkpoint to be held against."""

    job: Job
    start: Plan
    model_config: Mapping[str, Any] | None
    inputs: Mapping[str, str]
    adapter_rank: int  # 0: unknown, or no adapters
    own_marks_only: bool  # whether its trainer needs what only our own last file tells


def find_inherited(
    asked: str, job_folder: Path, run: RunFolder, wanted: Wanted, where: str
) -> tuple[Inherited, tuple[Fault, ...]]:
    """Return the checkpoint that `continue_from` names, with notes; raises InputError."""
    try:
        return _find(asked, job_folder, run, wanted, where)
    except (OSError, ValueError) as error:  # no right to look, a name too long, or with a NUL
        why = error.strerror if isinstance(error, OSError) else error
        text = f"what `continue_from` names cannot be looked at ({why})"
        raise InputError(Fault(text, where, "check the path and its permissions")) from error


def _find(
    asked: str, job_folder: Path, run: RunFolder, wanted: Wanted, where: str
) -> tuple[Inherited, tuple[Fault, ...]]:
    place = Path(os.path.realpath(job_folder / asked))
    folder = _run_of(place)
    if folder is not None and folder.path == run.path:
        text = "`continue_from` names this very run, which goes on from its own checkpoints anyway"
        raise InputError(Fault(text, where, "take it out"))
    if folder is not None and holder(folder) is not None:
        text = f"the run in {folder.path} is still at work, and may remove its checkpoints"
        raise InputError(Fault(text, where, f"stop it first: autotune stop {folder.path}"))
    found = _newest(place, where)
    refused, noted = open_to_all([found.path])
    if refused:
        raise InputError(*refused)
    story = _story(folder) if folder else None
    plan = _plan_of(found, story, wanted.start)
    faults = _faults(found, story, plan, wanted, where)
    if faults:
        raise InputError(*faults)
    inherited = Inherited(asked, str(found.path), found.step, plan)
    return inherited, (*_notes(found, story, plan, wanted, where), *noted)


def _run_of(place: Path) -> RunFolder | None:
    """Return the run folder that a path is, or lies in as one of its checkpoints."""
    near = (place, place.parent, place.parent.parent)
    return next((RunFolder(one) for one in near if (one / "journal.jsonl").is_file()), None)


def _newest(place: Path, where: str) -> Layout:
    """Return the checkpoint at `place`, or the newest whole one of those in it."""
    if not place.is_dir():
        text = f"`continue_from` names {place}, and no folder is there"
        raise InputError(Fault(text, where, "name a folder checkpoint-N, or one that holds some"))
    if step_of(place) is not None:
        found = read_layout(place)
        if isinstance(found, str):
            text = f"nothing can go on from {place}: {found}"
            raise InputError(Fault(text, where, "name another checkpoint"))
        return found
    inside = place / "checkpoints" if (place / "journal.jsonl").is_file() else place
    named = sorted(
        (one for one in inside.glob("checkpoint-*") if step_of(one) is not None),
        key=lambda one: step_of(one) or 0,
        reverse=True,
    )
    reasons = []
    for one in named:
        found = read_layout(one)
        if isinstance(found, Layout):
            return found
        reasons.append(f"{one.name}: {found}")
    text = f"nothing can go on from {inside}: {reasons[0] if reasons else 'it holds no checkpoint'}"
    raise InputError(Fault(text, where, "name a folder checkpoint-N, or one that holds some"))


def _story(folder: RunFolder) -> Story | None:
    try:
        return fold(read_journal(folder.journal))
    except CannotRecord:
        return None  # an older autotune's, or edited: then the files alone tell


def _plan_of(found: Layout, story: Story | None, start: Plan) -> Plan:
    """Return the plan it was written under: as its run says, else as files and the job tell."""
    if story is not None and story.started is not None:
        number = found.mark.get("attempt")
        for attempt in story.attempts:
            if attempt.number == number:
                return attempt.plan
        given = story.started.inherited
        if given is not None and given.step == found.step:
            return given.plan
    both_low = 0 < start.zero_stage < 3 and found.zero_stage == 2
    plan = start.but(
        world_size=found.world_size,
        zero_stage=start.zero_stage if both_low else found.zero_stage,
        offload_optimizer=start.offload_optimizer and found.zero_stage > 0,
        offload_param=start.offload_param and found.zero_stage == 3,
    )
    if found.bf16:
        plan = plan.but(dtype="bf16")
    elif found.zero_stage and start.dtype == "bf16":
        plan = plan.but(dtype="fp32")  # DeepSpeed names its shards after bf16 alone
    return plan.but(method="full") if found.adapter_rank is None else plan


def _faults(
    found: Layout, story: Story | None, plan: Plan, wanted: Wanted, where: str
) -> list[Fault]:
    faults = []

    def refuse(text: str, hint: str) -> None:
        faults.append(Fault(f"nothing here can go on from {found.path}: {text}", where, hint))

    if wanted.own_marks_only and not found.mark:
        text = "it was not written by autotune's own trainer, whose rows are put into its own order"
        refuse(text, "name its model under `settings.model`, and begin anew")
    was, now = wanted.start.method, wanted.model_config or {}
    if was == "lora" and found.adapter_rank is None:
        refuse("it holds no adapters, and the job trains some", "name a checkpoint with adapters")
    elif found.adapter_rank and wanted.adapter_rank not in (0, found.adapter_rank):
        text = f"its adapters have rank {found.adapter_rank}, and the job's {wanted.adapter_rank}"
        refuse(text, f"train adapters of rank {found.adapter_rank}")
    saved = found.model_config or {}
    for key in _MODEL_KEYS:
        if key in saved and key in now and saved[key] != now[key]:
            text = f"`{key}` of its model is {saved[key]}, and of the job's {now[key]}"
            refuse(text, "name a checkpoint of the same model")
            break
    rows = wanted.start.global_batch
    then = story.started.plan.global_batch if story and story.started else rows
    if then != rows:
        text = f"it was trained with a global batch of {then}, and the job has {rows}"
        refuse(f"{text}: its place in the data would be another", "keep the global batch")
    if not faults:
        faults += _carry_faults(found, plan, wanted, where)
    return faults


def _carry_faults(found: Layout, plan: Plan, wanted: Wanted, where: str) -> list[Fault]:
    shapes = SavedShape(**shape_of(plan)), WantedShape(**shape_of(wanted.start))
    carry = decide_carry(*shapes, frozenset(wanted.job.allow))
    if carry.kind in (CarryKind.IMPOSSIBLE, CarryKind.WEIGHTS_ONLY):
        text = f"nothing here can go on from {found.path}: {carry.why}"
        return [Fault(text, where, f"start as it was saved: {say_plan(plan)}")]
    if carry.needs_consent:
        hint = f"the job may allow it with `allow: [{carry.needs_consent}]`"
        return [
            Fault(f"to go on from {found.path} needs the owner's word: {carry.why}", where, hint)
        ]
    return []


def _notes(
    found: Layout, story: Story | None, plan: Plan, wanted: Wanted, where: str
) -> Iterable[Fault]:
    shape = f"ZeRO {plan.zero_stage} on {plan.world_size} rank" + "s" * (plan.world_size > 1)
    text = f"this run goes on from step {found.step} of {found.path} ({shape}); "
    yield Fault(f"{text}{show_bytes(found.bytes)} are copied, and the source is only read", where)
    carry = decide_carry(SavedShape(**shape_of(plan)), WantedShape(**shape_of(wanted.start)))
    if carry.kind is not CarryKind.SAME:
        yield Fault(carry.why, where)
    if story is None or story.started is None:
        text = "whether that checkpoint had the same global batch and rows is the owner's to know: "
        yield Fault(text + "its files do not say", where)
        if found.adapter_rank is not None and wanted.start.method == "full":
            yield Fault("it holds adapters, and the job names none that could be seen", where)
        return
    for key, digest in story.started.inputs.items():
        if wanted.inputs.get(key, digest) != digest:
            yield Fault(f"what `{key}` names is not what that run had", where)


def still_asked(job: Job, begun: Story, where: str) -> list[Fault]:
    """Return what is wrong with `continue_from` in a run that has begun: it is read only once."""
    asked, given = job.checkpoints.continue_from, begun.started and begun.started.inherited
    if asked is None or (given and given.asked == asked):
        return []
    text = "this run has begun without it: `continue_from` is read once, when a run begins"
    return [Fault(text, where, "take it out, or start a new run with --run-dir")]


def written_anew(inherited: Inherited, layout: Layout, every: int | str) -> dict[str, Any]:
    """Return the files of the copy that say something else than the source's, by name.

    Our last file says whence it comes and names no attempt of this run. On a resume HF Trainer
    takes `save_steps` from the checkpoint, where the job may want another.
    """
    files: dict[str, Any] = {
        SENTINEL: {
            **layout.mark,
            "step": inherited.step,
            "attempt": None,
            "world_size": layout.world_size,
            "plain": layout.zero_stage == 0,
            "from": inherited.source,
        }
    }
    state = read_json(layout.path / STATE)
    if isinstance(every, int) and isinstance(state, dict):
        files[STATE] = {**state, "save_steps": every}
    return files


def saved_as(inherited: Inherited) -> str:
    """Return the name of the copy, inside the run folder."""
    return f"checkpoints/checkpoint-{inherited.step}"

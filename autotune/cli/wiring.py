"""Puts the parts together for a job: reads everything, and reports all that is wrong at once."""

import importlib
import os
import pkgutil
import shutil
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from autotune import rungs as rung_folder
from autotune.cli.continuing import Wanted, find_inherited, still_asked
from autotune.cli.devices import Chosen, choose_devices
from autotune.cli.framed import BUILT_IN, Framed, frame, framework_named, settings_in
from autotune.cli.looking import digest_of
from autotune.cli.survey import Survey
from autotune.core.carry import CHANGE_DTYPE, RESET_OPTIMIZER
from autotune.core.compatibility import conflicts
from autotune.core.fault import CannotRecord, Fault, nearest
from autotune.core.history import Story, fold
from autotune.core.inherited import Inherited
from autotune.core.job import Job, batch_of
from autotune.core.plan import KNOBS, Device, Plan
from autotune.core.policy import Policy
from autotune.core.rung import Rung, Surroundings
from autotune.core.units import show_bytes
from autotune.frameworks.framework import Framework, Looked
from autotune.ground import Ground
from autotune.world.environment import missing_names, training_python, versions
from autotune.world.gpu import find_gpus
from autotune.world.journal import read_journal
from autotune.world.leases import Leases
from autotune.world.policy_file import find_policy, is_path, load_policy
from autotune.world.run_folder import RunFolder
from autotune.world.seats import look
from autotune.world.signature_file import load_signatures
from autotune.world.trust import open_to_all
from autotune.world.yaml_files import Document, read_document, validate

_EVERY_NODE = "each node trains with as many ranks as the others"
CONSENTS = (RESET_OPTIMIZER, CHANGE_DTYPE)  # what a carry may need


def all_rungs() -> dict[str, Rung]:
    """Return every rung of the folder by name; the folder is the registry."""
    return {rung.name: rung for rung in _rungs()}


@cache
def _rungs() -> tuple[Rung, ...]:
    modules = pkgutil.iter_modules(rung_folder.__path__)
    return tuple(importlib.import_module(f"autotune.rungs.{one.name}").RUNG for one in modules)


def run_folder_of(job: Job, job_file: Path, named: Path | None) -> RunFolder:
    """Return where a job's run lives: as named, or runs/NAME beside the job file."""
    return RunFolder(named.absolute() if named else job_file.absolute().parent / "runs" / job.name)


def identity(job: Job) -> str:
    """Return what makes two files the same job: limits and permissions may be edited between."""
    return digest_of([job.name, job.framework, job.settings, batch_of(job).global_])


def lay_ground(job_file: Path, run_dir: Path | None, run_id: str) -> Ground:
    """Return all that a run needs to know; raises InputError with everything that is wrong."""
    document = read_document(job_file.absolute())
    survey = Survey()
    rungs, framework = all_rungs(), framework_named(document)
    job = survey.attempt(validate, Job, document)
    settings = survey.attempt(settings_in, document, framework)
    if job is None:
        survey.faults += _policy_faults(document, rungs)
        survey.end()
    policy = survey.attempt(_policy, job, document, rungs)
    survey.faults += _name_faults(job, document, rungs)
    python = training_python(job.python, document.path.parent)
    installed: dict[str, str] = survey.attempt(versions, python, framework.needs) or {}
    gpus, leases = find_gpus(), Leases(job.name)
    begun = _begun(folder := run_folder_of(job, document.path, run_dir))

    def choose(job: Job, where: str) -> Chosen:
        ranks = begun.started.plan.world_size if begun.started else None
        began = ranks // job.launcher.nodes if ranks else None
        return choose_devices(job, gpus, installed, where, lambda n: look(gpus, n, leases), began)

    seen = frame(job, settings, framework, document, installed, choose, survey)
    job, looked, start = seen.job, seen.looked, seen.start
    device, gpus.indices = seen.chosen.device, seen.chosen.indices or None
    looked = _judge_places(survey, job, document, python, folder, looked)
    survey.end()
    if start is None:
        raise AssertionError("a job without a plan to start at has no faults")
    survey.faults += _limit_faults(job, policy, device, document)
    survey.faults += _clashes(start, device, installed, document.where("settings"))
    inherited, looked = _inherited(survey, framework, document, folder, begun, seen, looked)
    survey.end()
    return Ground(
        run_id=run_id,
        job=job,
        document=document,
        job_folder=document.path.parent,
        folder=folder,
        policy=policy,
        rungs=rungs,
        framework=framework,
        looked=looked,
        python=python,
        versions=installed,
        device=device,
        gpus=gpus,
        given=seen.chosen.given,
        leases=leases,
        signatures=load_signatures(device=device),
        around=_around(seen, framework, installed),
        start=start,
        inputs=looked.inputs,
        inherited=inherited,
    )


def _clashes(start: Plan, device: Device, installed: dict[str, str], where: str) -> list[Fault]:
    found = conflicts(start, device, installed)
    return [Fault(row.why, where, f"source: {row.source}") for row in found]


def _around(seen: Framed, framework: Framework, installed: dict[str, str]) -> Surroundings:
    job, looked = seen.job, seen.looked
    lacks = dict(framework.lacks(job, looked))
    if job.launcher.nodes > 1:
        lacks |= dict.fromkeys(("excluded", "world_size"), _EVERY_NODE)
    return Surroundings(
        device=seen.chosen.device,
        knobs=KNOBS - lacks.keys(),
        lacks=lacks,
        versions=installed,
        has_evaluation=framework.has_evaluation(job, looked),
        packing=framework.packs(job, looked),
        platform=_platform(),
        gpus=seen.chosen.indices,
        pins=tuple(job.pins.packages),
    )


def _begun(folder: RunFolder) -> Story:
    """Return the story of the run in this folder; an empty one where none began."""
    try:
        return fold(read_journal(folder.journal))
    except (CannotRecord, OSError):
        return Story()  # `run` reads it again and says what is wrong


def _inherited(
    survey: Survey,
    framework: Framework,
    document: Document,
    folder: RunFolder,
    begun: Story,
    seen: Framed,
    looked: Looked,
) -> tuple[Inherited | None, Looked]:
    """Return the checkpoint of another run that this one goes on from, and what is noted of it."""
    job, asked = seen.job, seen.job.checkpoints.continue_from
    where = document.where("checkpoints", "continue_from")
    if begun.started is not None:
        survey.faults += still_asked(job, begun, where)
        return begun.started.inherited, looked
    if asked is None or seen.start is None:
        return None, looked
    wanted = Wanted(
        job=job,
        start=seen.start,
        model_config=looked.model_config,
        inputs=looked.inputs,
        adapter_rank=framework.trained(job, looked).lora_rank,
        own_marks_only=framework.name == BUILT_IN,
    )
    found = survey.attempt(find_inherited, asked, document.path.parent, folder, wanted, where)
    if found is None:
        return None, looked
    return found[0], replace(looked, notes=(*looked.notes, *found[1]))


def _judge_places(
    survey: Survey, job: Job, document: Document, python: str, folder: RunFolder, looked: Looked
) -> Looked:
    """Refuse what everybody may write to, and a disk that is too small; note the doubtful."""
    refused, noted = open_to_all(_trusted(job, document, python, folder))
    survey.faults += [*refused, *_disk_faults(looked, job, folder)]
    return replace(looked, notes=(*looked.notes, *noted))


def _trusted(job: Job, document: Document, python: str, folder: RunFolder) -> list[Path]:
    """Return what would run, or decide, in the owner's name."""
    paths = [document.path, Path(python), folder.path]
    if is_path(job.policy):
        paths.append(find_policy(job.policy, document.path.parent))
    return paths


def _limit_faults(job: Job, policy: Policy, device: Device, document: Document) -> list[Fault]:
    if job.launcher.nodes > 1 and job.devices.host_memory_limit is not None:
        text = "`host_memory_limit` is kept on this machine alone, and the job trains on several"
        return [Fault(text, document.where("devices", "host_memory_limit"), "take it out")]
    limit, context = job.devices.memory_limit, policy.limits.cuda_context
    if device == "cpu" or limit is None or limit > context:
        return []
    text = f"`memory_limit` leaves nothing beside the {show_bytes(context)} that CUDA itself takes "
    text += "(`cuda_context` of the policy)"
    return [Fault(text, document.where("devices", "memory_limit"), "allow more memory")]


def _policy_faults(document: Document, rungs: dict[str, Rung]) -> list[Fault]:
    """Return what is wrong with the policy that a job of a wrong shape names."""
    survey = Survey()
    named = document.value.get("policy") if isinstance(document.value, dict) else None
    if isinstance(named, str):
        path = survey.attempt(find_policy, named, document.path.parent)
        if path is not None:
            survey.attempt(load_policy, path, rungs)
    return survey.faults


def _policy(job: Job, document: Document, rungs: dict[str, Rung]) -> Any:
    return load_policy(find_policy(job.policy, document.path.parent), rungs)


def _name_faults(job: Job, document: Document, rungs: dict[str, Rung]) -> list[Fault]:
    faults = []
    for key, names, known in (
        ("allow", job.allow, {*rungs, *CONSENTS}),
        ("forbid", job.forbid, set(rungs)),
    ):
        for place, name in enumerate(names):
            if name not in known:
                text = f"`{name}` is nothing that can be put under `{key}`"
                faults.append(Fault(text, document.where(key, place), nearest(name, known)))
    wheels = job.pins.wheels
    if wheels is not None and not (document.path.parent / wheels).is_dir():
        text = "the folder of wheels does not exist"
        faults.append(Fault(text, document.where("pins", "wheels"), "check the path"))
    for name in missing_names(job.env_from):
        text = f"`{name}` is to be passed through, and our environment does not hold it"
        faults.append(Fault(text, document.where("env_from"), f"export {name} first"))
    return faults


def _disk_faults(looked: Looked, job: Job, folder: RunFolder) -> list[Fault]:
    if looked.checkpoint_bytes is None:
        return []
    # One more than is kept: the new one is written before the oldest goes.
    needed = looked.checkpoint_bytes * (job.checkpoints.keep + 1)
    place = folder.path
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free >= needed:
        return []
    text = f"{show_bytes(free)} are free, and {job.checkpoints.keep} checkpoints and one in the "
    text += f"making need about {show_bytes(needed)}"
    return [Fault(text, str(place), "free space, keep fewer, or choose another --run-dir")]


def _platform() -> str:
    release = os.uname().release.lower()
    if "microsoft" in release:
        return "wsl"
    return "tegra" if "tegra" in release else sys.platform

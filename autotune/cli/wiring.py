"""Puts the parts together for a job: reads everything, and reports all that is wrong at once."""

import hashlib
import importlib
import json
import os
import pkgutil
import shutil
import sys
from pathlib import Path
from typing import Any

from autotune import rungs as rung_folder
from autotune.cli.deepspeed_file import find_deepspeed
from autotune.cli.devices import Chosen, choose_devices
from autotune.core.allocator import NEW_NAME, OLD_NAME
from autotune.core.carry import CHANGE_DTYPE, RESET_OPTIMIZER
from autotune.core.compatibility import conflicts
from autotune.core.fault import AutotuneError, Fault, InputError, nearest
from autotune.core.job import Job
from autotune.core.memory.reading import read_shape
from autotune.core.plan import Device
from autotune.core.policy import Policy
from autotune.core.rung import Rung, Surroundings
from autotune.core.units import show_bytes
from autotune.frameworks.finetune import Finetune, FinetuneSettings
from autotune.frameworks.framework import Looked
from autotune.ground import Ground
from autotune.world.dataset import check_dataset
from autotune.world.environment import missing_names, training_python, versions
from autotune.world.gpu import find_gpus
from autotune.world.model_folder import read_model, tokenizer_faults, weight_bytes
from autotune.world.policy_file import find_policy, load_policy
from autotune.world.run_folder import RunFolder
from autotune.world.signature_file import load_signatures
from autotune.world.yaml_files import Document, read_document, validate

# A full checkpoint under ZeRO in 16-bit training: weights twice (once for people, once for
# DeepSpeed) and fp32 master, exp_avg and exp_avg_sq.
CHECKPOINT_BYTES_PER_PARAMETER = 2 + 2 + 12
CONSENTS = (RESET_OPTIMIZER, CHANGE_DTYPE)  # what a carry may need


def all_rungs() -> dict[str, Rung]:
    """Return every rung of the folder by name; the folder is the registry."""
    found = {}
    for module in pkgutil.iter_modules(rung_folder.__path__):
        rung: Rung = importlib.import_module(f"autotune.rungs.{module.name}").RUNG
        found[rung.name] = rung
    return found


def run_folder_of(job: Job, job_file: Path, named: Path | None) -> RunFolder:
    """Return where a job's run lives: as named, or runs/NAME beside the job file."""
    return RunFolder(named.absolute() if named else job_file.absolute().parent / "runs" / job.name)


def identity(job: Job) -> str:
    """Return what makes two files the same job: limits and permissions may be edited between."""
    return digest_of([job.name, job.framework, job.settings, job.batch.global_])


def digest_of(value: Any) -> str:
    """Return what names this content of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class Survey:
    """Collects faults while a job is looked at, so that all are reported at once."""

    def __init__(self) -> None:
        """Begin with none."""
        self.faults: list[Fault] = []

    def attempt(self, look: Any, *arguments: Any) -> Any:
        """Return what `look` returns, or None when it found faults, which are kept."""
        try:
            return look(*arguments)
        except AutotuneError as error:
            self.faults += error.faults
            return None

    def end(self) -> None:
        """Raise InputError when anything is wrong."""
        if self.faults:
            raise InputError(*self.faults)


def lay_ground(job_file: Path, run_dir: Path | None, run_id: str) -> Ground:
    """Return all that a run needs to know; raises InputError with everything that is wrong."""
    document = read_document(job_file.absolute())
    survey = Survey()
    rungs = all_rungs()
    job = survey.attempt(validate, Job, document)
    settings = survey.attempt(_settings, document)
    if job is None:
        survey.faults += _policy_faults(document, rungs)
        survey.end()
    policy = survey.attempt(_policy, job, document, rungs)
    survey.faults += _name_faults(job, document, rungs)
    python = training_python(job.python, document.path.parent)
    installed: dict[str, str] = survey.attempt(versions, python) or {}
    gpus = find_gpus()
    where = document.where("devices", "use")
    chosen = survey.attempt(choose_devices, job, gpus, installed, where) or Chosen("cpu", (), 1)
    device, gpu_indices, ranks = chosen.device, chosen.indices, chosen.ranks
    gpus.indices = gpu_indices or None
    framework, where = Finetune(), document.where("settings")
    looked = Looked() if settings is None else _look(settings, document, ranks, installed)
    survey.faults += looked.faults
    survey.faults += framework.faults(job, looked, ranks, where) if settings else []
    folder = run_folder_of(job, document.path, run_dir)
    survey.faults += _disk_faults(looked, job, folder)
    survey.end()
    start = framework.start(job, looked, ranks)
    survey.faults += _limit_faults(job, policy, device, document)
    clashes = conflicts(start, device, installed)
    survey.faults += [Fault(row.why, where, f"source: {row.source}") for row in clashes]
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
        gpu_indices=gpu_indices,
        gpus=gpus,
        signatures=load_signatures(device=device),
        around=Surroundings(
            device=device,
            knobs=framework.knobs,
            versions=installed,
            has_evaluation=framework.has_evaluation(job),
            packing=framework.packs(job),
            platform=_platform(),
            gpus=gpu_indices,
        ),
        start=start,
        inputs=looked.inputs,
    )


def _limit_faults(job: Job, policy: Policy, device: Device, document: Document) -> list[Fault]:
    limit, context = job.devices.memory_limit, policy.limits.cuda_context
    if device == "cpu" or limit is None or limit > context:
        return []
    text = f"`memory_limit` leaves nothing beside the {show_bytes(context)} that CUDA itself takes "
    text += "(`cuda_context` of the policy)"
    return [Fault(text, document.where("devices", "memory_limit"), "allow more memory")]


def _settings(document: Document) -> FinetuneSettings | None:
    """Return the settings; nothing where the job's own shape already says what is wrong."""
    if not isinstance(document.value, dict) or not isinstance(document.value.get("settings"), dict):
        return None
    return validate(FinetuneSettings, document, "settings")


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
    for name in missing_names(job.env_from):
        text = f"`{name}` is to be passed through, and our environment does not hold it"
        faults.append(Fault(text, document.where("env_from"), f"export {name} first"))
    return faults


def _look(
    settings: FinetuneSettings, document: Document, ranks: int, installed: dict[str, str]
) -> Looked:
    folder = document.path.parent
    faults: list[Fault] = []
    if isinstance(settings.model, dict):
        config: dict[str, Any] | None = settings.model
        if "model_type" not in settings.model:
            text = "the architecture config names no `model_type`"
            faults.append(Fault(text, document.where("settings", "model"), "e.g. llama"))
    else:
        config, found = read_model(folder / settings.model)
        faults += found
    tokenizer = settings.tokenizer or (settings.model if isinstance(settings.model, str) else None)
    if tokenizer is not None and (folder / tokenizer).is_dir():
        faults += tokenizer_faults(folder / tokenizer)
    elif settings.tokenizer is not None:
        text = "the tokenizer folder does not exist"
        faults.append(Fault(text, str(folder / settings.tokenizer), "check the path"))
    inputs = {}
    inputs["data.train"], found = check_dataset(folder / settings.data.train)
    faults += found
    if settings.data.eval is not None:
        inputs["data.eval"], found = check_dataset(folder / settings.data.eval)
        faults += found
    found_deepspeed = find_deepspeed(settings, document, ranks, installed.get("deepspeed"))
    faults += found_deepspeed.faults
    deepspeed = found_deepspeed.config
    inputs["deepspeed"] = digest_of(deepspeed)
    inputs["model"] = digest_of(config)
    shape = read_shape(config or {}) if settings.method == "full" else ""
    size = None if isinstance(shape, str) else shape.parameters * CHECKPOINT_BYTES_PER_PARAMETER
    allocator = os.environ.get(NEW_NAME, os.environ.get(OLD_NAME, ""))
    held = 0 if isinstance(settings.model, dict) else weight_bytes(folder / settings.model)
    notes = found_deepspeed.notes
    return Looked(config, tuple(faults), inputs, size, deepspeed, allocator, held, notes)


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

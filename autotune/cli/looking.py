"""Looks at everything a job names by path: its model, its data, its tool's own files."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.cli.deepspeed_file import find_deepspeed
from autotune.core.allocator import NEW_NAME, OLD_NAME
from autotune.core.fault import Fault
from autotune.core.job import Job
from autotune.core.memory.reading import read_shape
from autotune.frameworks.finetune_parts import FinetuneSettings
from autotune.frameworks.foreign import foreign_of
from autotune.frameworks.framework import Framework, Looked
from autotune.world.dataset import check_dataset
from autotune.world.files import read_json
from autotune.world.hub_cache import cached_at_modelscope, cached_model
from autotune.world.model_folder import read_model, tokenizer_faults, weight_bytes
from autotune.world.own_files import OwnFiles, read_own
from autotune.world.yaml_files import Document

# A full checkpoint under ZeRO in 16-bit training: weights twice (once for people, once for
# DeepSpeed) and fp32 master, exp_avg and exp_avg_sq.
CHECKPOINT_BYTES_PER_PARAMETER = 2 + 2 + 12


def digest_of(value: Any) -> str:
    """Return what names this content of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def allocator_given() -> str:
    """Return the allocator's settings of the environment that the training inherits."""
    return os.environ.get(NEW_NAME, os.environ.get(OLD_NAME, ""))


def look(
    settings: FinetuneSettings, document: Document, ranks: int, installed: dict[str, str]
) -> Looked:
    """Return what lies at the paths that a job of the built-in trainer names."""
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
    held = 0 if isinstance(settings.model, dict) else weight_bytes(folder / settings.model)
    return Looked(
        model_config=config,
        faults=tuple(faults),
        inputs=inputs,
        checkpoint_bytes=_checkpoint_bytes(config) if settings.method == "full" else None,
        deepspeed=deepspeed,
        allocator=allocator_given(),
        weight_bytes=held,
        notes=found_deepspeed.notes,
        versions=installed,
    )


def look_at_own(
    job: Job, framework: Framework, job_folder: Path, installed: Mapping[str, str]
) -> Looked:
    """Return what lies at the paths that a tool's own command and configuration name."""
    settings = foreign_of(job)
    folder = job_folder / settings.folder
    if not folder.is_dir():
        hint = "check `folder`; it is read against the folder of the job file"
        fault = Fault("the folder where the tool is to start does not exist", str(folder), hint)
        return Looked(faults=(fault,), versions=installed)

    def wants(found: OwnFiles) -> tuple[str, ...]:
        so_far = Looked(texts=found.texts, documents=found.documents, versions=installed)
        return framework.wants(job, so_far)

    own = read_own(folder, wants)
    looked = Looked(
        faults=tuple(own.faults),
        inputs={name: digest_of(text) for name, text in own.texts.items()},
        allocator=allocator_given(),
        texts=own.texts,
        documents=own.documents,
        versions=installed,
    )
    return looked if own.faults else _with_model(looked, job, framework, folder)


def _with_model(looked: Looked, job: Job, framework: Framework, folder: Path) -> Looked:
    named = foreign_of(job).model
    faults, held = looked.faults, 0
    model = named or framework.model(job, looked)
    if isinstance(model, str):
        place = folder / model
        if not place.exists():
            env = {**os.environ, **job.env}
            theirs = framework.asks_modelscope(job, looked, env)
            find = cached_at_modelscope if theirs else cached_model
            place = find(model, env) or place
        config = read_json(place if place.suffix == ".json" else place / "config.json", links=True)
        if named and not isinstance(config, dict):
            hint = "name a model folder or its config.json, or leave `model` out"
            faults += (Fault("the model's config cannot be read", str(place), hint),)
        held = weight_bytes(place) if place.is_dir() else 0
    else:
        config = dict(model) if model is not None else None
    config = config if isinstance(config, dict) else None
    return Looked(
        **{
            **vars(looked),
            "faults": faults,
            "model_config": config,
            "weight_bytes": held,
            "inputs": {**looked.inputs, **({"model": digest_of(config)} if config else {})},
        }
    )


def checkpoint_bytes(looked: Looked, full: bool) -> int | None:
    """Return about how large a checkpoint of full training is; None where nothing says it."""
    return _checkpoint_bytes(looked.model_config) if full else None


def _checkpoint_bytes(config: Mapping[str, Any] | None) -> int | None:
    shape = read_shape(config or {})
    return None if isinstance(shape, str) else shape.parameters * CHECKPOINT_BYTES_PER_PARAMETER

"""What a job file asks of a machine, read without refusing a machine that does not offer it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autotune.cli.deepspeed_file import find_deepspeed
from autotune.cli.looking import CHECKPOINT_BYTES_PER_PARAMETER
from autotune.cli.wiring import run_folder_of
from autotune.core.doctor.facts import Needs
from autotune.core.fault import InputError
from autotune.core.job import Job
from autotune.core.memory.reading import read_shape
from autotune.frameworks.finetune_parts import FinetuneSettings
from autotune.world.environment import training_python
from autotune.world.model_folder import read_model
from autotune.world.yaml_files import Document, read_document, validate


@dataclass(frozen=True)
class Asked:
    """Where a job would run, and what it needs there; without a job the place we are at."""

    python: str
    run_folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    needs: Needs = field(default_factory=Needs)


def asked_of(job_file: Path | None) -> Asked:
    """Return what the job asks; raises InputError with what is wrong with the file itself."""
    if job_file is None:
        return Asked(training_python(None, Path.cwd()), Path.cwd())
    document = read_document(job_file.absolute())
    job = validate(Job, document)
    use = job.devices.use
    needs = Needs(
        named=True,
        device="cuda" if isinstance(use, list) else "",
        ranks=len(use) if isinstance(use, list) else use if isinstance(use, int) else None,
        host_memory_limit=job.devices.host_memory_limit is not None,
        memory_limit_bytes=job.devices.memory_limit,
    )
    if job.framework == "finetune":  # what another tool's own configuration asks for is not read
        needs = _of_trainer(needs, job, document)
    return Asked(
        training_python(job.python, document.path.parent),
        run_folder_of(job, document.path, None).path,
        job.env,
        needs,
    )


def _of_trainer(needs: Needs, job: Job, document: Document) -> Needs:
    settings = validate(FinetuneSettings, document, "settings")
    try:
        config = find_deepspeed(settings, document, needs.ranks or 1, None).config
    except InputError:  # `autotune check` says what is wrong with it
        config = {}
    offloads = _offloads(settings, config.get("zero_optimization") or {})
    return replace(
        needs,
        quantized=settings.method == "qlora",
        eight_bit=settings.optimizer != "adamw",
        ops=_ops(config, offloads),
        pinned=settings.pin_memory or bool(offloads),
        checkpoint_bytes=_checkpoint_bytes(job, settings, document.path.parent),
    )


def _offloads(settings: FinetuneSettings, zero: Mapping[str, Any]) -> set[str]:
    """Return the kinds of devices that state is put out to: cpu, nvme."""
    said = {"cpu"} if settings.offload_optimizer or settings.offload_param else set()
    blocks = (zero.get("offload_optimizer"), zero.get("offload_param"))
    devices = {str(one.get("device")) for one in blocks if isinstance(one, dict)}
    return (said | devices) & {"cpu", "nvme"}


def _ops(config: Mapping[str, Any], offloads: set[str]) -> tuple[str, ...]:
    """Return the ops of DeepSpeed that this configuration makes the trainer load."""
    ops = []
    if "optimizer" in config:
        ops.append("cpu_adam" if offloads else "fused_adam")
    if "nvme" in offloads:
        ops.append("async_io")
    return tuple(ops)


def _checkpoint_bytes(job: Job, settings: FinetuneSettings, folder: Path) -> int | None:
    """Return what the checkpoints of a full training take; None where it cannot be told."""
    if settings.method != "full":
        return None
    held = settings.model
    config = held if isinstance(held, dict) else read_model(folder / held)[0]
    shape = read_shape(config or {})
    if isinstance(shape, str):
        return None
    return shape.parameters * CHECKPOINT_BYTES_PER_PARAMETER * (job.checkpoints.keep + 1)

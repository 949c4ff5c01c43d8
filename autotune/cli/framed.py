"""Sees a job through its framework's eyes: settings, files, ranks, batches and where it starts."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from autotune.cli.devices import Chosen
from autotune.cli.looking import checkpoint_bytes, look, look_at_own
from autotune.cli.survey import Survey
from autotune.core.fault import Fault, InputError
from autotune.core.job import Batch, Devices, Job
from autotune.core.plan import Plan
from autotune.frameworks.finetune_parts import FinetuneSettings
from autotune.frameworks.foreign import Foreign, command_of, settings_with
from autotune.frameworks.framework import Framework, Looked
from autotune.frameworks.known import FRAMEWORKS
from autotune.frameworks.several import node_faults
from autotune.world.yaml_files import Document, validate

BUILT_IN = "finetune"


@dataclass(frozen=True)
class Framed:
    """A job with everything filled in that its framework reads elsewhere; no plan where faulty."""

    job: Job
    looked: Looked
    chosen: Chosen
    start: Plan | None


def framework_named(document: Document) -> Framework:
    """Return the framework that the job file names; the built-in trainer where it names none."""
    named = document.value.get("framework") if isinstance(document.value, dict) else None
    found = FRAMEWORKS.get(named) if isinstance(named, str) else None
    return found or FRAMEWORKS[BUILT_IN]


def settings_in(document: Document, framework: Framework) -> BaseModel | None:
    """Return the settings; nothing where the job's own shape already says what is wrong."""
    given = document.value.get("settings") if isinstance(document.value, dict) else None
    if isinstance(given, str):
        if framework.usual(given) is not None:
            return Foreign(config=given)
        text = f"`settings` names a file, and {framework.name} has no configuration file of its own"
        hint = "write the settings out; the README lists them"
        raise InputError(Fault(text, document.where("settings"), hint))
    if not isinstance(given, dict):
        return None
    return validate(framework.schema, document, "settings")


def frame(
    job: Job,
    settings: BaseModel | None,
    framework: Framework,
    document: Document,
    installed: dict[str, str],
    choose: Callable[[Job, str], Chosen],
    survey: Survey,
) -> Framed:
    """Return the job as its framework sees it; `survey` collects what is wrong.

    `choose` gives it its devices, or raises InputError that names the place it is given.
    """
    where, sound = document.where("settings"), settings is not None
    looked = Looked()
    if isinstance(settings, Foreign):
        job = _written_out(job, settings, framework, where)
        looked = look_at_own(job, framework, document.path.parent, installed)
        survey.faults += looked.faults
        survey.faults += node_faults(job, command_of(job), where)
        sound = not looked.faults
    said = framework.ranks(job, looked) if sound else None
    at = document.where("devices", "use")
    survey.faults += _rank_faults(job, said, at)
    chosen = survey.attempt(choose, _with_ranks(job, said), at)
    chosen = chosen or Chosen("cpu", (), 1)
    world_size = chosen.ranks * job.launcher.nodes
    if survey.passing:  # what rests on the devices cannot be judged before they are known
        return Framed(job, looked, chosen, None)
    if isinstance(settings, FinetuneSettings):
        looked = look(settings, document, world_size, installed)
        survey.faults += looked.faults
    if not sound:
        return Framed(job, looked, chosen, None)
    batch = framework.batch(job, looked, world_size)
    if isinstance(batch, Fault):
        at = batch.where or document.where("batch")
        survey.faults.append(dataclasses.replace(batch, where=at))
        return Framed(job, looked, chosen, None)
    survey.faults += _batch_faults(job, batch, document.where("batch"))
    job = job.model_copy(update={"batch": batch})
    survey.faults += framework.faults(job, looked, world_size, where)
    if survey.faults:
        return Framed(job, looked, chosen, None)
    pins = tuple(job.pins.packages) if job.pins.use == "always" else ()
    start = framework.start(job, looked, world_size).but(pins=pins)
    survey.faults += _deepspeed_faults(start, installed, where)
    if isinstance(settings, Foreign):
        notes = (*looked.notes, *framework.notes(job, looked, world_size, where))
        size = checkpoint_bytes(looked, start.method == "full")
        looked = dataclasses.replace(looked, notes=notes, checkpoint_bytes=size)
    return Framed(job, looked, chosen, start)


def _written_out(job: Job, settings: Foreign, framework: Framework, where: str) -> Job:
    """Return the job with the tool's usual command where only its config file was named."""
    if settings.config is None:
        return job
    usual = framework.usual(settings.config)
    if usual is None:
        text = f"{framework.name} has no usual command for a configuration file alone"
        raise InputError(Fault(text, where, "write the command out under `command`"))
    given: dict[str, Any] = settings_with(job, config=None, command=list(usual))
    return job.model_copy(update={"settings": given})


def _with_ranks(job: Job, said: int | None) -> Job:
    if said is None or job.devices.use != "auto":
        return job
    devices = Devices.model_validate({**job.devices.model_dump(), "use": said})
    return job.model_copy(update={"devices": devices})


def _rank_faults(job: Job, said: int | None, where: str) -> list[Fault]:
    use = job.devices.use
    given = len(use) if isinstance(use, list) else use
    if said is None or given in ("auto", said):
        return []
    text = f"the command starts {said} ranks, and `devices.use` is {use}"
    return [Fault(text, where, "make the two agree, or leave `devices.use` out")]


def _batch_faults(job: Job, batch: Batch, where: str) -> list[Fault]:
    if job.batch is None or job.batch == batch:
        return []
    text = f"the tool's own configuration makes batches of {batch.micro}, {batch.global_} in all, "
    text += f"and the job says {job.batch.micro} and {job.batch.global_}"
    return [Fault(text, where, "make the two agree, or take `batch` out of the job")]


def _deepspeed_faults(start: Plan, installed: Mapping[str, str], where: str) -> list[Fault]:
    if start.zero_stage == 0 or "deepspeed" in installed or not installed:
        return []
    text = "the training runs under DeepSpeed, which is not installed in the job's Python"
    return [Fault(text, where, "install it there: pip install deepspeed")]

"""LLaMA-Factory: `llamafactory-cli train` on the user's YAML, under its own torchrun launcher."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from autotune.core.fault import Fault
from autotune.core.job import Batch, Job, absolute
from autotune.core.plan import Plan
from autotune.frameworks.foreign import Foreign, foreign_of, settings_with
from autotune.frameworks.framework import KnownGood, Looked, Program, Setting, Trained
from autotune.frameworks.llamafactory_config import CLI, Given, read, wanted
from autotune.frameworks.llamafactory_data import dataset_faults
from autotune.frameworks.llamafactory_keys import unknown_key_faults, version_faults
from autotune.frameworks.llamafactory_plan import (
    changes_of,
    fields_of,
    lacks_of,
    own_of,
    rooted,
    trained_of,
)
from autotune.frameworks.llamafactory_rules import Seen, refusals
from autotune.frameworks.plain_yaml import to_yaml
from autotune.frameworks.trainer import (
    batch_in,
    evaluates,
    faults_of,
    notes_of,
    plan_of,
    strange_optimizer,
)
from autotune.frameworks.trainer_changes import changes_for, plan_changes, relaunch

TRAIN_FILE = "train.yaml"  # of the attempt, and of the known-good
# Its launcher's own switches; what the user says of them was for another start than ours.
_LAUNCH = (
    "FORCE_TORCHRUN", "NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT",
    "MAX_RESTARTS", "OPTIM_TORCH", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip


class LlamaFactory:
    """Trainings of LLaMA-Factory: sft, pt, dpo, kto, and rm with LoRA."""

    name = "llamafactory"
    schema = Foreign
    needs: tuple[str, ...] = (
        "llamafactory", "torch", "transformers", "datasets", "peft", "accelerate", "trl",
    )  # fmt: skip
    surveys = False
    proves = True

    def usual(self, config: str) -> tuple[str, ...]:
        """Return the command that trains a YAML."""
        return (CLI, "train", config)

    def wants(self, job: Job, looked: Looked) -> tuple[str, ...]:
        """Return the YAML, then the DeepSpeed configuration and the list of datasets it names."""
        return wanted(job, looked)

    def lacks(self, job: Job, looked: Looked) -> Mapping[str, str]:
        """Return the settings for which LLaMA-Factory has no key."""
        given = read(job, looked)
        return {} if isinstance(given, Fault) else lacks_of(given, own_of(job, looked, given))

    def ranks(self, job: Job, looked: Looked) -> int | None:
        """Return how many ranks the command starts, where it says so."""
        given = read(job, looked)
        if isinstance(given, Fault):
            return None
        said = given.environment.get("NPROC_PER_NODE", "")
        devices = given.line.call.devices
        if said.isdecimal() and int(said) > 0:
            return int(said)
        return given.line.call.processes or (len(devices) if devices else None)

    def batch(self, job: Job, looked: Looked, ranks: int) -> Batch | Fault:
        """Return the batches of the YAML."""
        given = read(job, looked)
        return given if isinstance(given, Fault) else batch_in(own_of(job, looked, given), ranks)

    def model(self, job: Job, looked: Looked) -> str | Mapping[str, Any] | None:
        """Return the model that the job or the YAML names; it may be one of a hub."""
        given, named = read(job, looked), foreign_of(job).model
        if named is not None or isinstance(given, Fault):
            return named
        return given.text("model_name_or_path") or None

    def asks_modelscope(self, job: Job, looked: Looked, environment: Mapping[str, str]) -> bool:
        """Return whether names of models are ModelScope's: where its switch is on."""
        given = read(job, looked)
        if isinstance(given, Fault):
            return False
        both = {**environment, **given.environment}
        return replace(given, environment=both).enabled("USE_MODELSCOPE_HUB")

    def start(self, job: Job, looked: Looked, world_size: int) -> Plan:
        """Return the plan of the YAML as it stands."""
        given = _sound(job, looked)
        return _start(given, job, looked, world_size)

    def faults(self, job: Job, looked: Looked, world_size: int, where: str) -> list[Fault]:
        """Return what LLaMA-Factory, or a training under autotune, would fail on."""
        given = read(job, looked)
        if isinstance(given, Fault):
            return [Fault(given.what, given.where or where, given.hint)]
        at = given.line.file or where
        own = own_of(job, looked, given)
        faults = [*version_faults(given, looked.versions, where), *_launch_faults(given, where)]
        faults += unknown_key_faults(given, looked.versions, at)
        faults += faults_of(own, world_size, at)
        faults += refusals(given, _start(given, job, looked, world_size).zero_stage, at)
        faults += dataset_faults(given, looked.documents)
        return faults

    def notes(self, job: Job, looked: Looked, world_size: int, where: str) -> list[Fault]:
        """Return what is changed under every plan, and what may surprise."""
        given = _sound(job, looked)
        at = given.line.file or where
        notes = notes_of(own_of(job, looked, given), world_size, at)
        if given.text("tokenized_path"):
            text = "rows that lie under `tokenized_path` are taken as they are: `cutoff_len`, "
            text += "`template` and `dataset` are ignored where that folder is there"
            notes.append(Fault(text, at, "take it out after a change of the data"))
        for key, value in (("quantization_bit", "8"), ("finetuning_type", "freeze")):
            if given.text(key) == value:
                text = f"`{key}: {value}` is predicted as if all weights were whole and trained, "
                notes.append(Fault(text + "which is too much", at))
        if given.enabled("ALLOW_EXTRA_ARGS"):
            text = "under ALLOW_EXTRA_ARGS a key that LLaMA-Factory does not know has no effect"
            notes.append(Fault(text, where))
        return notes

    def trained(self, job: Job, looked: Looked) -> Trained:
        """Return what decides memory beside the model and the plan."""
        given = _sound(job, looked)
        strange = strange_optimizer(own_of(job, looked, given))
        return replace(trained_of(given, foreign_of(job).sequence), optimizer=strange)

    def has_evaluation(self, job: Job, looked: Looked) -> bool:
        """Return whether there is an evaluation, during the training or at its end."""
        given = _sound(job, looked)
        asked = evaluates(own_of(job, looked, given)) or given.on("do_eval")
        return asked and Seen(given, 0).has_evaluation_data

    def packs(self, job: Job, looked: Looked) -> bool:
        """Return whether rows are put end to end up to `cutoff_len`."""
        given = _sound(job, looked)
        return given.on("neat_packing") or given.on("packing", given.text("stage") == "pt")

    def program(self, setting: Setting) -> Program:
        """Return `llamafactory-cli train` on a copy of the YAML with the plan's values."""
        given = _sound(setting.job, setting.looked)
        own = own_of(setting.job, setting.looked, given)
        start = _start(given, setting.job, setting.looked, setting.plan.world_size)
        changes = changes_for(own, start, setting)
        ours = {**changes.values, **changes_of(given, start, setting.plan)}
        # Without it the newest checkpoint of the folder would be gone on from, unasked.
        ours["overwrite_output_dir"] = setting.resume is None
        if setting.mode == "prove":
            ours |= {"do_predict": False, "plot_loss": False}
        files = {**changes.files, TRAIN_FILE: to_yaml(_merged(given.values, ours))}
        folder = absolute(foreign_of(setting.job).folder, setting.job_folder)
        return _launched(setting, given, files, folder)

    def known_good(self, setting: Setting) -> KnownGood:
        """Return a YAML that `llamafactory-cli train` takes from anywhere, and a job for it."""
        setting = relaunch(setting)
        given = _sound(setting.job, setting.looked)
        own = own_of(setting.job, setting.looked, given)
        start = _start(given, setting.job, setting.looked, setting.plan.world_size)
        changes = plan_changes(own, start, setting)
        ours = {**changes.values, **changes_of(given, start, setting.plan)}
        ours |= {"output_dir": setting.checkpoints, "resume_from_checkpoint": None}
        folder = absolute(foreign_of(setting.job).folder, setting.job_folder)
        here = setting.looked.model_config is not None and foreign_of(setting.job).model is None
        values = rooted(_merged(given.values, ours), folder, with_model=here)
        files = {**changes.files, TRAIN_FILE: _alone(setting) + to_yaml(values)}
        program = _launched(setting, given, files, folder)
        several = setting.meeting.nodes > 1
        left = () if several else ("MASTER_ADDR", "MASTER_PORT")
        env = {k: v for k, v in program.env.items() if k not in left}
        starts = ("FORCE_TORCHRUN", "NPROC_PER_NODE", *(("NNODES",) if several else ()))
        command = [f"{name}={env[name]}" for name in starts if name in env]
        command += [CLI, "train", f"{setting.folder}/{TRAIN_FILE}"]
        named = foreign_of(setting.job).model
        model = None if named is None else absolute(named, folder)
        return KnownGood(
            files=files,
            argv=program.argv,
            settings=settings_with(setting.job, command=command, folder=folder, model=model),
            starts_ranks=program.starts_ranks,
            env=env,
            folder=folder,
            launcher=program.launcher,
        )


def _sound(job: Job, looked: Looked) -> Given:
    given = read(job, looked)
    if isinstance(given, Fault):
        raise AssertionError(f"a faulty configuration is not asked about: {given.what}")
    return given


def _start(given: Given, job: Job, looked: Looked, ranks: int) -> Plan:
    own = own_of(job, looked, given)
    plan = plan_of(own, ranks)
    return plan.but(**fields_of(given, plan))


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**values, **changes}
    gone = {key for key, value in changes.items() if value is None}
    return {key: value for key, value in merged.items() if key not in gone}


def _launched(setting: Setting, given: Given, files: Mapping[str, str], folder: str) -> Program:
    config = f"{setting.folder}/{TRAIN_FILE}"
    env = {k: v for k, v in given.line.call.env if k not in _LAUNCH}
    # With its own setting of the allocator goes this one, which is kept as it was.
    if given.enabled("OPTIM_TORCH", "1"):
        env["TORCH_NCCL_AVOID_RECORD_STREAMS"] = "1"
    env |= {"OPTIM_TORCH": "0", "RECORD_VRAM": "1"}
    if len(config.split()) != 1:
        # Its launcher tears the command apart at spaces; torch's own, which it calls, does not.
        argv: tuple[str, ...] = ("-m", "llamafactory.launcher", config)
        return Program(argv, files, env=env, folder=folder, launcher="torchrun")
    env |= {
        "FORCE_TORCHRUN": "1",
        "NPROC_PER_NODE": str(setting.ranks_here),
        "NNODES": str(setting.meeting.nodes),
        "NODE_RANK": str(setting.meeting.node),
        "MAX_RESTARTS": "0",
        "MASTER_ADDR": setting.meeting.address,
        "MASTER_PORT": str(setting.port),
    }
    script = str(PurePosixPath(setting.python).parent / CLI)
    argv = (setting.python, script, "train", config)
    return Program(argv, files, starts_ranks=True, env=env, folder=folder)


def _alone(setting: Setting) -> str:
    several = ""
    if setting.meeting.nodes > 1:
        several = f"NNODES={setting.meeting.nodes} NODE_RANK=… MASTER_ADDR=… "
    return (
        "# Written by autotune: the plan that ran. Start it from anywhere:\n"
        f"#   FORCE_TORCHRUN=1 {several}NPROC_PER_NODE={setting.ranks_here} "
        f"{CLI} train {TRAIN_FILE}\n"
        "# launch.sh beside this file does the same with the environment that it ran in.\n"
    )


def _launch_faults(given: Given, where: str) -> list[Fault]:
    faults = []
    if "RDZV_ID" in given.environment:
        text = "RDZV_ID lets ranks come and go, which changes what is trained"
        faults.append(Fault(text, where, "take it out"))
    return faults

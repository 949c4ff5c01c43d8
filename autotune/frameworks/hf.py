"""HF Trainer scripts: run_clm.py and any other program that takes TrainingArguments."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autotune.core.fault import Fault
from autotune.core.job import Batch, Job, absolute
from autotune.core.plan import Plan
from autotune.frameworks.arguments import Arguments, Table, flag, integer
from autotune.frameworks.command_line import Call, split
from autotune.frameworks.foreign import Foreign, command_of, foreign_of, settings_with
from autotune.frameworks.framework import KnownGood, LauncherKind, Looked, Program, Setting, Trained
from autotune.frameworks.trainer import (
    Own,
    batch_in,
    evaluates,
    faults_of,
    lacks_of,
    notes_of,
    plan_of,
    strange_optimizer,
    wanted_files,
)
from autotune.frameworks.trainer_changes import (
    Changes,
    alone,
    changes_for,
    plan_changes,
    relaunch,
    trains_alone,
)

ARGUMENTS_FILE = "arguments.json"  # of the attempt, where the user's arguments are a file
# What example scripts call the length of their rows, the most exact first.
LENGTHS = ("block_size", "max_seq_length", "max_length", "model_max_length", "cutoff_len")


@dataclass(frozen=True)
class Line:
    """One command line and what its arguments are, from itself or from the one file it names."""

    call: Call
    file: str | None
    held: Arguments | Table

    def values(self) -> dict[str, Any]:
        """Return every argument by name."""
        return self.held.values()

    def changed(self, changes: Changes, folder: str) -> tuple[tuple[str, ...], dict[str, str]]:
        """Return the arguments as changed, and the files that go into `folder`."""
        held = self.held.changed(changes.values)
        if isinstance(held, Arguments):
            return held.words, dict(changes.files)
        text = json.dumps(held.values(), indent=1) + "\n"
        return (f"{folder}/{ARGUMENTS_FILE}",), {**changes.files, ARGUMENTS_FILE: text}


class Hf:
    """Any script that hands its command line to HfArgumentParser and TrainingArguments."""

    name = "hf"
    schema = Foreign
    needs: tuple[str, ...] = ("torch", "transformers", "accelerate")
    surveys = False
    proves = True

    def usual(self, _: str) -> None:
        """Return nothing: a configuration alone does not say which script it is for."""

    def wants(self, job: Job, looked: Looked) -> tuple[str, ...]:
        """Return the file of arguments, then the DeepSpeed configuration they name."""
        call = split(command_of(job))
        file = None if isinstance(call, Fault) else _arguments_file(call)
        if file is not None and file not in looked.documents:
            return (file,)
        line = _line(job, looked)
        return () if isinstance(line, Fault) else wanted_files(line.values())

    def lacks(self, job: Job, looked: Looked) -> Mapping[str, str]:
        """Return the settings that TrainingArguments have no key for."""
        line = _line(job, looked)
        return {} if isinstance(line, Fault) else lacks_of(_own(job, looked, line))

    def ranks(self, job: Job, looked: Looked) -> int | None:
        """Return how many ranks the command starts; a bare script is one."""
        line = _line(job, looked)
        if isinstance(line, Fault):
            return None
        if line.call.kind == "python":
            return 1
        if line.call.processes is None and line.call.devices:
            return len(line.call.devices)
        return line.call.processes or (1 if line.call.kind == "torchrun" else None)

    def batch(self, job: Job, looked: Looked, ranks: int) -> Batch | Fault:
        """Return the batches of the arguments."""
        line = _line(job, looked)
        return line if isinstance(line, Fault) else batch_in(_own(job, looked, line), ranks)

    def model(self, job: Job, looked: Looked) -> str | Mapping[str, Any] | None:
        """Return the model that the job or the arguments name."""
        line = _line(job, looked)
        named = foreign_of(job).model
        if named is not None or isinstance(line, Fault):
            return named
        values = line.values()
        found = values.get("model_name_or_path") or values.get("config_name")
        return found if isinstance(found, str) else None

    def asks_modelscope(self, _: Job, __: Looked, ___: Mapping[str, str]) -> bool:
        """Return whether names of models are ModelScope's: they are not."""
        return False

    def start(self, job: Job, looked: Looked, world_size: int) -> Plan:
        """Return the plan of the arguments as they stand."""
        return plan_of(_own(job, looked, _sound(job, looked)), world_size)

    def faults(self, job: Job, looked: Looked, world_size: int, where: str) -> list[Fault]:
        """Return what is wrong with the command and its arguments."""
        line = _line(job, looked, where)
        if isinstance(line, Fault):
            return [line]
        faults = _launch_faults(line.call, where) + _device_faults(job, looked, line.call, where)
        return faults + faults_of(_own(job, looked, line), world_size, line.file or where)

    def notes(self, job: Job, looked: Looked, world_size: int, where: str) -> list[Fault]:
        """Return what is changed under every plan."""
        own = _own(job, looked, _sound(job, looked))
        notes = notes_of(own, world_size, where)
        on_cpu = looked.versions.get("torch", "").endswith("+cpu")
        if on_cpu and trains_alone(own, world_size) and not own.on("use_cpu"):
            text = "`use_cpu` is switched on: without it this accelerate has each rank train alone"
            notes.append(Fault(text, where))
        return notes

    def trained(self, job: Job, looked: Looked) -> Trained:
        """Return what decides memory beside the model and the plan."""
        values, said = _sound(job, looked).values(), foreign_of(job).sequence
        found = (integer(values.get(name)) for name in LENGTHS)
        sequence = said or next((length for length in found if length), None)
        trusts = flag(values.get("trust_remote_code")) is True
        strange = strange_optimizer(_own(job, looked, _sound(job, looked)))
        return Trained(sequence, trust_remote_code=trusts, optimizer=strange)

    def has_evaluation(self, job: Job, looked: Looked) -> bool:
        """Return whether the arguments ask for evaluation during training."""
        return evaluates(_own(job, looked, _sound(job, looked)))

    def packs(self, job: Job, looked: Looked) -> bool:
        """Return whether rows are cut out of one long text, as scripts with `block_size` do."""
        return "block_size" in _sound(job, looked).values()

    def program(self, setting: Setting) -> Program:
        """Return the script under the plan, launched the way the command launches it."""
        line = _sound(setting.job, setting.looked)
        own = _own(setting.job, setting.looked, line)
        start = plan_of(own, setting.plan.world_size)
        changes = changes_for(own, start, setting)
        if setting.device == "cpu" and trains_alone(own, setting.plan.world_size):
            changes = changes.but(use_cpu=True)
        words, files = line.changed(changes, setting.folder)
        argv, whole, launcher = _launched(line.call, words, setting)
        folder = absolute(foreign_of(setting.job).folder, setting.job_folder)
        env = {**dict(line.call.env), **(alone(setting) if whole else {})}
        return Program(argv, files, False, whole, env, folder, launcher)

    def known_good(self, setting: Setting) -> KnownGood:
        """Return the command with the plan's arguments, and a job that starts there."""
        again = relaunch(setting)
        program = self.program(again)
        return KnownGood(
            files=program.files,
            argv=program.argv,
            settings=_settings_at(again),
            starts_ranks=program.starts_ranks,
            env=program.env,
            folder=program.folder,
            launcher=program.launcher,
        )


def _line(job: Job, looked: Looked, where: str = "") -> Line | Fault:
    call = split(command_of(job), where)
    if isinstance(call, Fault):
        return call
    if call.kind == "tool":
        text = f"`{call.program}` is no Python script, so nothing is known of its arguments"
        return Fault(text, where, "begin with python, torchrun, deepspeed or accelerate launch")
    file = _arguments_file(call)
    if file is None:
        return Line(call, None, Arguments(call.arguments))
    held = looked.documents.get(file)
    if isinstance(held, Fault):
        return held
    if not isinstance(held, Mapping):
        return Fault("the file of arguments is no mapping", file, "write `name: value` lines")
    return Line(call, file, Table(held))


def _sound(job: Job, looked: Looked) -> Line:
    line = _line(job, looked)
    if isinstance(line, Fault):
        raise AssertionError(f"a faulty command is not asked about: {line.what}")
    return line


def _own(job: Job, looked: Looked, line: Line) -> Own:
    env = {**dict(line.call.env), **job.env}
    return Own(job.model_copy(update={"env": env}), line.values(), looked)


def _arguments_file(call: Call) -> str | None:
    """Return the one file that HfArgumentParser's scripts read in place of a command line."""
    if len(call.arguments) != 1:
        return None
    (word,) = call.arguments
    return word if word.endswith((".json", ".yaml", ".yml")) else None


def _launch_faults(call: Call, where: str) -> list[Fault]:
    faults = []
    own = ("config_file", "use_deepspeed", "deepspeed_config_file", "use_fsdp")
    named = [name for name in own if call.option(name) is not None]
    if call.kind == "accelerate" and named:
        text = f"`{named[0]}` has accelerate bring settings of its own, which no plan can change"
        hint = "take it out, and give the script `--deepspeed` with the configuration"
        faults.append(Fault(text, where, hint))
    return faults


def _device_faults(job: Job, looked: Looked, call: Call, where: str) -> list[Fault]:
    if call.devices is None or looked.versions.get("torch", "").endswith("+cpu"):
        return []
    if job.devices.use == list(call.devices):
        return []
    text = "the command names its GPUs, and which ones a job may use is the job's to say"
    return [Fault(text, where, f"write `devices: {{use: {list(call.devices)}}}`")]


def _launched(
    call: Call, words: tuple[str, ...], setting: Setting
) -> tuple[tuple[str, ...], bool, LauncherKind]:
    """Return the argument list, whether it is a whole command, and which launcher it needs."""
    plan = setting.plan
    module = ("-m",) if call.is_module else ()
    if call.kind == "accelerate":
        counts = {"num_processes": plan.world_size, "main_process_port": setting.port}
        options = Arguments(call.options).changed(counts).words
        argv = (
            setting.python, "-m", "accelerate.commands.launch", *options, call.program, *words,
        )  # fmt: skip
        return argv, True, "torchrun"
    # DeepSpeed's launcher puts --local_rank in front, where a file of arguments must stand alone.
    if call.kind == "deepspeed" and _arguments_file(call) is None:
        module = ("--module",) if call.is_module else ()
        return (*module, call.program, *words), False, "deepspeed"
    if call.kind == "python" and plan.world_size == 1 and plan.zero_stage == 0:
        return (setting.python, *module, call.program, *words), True, "torchrun"
    return (*module, call.program, *words), False, "torchrun"


def _settings_at(setting: Setting) -> dict[str, Any]:
    """Return the job's settings with a command that starts at the plan."""
    job, folder = setting.job, setting.job_folder
    given = foreign_of(job)
    line = _sound(job, setting.looked)
    own = _own(job, setting.looked, line)
    start = plan_of(own, setting.plan.world_size)
    words, _ = line.changed(plan_changes(own, start, setting), setting.folder)
    call = replace(line.call, arguments=words)
    if call.processes not in (None, setting.plan.world_size):
        names = ("nproc_per_node", "num_gpus", "num_accelerators", "num_processes")
        counts = {name: setting.plan.world_size for name in names if call.option(name) is not None}
        call = replace(call, options=Arguments(call.options).changed(counts).words)
    place = absolute(given.folder, folder)
    model = None if given.model is None else absolute(given.model, place)
    return settings_with(job, command=list(call.words()), folder=place, model=model)

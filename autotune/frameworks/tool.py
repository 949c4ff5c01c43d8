"""What tools with a command, a configuration file and HF Trainer beneath it have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from types import NoneType
from typing import Any

from autotune.core.fault import Fault
from autotune.core.job import Batch, Job, absolute
from autotune.core.plan import Plan
from autotune.frameworks import trainer
from autotune.frameworks.arguments import Arguments, Table
from autotune.frameworks.command_line import Call, split
from autotune.frameworks.foreign import Foreign, command_of, foreign_of, settings_with
from autotune.frameworks.framework import KnownGood, Looked, Program, Setting, Trained
from autotune.frameworks.trainer import Own
from autotune.frameworks.trainer_changes import alone, changes_for, relaunch
from autotune.frameworks.trainer_keys import HF, Habits

TRAIN_FILE = "train.yaml"  # of the attempt: the changed copy of the tool's configuration


@dataclass(frozen=True)
class Given:
    """The user's own configuration: what stands in the file, and the command line over it."""

    call: Call
    file: str | None
    table: Mapping[str, Any]
    line: Arguments

    def values(self) -> dict[str, Any]:
        """Return every argument as the tool reads it."""
        return {**self.table, **self.line.values()}

    def changed(self, changes: Mapping[str, Any]) -> "Given":
        """Return it with these arguments in the file, and on the line no more."""
        line = self.line.changed(dict.fromkeys(changes))
        return replace(self, table=Table(self.table).changed(changes).values(), line=line)


class Tool:
    """One such tool; what is its own it says by the methods that others do not have."""

    name = ""
    schema = Foreign
    needs: tuple[str, ...] = ("torch", "transformers", "accelerate")
    surveys = False
    proves = True
    habits: Habits = HF

    def parts(self, _call: Call, /) -> tuple[str | None, Arguments] | Fault:
        """Return the configuration file that a command names, and the options over it."""
        raise NotImplementedError

    def values(self, given: Given, _looked: Looked, _ranks: int, /) -> dict[str, Any]:
        """Return the arguments with the tool's own defaults, under TrainingArguments' meaning."""
        return given.values()

    def fields(self, _own: Own, /) -> dict[str, Any]:
        """Return the settings of the plan that only this tool knows."""
        return {}

    def more_lacks(self, _own: Own, /) -> Mapping[str, str | None]:
        """Return what this tool lacks besides; None for what it does have a knob for."""
        return {}

    def changes(self, _own: Own, _start: Plan, _wanted: Plan, /) -> dict[str, Any]:
        """Return what a plan changes in the tool's own arguments."""
        return {}

    def more_faults(self, _own: Own, _given: Given, _where: str, /) -> list[Fault]:
        """Return what is wrong beyond what TrainingArguments would refuse."""
        return []

    def more_notes(self, _own: Own, _given: Given, _where: str, /) -> list[Fault]:
        """Return what this tool does that may surprise."""
        return []

    def more_files(self, _given: Given, /) -> tuple[str, ...]:
        """Return further files that the configuration names."""
        return ()

    def environment(self, _given: Given, /) -> dict[str, str]:
        """Return what the configuration itself puts into the environment."""
        return {}

    def launched(
        self, _given: Given, _setting: Setting, /
    ) -> tuple[tuple[str, ...], dict[str, str]]:
        """Return the whole command on the attempt's copy, and the files it reads."""
        raise NotImplementedError

    def relaunched(self, _given: Given, _setting: Setting, /) -> tuple[str, ...]:
        """Return the command as a user types it, on the known-good's own file."""
        raise NotImplementedError

    def usual(self, _config: str, /) -> tuple[str, ...] | None:
        """Return the tool's usual command on its own config file; None where there is none."""
        return None

    def wants(self, job: Job, looked: Looked) -> tuple[str, ...]:
        """Return the configuration, then the files that it and the command line name."""
        call = split(command_of(job))
        parts = call if isinstance(call, Fault) else self.parts(call)
        if isinstance(parts, Fault):
            return ()
        file = parts[0]
        given = self.given(job, looked)
        if isinstance(given, Fault):
            return () if file is None else (file,)
        found = trainer.wanted_files(self.values(given, looked, 1))
        return (*(() if file is None else (file,)), *found, *self.more_files(given))

    def given(self, job: Job, looked: Looked, where: str = "") -> Given | Fault:
        """Return the user's configuration, or the fault that keeps it from being understood."""
        call = split(command_of(job), where)
        parts = call if isinstance(call, Fault) else self.parts(call)
        if isinstance(call, Fault):
            return call
        if isinstance(parts, Fault):
            return replace(parts, where=parts.where or where)
        file, line = parts
        held = {} if file is None else looked.documents.get(file)
        if isinstance(held, Fault):
            return held
        if not isinstance(held, Mapping):
            hint = "write one `name: value` on each line"
            return Fault(f"{file} holds no settings by name", file or where, hint)
        return Given(call, file, {str(key): value for key, value in held.items()}, line)

    def own(self, job: Job, looked: Looked, given: Given, ranks: int) -> Own:
        """Return the arguments as TrainingArguments mean them, and the whole environment."""
        env = {**self.environment(given), **dict(given.call.env), **job.env}
        values = self.values(given, looked, ranks)
        return Own(job.model_copy(update={"env": env}), values, looked, self.habits)

    def ranks(self, job: Job, looked: Looked) -> int | None:
        """Return how many ranks the command starts, where it says so."""
        given = self.given(job, looked)
        if isinstance(given, Fault):
            return None
        said = given.call.processes
        return said or (len(given.call.devices) if given.call.devices else None)

    def lacks(self, job: Job, looked: Looked) -> Mapping[str, str]:
        """Return the settings of a plan that the tool has no knob for."""
        given = self.given(job, looked)
        if isinstance(given, Fault):
            return {}
        own = self.own(job, looked, given, 1)
        every = {**trainer.lacks_of(own), **self.more_lacks(own)}
        return {name: why for name, why in every.items() if why is not None}

    def batch(self, job: Job, looked: Looked, ranks: int) -> Batch | Fault:
        """Return the batches of the user's own configuration."""
        given = self.given(job, looked)
        if isinstance(given, Fault):
            return given
        return trainer.batch_in(self.own(job, looked, given, ranks), ranks)

    def model(self, job: Job, looked: Looked) -> str | Mapping[str, Any] | None:
        """Return the model that the job or the configuration names."""
        given, named = self.given(job, looked), foreign_of(job).model
        if named is not None or isinstance(given, Fault):
            return named
        found = self.values(given, looked, 1).get("model_name_or_path")
        return found if isinstance(found, str) else None

    def asks_modelscope(self, _: Job, __: Looked, ___: Mapping[str, str]) -> bool:
        """Return whether names of models are ModelScope's: they are not."""
        return False

    def start(self, job: Job, looked: Looked, world_size: int) -> Plan:
        """Return the plan of the configuration as it stands."""
        return self._start(self.own(job, looked, self._sound(job, looked), world_size), world_size)

    def faults(self, job: Job, looked: Looked, world_size: int, where: str) -> list[Fault]:
        """Return what is wrong with the command and the configuration."""
        given = self.given(job, looked, where)
        if isinstance(given, Fault):
            return [given]
        own, place = self.own(job, looked, given, world_size), given.file or where
        if not isinstance(own.values.get("deepspeed"), (str, Mapping, NoneType)):
            text = f"`deepspeed` is {own.values['deepspeed']!r}, neither a file nor a configuration"
            return [Fault(text, place, "name the file")]
        found = trainer.faults_of(own, world_size, place)
        return found + self.more_faults(own, given, place)

    def notes(self, job: Job, looked: Looked, world_size: int, where: str) -> list[Fault]:
        """Return what is changed under every plan, and what may surprise."""
        given = self._sound(job, looked)
        own, place = self.own(job, looked, given, world_size), given.file or where
        return trainer.notes_of(own, world_size, place) + self.more_notes(own, given, place)

    def trained(self, job: Job, looked: Looked) -> Trained:
        """Return what decides memory beside the model and the plan."""
        own = self.own(job, looked, self._sound(job, looked), 1)
        said = self.trains(own)
        sequence = foreign_of(job).sequence or said.sequence
        return replace(said, sequence=sequence, optimizer=trainer.strange_optimizer(own))

    def trains(self, _own: Own, /) -> Trained:
        """Return the same as the configuration alone says it."""
        return Trained(None)

    def has_evaluation(self, job: Job, looked: Looked) -> bool:
        """Return whether the configuration asks for evaluation during training."""
        return trainer.evaluates(self.own(job, looked, self._sound(job, looked), 1))

    def packs(self, job: Job, looked: Looked) -> bool:
        """Return whether rows are put end to end."""
        return self.own(job, looked, self._sound(job, looked), 1).on("packing")

    def program(self, setting: Setting) -> Program:
        """Return the tool's own command on a changed copy of its configuration."""
        given, named = self._changed(setting)
        argv, files = self.launched(given, setting)
        folder = absolute(foreign_of(setting.job).folder, setting.job_folder)
        before = self._sound(setting.job, setting.looked)
        env = {**self.environment(before), **dict(given.call.env), **self.ours(setting)}
        env |= alone(setting)
        return Program(argv, {**files, **named}, starts_ranks=True, env=env, folder=folder)

    def ours(self, _setting: Setting, /) -> dict[str, str]:
        """Return the environment by which the tool is told of its ranks."""
        return {}

    def known_good(self, setting: Setting) -> KnownGood:
        """Return the tool's own configuration of this plan, and a job that starts there."""
        again = relaunch(setting)
        program, (given, _) = self.program(again), self._changed(again)
        place = absolute(foreign_of(setting.job).folder, setting.job_folder)
        model = foreign_of(setting.job).model
        settings = settings_with(
            setting.job,
            command=list(self.relaunched(given, again)),
            folder=place,
            model=None if model is None else absolute(model, place),
        )
        return KnownGood(
            files=program.files,
            argv=program.argv,
            settings=settings,
            starts_ranks=True,
            env=program.env,
            folder=program.folder,
        )

    def _start(self, own: Own, ranks: int) -> Plan:
        return trainer.plan_of(own, ranks, **self.fields(own))

    def _changed(self, setting: Setting) -> tuple[Given, dict[str, str]]:
        """Return the configuration under the plan, and the files that it names then."""
        given = self._sound(setting.job, setting.looked)
        own = self.own(setting.job, setting.looked, given, setting.plan.world_size)
        start = self._start(own, setting.plan.world_size)
        shared = changes_for(own, start, setting)
        changes = {**shared.values, **self.changes(own, start, setting.plan)}
        return given.changed(changes), dict(shared.files)

    def _sound(self, job: Job, looked: Looked) -> Given:
        given = self.given(job, looked)
        if isinstance(given, Fault):
            raise AssertionError(f"a faulty command is not asked about: {given.what}")
        return given


def script(python: str, name: str) -> str:
    """Return a console script of the job's Python."""
    return str(PurePosixPath(python).parent / name)

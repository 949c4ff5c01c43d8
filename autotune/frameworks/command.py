"""Any command: its named places are the knobs it has; without them only its surroundings are ours.

`{micro_batch=8}` in a word is filled in for each attempt, a value behind `=` says where the plan
starts. A program that takes a DeepSpeed configuration names it with `{deepspeed_config=ds.json}`.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from autotune.core.allocator import NEW_NAME, OLD_NAME, parse
from autotune.core.fault import Fault
from autotune.core.job import Batch, Job, absolute, batch_of
from autotune.core.plan import BLOCKING, Plan
from autotune.frameworks import ds_plan
from autotune.frameworks.batch import batch_faults
from autotune.frameworks.command_line import split, under
from autotune.frameworks.ds_config import DEFAULT_BUCKET
from autotune.frameworks.ds_remark import PLAIN
from autotune.frameworks.foreign import Foreign
from autotune.frameworks.framework import KnownGood, Looked, Program, Setting, Trained
from autotune.frameworks.placeholders import (
    CONFIG,
    FIELDS,
    FROM_OUTSIDE,
    OUTPUT,
    RESUME,
    filled,
    place_faults,
    places,
    restarted,
    texts_of,
    value_of,
)

CONFIG_FILE = "ds_config.json"
# Without all of these a smaller micro-batch would change what is learned.
_KEEPS_BATCH = ("micro_batch", "accumulation")


class AnyCommand:
    """A program of which nothing is known but its command line."""

    name: str = "command"
    schema: type[BaseModel] = Foreign
    needs: tuple[str, ...] = ()
    surveys: bool = False
    proves: bool = False

    def usual(self, _: str) -> None:
        """Return nothing: a configuration alone does not say which program reads it."""
        return

    def settings(self, job: Job) -> Foreign:
        """Return the job's settings; raises pydantic's ValidationError when they are wrong."""
        return Foreign.model_validate(job.settings)

    def command(self, job: Job) -> list[str]:
        """Return the command with all its places."""
        return list(self.settings(job).command or ())

    def config_path(self, job: Job) -> str | None:
        """Return the DeepSpeed configuration that the command names as its own."""
        return places(self.command(job)).get(CONFIG)

    def wants(self, job: Job, _: Looked) -> tuple[str, ...]:
        """Return the DeepSpeed configuration, where the command names one."""
        path = self.config_path(job)
        return (path,) if path else ()

    def lacks(self, job: Job, looked: Looked) -> Mapping[str, str]:
        """Return every field of a plan that the command has no place for."""
        had = self.has(job, looked)
        return {
            name: f"the command has no place for it; write {{{name}}} where its value goes"
            for name in sorted(FIELDS - had)
        }

    def has(self, job: Job, looked: Looked) -> frozenset[str]:
        """Return the fields of a plan that can be set."""
        named = places(self.command(job))
        had = {name for name in named if name in FIELDS} | FROM_OUTSIDE
        if CONFIG in named:
            had |= ds_plan.settable(self.config(job, looked))
        keeps = "global_batch" in named or all(name in named for name in _KEEPS_BATCH)
        if not keeps:
            had -= {*_KEEPS_BATCH, "world_size"}
        elif "micro_batch" in named:
            had |= {*_KEEPS_BATCH, "eval_micro_batch"}
        return frozenset(had)

    def config(self, job: Job, looked: Looked) -> dict[str, Any]:
        """Return the user's own DeepSpeed configuration; an empty one where there is none."""
        path = self.config_path(job)
        return ds_plan.judged(looked.texts.get(path, ""), path, PLAIN).config if path else {}

    def ranks(self, job: Job, _: Looked) -> int | None:
        """Return how many ranks the command starts, as far as a launcher in it says so."""
        call = split(self.command(job))
        if isinstance(call, Fault):
            return None
        said = places(self.command(job)).get("world_size")
        if said is not None:
            return value_of("world_size", said) or None
        return 1 if call.kind == "python" else call.processes

    def batch(self, job: Job, looked: Looked, ranks: int) -> Batch | Fault:
        """Return the batches where places start at them, else the job's."""
        named = places(self.command(job))
        micro, said = self._number(named, "micro_batch"), self._number(named, "accumulation")
        total = self._number(named, "global_batch")
        if micro is not None and (said or total):
            return Batch.model_validate(
                {"global": total or micro * (said or 1) * ranks, "micro": micro}
            )
        if job.batch is not None:
            return job.batch
        path = self.config_path(job)
        if path is not None:
            return ds_plan.batch_in(self.config(job, looked), ranks, path)
        if "micro_batch" in named or "accumulation" in named or "global_batch" in named:
            text = "the command has a place for its batches, and nothing says where they start"
            return Fault(text, "", "write `batch: {global: …, micro: …}` into the job")
        # Nobody will ever change them: any number that ranks can share is as good.
        return Batch.model_validate({"global": ranks, "micro": 1})

    def model(self, job: Job, _: Looked) -> str | None:
        """Return the model that the job names for prediction."""
        return self.settings(job).model

    def asks_modelscope(self, _: Job, __: Looked, ___: Mapping[str, str]) -> bool:
        """Return whether names of models are ModelScope's: they are not."""
        return False

    def start(self, job: Job, looked: Looked, world_size: int) -> Plan:
        """Return the plan of the places' own values; what the command does not say is neutral."""
        batch, named = batch_of(job), places(self.command(job))
        base = Plan(
            world_size=world_size,
            micro_batch=batch.micro,
            accumulation=max(1, batch.global_ // (world_size * batch.micro)),
            eval_micro_batch=batch.micro,
            method="full",
            quantization="none",
            dtype="bf16",
            activation_checkpointing=False,
            zero_stage=0,
            offload_optimizer=False,
            offload_param=False,
            reduce_bucket=DEFAULT_BUCKET,
            allgather_bucket=DEFAULT_BUCKET,
            gather_on_save=True,
            allocator=parse(job.env.get(NEW_NAME, job.env.get(OLD_NAME, looked.allocator))),
            blocking_launches=job.env.get(BLOCKING) == "1",
        )
        if self.config_path(job) is not None:
            base = ds_plan.plan_in(self.config(job, looked), base)
        counted = {*_KEEPS_BATCH, "world_size"}  # the batch and the devices say these
        said = {
            name: value_of(name, text)
            for name, text in named.items()
            if text is not None and name in FIELDS - counted
        }
        return base.but(**{name: value for name, value in said.items() if value is not None})

    def faults(self, job: Job, looked: Looked, world_size: int, where: str) -> list[Fault]:
        """Return what is wrong with the command, its places and its DeepSpeed configuration."""
        command = self.command(job)
        faults, named = place_faults(command, where), places(command)
        call = split(command, where)
        if isinstance(call, Fault):
            return [*faults, call]
        given = {*_KEEPS_BATCH, "world_size", "eval_micro_batch"}
        for name in sorted(named.keys() & FIELDS - given):
            if named[name] is None:
                text = f"`{{{name}}}` does not say where it starts"
                faults.append(Fault(text, where, f"write {{{name}=VALUE}}"))
        if RESUME in named and OUTPUT not in named:
            text = "`{resume}` stands in the command, and no `{output}` from where to resume"
            faults.append(Fault(text, where, "write {output} where checkpoints are to go"))
        if RESUME not in named and job.checkpoints.continue_from is not None:
            text = "`continue_from` names a checkpoint, and the command has no {resume} for it"
            faults.append(Fault(text, where, "write {resume} where its path is to go"))
        if "micro_batch" in self.has(job, looked):
            faults += batch_faults(job, world_size, where)
        path = self.config_path(job)
        if path is not None:
            faults += self.judged(path, looked, world_size).faults
        elif CONFIG in named:
            text = "`{deepspeed_config}` does not say which file it starts from"
            faults.append(Fault(text, where, "write {deepspeed_config=PATH}"))
        return faults

    def notes(self, job: Job, looked: Looked, world_size: int, where: str) -> list[Fault]:
        """Return what will not be done for this command, and what its configuration ignores."""
        named, notes = places(self.command(job)), []
        if RESUME not in named:
            text = "the command has no {resume}, so each new attempt starts over, unless the "
            text += "program finds its own checkpoints"
            notes.append(Fault(text, where))
        if not named.keys() & FIELDS and self.config_path(job) is None:
            text = "the command has no places to fill in: only its environment, devices and new "
            notes.append(Fault(text + "starts are autotune's", where))
        elif "micro_batch" in named and "micro_batch" not in self.has(job, looked):
            text = "{micro_batch} is never changed, since without {accumulation} or {global_batch} "
            notes.append(Fault(text + "the batch that is learned from would change", where))
        path = self.config_path(job)
        if path is not None:
            notes += self.judged(path, looked, world_size).notes
        return notes

    def judged(self, path: str, looked: Looked, ranks: int) -> ds_plan.Judged:
        """Return the DeepSpeed configuration as the doctor sees it."""
        use = ds_plan.plain_use(looked.versions.get("deepspeed"), ranks)
        return ds_plan.judged(looked.texts.get(path, ""), path, use)

    def trained(self, job: Job, _: Looked) -> Trained:
        """Return what the job says of the rows."""
        return Trained(sequence=self.settings(job).sequence)

    def has_evaluation(self, _: Job, __: Looked) -> bool:
        """Return whether it evaluates during training: nobody can tell."""
        return False

    def packs(self, _: Job, __: Looked) -> bool:
        """Return whether rows are put end to end: nobody can tell."""
        return False

    def program(self, setting: Setting) -> Program:
        """Return the command, filled in, under the job's Python."""
        words, files = self.written(setting)
        call = split(words)
        if isinstance(call, Fault):
            raise AssertionError(call.what)
        return Program(
            argv=under(call, setting.python),
            files=files,
            exit_tells=True,
            starts_ranks=True,
            env=dict(call.env),
            folder=absolute(self.settings(setting.job).folder, setting.job_folder),
        )

    def known_good(self, setting: Setting) -> KnownGood:
        """Return the command at the plan, and a job that starts there."""
        aside = replace(setting, checkpoints=f"{setting.folder}/output", resume=None)
        program = self.program(aside)
        values = texts_of(setting.plan)
        values[CONFIG] = f"{setting.folder}/{CONFIG_FILE}" if program.files else None
        given = self.settings(setting.job).model_dump(exclude_defaults=True)
        command = restarted(self.command(setting.job), values)
        settings = {**given, "command": command, "folder": program.folder}
        return KnownGood(
            files=program.files, argv=program.argv, settings=settings,
            starts_ranks=program.starts_ranks, env=program.env, folder=program.folder,
            launcher=program.launcher,
        )  # fmt: skip

    def written(self, setting: Setting) -> tuple[tuple[str, ...], dict[str, str]]:
        """Return the command filled in, and the files beside it."""
        job, folder, files = setting.job, setting.folder, dict[str, str]()
        named = places(self.command(job))
        values = texts_of(setting.plan)
        values["port"] = str(setting.port)
        values["devices"] = ",".join(str(index) for index in setting.devices) or None
        values[RESUME] = setting.resume
        # Checkpoints that nobody will resume from must not look as if one could.
        values[OUTPUT] = setting.checkpoints if RESUME in named else f"{folder}/output"
        if self.config_path(job) is not None:
            config = self.config(job, setting.looked)
            start = self.start(job, setting.looked, setting.plan.world_size)
            edited = ds_plan.with_changes(config, start, setting.plan)
            files[CONFIG_FILE] = json.dumps(edited, indent=2) + "\n"
            values[CONFIG] = f"{folder}/{CONFIG_FILE}"
        return filled(self.command(job), values), files

    def _number(self, named: Mapping[str, str | None], name: str) -> int | None:
        text = named.get(name)
        value = None if text is None else value_of("micro_batch", text)
        return value or None

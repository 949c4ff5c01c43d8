"""Plain DeepSpeed programs: their own configuration in a changed copy, and the launcher's flags."""

from pydantic import BaseModel, Field

from autotune.core.fault import Fault
from autotune.core.job import Batch, Job, absolute
from autotune.frameworks import ds_plan
from autotune.frameworks.arguments import Arguments
from autotune.frameworks.command import AnyCommand
from autotune.frameworks.command_line import split
from autotune.frameworks.foreign import Foreign
from autotune.frameworks.framework import LauncherKind, Looked, Program, Setting
from autotune.frameworks.placeholders import CONFIG, places

_KEYS = ("deepspeed_config", "deepspeed")


class DeepSpeedSettings(Foreign):
    """`settings` of a job with `framework: deepspeed`."""

    batch_from_config: bool = Field(
        default=False,
        description="the program takes its micro-batch from the DeepSpeed configuration, as with"
        " `deepspeed.initialize(training_data=…)`, so that it may be changed there",
    )


class PlainDeepSpeed(AnyCommand):
    """A program that calls `deepspeed.initialize` itself, with a configuration from a file."""

    name = "deepspeed"
    schema: type[BaseModel] = DeepSpeedSettings
    needs = ("deepspeed",)

    @staticmethod
    def own_config(arguments: Arguments) -> str | None:
        """Return the option that names a DeepSpeed configuration in a JSON file, or None."""
        values = arguments.values()
        return next((key for key in _KEYS if str(values.get(key, "")).endswith("json")), None)

    def settings(self, job: Job) -> DeepSpeedSettings:
        """Return the job's settings; raises pydantic's ValidationError when they are wrong."""
        return DeepSpeedSettings.model_validate(job.settings)

    def command(self, job: Job) -> list[str]:
        """Return the command with a place where its DeepSpeed configuration stands."""
        words = super().command(job)
        call = split(words)
        if isinstance(call, Fault) or CONFIG in places(words):
            return words
        arguments = Arguments(call.arguments)
        key = self.own_config(arguments)
        if key is None:
            return words
        named = arguments.changed({key: f"{{{CONFIG}={arguments.get(key)}}}"}).words
        return [*words[: len(words) - len(call.arguments)], *named]

    def has(self, job: Job, looked: Looked) -> frozenset[str]:
        """Return the fields of a plan that can be set."""
        had = super().has(job, looked)
        if self.settings(job).batch_from_config:
            had |= {"micro_batch", "accumulation", "eval_micro_batch", "world_size"}
        return had

    def lacks(self, job: Job, looked: Looked) -> dict[str, str]:
        """Return every field of a plan that cannot be set, with the reason."""
        lacks = {
            name: "a plain DeepSpeed program says it in its own code; write a place such as "
            f"{{{name}=VALUE}} into its command where it takes it there"
            for name in super().lacks(job, looked)
        }
        for name in ("micro_batch", "accumulation", "world_size"):
            if name in lacks:
                lacks[name] = (
                    "nothing says that the program takes its batches from the DeepSpeed "
                    "configuration; if it does, say `batch_from_config: true`"
                )
        if "offload_optimizer" in lacks:
            text = "the program brings its own optimizer, and DeepSpeed offloads its own ones"
            lacks["offload_optimizer"] = text
        return lacks

    def ranks(self, job: Job, looked: Looked) -> int | None:
        """Return how many ranks the launcher's flags ask for."""
        call = split(self.command(job))
        if isinstance(call, Fault) or (call.kind == "deepspeed" and call.processes is None):
            return None  # the launcher takes every GPU
        return super().ranks(job, looked)

    def batch(self, job: Job, looked: Looked, ranks: int) -> Batch | Fault:
        """Return the batches by DeepSpeed's own rules."""
        path = self.config_path(job)
        if path is None:
            return super().batch(job, looked, ranks)
        return ds_plan.batch_in(self.config(job, looked), ranks, path)

    def faults(self, job: Job, looked: Looked, world_size: int, where: str) -> list[Fault]:
        """Return what is wrong with the command and its DeepSpeed configuration."""
        faults = super().faults(job, looked, world_size, where)
        call = split(self.command(job))
        if isinstance(call, Fault):
            return faults
        if self.config_path(job) is None:
            text = "the command names no DeepSpeed configuration (--deepspeed_config FILE)"
            hint = "where the program holds it in its code, say `framework: command`"
            faults.append(Fault(text, where, hint))
        elif call.kind == "tool" or call.option("no_python") is not None:
            text = f"`{call.program}` is no Python program that ranks could be started of"
            faults.append(Fault(text, where, "say `framework: command`"))
        return faults

    def program(self, setting: Setting) -> Program:
        """Return the script and its arguments, for one of our launchers to start the ranks."""
        words, files = self.written(setting)
        call = split(words)
        if isinstance(call, Fault):
            raise AssertionError(call.what)
        launcher: LauncherKind = "deepspeed" if call.kind == "deepspeed" else "torchrun"
        module = ("--module",) if call.is_module else ()
        return Program(
            argv=(*module, call.program, *call.arguments),
            files=files,
            exit_tells=True,
            env=dict(call.env),
            folder=absolute(self.settings(setting.job).folder, setting.job_folder),
            launcher=launcher,
        )

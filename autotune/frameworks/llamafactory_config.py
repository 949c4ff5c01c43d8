"""What LLaMA-Factory's trainer will read: the user's command, YAML, overrides and environment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from autotune.core.fault import Fault
from autotune.core.job import Job
from autotune.frameworks.arguments import Arguments, flag
from autotune.frameworks.command_line import Call, split
from autotune.frameworks.foreign import command_of
from autotune.frameworks.framework import Looked
from autotune.frameworks.trainer import wanted_files

CLI = "llamafactory-cli"
_NAMES = (CLI, "lmf", "llamafactory.cli")
# Scripts of LLaMA-Factory's own tree that train what `llamafactory-cli train` trains.
_SCRIPTS = ("train.py", "launcher.py", "llamafactory.launcher")
_FILES = (".yaml", ".yml", ".json")
DATASETS = "dataset_info.json"
# Read as YAML 1.1, in which an unquoted no is false; these keys know it as a word of their own.
_WORDS = ("eval_strategy", "save_strategy", "logging_strategy", "report_to", "evaluation_strategy")
TRUE = ("true", "y", "1")  # of its environment (extras/misc.py, is_env_enabled)


@dataclass(frozen=True)
class Line:
    """The user's command line, taken apart; `file` is the YAML or JSON as it is named there."""

    call: Call
    file: str | None
    overrides: Arguments


@dataclass(frozen=True)
class Given:
    """Everything the trainer will read, with the overrides of the command line merged in."""

    line: Line
    values: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)  # the job's and the command's

    def on(self, key: str, default: bool = False) -> bool:
        """Return a switch, also where it is written as a word."""
        said = flag(self.values.get(key))
        return default if said is None else said

    def text(self, key: str, default: str = "") -> str:
        """Return a value as text, `default` where it is left open."""
        value = self.values.get(key)
        return default if value is None else str(value)

    def names(self, key: str) -> tuple[str, ...]:
        """Return a list that is written with commas."""
        value = self.values.get(key)
        held = value if isinstance(value, list) else self.text(key).split(",")
        return tuple(str(one).strip() for one in held if str(one).strip())

    def enabled(self, variable: str, default: str = "0") -> bool:
        """Return a switch of the environment as LLaMA-Factory reads it."""
        return self.environment.get(variable, default).lower() in TRUE

    @property
    def datasets(self) -> str | None:
        """The path of `dataset_info.json`; None where no file here lists the datasets."""
        folder = self.values.get("dataset_dir", "data")
        remote = not isinstance(folder, str) or folder == "ONLINE" or folder.startswith("REMOTE:")
        needless = not (self.names("dataset") or self.names("eval_dataset"))
        return None if remote or needless else str(PurePosixPath(folder) / DATASETS)


def read_line(command: Sequence[str]) -> Line | Fault:
    """Return the parts of the user's command, or why it is none of LLaMA-Factory's trainings."""
    call = split(command)
    if isinstance(call, Fault):
        return call
    rest = call.arguments
    if call.program in _NAMES or call.name in _NAMES:
        if rest[:1] != ("train",):
            said = f"`{call.name} {rest[0]}`" if rest else f"`{call.name}` alone"
            return Fault(f"{said} trains nothing", "", f"write `{CLI} train FILE.yaml`")
        rest = rest[1:]
    elif call.name not in _SCRIPTS:
        text = f"`{call.name}` is no command of LLaMA-Factory's"
        return Fault(text, "", f"write `{CLI} train FILE.yaml`, or name another `framework`")
    if not rest:
        return Fault("the command names no configuration", "", f"write `{CLI} train FILE.yaml`")
    if not rest[0].lower().endswith(_FILES):
        return Line(call, None, Arguments(rest))
    return _with_file(call, rest)


def _with_file(call: Call, rest: Sequence[str]) -> Line | Fault:
    overrides = Arguments(tuple(rest[1:]), bare=True)
    for word in rest[1:]:
        if word.startswith("-") or "=" not in word:
            text = f"`{word}` stands behind a configuration file, where LLaMA-Factory takes only "
            return Fault(text + "`key=value`", "", "such as `learning_rate=1.0e-4`")
        if "." in word.split("=", 1)[0]:
            text = f"`{word}` sets a key inside a key"
            return Fault(text, "", "write it into the configuration file instead")
    return Line(call, rest[0], overrides)


def wanted(job: Job, looked: Looked) -> tuple[str, ...]:
    """Return the files that decide a training: its YAML, and what that names."""
    line = read_line(command_of(job))
    if isinstance(line, Fault):
        return ()
    first = () if line.file is None else (line.file,)
    given = read(job, looked)
    if isinstance(given, Fault):
        return first
    more = (given.datasets, *wanted_files(given.values))
    return (*first, *(path for path in more if path is not None))


def read(job: Job, looked: Looked) -> Given | Fault:
    """Return what the trainer will read, or why it cannot be known."""
    line = read_line(command_of(job))
    if isinstance(line, Fault):
        return line
    document: Any = {}
    if line.file is not None:
        document = looked.documents.get(line.file)
        if isinstance(document, Fault):
            return document
        if not isinstance(document, Mapping):
            return Fault("the configuration is no list of keys and values", line.file)
    values = {str(key): _as_1_1(str(key), value) for key, value in document.items()}
    values.update(line.overrides.values())
    return Given(line, values, {**job.env, **dict(line.call.env)})


def _as_1_1(key: str, value: Any) -> Any:
    if isinstance(value, str) and value.lower() in ("yes", "no", "on", "off"):
        return value if key in _WORDS else flag(value)
    return value

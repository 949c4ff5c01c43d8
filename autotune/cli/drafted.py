"""Makes a job file out of what people start trainings with: a config, a command or a script."""

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autotune.cli.devices import choose_devices
from autotune.core.fault import AutotuneError, Fault, InputError
from autotune.core.job import Batch, Job
from autotune.core.secret import is_a_secret, names_a_secret
from autotune.frameworks.command_line import Call, split
from autotune.frameworks.framework import Looked
from autotune.frameworks.known import FRAMEWORKS, recognise, recognise_config
from autotune.frameworks.placeholders import escaped, place_faults
from autotune.frameworks.plain_yaml import scalar, to_yaml
from autotune.frameworks.several import Spread, as_job, spread_of
from autotune.frameworks.shell import LARGEST_TEXT, read_script
from autotune.world.environment import versions
from autotune.world.gpu import find_gpus
from autotune.world.own_files import OwnFiles, read_own
from autotune.world.yaml_files import read_document, read_text

CONFIGS, SCRIPTS = (".yaml", ".yml", ".json"), (".sh", ".bash", ".slurm", ".sbatch")
VISIBLE = "CUDA_VISIBLE_DEVICES"
_TAKES_PLACES = ("command", "deepspeed")


@dataclass(frozen=True)
class Draft:
    """A job as it can be read from outside, before anything of it was checked."""

    source: str  # what it was made from, as a person typed it
    name: str
    framework: str
    command: tuple[str, ...]
    folder: Path  # where the tool starts
    env: Mapping[str, str]
    env_from: tuple[str, ...] = ()
    devices: tuple[int, ...] | None = None
    spread: Spread | None = None
    python: str | None = None
    notes: tuple[Fault, ...] = ()

    def settings(self, beside: Path) -> dict[str, Any]:
        """Return the job's settings, for a job file in the folder `beside`."""
        folder = "." if self.folder == beside else str(self.folder)
        return {"command": list(self.command), "folder": folder}


def draft(words: Sequence[str], here: Path) -> Draft:
    """Return the job that a config file, a script or a command line asks for.

    `here` is the folder it would be started in. Raises InputError for what is not understood.
    """
    if not words:
        raise InputError(Fault("nothing to import is named", "", "name a config or a command"))
    source = " ".join(words)
    if len(words) == 1:
        place = here / words[0]
        if place.is_file() and place.suffix.lower() in CONFIGS:
            return _from_call(source, list(_usual(words[0], place)), {}, here, ())
        if place.is_file() and place.suffix.lower() in SCRIPTS:
            return _from_script(source, read_text(place, LARGEST_TEXT), words[0], here)
        if re.search(r"\s", words[0]) and not place.exists():
            return _from_script(source, words[0], "the command line", here)
        if place.suffix.lower() in (*CONFIGS, *SCRIPTS):
            read_text(place)  # says why it cannot be read
    return _from_call(source, list(words), {}, here, ())


def _usual(named: str, place: Path) -> tuple[str, ...]:
    config = read_document(place).value
    found = recognise_config(config) if isinstance(config, dict) else None
    usual = FRAMEWORKS[found].usual(named) if found else None
    if usual is not None:
        return usual
    if isinstance(config, dict) and "framework" in config and "settings" in config:
        raise InputError(Fault("this is a job file already", named, f"autotune run {named}"))
    if isinstance(config, dict) and "zero_optimization" in config:
        text = "this is a DeepSpeed configuration, and says nothing of what trains"
        hint = f"`autotune check {named}` looks at it; import the command that uses it"
        raise InputError(Fault(text, named, hint))
    known = ", ".join(sorted(FRAMEWORKS))
    text = f"no tool is known whose configuration this is (known: {known})"
    raise InputError(Fault(text, named, "import the whole command that uses it"))


def _from_script(source: str, text: str, path: str, here: Path) -> Draft:
    known = {name: os.environ[name] for name in ("HOME", "USER") if name in os.environ}
    script = read_script(text, path, {**known, "PWD": str(here)})
    if isinstance(script, Fault):
        raise InputError(script)
    folder = Path(os.path.normpath(here / script.folder))
    made = _from_call(source, list(script.command), script.env, folder, script.notes)
    return replace(made, name=_name(Path(path).stem)) if path != "the command line" else made


def _from_call(
    source: str,
    words: list[str],
    env: Mapping[str, str],
    folder: Path,
    notes: tuple[Fault, ...],
) -> Draft:
    call = split(words, "the command")
    if isinstance(call, Fault):
        raise InputError(call)
    framework = recognise(call)
    command = call.words()[len(call.env) :]
    if framework in _TAKES_PLACES:
        command = tuple(escaped(word) if place_faults([word], "") else word for word in command)
    every = {**env, **dict(call.env)}
    spread = spread_of(call, every)
    visible = every.pop(VISIBLE, None)
    devices = call.devices or _indices(visible)
    if visible and devices is None:
        text = f"{VISIBLE}={visible} is left out: GPUs are told by their index"
        notes += (Fault(text, "devices.use", "name them under `devices.use`"),)
    secret = tuple(
        name for name, value in every.items() if names_a_secret(name) or is_a_secret(value)
    )
    for name in secret:
        text = f"`{name}` looks like a secret: its value is not written down"
        notes += (Fault(text, "env_from", f"export {name} before the job is started"),)
        every.pop(name)
    return Draft(
        source=source, name=_named(call), framework=framework, command=command, folder=folder,
        env=every, env_from=secret, devices=devices, spread=spread,
        python=_python(words[len(call.env) :]), notes=notes,
    )  # fmt: skip


def _indices(visible: str | None) -> tuple[int, ...] | None:
    if visible is None or not re.fullmatch(r"[0-9]+(,[0-9]+)*", visible):
        return None
    return tuple(int(index) for index in visible.split(","))


def _named(call: Call) -> str:
    configs = [word for word in call.arguments if word.lower().endswith((".yaml", ".yml"))]
    return _name(Path(configs[0] if configs else call.name).stem)


def _name(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100]
    return name if re.match(r"[A-Za-z0-9]", name) else "job"


def _python(words: Sequence[str]) -> str | None:
    """Return the interpreter that the first word would start under; None where it is ours."""
    found = shutil.which(words[0])
    if found is None:
        return None
    place = Path(found)
    if not place.name.startswith("python"):
        with place.open("rb") as file:
            head = file.readline(512)
        match = re.match(rb"#!\s*(/\S*python[0-9.]*)\s", head)
        if match is None:
            return None
        place = Path(match.group(1).decode(errors="replace"))
    return None if place.parent == Path(sys.executable).parent else str(place)


def written(made: Draft, beside: Path) -> str:
    """Return the job file's text, with comments; `beside` is the folder it will lie in."""
    lines = [
        f"# Made by `autotune import` from: {made.source.splitlines()[0][:200]}",
        "# That is left as it is: each attempt gets a changed copy of its configuration.",
        f"name: {scalar(made.name)}  # names the run folder",
        f"framework: {made.framework}",
        "settings:",
        *_indented(to_yaml(made.settings(beside))),
    ]
    batch = read_batch(made, beside)
    if isinstance(batch, Fault):
        lines.append(f"# batch: {{global: …, micro: …}}  # {batch.what} {batch.where}")
    else:
        lines.append(f"# batch: {{global: {batch.global_}, micro: {batch.micro}}}  # as read there")
    if made.devices is not None:
        lines.append(f"devices: {{use: [{', '.join(map(str, made.devices))}]}}")
    if made.spread is not None and _nodes(made) > 1:
        lines.append(as_job(made.spread) + "  # on the others: autotune join RUN")
    if made.python is not None:
        lines.append(f"python: {scalar(made.python)}")
    if made.env:
        lines += ["env:", *_indented(to_yaml(dict(sorted(made.env.items()))))]
    if made.env_from:
        lines.append(f"env_from: [{', '.join(made.env_from)}]")
    lines += [
        "# limits: {wall: 48h}  # time in attempts",
        "# allow: []  # rungs that change the result, by name; the README lists them",
    ]
    return "\n".join(lines) + "\n"


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def read_batch(made: Draft, beside: Path) -> Batch | Fault:
    """Return the batches that the tool's own configuration makes on this machine."""
    framework = FRAMEWORKS[made.framework]
    given: dict[str, Any] = {
        "name": made.name, "framework": made.framework, "settings": made.settings(beside),
        "env": dict(made.env),
    }  # fmt: skip
    try:
        job = Job.model_validate(given)
        own = read_own(made.folder, lambda found: framework.wants(job, seen(found)))
        if own.faults:
            return own.faults[0]
        looked = seen(own)
        ranks = framework.ranks(job, looked)
        if ranks is None:
            ranks = len(made.devices) if made.devices else _ranks_here(job, made)
        return framework.batch(job, looked, ranks * _nodes(made))
    except AutotuneError as error:
        return error.faults[0]


def seen(own: OwnFiles) -> Looked:
    """Return what a framework is shown of the files read so far."""
    return Looked(texts=own.texts, documents=own.documents)


def _nodes(made: Draft) -> int:
    return (made.spread.nodes if made.spread else None) or 1


def _ranks_here(job: Job, made: Draft) -> int:
    installed = versions(made.python or sys.executable, ())
    return choose_devices(job, find_gpus(), installed, "devices").ranks

"""Takes a training's command line apart: environment, launcher, program, arguments."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from autotune.core.fault import Fault, nearest
from autotune.frameworks.launch_options import LAUNCHERS, Kind

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=", re.ASCII)
_PYTHON = re.compile(r"python(3(\.\d+)?)?t?")
_PYTHON_FLAGS = re.compile(r"-[bBdEhiIOPqRsSuv]+")  # and no value behind them
_MODULES: dict[str, Kind] = {
    "torch.distributed.run": "torchrun",
    "torch.distributed.launch": "torchrun",
    "deepspeed.launcher.runner": "deepspeed",
    "accelerate.commands.launch": "accelerate",
}
_MODULE_OF: dict[Kind, str] = {
    "torchrun": "torch.distributed.run",
    "deepspeed": "deepspeed.launcher.runner",
    "accelerate": "accelerate.commands.launch",
}
_PROCESSES: dict[Kind, tuple[str, ...]] = {
    "torchrun": ("nproc_per_node",),
    "deepspeed": ("num_gpus", "num_accelerators"),
    "accelerate": ("num_processes",),
}
_NODES: dict[Kind, tuple[str, ...]] = {
    "torchrun": ("nnodes",),
    "deepspeed": ("num_nodes",),
    "accelerate": ("num_machines",),
}


@dataclass(frozen=True)
class Call:
    """One command line, its parts in the order they were typed: `words()` puts them together.

    `kind` says who starts the ranks: "python" nobody, "tool" the program itself.
    """

    kind: Literal["python", "torchrun", "deepspeed", "accelerate", "tool"]
    env: tuple[tuple[str, str], ...]  # assignments in front
    launcher: tuple[str, ...]  # as typed: ("torchrun",), ("python", "-m", "torch.distributed.run")
    options: tuple[str, ...]  # of the launcher, as typed
    given: tuple[tuple[str, str], ...]  # the same by name; a flag's value is ""
    program: str  # train.py, llamafactory-cli, or a module by name
    is_module: bool
    arguments: tuple[str, ...]
    processes: int | None = None  # ranks on each node, where the line says so
    nodes: int | None = None
    devices: tuple[int, ...] | None = None  # GPU indices, where the line says so

    def words(self) -> tuple[str, ...]:
        """Return the command line as it was typed, less a leading `env`."""
        front = tuple(f"{name}={value}" for name, value in self.env)
        # A launcher's own -m stands among its options.
        module = ("-m",) if self.is_module and self.kind == "python" else ()
        return (
            *front, *self.launcher, *self.options, *module, self.program, *self.arguments,
        )  # fmt: skip

    def option(self, *names: str) -> str | None:
        """Return the last value of a launcher's option, by any of its names."""
        return option(self.given, *names)

    @property
    def name(self) -> str:
        """Return the program's name without folders: `run_clm.py`, `trl`."""
        return self.program if self.is_module else PurePosixPath(self.program).name


@dataclass(frozen=True)
class _Parts:
    kind: Literal["python", "torchrun", "deepspeed", "accelerate", "tool"]
    env: tuple[tuple[str, str], ...]
    launcher: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    given: tuple[tuple[str, str], ...] = ()
    is_module: bool = False
    rest: tuple[str, ...] = ()  # the program and its arguments


def split(command: Sequence[str], where: str = "") -> Call | Fault:
    """Return the parts of a command line, or the fault that keeps it from being understood."""
    words = list(command)
    env: list[tuple[str, str]] = []
    if words[:1] == ["env"]:
        words = words[1:]
    while words and _ASSIGNMENT.match(words[0]):
        name, value = words.pop(0).split("=", 1)
        env.append((name, value))
    if not words or not words[0]:
        hint = "write the program first, such as `llamafactory-cli train train.yaml`"
        return Fault("the command names no program", where, hint)
    parts = _parts(words, tuple(env), where)
    return parts if isinstance(parts, Fault) else _call(parts, where)


def _parts(words: list[str], env: tuple[tuple[str, str], ...], where: str) -> _Parts | Fault:
    named = PurePosixPath(words[0]).name
    if _PYTHON.fullmatch(named):
        return _python(words, env, where)
    if named == "accelerate" and words[1:2] == ["launch"]:
        return _launched("accelerate", tuple(words[:2]), words[2:], env, where)
    if named in ("torchrun", "deepspeed"):
        kind: Kind = "torchrun" if named == "torchrun" else "deepspeed"
        return _launched(kind, (words[0],), words[1:], env, where)
    if named.startswith("-"):
        return Fault(f"`{named}` stands where the program should", where, "put the program first")
    return _Parts("python" if named.endswith(".py") else "tool", env, rest=tuple(words))


def _python(words: list[str], env: tuple[tuple[str, str], ...], where: str) -> _Parts | Fault:
    at = 1
    while at < len(words) and words[at].startswith("-") and words[at] not in ("-m", "-c", "-"):
        if words[at] in ("-X", "-W"):
            at += 1
        elif not _PYTHON_FLAGS.fullmatch(words[at]) and words[at][:2] not in ("-X", "-W"):
            return Fault(f"`{words[at]}` is no option of Python that autotune knows", where)
        at += 1
    head = tuple(words[:at])
    if at >= len(words) or words[at] in ("-c", "-"):
        hint = "name a script or a module"
        return Fault("Python is started without a program in a file", where, hint)
    if words[at] != "-m":
        return _Parts("python", env, head, rest=tuple(words[at:]))
    if at + 1 >= len(words):
        return Fault("`-m` is the last word, and the module is missing", where)
    module = words[at + 1]
    if module in _MODULES:
        return _launched(_MODULES[module], (*head, "-m", module), words[at + 2 :], env, where)
    return _Parts("python", env, head, is_module=True, rest=tuple(words[at + 1 :]))


def _launched(
    kind: Kind,
    launcher: tuple[str, ...],
    words: list[str],
    env: tuple[tuple[str, str], ...],
    where: str,
) -> _Parts | Fault:
    known, given, at = LAUNCHERS[kind], list[tuple[str, str]](), 0
    while at < len(words) and words[at].startswith("-") and words[at] != "--":
        head, joined, value = words[at].partition("=")
        name = head.lstrip("-").replace("-", "_")
        takes = known.takes(name)
        if takes is None:
            hint = nearest(name, known.flags | known.valued)
            return Fault(f"`{head}` is no option of {kind} that autotune knows", where, hint)
        if takes and not joined:
            at += 1
            if at >= len(words):
                return Fault(f"`{head}` is the last word, and its value is missing", where)
            value = words[at]
        given.append((name, value))
        at += 1
    at += words[at : at + 1] == ["--"]
    if at >= len(words) or not words[at]:
        return Fault(f"{kind} is given no program to start", where, "name the training script")
    module = any(name in ("m", "module") for name, _ in given)
    options, rest = tuple(words[:at]), tuple(words[at:])
    return _Parts(kind, env, launcher, options, tuple(given), module, rest)


def _call(parts: _Parts, where: str) -> Call | Fault:
    nodes = _nodes(parts, where)
    if isinstance(nodes, Fault):
        return nodes
    devices, processes = _devices(parts), _processes(parts)
    if processes is not None and parts.kind == "accelerate" and nodes and nodes > 1:
        processes //= nodes  # accelerate counts the ranks of all machines
    if processes is None and devices is not None and parts.kind == "deepspeed":
        processes = len(devices)
    return Call(
        parts.kind, parts.env, parts.launcher, parts.options, parts.given, parts.rest[0],
        parts.is_module, parts.rest[1:], processes, nodes, devices,
    )  # fmt: skip


def _processes(parts: _Parts) -> int | None:
    said = _said(parts, "NPROC_PER_NODE", _PROCESSES)
    return int(said) if said and re.fullmatch("[1-9][0-9]*", said) else None


def _nodes(parts: _Parts, where: str) -> int | Fault | None:
    said = _said(parts, "NNODES", _NODES)
    least, _, most = (said or "").partition(":")
    if most and most != least:
        text = f"an elastic number of nodes ({said}) changes what is trained as nodes come and go"
        return Fault(text, where, "name one number of nodes")
    return int(least) if re.fullmatch("[1-9][0-9]*", least) else None


def _said(parts: _Parts, variable: str, options: dict[Kind, tuple[str, ...]]) -> str | None:
    # LLaMA-Factory and ms-swift start their own ranks as these variables say.
    if parts.kind == "tool":
        return dict(parts.env).get(variable)
    return None if parts.kind == "python" else option(parts.given, *options[parts.kind])


def option(given: Sequence[tuple[str, str]], *names: str) -> str | None:
    """Return the last value of an option, by any of its names."""
    found = [value for name, value in given if name in names]
    return found[-1] if found else None


def _devices(parts: _Parts) -> tuple[int, ...] | None:
    said = dict(parts.env).get("CUDA_VISIBLE_DEVICES")
    if parts.kind == "deepspeed":
        include = option(parts.given, "include", "i")
        if include is not None and "@" not in include:
            said = include.partition(":")[2] or None
    elif parts.kind == "accelerate":
        said = option(parts.given, "gpu_ids") or said
    if not said or not re.fullmatch(r"[0-9]+(,[0-9]+)*", said):
        return None
    return tuple(int(index) for index in said.split(","))


def under(call: Call, python: str) -> tuple[str, ...]:
    """Return a call's words with the job's Python in place of a bare `python` or launcher.

    One that is named with its folder is left as it is named.
    """
    words = call.words()[len(call.env) :]
    first = words[0]
    if "/" in first:
        return words
    if call.launcher and PurePosixPath(first).name.startswith("python"):
        return (python, *words[1:])
    if call.kind == "python":
        return (python, *words)
    if call.kind == "tool":
        return words
    return (python, "-m", _MODULE_OF[call.kind], *words[len(call.launcher) :])

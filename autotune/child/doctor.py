"""Looks at the training's own Python from inside it: `python doctor.py PART…`, one JSON line each.

One self-contained file of the standard library; what it asks of torch and the others it imports
part by part, each guarded. A part that begins says so first, so that one that hangs, or takes the
process down, is known by name. What imports print goes nowhere: only our lines reach stdout.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONGEST = 2000  # characters of one text
TOOL_SECONDS = 20.0
OPS = ("deepspeed_shm_comm", "fused_adam", "cpu_adam", "async_io", "pin_memory")


def look_at_python() -> dict[str, Any]:
    """Return what runs us."""
    return {"version": sys.version.split()[0], "executable": sys.executable, "prefix": sys.prefix}


def look_at_build() -> dict[str, Any]:
    """Return compiler, headers, ninja and nvcc, the compiler tried on Python's own header."""
    compiler = shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++")
    include = sysconfig.get_path("include") or ""
    told: dict[str, Any] = {
        "compiler": compiler,
        "headers": Path(include, "Python.h").exists(),
        "headers_for": f"python{sys.version_info[0]}.{sys.version_info[1]}",
        "ninja": _ninja(),
        "nvcc": _nvcc(),
    }
    if compiler and told["headers"]:
        program = "#include <Python.h>\n#include <vector>\nint main() { return 0; }\n"
        # Assembled too: images without binutils have a compiler that only parses.
        with tempfile.TemporaryDirectory() as folder:
            command = [compiler, "-c", "-x", "c++", "-", "-I", include, "-o", folder + "/a.o"]
            done = subprocess.run(
                command, input=program, capture_output=True, text=True, timeout=TOOL_SECONDS
            )
        told["compiles"] = done.returncode == 0
        told["complaint"] = done.stderr.strip()
    return told


def _ninja() -> "str | None":
    # As torch finds it: on the PATH, to which autotune adds the interpreter's own folder.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which("ninja", path=path)
    return _first_line([found, "--version"]) if found else None


def _nvcc() -> "str | None":
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = [str(Path(home, "bin", "nvcc"))] if home else []
    places += [shutil.which("nvcc") or "", "/usr/local/cuda/bin/nvcc"]
    for place in places:
        if place and os.access(place, os.X_OK):
            match = re.search(r"release (\d+\.\d+)", _all_of([place, "--version"]))
            return match[1] if match else None
    return None


def _first_line(command: "list[str]") -> str:
    return _all_of(command).strip().partition("\n")[0]


def _all_of(command: "list[str]") -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS)
    return done.stdout


def look_at_torch() -> dict[str, Any]:
    """Return how torch was built, and whether CUDA answers it; no memory is taken on a GPU."""
    import torch

    told: dict[str, Any] = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
    }
    if torch.version.cuda:
        told["architectures"] = _guarded(torch.cuda.get_arch_list) or []
        told["cuda_works"] = _guarded(torch.cuda.is_available)
        if told["cuda_works"] is False:
            told["cuda_why"] = _why_no_cuda(torch)
    return told


def _why_no_cuda(torch: Any) -> "str | None":
    try:
        torch.cuda.init()
    except Exception as error:
        return _said(error)
    return None


def look_at_deepspeed() -> dict[str, Any]:
    """Return which of the ops that trainings use are installed, or can be built here."""
    import deepspeed
    from deepspeed.git_version_info import installed_ops
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    ops, why = {}, {}
    for name in OPS:
        builder = ALL_OPS.get(name)
        if builder is not None:
            try:
                ops[name] = bool(builder.is_compatible(verbose=False))
                why[name] = str(getattr(builder, "error_log", "") or "")[:LONGEST]
            except Exception as error:
                ops[name], why[name] = False, _said(error)
    installed = [name for name, there in installed_ops.items() if there]
    return {"version": deepspeed.__version__, "ops": ops, "why": why, "installed": installed}


def look_at_bitsandbytes() -> dict[str, Any]:
    """Return which of its libraries it has loaded."""
    import bitsandbytes
    from bitsandbytes import cextension

    library = cextension.lib
    kind = type(library).__name__
    backend = "cpu"
    if library is None or "Mock" in kind:
        backend = "none"
    elif getattr(library, "compiled_with_cuda", False):
        backend = "cuda"
    elif "Xpu" in kind:
        backend = "xpu"
    return {"version": bitsandbytes.__version__, "backend": backend}


PARTS: "dict[str, Callable[[], dict[str, Any]]]" = {
    "python": look_at_python,
    "build": look_at_build,
    "torch": look_at_torch,
    "deepspeed": look_at_deepspeed,
    "bitsandbytes": look_at_bitsandbytes,
}


def _guarded(ask: "Callable[[], Any]") -> Any:
    try:
        return ask()
    except Exception:  # an older version may not know the question
        return None


def _said(error: BaseException) -> str:
    words = str(error).strip().split("\n")
    return f"{type(error).__name__}: {words[0]}"[:LONGEST]


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        return value[:LONGEST]
    if isinstance(value, dict):
        return {str(key)[:100]: _bounded(one) for key, one in list(value.items())[:100]}
    return [_bounded(one) for one in value[:100]] if isinstance(value, list) else value


def main(names: "list[str]") -> None:
    """Look at each part that was named and tell of it."""
    ours = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for name in names:
        print(json.dumps({"begins": name}), file=ours, flush=True)
        answer: dict[str, Any] = {"part": name}
        try:
            answer["told"] = _bounded(PARTS[name]())
        except BaseException as error:  # some packages exit where they cannot be used
            gone = isinstance(error, ModuleNotFoundError) and error.name == name
            answer.update(error=_said(error), told={"missing": gone})
        print(json.dumps(answer), file=ours, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Builds the virtual environments in which tests run other people's tools, one command for each.

    python -m tests.environments trl

An environment lies under XDG_CACHE_HOME, is named after what it holds, so that another version of
a package makes another environment, and is used only when its building came to an end.
"""

import hashlib
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

BUILT = "built-by-autotune-tests"  # written last


@dataclass(frozen=True)
class Environment:
    """What is installed, and modules that are only imported and that no package brings here."""

    packages: tuple[str, ...]
    stand_ins: Mapping[str, str] = field(default_factory=dict)  # source text by file name
    without_dependencies: tuple[str, ...] = ()  # packages whose own requirements cannot be met
    # Required by what is installed, for other data than text, and without a build for a machine
    # without a GPU: what says to be installed in this version, and is not there.
    pretended: tuple[tuple[str, str], ...] = ()


_TORCH = ("torch==2.13.0", "deepspeed==0.19.8", "ninja==1.13.0", "setuptools==80.9.0")

ENVIRONMENTS = {
    "trl": Environment(
        (*_TORCH, "trl==1.16.0", "transformers==5.23.0", "peft==0.21.2", "accelerate==1.15.0")
    ),
    "llamafactory": Environment(
        (
            *_TORCH,
            "llamafactory==0.9.5",
            "transformers==5.6.0",
            "peft==0.18.1",
            "accelerate==1.11.0",
            "trl==0.24.0",
            "datasets==4.0.0",
        ),
        {"torchaudio.py": ""},  # imported at start, whatever the data
        pretended=(("torchaudio", "2.13.0"), ("torchvision", "0.28.0")),
    ),
    # axolotl pins what has no build for a machine without a GPU; its own schema needs none of that.
    "axolotl": Environment(
        (
            "torch==2.13.0",
            "transformers==5.14.1",
            "trl==1.8.0",
            "peft==0.19.1",
            "accelerate==1.13.0",
            "datasets==4.8.4",
            "pydantic==2.12.5",
            "pillow",
            "addict",
            "fire",
            "requests",
            "colorama",
            "python-dotenv==1.0.1",
            "posthog==6.7.11",
            "art",
        ),
        without_dependencies=("axolotl==0.18.0",),
    ),
    # As example/llm/requirements.txt pins them, under a torch that this Python has a build of.
    "deepke": Environment(
        (
            "torch==2.13.0",
            "numpy==1.26.4",
            "pandas==2.2.3",
            "pyarrow==17.0.0",
            "transformers==4.33.0",
            "accelerate==0.21.0",
            "peft==0.4.0",
            "datasets==2.16.1",
            "sentencepiece",
            "protobuf",
            "scipy",
        ),
    ),
    "ms_swift": Environment(
        (
            *_TORCH,
            "ms-swift==4.6.0",
            "transformers==5.6.0",
            "peft==0.18.1",
            "accelerate==1.11.0",
            "trl==0.24.0",
            "datasets==4.8.4",
        ),
    ),
}


def command(name: str) -> str:
    """Return what a person types to build an environment."""
    return f"python -m tests.environments {name}"


def folder(name: str) -> Path:
    """Return where an environment lies, built or not."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    held = hashlib.sha256(repr(ENVIRONMENTS[name]).encode()).hexdigest()[:12]
    return Path(cache) / "autotune-tests" / f"{name}-{held}"


def python(name: str) -> Path:
    """Return the Python of a built environment; skips the test, saying how, where there is none."""
    if not (folder(name) / BUILT).is_file():
        pytest.skip(f"the environment of {name} is not built; build it: {command(name)}")
    return folder(name) / "bin" / "python"


def build(name: str) -> Path:
    """Build an environment, unless it is there; raises CalledProcessError as pip fails."""
    made, wanted = folder(name), ENVIRONMENTS[name]
    if (made / BUILT).is_file():
        return made
    venv.create(made, clear=True, with_pip=True)
    pip = (str(made / "bin" / "python"), "-m", "pip", "install")
    (site,) = (made / "lib").glob("python3*/site-packages")
    for package, version in wanted.pretended:
        _pretend(site, package, version)
    subprocess.run((*pip, *wanted.packages), check=True)
    if wanted.without_dependencies:
        subprocess.run((*pip, "--no-deps", *wanted.without_dependencies), check=True)
    for file, text in wanted.stand_ins.items():
        (site / file).write_text(text)
    (made / BUILT).touch()
    return made


def _pretend(site: Path, package: str, version: str) -> None:
    described = site / f"{package}-{version}.dist-info"
    described.mkdir()
    said = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    (described / "METADATA").write_text(said)


if __name__ == "__main__":
    asked = sys.argv[1:] or list(ENVIRONMENTS)
    if strangers := sorted(set(asked) - set(ENVIRONMENTS)):
        sys.exit(
            f"no such environment: {', '.join(strangers)}; there are {', '.join(ENVIRONMENTS)}"
        )
    for one in asked:
        print(build(one))

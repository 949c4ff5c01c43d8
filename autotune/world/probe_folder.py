"""Lays the probe into an attempt's folder, where PYTHONPATH alone leads every Python to it."""

import compileall
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.world.files import make_folder, write_json

PACKAGE = "autotune_probe"  # what the parts are called inside the training
STARTER = "sitecustomize.py"


def lay_probe(source: Path, folder: Path, given: Mapping[str, Any]) -> Path:
    """Copy the probe's `source` into the attempt's `folder` and return where PYTHONPATH must lead.

    `given` becomes probe.json (child/probe/settings.py names its keys); raises OSError.
    """
    place = folder / "probe"
    make_folder(place)
    shutil.copytree(
        source,
        place / PACKAGE,
        ignore=shutil.ignore_patterns("__pycache__", STARTER),
        dirs_exist_ok=True,
    )
    shutil.copyfile(source / STARTER, place / STARTER)
    # Where the training's Python is ours, each rank is spared some 35 ms of its start.
    compileall.compile_dir(place, quiet=2)
    write_json(place / "probe.json", {"schema": 1, **given})
    for path in place.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return place


def python_path(place: Path, before: str | None) -> str:
    """Return the PYTHONPATH that leads to the probe first and then where it led before."""
    return os.pathsep.join([str(place), *([before] if before else [])])

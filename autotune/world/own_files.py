"""Reads the files that a tool's own command names: as texts, and YAML and JSON as values."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.core.fault import Fault, InputError
from autotune.world.yaml_files import read_document, read_text

LARGEST_BYTES = 2**20
ROUNDS = 4  # a command names a config, that names another, that names one more
READ_AS_VALUES = (".yaml", ".yml", ".json")


@dataclass
class OwnFiles:
    """What was read, by the path under which it was asked for."""

    texts: dict[str, str] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)  # a Fault where it is not YAML or JSON
    faults: list[Fault] = field(default_factory=list)  # of files that cannot be read at all


def read_own(folder: Path, wants: Callable[[OwnFiles], tuple[str, ...]]) -> OwnFiles:
    """Return the files below `folder` that are wanted, asked again until nothing new is."""
    found = OwnFiles()
    asked: set[str] = set()
    for _ in range(ROUNDS):
        new = [path for path in dict.fromkeys(wants(found)) if path not in asked]
        if not new:
            break
        asked.update(new)
        for path in new:
            _read(found, folder, path)
    return found


def _read(found: OwnFiles, folder: Path, path: str) -> None:
    place = folder / path
    try:
        found.texts[path] = read_text(place, LARGEST_BYTES)
    except InputError as error:
        found.faults += error.faults
        return
    if place.suffix.lower() in READ_AS_VALUES:
        try:
            found.documents[path] = read_document(place).value
        except InputError as error:
            found.documents[path] = error.faults[0]

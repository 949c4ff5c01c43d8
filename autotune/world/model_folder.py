"""Looks at a model folder and a tokenizer folder without loading either."""

from pathlib import Path
from typing import Any

from autotune.core.fault import Fault
from autotune.world.files import read_json

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


def read_model(folder: Path) -> tuple[dict[str, Any] | None, list[Fault]]:
    """Return the model's config and what is wrong with its folder."""
    try:
        there = folder.is_dir()
    except OSError as error:
        text = f"the model folder cannot be looked at ({error.strerror})"
        return None, [Fault(text, str(folder), "check its permissions")]
    if not there:
        hint = "name a local folder; nothing is downloaded"
        return None, [Fault("the model folder does not exist", str(folder), hint)]
    # A hub's cache holds links to the files themselves.
    config = read_json(folder / "config.json", links=True)
    if not isinstance(config, dict):
        text = "the model's config.json is missing or cannot be read"
        return None, [Fault(text, str(folder / "config.json"), "point `model` at a model folder")]
    faults = []
    weights = [file for pattern in WEIGHTS for file in folder.glob(pattern)]
    if not any(_size(file) for file in weights):
        hint = "the folder may be a partial download"
        faults.append(Fault("the model folder holds no weights", str(folder), hint))
    return config, faults


def weight_bytes(folder: Path) -> int:
    """Return the bytes of a model's weights; where two formats hold the same, of one."""
    return max(sum(_size(file) for file in folder.glob(pattern)) for pattern in WEIGHTS)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0  # a link that leads nowhere, or a file we may not look at


def tokenizer_faults(folder: Path) -> list[Fault]:
    """Return what is wrong with a tokenizer folder."""
    if any((folder / name).is_file() for name in TOKENIZERS):
        return []
    hint = f"it should hold one of {', '.join(TOKENIZERS)}"
    return [Fault("no tokenizer is in this folder", str(folder), hint)]

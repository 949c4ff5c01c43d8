"""Finds a job's DeepSpeed configuration, wherever it stands, and has the doctor look at it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autotune.core.fault import Fault, InputError
from autotune.frameworks import ds_config
from autotune.frameworks.ds_doctor import examine, examine_text
from autotune.frameworks.ds_remark import Path as Keys
from autotune.frameworks.ds_remark import Remark, Use
from autotune.frameworks.ds_text import Parsed, parse
from autotune.frameworks.finetune_parts import FinetuneSettings
from autotune.world.yaml_files import Document, read_document, read_text

Where = Callable[[Keys], str]

LARGEST_BYTES = 256 * 1024  # a DeepSpeed configuration has some hundred lines


@dataclass(frozen=True)
class Found:
    """The configuration, and what is to be said of it."""

    config: dict[str, Any]
    faults: tuple[Fault, ...] = ()
    notes: tuple[Fault, ...] = ()


def find_deepspeed(
    settings: FinetuneSettings, document: Document, ranks: int, installed: str | None
) -> Found:
    """Return the DeepSpeed configuration of a job: inline, a JSON file, or a YAML file.

    `installed` is the version of DeepSpeed in the training's Python, None where it is not known.
    """
    given = settings.deepspeed
    use = replace(ds_config.BUILT_IN, deepspeed=installed, world_size=ranks)
    if given is None:
        return Found({})
    if isinstance(given, dict):
        return _judged(
            given, settings, use, lambda keys: document.where("settings", "deepspeed", *keys)
        )
    path = document.path.parent / given
    try:
        if path.suffix.lower() in (".yaml", ".yml"):
            held = read_document(path)
            return _judged(held.value, settings, use, lambda keys: held.where(*keys))
        parsed = parse(read_text(path, LARGEST_BYTES))
    except InputError as error:
        return Found({}, error.faults)
    if parsed.broken:
        (remark,) = examine_text(parsed, use)
        return Found({}, (_fault(remark, lambda _: f"{path}:{parsed.broken_line}"),))
    where = _lines_of(path, parsed)
    return _judged(parsed.value, settings, use, where, examine_text(parsed, use))


def _judged(
    value: Any,
    settings: FinetuneSettings,
    use: Use,
    where: Where,
    remarks: list[Remark] | None = None,
) -> Found:
    config = _with_text_keys(value) if isinstance(value, dict) else {}
    use = replace(use, stage=settings.zero_stage or ds_config.stage(config) or 2)
    remarks = [*(remarks or ()), *examine(value, use)]
    faults = tuple(_fault(remark, where) for remark in remarks if remark.fault)
    notes = tuple(_fault(remark, where) for remark in remarks if not remark.fault)
    return Found(config, faults, notes)


def _with_text_keys(value: Any) -> Any:
    # YAML has keys that are numbers; a configuration is JSON in the end, and has none.
    if isinstance(value, dict):
        return {str(key): _with_text_keys(held) for key, held in value.items()}
    return [_with_text_keys(held) for held in value] if isinstance(value, list) else value


def _fault(remark: Remark, where: Where) -> Fault:
    return Fault(remark.what, where(remark.path), remark.hint)


def _lines_of(path: Path, parsed: Parsed) -> Where:
    def where(keys: Keys) -> str:
        for end in range(len(keys), 0, -1):
            if keys[:end] in parsed.lines:
                return f"{path}:{parsed.lines[keys[:end]]}"
        return str(path)

    return where

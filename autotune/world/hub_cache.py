"""Finds a model of a hub in its local cache; nothing is asked over a network."""

import re
from collections.abc import Mapping
from pathlib import Path

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST_REF = 100  # characters


def cached_model(name: str, env: Mapping[str, str]) -> Path | None:
    """Return the folder of the newest copy of a hub's model, where a training in `env` looks.

    The layout and the variables are those of huggingface_hub: `models--OWNER--NAME/refs/main`
    holds the commit whose files lie in `snapshots/`.
    """
    if not _NAME.fullmatch(name):
        return None
    kept = hub_folder(env) / f"models--{name.replace('/', '--')}"
    try:
        with (kept / "refs" / "main").open(encoding="ascii") as file:
            commit = file.read(_LONGEST_REF).strip()
    except (OSError, UnicodeDecodeError):
        return None
    found = kept / "snapshots" / commit
    return found if _COMMIT.fullmatch(commit) and found.is_dir() else None


def hub_folder(env: Mapping[str, str]) -> Path:
    """Return the folder of the cache."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if env.get(variable):
            return Path(env[variable]).expanduser()
    if env.get("HF_HOME"):
        return Path(env["HF_HOME"]).expanduser() / "hub"
    caches = env.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "huggingface" / "hub"


def cached_at_modelscope(name: str, env: Mapping[str, str]) -> Path | None:
    """Return the folder of ModelScope's copy of a model, where a training in `env` looks.

    Layouts and variables are those of modelscope 1.40, which reads what older ones have left: the
    model's own folder, with `___` for each dot of its name, or one snapshot for each revision.
    """
    if not _NAME.fullmatch(name) or "/" not in name:
        return None
    cache = modelscope_folder(env)
    owner, model = name.split("/")
    safe = model.replace(".", "___")
    root = cache / "models" / f"{owner}--{model}"
    kept = root / "snapshots"
    older = [
        cache / owner / model,
        cache / owner / safe,
        cache / "hub" / owner / model,
        cache / "hub" / owner / safe,
        cache / "models" / owner / model,
    ]
    places = [
        cache / "models" / owner / safe,
        *([] if _holds_anything(root) else older),
        cache / "hub" / "models" / owner / safe,
        kept / "master",
        kept / "main",
        *_only_one(kept),
    ]
    return next((place for place in places if _holds_anything(place)), None)


def modelscope_folder(env: Mapping[str, str]) -> Path:
    """Return the folder of ModelScope's cache."""
    named = env.get("MODELSCOPE_CACHE") or env.get("MS_CACHE_HOME")
    return Path(named or "~/.cache/modelscope").expanduser()


def _only_one(snapshots: Path) -> list[Path]:
    """Return the one revision that is there; of several, nobody said which."""
    try:
        found = [place for place in snapshots.iterdir() if _holds_anything(place)]
    except OSError:
        return []
    return found if len(found) == 1 else []


def _holds_anything(place: Path) -> bool:
    try:
        return next(place.iterdir(), None) is not None
    except OSError:
        return False

"""Finds a model of the Hugging Face hub in the local cache; nothing is asked over a network."""

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

"""What every tool says alike of adapters: which modules they sit on, and how they are scaled."""

from collections.abc import Mapping
from typing import Any

from autotune.frameworks.arguments import decimal

# Where peft puts adapters that nobody places (peft 0.21, utils/constants.py).
_DEFAULTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("llama", "llama4", "mistral", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3"),
        ("q_proj", "v_proj"),
    ),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "gpt2": ("c_attn",),
    "gpt_neox": ("query_key_value",),
}
EVERY = ("all", "all-linear", "all_linear")


def targets_of(said: Any, config: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the modules that are adapted; none: every linear layer, also where it is unknown."""
    if said is None:
        return _DEFAULTS.get(str((config or {}).get("model_type")), ())
    words = said.replace(",", " ").split() if isinstance(said, str) else said
    names = list(words) if isinstance(words, (list, tuple)) else []
    return () if any(name in EVERY for name in names) else tuple(map(str, names))


def alpha_kept(alpha: float, before: int, after: int) -> int | float:
    """Return the alpha by which another rank scales as the one before did."""
    kept = alpha * after / before
    return int(kept) if kept == int(kept) else kept


def number_of(said: Any, default: float) -> float:
    """Return a dropout or an alpha as it is said, `default` where it is no number."""
    found = decimal(said)
    return default if found is None else found

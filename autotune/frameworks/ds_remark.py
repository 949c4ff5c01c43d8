"""What the doctor of DeepSpeed configurations is asked with, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autotune.core.compatibility import Version, parse_version
from autotune.frameworks.ds_keys import CHECKED_AGAINST

Path = tuple[str | int, ...]
AUTO = "auto"


@dataclass(frozen=True)
class Remark:
    """One thing about a configuration, where it stands, and one thing to do.

    A fault is what DeepSpeed refuses, or what makes it train something else than was written; the
    rest is ignored by DeepSpeed, or may surprise.
    """

    path: Path
    what: str  # with `alike`: only what follows the key
    hint: str
    fault: bool = True
    alike: bool = False  # said once for all keys of which the same is to be said


@dataclass(frozen=True)
class Use:
    """Which program hands the configuration to DeepSpeed, and what is known of the run."""

    who: str = "a plain DeepSpeed program"
    fills: frozenset[str] = frozenset()  # keys whose "auto" it replaces, dotted
    literal: frozenset[str] = frozenset()  # keys it reads itself, so that "3" is not 3
    elsewhere: frozenset[str] = frozenset()  # keys it sets or judges itself
    offload_elsewhere: bool = False  # it judges itself where to offload, and when
    json_only: bool = False  # it reads plain JSON, not DeepSpeed's Hjson
    hf: bool = False  # it ends in HF Trainer
    deepspeed: str | None = None  # the installed version; None: the one the tables know
    world_size: int | None = None  # data-parallel ranks
    stage: int | None = None  # the ZeRO stage in force, where it is not the file's

    @cached_property
    def version(self) -> Version:
        """The version of DeepSpeed that is judged for."""
        return parse_version(self.deepspeed or CHECKED_AGAINST)

    def has(self, since: str | None) -> bool:
        """Return whether that DeepSpeed is at least `since`."""
        return since is None or self.version >= parse_version(since)


FILLED_BY_HF = frozenset(
    {
        "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps",
        "gradient_clipping", "fp16.enabled", "bf16.enabled", "optimizer.params.lr",
        "optimizer.params.betas", "optimizer.params.eps", "optimizer.params.weight_decay",
        "scheduler.params.warmup_min_lr", "scheduler.params.warmup_max_lr",
        "scheduler.params.warmup_num_steps", "scheduler.params.total_num_steps",
        "zero_optimization.reduce_bucket_size", "zero_optimization.stage3_prefetch_bucket_size",
        "zero_optimization.stage3_param_persistence_threshold",
    }
)  # fmt: skip

PLAIN = Use()
HF_TRAINER = Use(
    who="HF Trainer",
    fills=FILLED_BY_HF,
    literal=frozenset({"zero_optimization.stage"}),
    json_only=True,
    hf=True,
)


class View:
    """A configuration as rules ask it: by dotted path, whatever shape it has."""

    def __init__(self, config: Mapping[str, Any], use: Use) -> None:
        """Keep both."""
        self.config, self.use = config, use

    def get(self, path: str, otherwise: Any = None) -> Any:
        """Return what stands at a dotted path, or `otherwise` where there is nothing."""
        node: Any = self.config
        for name in path.split("."):
            if not isinstance(node, Mapping) or name not in node:
                return otherwise
            node = node[name]
        return node

    def table(self, path: str) -> Mapping[str, Any]:
        """Return the mapping at a dotted path; an empty one where there is none."""
        value = self.get(path)
        return value if isinstance(value, Mapping) else {}

    def on(self, path: str) -> bool:
        """Return whether a switch is on as DeepSpeed's pydantic models would read it."""
        value = self.get(path)
        if isinstance(value, str):
            return value.strip().lower() in TRUE_WORDS
        return isinstance(value, (bool, int, float)) and value == 1

    @cached_property
    def stage(self) -> int:
        """The ZeRO stage in force, 0 where nothing says one."""
        if self.use.stage is not None:
            return self.use.stage
        value = self.get("zero_optimization.stage", 0)
        if isinstance(self.get("zero_optimization"), bool):
            return int(self.config["zero_optimization"])
        read = number_in(value) if isinstance(value, str) else value
        return int(read) if isinstance(read, (int, float)) and read in (0, 1, 2, 3) else 0

    def offload(self, part: str) -> str:
        """Return where the `optimizer` or the `param` is offloaded to: none, cpu or nvme."""
        old = {"optimizer": "cpu_offload", "param": "cpu_offload_param"}[part]
        if self.on(f"zero_optimization.{old}"):
            return "cpu"
        device = self.get(f"zero_optimization.offload_{part}.device", "none")
        return device if device in ("cpu", "nvme") else "none"


TRUE_WORDS = ("true", "1", "on", "yes", "t", "y")
FALSE_WORDS = ("false", "0", "off", "no", "f", "n")


def number_in(text: str) -> int | float | None:
    """Return the finite number that a text holds, a whole one as int, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    if value != value or value in (float("inf"), float("-inf")):
        return None
    return int(value) if value.is_integer() else value

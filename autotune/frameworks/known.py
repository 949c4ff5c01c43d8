"""Every framework by the name that jobs give it, and how a command line or a config shows which.

No other file names a tool.
"""

from collections.abc import Mapping
from typing import Any

from autotune.frameworks.arguments import Arguments
from autotune.frameworks.axolotl import Axolotl
from autotune.frameworks.command import AnyCommand
from autotune.frameworks.command_line import Call
from autotune.frameworks.deepke import DeepKe
from autotune.frameworks.deepspeed import PlainDeepSpeed
from autotune.frameworks.finetune import Finetune
from autotune.frameworks.framework import Framework
from autotune.frameworks.hf import Hf
from autotune.frameworks.llamafactory import LlamaFactory
from autotune.frameworks.ms_swift import MsSwift
from autotune.frameworks.trl import Trl

FRAMEWORKS: dict[str, Framework] = {
    "finetune": Finetune(),
    "hf": Hf(),
    "trl": Trl(),
    "llamafactory": LlamaFactory(),
    "deepke": DeepKe(),
    "axolotl": Axolotl(),
    "ms_swift": MsSwift(),
    "deepspeed": PlainDeepSpeed(),
    "command": AnyCommand(),
}

_PROGRAMS = {
    "llamafactory-cli": "llamafactory", "lmf": "llamafactory", "llamafactory.cli": "llamafactory",
    "trl": "trl", "trl.scripts.sft": "trl", "trl.cli": "trl",
    "axolotl": "axolotl", "axolotl.cli.train": "axolotl",
    "swift": "ms_swift", "swift.cli.sft": "ms_swift",
}  # fmt: skip
# Keys that only this tool's configuration has; all of a row must be there.
_CONFIGS = (
    ("llamafactory", ("finetuning_type", "cutoff_len")),
    ("llamafactory", ("finetuning_type", "stage")),
    ("axolotl", ("base_model", "micro_batch_size")),
    ("axolotl", ("base_model", "datasets")),
    ("ms_swift", ("tuner_type",)),
    ("ms_swift", ("train_type",)),
    ("trl", ("model_name_or_path", "dataset_name")),
    ("hf", ("output_dir", "per_device_train_batch_size")),
)


def recognise(call: Call) -> str:
    """Return the framework of a command line; `command` where it is no tool that is known."""
    found = _recognised(call)
    return found if found in FRAMEWORKS else "command"


def _recognised(call: Call) -> str:
    if call.name in _PROGRAMS:
        return _PROGRAMS[call.name]
    arguments = Arguments(call.arguments)
    values = arguments.values()
    if call.kind == "tool":
        return "command"
    if call.name == "finetune.py" and {"model_name", "model_name_or_path"} <= values.keys():
        return "deepke"
    # HfArgumentParser takes a single JSON file in the place of all arguments.
    one_file = len(call.arguments) == 1 and call.arguments[0].endswith(".json")
    if "output_dir" in values or one_file:
        return "hf"
    own = PlainDeepSpeed.own_config(arguments)
    return "command" if own is None else "deepspeed"


def recognise_config(config: Mapping[str, Any]) -> str | None:
    """Return the framework whose configuration a mapping is; None where nothing shows it."""
    for name, keys in _CONFIGS:
        if name in FRAMEWORKS and all(key in config for key in keys):
            return name
    return None

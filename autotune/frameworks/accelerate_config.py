"""What `accelerate launch` reads of ranks, precision and DeepSpeed, and what we give it instead."""

from collections.abc import Mapping
from typing import Any

from autotune.core.fault import Fault
from autotune.frameworks.arguments import integer, to_yaml
from autotune.frameworks.launch_options import ACCELERATE

FILE = "accelerate.yaml"  # of the attempt
# Options of accelerate that TrainingArguments know too: there they are the training's.
_TRAININGS = frozenset(
    {"gradient_accumulation_steps", "debug", "env", "fsdp", "fsdp_config", "m", "module", "t", "q"}
)
_ELSEWHERE = ("FSDP", "MEGATRON_LM", "XLA", "TP")


def is_launching(key: str) -> bool:
    """Return whether an argument is accelerate's own, and no training's."""
    return key not in _TRAININGS and ACCELERATE.takes(key) is not None


def flat(document: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return accelerate's settings by name: its file's, and what was given over them."""
    nested = document.get("deepspeed_config")
    file = {**document, **(nested if isinstance(nested, Mapping) else {})}
    return {**file, **{key: value for key, value in given.items() if is_launching(key)}}


def ranks(options: Mapping[str, Any]) -> int | None:
    """Return how many ranks accelerate would start; None where it counts the GPUs."""
    return integer(options.get("num_processes"))


def precision(options: Mapping[str, Any]) -> str:
    """Return the precision that accelerate brings: no, fp16 or bf16."""
    said = options.get("mixed_precision")
    return "no" if said in (None, False) else str(said)


def deepspeed(options: Mapping[str, Any]) -> str | dict[str, Any] | None:
    """Return the DeepSpeed configuration that accelerate would make, or the file it names.

    Source: accelerate 1.15, utils/dataclasses.py, DeepSpeedPlugin.
    """
    if options.get("distributed_type") != "DEEPSPEED" and not options.get("use_deepspeed"):
        return None
    if isinstance(options.get("deepspeed_config_file"), str):
        return str(options["deepspeed_config_file"])
    zero: dict[str, Any] = {"stage": integer(options.get("zero_stage", 2))}
    for key in ("offload_optimizer", "offload_param"):
        device = options.get(f"{key}_device", "none")
        if device not in (None, "none"):
            zero[key] = {"device": device}
    if zero["stage"] == 3:
        saves = str(options.get("zero3_save_16bit_model", False)).lower() == "true"
        zero["stage3_gather_16bit_weights_on_model_save"] = saves
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
    }


def faults(options: Mapping[str, Any], where: str) -> list[Fault]:
    """Return what accelerate is asked for that no plan can carry."""
    found = []
    kind = str(options.get("distributed_type", "NO"))
    used = [name for name in ("use_fsdp", "use_megatron_lm", "tpu") if options.get(name)]
    if kind in _ELSEWHERE or used:
        text = f"accelerate is to run {used[0] if used else kind}, which autotune does not steer"
        found.append(Fault(text, where, "ZeRO stages 2 and 3 shard the same; use a zero2 config"))
    if (integer(options.get("num_machines")) or 1) > 1:
        text = f"accelerate is to start {options['num_machines']} machines, and this supervisor one"
        found.append(Fault(text, where, "give the configuration of one machine"))
    if precision(options) not in ("no", "fp16", "bf16"):
        text = f"accelerate is to train in {precision(options)}, which no plan can say"
        found.append(Fault(text, where, "use bf16 or fp16"))
    return found


def written(count: int, port: int) -> str:
    """Return the configuration by which accelerate starts our ranks as torchrun does.

    Kind MULTI_GPU also for one rank and on the CPU: only there is every rank told its number, which
    DeepSpeed and gloo need. Precision and DeepSpeed are TrainingArguments' own and not said here.
    """
    return to_yaml(
        {
            "compute_environment": "LOCAL_MACHINE",
            "distributed_type": "MULTI_GPU",
            "num_machines": 1,
            "machine_rank": 0,
            "num_processes": count,
            "main_process_port": port,
            "gpu_ids": "all",
            "mixed_precision": "no",
            "use_cpu": False,
        }
    )

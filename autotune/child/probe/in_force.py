"""Reads what is really in force from the trainer, the engine, the optimizer and the model.

The names are those the built-in trainer reports (`settings_in_force`); what cannot be read is left
out, so that nobody takes a guess for a reading.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from . import state


def settings(trainer: Any, engine: Any) -> dict[str, Any]:
    """What is in force, each part by itself: one that this version does not have costs only it."""
    found: dict[str, Any] = {"world_size": int(os.environ.get("WORLD_SIZE", "1"))}
    for part in parts(trainer, engine):
        try:
            found.update(part())
        except (AttributeError, KeyError, TypeError, ValueError):  # another version, another name
            continue
    found.update(environment())
    return {name: value for name, value in found.items() if value is not None}


def parts(trainer: Any, engine: Any) -> Iterator[Any]:
    """The readings that apply, the more trustworthy after the less."""
    model = getattr(trainer, "model", None) or getattr(engine, "module", None)
    optimizer = getattr(engine, "optimizer", getattr(trainer, "optimizer", state.optimizer))
    if trainer is not None:
        yield lambda: of_trainer(trainer)
    if model is not None:
        yield lambda: of_model(model)
        yield lambda: {"attention": getattr(model.config, "_attn_implementation", None)}
        yield lambda: {"lora_rank": next(int(one.r) for one in model.peft_config.values())}
    if optimizer is not None:
        yield lambda: of_optimizer(optimizer)
    if engine is not None:
        yield lambda: of_engine(engine)
        yield lambda: of_buckets(engine)


def of_trainer(trainer: Any) -> dict[str, Any]:
    args = trainer.args
    micro, accumulation = trainer._train_batch_size, args.gradient_accumulation_steps
    return {
        "micro_batch": micro,
        "accumulation": accumulation,
        "global_batch": micro * accumulation * args.world_size,
        "world_size": args.world_size,
        "zero_stage": 0,
        "eval_micro_batch": args.eval_batch_size,
        "total_steps": trainer.state.max_steps,
        "dtype": "bfloat16" if args.bf16 else "float16" if args.fp16 else None,
        "loader_workers": args.dataloader_num_workers,
    }


def of_model(model: Any) -> dict[str, Any]:
    parameters = list(model.parameters())
    sizes = [getattr(one, "ds_numel", one.numel()) for one in parameters]
    trains = [size for size, one in zip(sizes, parameters, strict=True) if one.requires_grad]
    floating = (one.dtype for one in parameters if one.dtype.is_floating_point)
    checkpointing = any(getattr(one, "gradient_checkpointing", False) for one in model.modules())
    return {
        "parameters": sum(sizes),
        "trainable_parameters": sum(trains),
        "dtype": str(next(floating)).removeprefix("torch."),
        "quantization": quantization(parameters),
        "activation_checkpointing": checkpointing,
    }


def quantization(parameters: list[Any]) -> str:
    """As bitsandbytes marks its weights: nf4, fp4, int8; none where nothing is marked."""
    for one in parameters:
        if getattr(one, "quant_state", None) is not None:
            return str(getattr(one.quant_state, "quant_type", "nf4"))
        if getattr(one, "SCB", None) is not None:
            return "int8"
    return "none"


def of_optimizer(optimizer: Any) -> dict[str, Any]:
    while type(optimizer).__name__ == "AcceleratedOptimizer":
        optimizer = optimizer.optimizer
    inner = getattr(optimizer, "optimizer", optimizer)
    bits = getattr(getattr(inner, "args", None), "optim_bits", None)
    words = [type(inner).__name__, f"{bits}-bit" if bits else ""]
    words.append("paged" if getattr(inner, "is_paged", False) else "")
    names = ("weight_decay", "betas", "eps", "lr")
    groups = [{name: group.get(name) for name in names} for group in optimizer.param_groups]
    return {"optimizer": " ".join(words).strip(), "param_groups": groups}


def of_engine(engine: Any) -> dict[str, Any]:
    return {
        "micro_batch": engine.train_micro_batch_size_per_gpu(),
        "accumulation": engine.gradient_accumulation_steps(),
        "global_batch": engine.train_batch_size(),
        "world_size": engine.world_size,
        "zero_stage": engine.zero_optimization_stage(),
        "offload_optimizer": device_of(engine.zero_offload_optimizer()),
        "offload_param": device_of(engine.zero_offload_param()),
        "dtype": str(next(engine.module.parameters()).dtype).removeprefix("torch."),
        "gather_on_save": bool(engine.zero_gather_16bit_weights_on_model_save()),
    }


def of_buckets(engine: Any) -> dict[str, Any]:
    optimizer = engine.optimizer
    return {
        "reduce_bucket_elements": int(optimizer.reduce_bucket_size),
        "allgather_bucket_elements": getattr(optimizer, "allgather_bucket_size", None),
    }


def device_of(config: Any) -> str:
    device = getattr(config, "device", None)
    return str(getattr(device, "value", device) or "none")


def environment() -> dict[str, Any]:
    import resource

    soft = resource.getrlimit(resource.RLIMIT_DATA)[0]
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    return {
        "soft_limit_bytes": None if soft == resource.RLIM_INFINITY else soft,
        "blocking_launches": os.environ.get("CUDA_LAUNCH_BLOCKING") == "1",
        "allocator": {name: os.environ.get(name) for name in names},
    }

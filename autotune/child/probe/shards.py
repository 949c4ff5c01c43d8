"""Writes this rank's part of a trainer's checkpoint: no collective, and no second copy in memory.

Each file is what DeepSpeed's and transformers' own save would have written (`_save_checkpoint`,
`_save_zero_checkpoint` and `_save_rng_state` there), read from another thread while the one that
trains is held or sits in a collective; nothing it uses is changed. Weights that only a gather over
all ranks could write (of ZeRO stage 3) are left out: a resume reads the shards.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from .boundary import Moment

TESTED = ("0.19.8",)  # DeepSpeed, whose private methods are used here
OPTIMIZERS = ("DeepSpeedZeroOptimizer", "DeepSpeedZeroOptimizer_Stage3")


class CannotSave(Exception):
    """The sentence why this rank's state cannot be written without the others."""


def check(engine: Any) -> None:
    """Raise CannotSave where the engine is another than those this was tried with."""
    version = getattr(sys.modules.get("deepspeed"), "__version__", "none").partition("+")[0]
    if version not in TESTED:
        raise CannotSave(f"DeepSpeed {version} is not one of {', '.join(TESTED)}")
    config = engine._config.zero_config
    offloads = (config.offload_optimizer, config.offload_param)
    odd = {
        "its engine is no plain DeepSpeedEngine": type(engine).__name__ != "DeepSpeedEngine",
        "it trains without ZeRO": engine.zero_optimization_stage() not in (1, 2, 3),
        "it keeps optimizer or parameters on NVMe": any(
            one is not None and str(getattr(one.device, "value", one.device)) == "nvme"
            for one in offloads
        ),
        "its optimizer is no plain ZeRO": type(engine.optimizer).__name__ not in OPTIMIZERS,
        "the model is split into experts or by tensor": bool(
            engine.has_moe_layers or engine.mp_world_size != 1
        ),
        "it saves checkpoints in the background": engine.checkpoint_engine.is_decoupled(),
        "it drops layers or schedules its data": bool(
            engine.random_ltd_enabled() or engine.curriculum_learning_enabled()
        ),
        "the model keeps running statistics": any(
            module._buffers.get("running_mean") is not None for module in engine.module.modules()
        ),
    }
    for why, true in odd.items():
        if true:
            raise CannotSave(why)


def write(folder: str, moment: Moment, stream: Any = None) -> list[dict[str, Any]]:
    """Write this rank's files of checkpoint-N into `folder`; name, bytes and SHA-256 of each.

    Raises CannotSave, OSError and whatever torch raises; `stream` is a CUDA stream of our own.
    """
    engine, trainer = moment.engine, moment.trainer
    if engine.global_steps != moment.engine_steps:
        raise CannotSave(f"DeepSpeed is at step {engine.global_steps}, not {moment.engine_steps}")
    torch = sys.modules["torch"]
    tag, files = f"global_step{moment.engine_steps}", Files(folder)
    adapters = is_adapted(trainer.model)
    with torch.no_grad(), torch.cuda.stream(stream) if stream else contextlib.nullcontext():
        if engine.save_non_zero_checkpoint:
            name = engine._get_ckpt_name("", tag)
            files.save(name, model_states(engine, exclude_frozen=adapters))
        state = {
            "optimizer_state_dict": optimizer_states(engine.optimizer),
            "ds_config": engine.config,
            "ds_version": sys.modules["deepspeed"].__version__,
        }
        files.save(engine._get_zero_ckpt_name("", tag), state)
        ranks, rank = trainer.args.world_size, trainer.args.process_index
        files.save("rng_state.pth" if ranks <= 1 else f"rng_state_{rank}.pth", moment.random)
        if rank == 0:
            if type(trainer.lr_scheduler).__name__ != "DeepSpeedSchedulerWrapper":
                files.save("scheduler.pt", moment.scheduler)
            if adapters and engine.zero_optimization_stage() < 3:
                save_adapters(files, trainer.model, engine)
            files.save("training_args.bin", trainer.args)
            files.text("latest", tag)
            files.text("trainer_state.json", trainer_state(moment))
    return files.written


class Files:
    """Writes the files of one folder, each hashed on its way to the disk."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.written: list[dict[str, Any]] = []

    def save(self, name: str, value: Any) -> None:
        with self._open(name) as file:
            # Each storage goes to the file from where it lies, or from one copy of it on the host.
            sys.modules["torch"].save(value, file)

    def text(self, name: str, text: str) -> None:
        with self._open(name) as file:
            file.write(text.encode())

    def note(self, name: str) -> None:
        """Take in a small file that another library has written."""
        with open(os.path.join(self.folder, name), "r+b") as file:
            content = file.read()
            os.fsync(file.fileno())
        self._add(name, len(content), hashlib.sha256(content).hexdigest())

    def _add(self, name: str, size: int, digest: str) -> None:
        self.written.append({"name": name, "bytes": size, "sha256": digest})

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[Hashed]:
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as raw:
            file = Hashed(raw)
            yield file
            raw.flush()
            os.fsync(raw.fileno())
        self._add(name, file.bytes, file.digest.hexdigest())


class Hashed:
    """A file for torch.save, which only ever appends to it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self._file.write(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing: the file is flushed once, at its end."""


def is_adapted(model: Any) -> bool:
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, (peft.PeftModel, peft.PeftMixedModel))


def model_states(engine: Any, exclude_frozen: bool) -> dict[str, Any]:
    """What DeepSpeed's `_save_checkpoint` writes."""
    if engine.zero_optimization_stage() == 3:
        module = placeholders(engine.module, exclude_frozen)
    else:
        module = engine.module_state_dict(exclude_frozen_parameters=exclude_frozen)
    frozen = engine.zero_optimization_partition_gradients() and not exclude_frozen
    found: dict[str, Any] = engine._common_checkpoint_state(module, True, frozen)
    return found


def placeholders(module: Any, exclude_frozen: bool) -> dict[str, Any]:
    """The module's state under ZeRO stage 3, where a save finds every parameter partitioned.

    In the midst of a step some are gathered: those too are written as the empty tensors they
    stand for. `state_dict` is not called, for its hooks may look up a parameter by its attribute,
    and under stage 3 that gathers it.
    """
    torch = sys.modules["torch"]
    found = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        where = f"{prefix}." if prefix else ""
        for name, parameter in part._parameters.items():
            if parameter is None or (exclude_frozen and not parameter.requires_grad):
                continue
            partitioned = hasattr(parameter, "ds_id")
            found[where + name] = (
                torch.empty(0, dtype=parameter.dtype, device=parameter.device)
                if partitioned
                else parameter.detach()
            )
        for name, buffer in part._buffers.items():
            if buffer is not None and name not in part._non_persistent_buffers_set:
                found[where + name] = buffer
    return found


def optimizer_states(zero: Any) -> dict[str, Any]:
    """What ZeRO's own `state_dict` returns, for stage 3 without lending it the optimizer's groups.

    Stage 3 puts its tensors into the groups of the optimizer and takes them out again; here that
    happens to twins, which share every tensor and own their groups.
    """
    if type(zero).__name__ != "DeepSpeedZeroOptimizer_Stage3":
        found: dict[str, Any] = zero.state_dict()
        return found
    inner = twin(zero.optimizer)
    inner.param_groups = [{**group, "params": []} for group in zero.optimizer.param_groups]
    outer = twin(zero)
    outer.optimizer = inner
    states: dict[str, Any] = outer.state_dict()
    return states


def twin(thing: Any) -> Any:
    other = object.__new__(type(thing))
    other.__dict__.update(thing.__dict__)
    return other


def save_adapters(files: Files, model: Any, engine: Any) -> None:
    """What peft's `save_pretrained` writes of the adapter in use."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    weights = engine.module_state_dict(exclude_frozen_parameters=True)
    for adapter in model.peft_config:
        inner = "" if adapter == "default" else adapter
        place = os.path.join(files.folder, inner)
        os.makedirs(place, exist_ok=True)
        tensors = get_peft_model_state_dict(
            model, state_dict=weights, adapter_name=adapter, save_embedding_layers=False
        )
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        name = os.path.join(inner, "adapter_model.safetensors")
        save_file(tensors, os.path.join(files.folder, name), metadata={"format": "pt"})
        files.note(name)
        config = copy.copy(model.peft_config[adapter])
        config.inference_mode = True
        config.save_pretrained(place, auto_mapping_dict=mapping_of(model, config))
        files.note(os.path.join(inner, "adapter_config.json"))


def mapping_of(model: Any, config: Any) -> dict[str, str] | None:
    """How peft finds the model's class again where the adapters name no task."""
    if config.task_type is not None:
        return None
    kind = model._get_base_model_class(is_prompt_tuning=config.is_prompt_learning)
    return {"base_model_class": kind.__name__, "parent_library": kind.__module__}


def trainer_state(moment: Moment) -> str:
    """trainer_state.json as it would have been written at that step."""
    trainer = moment.trainer
    state = trainer.state
    plain = {name: getattr(state, name) for name in state.__dataclass_fields__}
    plain.update(moment.counters)
    stateful: dict[str, Any] = {}
    for callback in [*trainer.callback_handler.callbacks, trainer.control]:
        name = type(callback).__name__
        if name not in state.stateful_callbacks or not hasattr(callback, "state"):
            continue
        if isinstance(state.stateful_callbacks[name], list):
            stateful.setdefault(name, []).append(callback.state())
        else:
            stateful[name] = callback.state()
    plain["stateful_callbacks"] = stateful
    return json.dumps(plain, indent=2, sort_keys=True) + "\n"

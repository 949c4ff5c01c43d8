"""The one file that the built-in trainer's child reads; its schema is in child/finetune.py."""

import copy
from typing import Any

from autotune.core.codec import to_plain
from autotune.core.job import absolute
from autotune.core.outlook import STEPS_WITH
from autotune.core.plan import Plan
from autotune.frameworks import ds_config
from autotune.frameworks.finetune_parts import FinetuneSettings, settings_of
from autotune.frameworks.framework import Setting


def train_file(setting: Setting) -> dict[str, Any]:
    """Return what the child reads; its schema is described in child/finetune.py."""
    settings, plan, job = settings_of(setting.job), setting.plan, setting.job

    def located(path: str | None) -> str | None:
        return None if path is None else absolute(path, setting.job_folder)

    model = settings.model
    folder = located(model) if isinstance(model, str) else None
    every = job.checkpoints.every
    return {
        "schema": 1,
        "mode": setting.mode,
        "rehearse": job.start == "predicted" and setting.mode == "train",
        "model": {
            "path": folder,
            "config": model if isinstance(model, dict) else None,
            "tokenizer": located(settings.tokenizer) or folder,
            "trust_remote_code": settings.trust_remote_code,
            "attention": attention_of(settings, plan),
            "dtype": plan.dtype,
        },
        "method": {
            "kind": plan.method,
            "quantization": plan.quantization,
            "double_quantization": True,
            "compute": plan.dtype if plan.four_bit_compute == "dtype" else plan.four_bit_compute,
            "lora_rank": plan.lora_rank or settings.lora.rank,
            "lora_alpha": alpha_of(settings, plan),
            "lora_dropout": settings.lora.dropout,
            "lora_targets": settings.lora.targets,
        },
        "data": {
            "train": located(settings.data.train),
            "eval": located(settings.data.eval),
            "eval_fraction": settings.data.eval_fraction,
            "sequence": plan.sequence or settings.data.sequence,
            "packing": settings.data.packing,
            "response_only": settings.data.response_only,
            "shuffle": settings.data.shuffle,
            "workers": plan.loader_workers,
            "pin_memory": settings.pin_memory and plan.pinned_memory,
            "seed": settings.seed,
        },
        "schedule": {
            "epochs": settings.epochs,
            "max_steps": settings.max_steps,
            "learning_rate": settings.learning_rate,
            "scheduler": settings.scheduler,
            "warmup_steps": settings.warmup_steps,
            "weight_decay": settings.weight_decay,
            "adam_betas": list(settings.adam_betas),
            "adam_epsilon": settings.adam_epsilon,
            "max_grad_norm": clipping_of(settings, dict(setting.looked.deepspeed)),
            "optimizer": STEPS_WITH[plan.optimizer],
            "seed": settings.seed,
            "eval_every": settings.eval_every,
        },
        "batch": {
            "global": plan.global_batch,
            "micro": plan.micro_batch,
            "accumulation": plan.accumulation,
            "eval_micro": plan.eval_micro_batch,
            "world_size": plan.world_size,
        },
        "loss": plan.loss,
        "activation_checkpointing": plan.activation_checkpointing,
        "activation_offload": plan.activation_offload,
        "deepspeed": _deepspeed(setting, settings),
        "memory": {"device": setting.device, "limit_bytes": setting.limit_bytes},
        "checkpoints": {
            "dir": setting.checkpoints,
            "every": None if every == "auto" else every,
            "keep": job.checkpoints.keep,
            "resume": setting.resume,
            "risk": to_plain(setting.risk),
        },
        "continuity": _continuity(setting),
        "channel": {
            "events": f"{setting.folder}/events",
            "control": setting.control,
            "attempt": setting.attempt,
        },
    }


def _continuity(setting: Setting) -> dict[str, Any] | None:
    expected = setting.expected
    if expected is None:
        return None
    return {
        "tolerance": expected.tolerance,
        "replay": [[one.step, one.loss, one.samples] for one in expected.replay],
        "band": to_plain(expected.band),
    }


def _deepspeed(setting: Setting, settings: FinetuneSettings) -> dict[str, Any]:
    config = ds_config.with_plan(dict(setting.looked.deepspeed), setting.plan)
    config["gradient_clipping"] = clipping_of(settings, config)
    config.setdefault("zero_allow_untested_optimizer", True)
    config = ds_config.with_overrides(config, setting.ds_overrides)
    if setting.load_universal:
        config["checkpoint"] = {**config.get("checkpoint", {}), "load_universal": True}
    return config


def clipping_of(settings: FinetuneSettings, config: ds_config.Config) -> float:
    """Return the job's own norm, else the configuration's: HF refuses two that differ."""
    configured = ds_config.clipping(config)
    if "max_grad_norm" in settings.model_fields_set or configured is None:
        return settings.max_grad_norm
    return configured


def alpha_of(settings: FinetuneSettings, plan: Plan) -> float:
    """Return the adapters' alpha: in proportion to a plan's own rank, so that its scale stays."""
    return settings.lora.alpha * (plan.lora_rank or settings.lora.rank) / settings.lora.rank


def attention_of(settings: FinetuneSettings, plan: Plan) -> str:
    """Return how attention is computed under a plan."""
    return settings.attention if plan.attention == "given" else plan.attention


def relocatable(train: dict[str, Any]) -> dict[str, Any]:
    """Return the trainer's file as a relaunch reads it: from anywhere, and without a supervisor."""
    train = copy.deepcopy(train)
    train["checkpoints"].update(dir="output", resume=None)
    train["continuity"] = None
    train["rehearse"] = False  # a proof was made
    train["channel"].update(events="output/events", control=None)
    return train

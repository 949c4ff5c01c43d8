"""The built-in trainer as a framework: its settings in the job, and the file its child reads."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from autotune.core.allocator import NEW_NAME, OLD_NAME, parse
from autotune.core.codec import to_plain
from autotune.core.fault import Fault
from autotune.core.job import Job, absolute
from autotune.core.outlook import STEPS_WITH
from autotune.core.plan import Dtype, FourBitCompute, Loss, Optimizer, Plan
from autotune.frameworks import ds_config
from autotune.frameworks.batch import batch_faults
from autotune.frameworks.finetune_parts import Data, Lora, Number, Strict
from autotune.frameworks.framework import Looked, Program, Setting


class FinetuneSettings(Strict):
    """`settings` of a job with `framework: finetune`."""

    model: str | dict[str, Any] = Field(description="a model folder, or an architecture config")
    tokenizer: str | None = Field(default=None, description="a folder; default: the model's")
    trust_remote_code: bool = False
    method: Literal["full", "lora", "qlora"]
    lora: Lora = Lora()
    data: Data
    epochs: Annotated[float, Field(gt=0)] | None = None
    max_steps: int | None = Field(default=None, ge=1)
    learning_rate: Annotated[float, Field(gt=0)]
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    optimizer: Optimizer = Field(default="adamw", description="8-bit and paged: bitsandbytes")
    weight_decay: Number = 0.0
    adam_betas: tuple[float, float] | list[float] = (0.9, 0.999)
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_grad_norm: Number = 1.0
    seed: int = Field(default=1, ge=0)
    eval_every: int | None = Field(default=None, ge=1, description="optimizer steps")
    eval_micro_batch: int | None = Field(default=None, ge=1, description="default: the micro-batch")
    dtype: Dtype = "bf16"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    loss: Loss = Field(default="whole", description="chunked: never all logits at once")
    four_bit_compute: FourBitCompute = Field(
        default="dtype", description="what 4-bit layers multiply in"
    )
    loader_workers: int = Field(default=0, ge=0, description="processes that read samples")
    pin_memory: bool = Field(default=False, description="pin the batches of the loader")
    activation_checkpointing: bool = False
    activation_offload: bool = Field(
        default=False, description="checkpointed activations wait on the host"
    )
    zero_stage: Literal[1, 2, 3] | None = Field(default=None, description="default: 2")
    offload_optimizer: bool | None = None
    offload_param: bool | None = None
    gather_on_save: bool = Field(default=True, description="ZeRO 3: save whole weights too")
    deepspeed: str | dict[str, Any] | None = Field(
        default=None, description="a DeepSpeed configuration or its file, edited key by key"
    )


BLOCKING = "CUDA_LAUNCH_BLOCKING"  # read by the CUDA runtime, when the process starts

# Every setting of a plan is a knob of our own trainer.
KNOBS = frozenset(Plan.__dataclass_fields__)


def settings_of(job: Job) -> FinetuneSettings:
    """Return the job's settings; raises pydantic's ValidationError when they are wrong."""
    return FinetuneSettings.model_validate(job.settings)


class Finetune:
    """HF Trainer, peft and bitsandbytes under DeepSpeed, in one self-contained file."""

    name = "finetune"
    knobs = KNOBS

    def start(self, job: Job, looked: Looked, world_size: int) -> Plan:
        """Return the plan of the job's own settings."""
        settings = settings_of(job)
        config = dict(looked.deepspeed)
        stage = settings.zero_stage or ds_config.stage(config) or 2
        return Plan(
            world_size=world_size,
            micro_batch=job.batch.micro,
            accumulation=max(1, job.batch.global_ // (world_size * job.batch.micro)),
            eval_micro_batch=settings.eval_micro_batch or job.batch.micro,
            method="full" if settings.method == "full" else "lora",
            quantization="nf4" if settings.method == "qlora" else "none",
            dtype=settings.dtype,
            activation_checkpointing=settings.activation_checkpointing,
            zero_stage=stage,
            offload_optimizer=_first(
                settings.offload_optimizer, ds_config.offloads(config, "offload_optimizer")
            ),
            offload_param=_first(
                settings.offload_param, ds_config.offloads(config, "offload_param")
            ),
            reduce_bucket=ds_config.number(config, "reduce_bucket_size", ds_config.DEFAULT_BUCKET),
            allgather_bucket=ds_config.number(
                config, "allgather_bucket_size", ds_config.DEFAULT_BUCKET
            ),
            gather_on_save=settings.gather_on_save,
            sub_group_size=ds_config.number(config, "sub_group_size", Plan.sub_group_size),
            round_robin_gradients=ds_config.flag(config, "round_robin_gradients"),
            allocator=parse(job.env.get(NEW_NAME, job.env.get(OLD_NAME, looked.allocator))),
            attention=settings.attention,
            four_bit_compute=settings.four_bit_compute,
            loader_workers=settings.loader_workers,
            pinned_memory=settings.pin_memory or ds_config.pins(config),
            blocking_launches=job.env.get(BLOCKING) == "1",
            loss=settings.loss,
            activation_offload=settings.activation_offload,
            optimizer=settings.optimizer,
            sequence=settings.data.sequence,
            lora_rank=0 if settings.method == "full" else settings.lora.rank,
        )

    def faults(self, job: Job, looked: Looked, world_size: int, where: str) -> list[Fault]:
        """Return everything wrong with the job's settings, beyond their shape."""
        settings = settings_of(job)
        faults = batch_faults(job, world_size, where)
        config = dict(looked.deepspeed)
        faults += ds_config.shape_faults(config, where)
        faults += ds_config.precision_faults(config, settings.dtype, where)
        faults += ds_config.batch_faults(
            config, world_size, job.batch.micro, job.batch.global_, where
        )
        if (settings.epochs is None) == (settings.max_steps is None):
            text = "the length of the training must be given once: `epochs` or `max_steps`"
            faults.append(Fault(text, where, "keep one of the two"))
        if isinstance(settings.model, dict) and settings.tokenizer is None:
            text = "a model made from an architecture config brings no tokenizer"
            faults.append(Fault(text, where, "name a tokenizer folder under `tokenizer`"))
        stage = ds_config.stage(config)
        if settings.zero_stage and stage is not None and stage != settings.zero_stage:
            text = f"`zero_stage` is {settings.zero_stage}, and the DeepSpeed configuration says "
            faults.append(Fault(text + str(stage), where, "keep one of the two"))
        start = self.start(job, looked, world_size)
        if start.offload_param and start.zero_stage != 3:
            text = "`offload_param` works at ZeRO stage 3 only"
            faults.append(Fault(text, where, "set `zero_stage: 3`, or take `offload_param` out"))
        clip = ds_config.clipping(config)
        if clip is not None and clip != _clipping(settings, config):
            text = f"`max_grad_norm` is {settings.max_grad_norm:g}, and the DeepSpeed "
            text += f"configuration clips gradients to {clip:g}"
            faults.append(Fault(text, where, "keep one of the two"))
        if settings.data.packing and settings.attention == "flash_attention_2":
            text = "packing with flash_attention_2 was not shown to keep packed samples apart"
            faults.append(Fault(text, where, "use `attention: sdpa`, or leave packing off"))
        if settings.eval_every and not self.has_evaluation(job):
            text = "`eval_every` is set, and there is nothing to evaluate on"
            faults.append(Fault(text, where, "set `data.eval` or `data.eval_fraction`"))
        return faults

    def has_evaluation(self, job: Job) -> bool:
        """Return whether the job evaluates during training."""
        data = settings_of(job).data
        return data.eval is not None or data.eval_fraction > 0

    def packs(self, job: Job) -> bool:
        """Return whether rows are put end to end up to the sequence."""
        return settings_of(job).data.packing

    def program(self, setting: Setting) -> Program:
        """Return the trainer's argument and the one file it reads."""
        train = json.dumps(train_file(setting), indent=1)
        return Program(argv=("train.json",), files={"train.json": train}, own_events=True)


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
            "max_grad_norm": _clipping(settings, dict(setting.looked.deepspeed)),
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
    config["gradient_clipping"] = _clipping(settings, config)
    config.setdefault("zero_allow_untested_optimizer", True)
    config = ds_config.with_overrides(config, setting.ds_overrides)
    if setting.load_universal:
        config["checkpoint"] = {**config.get("checkpoint", {}), "load_universal": True}
    return config


def _clipping(settings: FinetuneSettings, config: ds_config.Config) -> float:
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


def _first(given: bool | None, otherwise: bool) -> bool:
    return otherwise if given is None else given

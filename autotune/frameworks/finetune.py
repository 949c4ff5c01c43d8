"""The built-in trainer as a framework: HF Trainer, peft and bitsandbytes under DeepSpeed."""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from autotune.core.allocator import NEW_NAME, OLD_NAME, parse
from autotune.core.fault import Fault
from autotune.core.job import Batch, Job, batch_of
from autotune.core.plan import BLOCKING, Plan
from autotune.frameworks import ds_config
from autotune.frameworks.batch import batch_faults
from autotune.frameworks.finetune_at_plan import settings_with_plan
from autotune.frameworks.finetune_file import clipping_of, relocatable, train_file
from autotune.frameworks.finetune_parts import FinetuneSettings, settings_of
from autotune.frameworks.framework import KnownGood, Looked, Program, Setting, Trained

TRAIN_FILE = "train.json"


class Finetune:
    """HF Trainer, peft and bitsandbytes under DeepSpeed, in one self-contained file."""

    name = "finetune"
    schema = FinetuneSettings
    needs = ("torch", "transformers", "peft", "deepspeed", "accelerate")
    surveys = True
    proves = True

    def usual(self, _: str) -> None:
        """Return nothing: the job file is its configuration."""

    def wants(self, _: Job, __: Looked) -> tuple[str, ...]:
        """Return nothing: its files are looked at where they lie."""
        return ()

    def lacks(self, _: Job, __: Looked) -> Mapping[str, str]:
        """Return the packages: every other setting of a plan is a knob of our own trainer."""
        return {
            "pins": "the built-in trainer is written for the package versions it is installed with"
        }

    def ranks(self, _: Job, __: Looked) -> None:
        """Return nothing: the job's `devices` say it."""

    def batch(self, job: Job, _: Looked, __: int) -> Batch | Fault:
        """Return the batches of the job file, which must name them."""
        if job.batch is None:
            hint = "add it, such as `batch: {global: 64, micro: 8}`; the README lists every key"
            return Fault("`batch` is missing", "", hint)
        return job.batch

    def model(self, job: Job, _: Looked) -> str | Mapping[str, Any]:
        """Return the model folder, or the architecture config."""
        return settings_of(job).model

    def asks_modelscope(self, _: Job, __: Looked, ___: Mapping[str, str]) -> bool:
        """Return whether names of models are ModelScope's: they are not."""
        return False

    def start(self, job: Job, looked: Looked, world_size: int) -> Plan:
        """Return the plan of the job's own settings."""
        settings = settings_of(job)
        config, batch = dict(looked.deepspeed), batch_of(job)
        stage = settings.zero_stage or ds_config.stage(config) or 2
        return Plan(
            world_size=world_size,
            micro_batch=batch.micro,
            accumulation=max(1, batch.global_ // (world_size * batch.micro)),
            eval_micro_batch=settings.eval_micro_batch or batch.micro,
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
        config, batch = dict(looked.deepspeed), batch_of(job)
        faults += ds_config.shape_faults(config, where)
        faults += ds_config.precision_faults(config, settings.dtype, where)
        faults += ds_config.batch_faults(config, world_size, batch.micro, batch.global_, where)
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
        if clip is not None and clip != clipping_of(settings, config):
            text = f"`max_grad_norm` is {settings.max_grad_norm:g}, and the DeepSpeed "
            text += f"configuration clips gradients to {clip:g}"
            faults.append(Fault(text, where, "keep one of the two"))
        if settings.data.packing and settings.attention == "flash_attention_2":
            text = "packing with flash_attention_2 was not shown to keep packed samples apart"
            faults.append(Fault(text, where, "use `attention: sdpa`, or leave packing off"))
        if settings.eval_every and not self.has_evaluation(job, looked):
            text = "`eval_every` is set, and there is nothing to evaluate on"
            faults.append(Fault(text, where, "set `data.eval` or `data.eval_fraction`"))
        return faults

    def notes(self, _: Job, __: Looked, ___: int, ____: str) -> list[Fault]:
        """Return nothing: what the job says is what is done."""
        return []

    def trained(self, job: Job, _: Looked) -> Trained:
        """Return what decides memory beside the model and the plan."""
        settings = settings_of(job)
        targets = settings.lora.targets
        return Trained(
            sequence=settings.data.sequence,
            lora_rank=settings.lora.rank,
            lora_targets=() if isinstance(targets, str) else tuple(targets),
            lora_dropout=settings.lora.dropout,
            trust_remote_code=settings.trust_remote_code,
        )

    def has_evaluation(self, job: Job, _: Looked) -> bool:
        """Return whether the job evaluates during training."""
        data = settings_of(job).data
        return data.eval is not None or data.eval_fraction > 0

    def packs(self, job: Job, _: Looked) -> bool:
        """Return whether rows are put end to end up to the sequence."""
        return settings_of(job).data.packing

    def program(self, setting: Setting) -> Program:
        """Return the trainer with the one file it reads."""
        train = json.dumps(train_file(setting), indent=1)
        argv = (setting.trainer, f"{setting.folder}/{TRAIN_FILE}")
        return Program(argv=argv, files={TRAIN_FILE: train}, own_events=True)

    def known_good(self, setting: Setting) -> KnownGood:
        """Return the trainer's file as a relaunch reads it, and the trainer itself beside it."""
        train = relocatable(train_file(setting))
        trainer = PurePosixPath(setting.trainer).name
        config = dict(setting.looked.deepspeed)
        return KnownGood(
            files={
                TRAIN_FILE: json.dumps(train, indent=1) + "\n",
                "ds_config.json": json.dumps(train["deepspeed"], indent=1) + "\n",
            },
            argv=(trainer, TRAIN_FILE),
            settings=settings_with_plan(setting.job, config, setting.plan, setting.job_folder),
            copies={trainer: setting.trainer},
        )


def _first(given: bool | None, otherwise: bool) -> bool:
    return otherwise if given is None else given

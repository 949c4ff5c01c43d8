"""HF TrainingArguments as a plan: where the user's own start, what they lack, what is wrong.

Six tools end in transformers' Trainer; each has its own file, and they all share this.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autotune.core.allocator import NEW_NAME, OLD_NAME, parse
from autotune.core.fault import Fault
from autotune.core.job import Batch, Job
from autotune.core.plan import BLOCKING, Dtype, Plan
from autotune.frameworks import ds_config, trainer_deepspeed
from autotune.frameworks.arguments import flag, integer
from autotune.frameworks.framework import Looked
from autotune.frameworks.trainer_keys import HF, OPTIMIZERS, Habits, key_faults


@dataclass(frozen=True)
class Own:
    """The user's own arguments of one job, as its tool reads them."""

    job: Job
    values: Mapping[str, Any]
    looked: Looked
    habits: Habits = HF
    # What is carried out under DeepSpeed; None: the tool does without it.
    deepspeed: Mapping[str, Any] | None = field(init=False)

    def __post_init__(self) -> None:
        """Find the DeepSpeed configuration."""
        found = trainer_deepspeed.config_of(self.values.get("deepspeed"), self.looked)
        object.__setattr__(self, "deepspeed", found)

    def number(self, key: str, default: int) -> int:
        """Return a whole number of at least 1, or `default` where there is none."""
        value = integer(self.values.get(key))
        return value if value is not None and value >= 1 else default

    def on(self, key: str, default: bool = False) -> bool:
        """Return whether a switch is on."""
        said = flag(self.values[key]) if self.values.get(key) is not None else None
        return default if said is None else said

    @property
    def micro(self) -> int:
        """Samples per rank and forward pass."""
        return self.number(self.habits.micro, self.habits.micro_default)

    @property
    def accumulation(self) -> int:
        """Forward passes per optimizer step."""
        return self.number(self.habits.accumulation, self.habits.accumulation_default)

    @property
    def dtype(self) -> Dtype:
        """The precision that is trained in: bf16 and fp16 as arguments have them."""
        config = dict(self.deepspeed or {})
        names: tuple[Dtype, Dtype] = ("bf16", "fp16")
        for name in names:
            if self.on(name):
                return name
        for name in names:
            if name not in self.values and _enabled(config, name):
                return name
        said = any(name in self.values for name in ("bf16", "fp16"))
        return "fp32" if said else self.habits.dtype_default

    @property
    def optimizer(self) -> str:
        """The optimizer's name as it stands there; the default is AdamW."""
        return str(self.values.get(self.habits.optimizer) or "adamw_torch")


def wanted_files(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the files that the arguments name and that decide the plan."""
    path = trainer_deepspeed.named_file(values.get("deepspeed"))
    return () if path is None else (path,)


def batch_in(own: Own, ranks: int) -> Batch | Fault:
    """Return the batches of the arguments over so many ranks."""
    return Batch(**{"global": own.micro * own.accumulation * ranks}, micro=own.micro)


def plan_of(own: Own, ranks: int, **fields: Any) -> Plan:
    """Return the plan that the arguments make; `fields` are what only the tool knows."""
    config = dict(own.deepspeed or {})
    stage = (ds_config.stage(config) or 0) if own.deepspeed is not None else 0
    hidden = integer((own.looked.model_config or {}).get("hidden_size"))
    reduce, gather = trainer_deepspeed.buckets(config, hidden)
    env, habits = own.job.env, own.habits
    plan = Plan(
        world_size=ranks,
        micro_batch=own.micro,
        accumulation=own.accumulation,
        eval_micro_batch=own.number(habits.eval_micro, habits.eval_default),
        method="full",
        quantization="none",
        dtype=own.dtype,
        activation_checkpointing=_checkpoints(own),
        zero_stage=stage,
        offload_optimizer=ds_config.offloads(config, "offload_optimizer"),
        offload_param=ds_config.offloads(config, "offload_param"),
        reduce_bucket=reduce,
        allgather_bucket=gather,
        gather_on_save=ds_config.flag(config, "stage3_gather_16bit_weights_on_model_save"),
        sub_group_size=ds_config.number(config, "sub_group_size", Plan.sub_group_size),
        round_robin_gradients=ds_config.flag(config, "round_robin_gradients"),
        allocator=parse(env.get(NEW_NAME, env.get(OLD_NAME, own.looked.allocator))),
        loader_workers=own.number("dataloader_num_workers", 0),
        pinned_memory=own.on("dataloader_pin_memory", habits.pins_default)
        or ds_config.pins(config),
        blocking_launches=env.get(BLOCKING) == "1",
        loss="chunked" if own.on("use_liger_kernel") else "whole",
        optimizer=OPTIMIZERS.get(own.optimizer, "adamw"),
    )
    return plan.but(**fields)


def strange_optimizer(own: Own) -> str:
    """Return the optimizer, where no plan can say it and its memory is not known; or ""."""
    known = own.optimizer in OPTIMIZERS or "optimizer" in (own.deepspeed or {})
    return "" if known else own.optimizer


def lacks_of(own: Own) -> dict[str, str]:
    """Return the settings of a plan for which TrainingArguments alone have no knob, and why."""
    none = "TrainingArguments have no key for it; the program itself would have to be changed"
    lacks = dict.fromkeys(
        ("quantization", "four_bit_compute", "attention", "sequence", "lora_rank"), none
    )
    lacks["loss"] = "a loss in pieces is the program's own business, or Liger's"
    lacks["activation_offload"] = "nothing in TrainingArguments moves activations to the host"
    brings = "optimizer" in (own.deepspeed or {})
    if brings:
        lacks["optimizer"] = "the DeepSpeed configuration brings an optimizer of its own"
    elif strange_optimizer(own):
        lacks["optimizer"] = f"it steps with {own.optimizer}, which nothing here exchanges"
    if own.looked.versions and "deepspeed" not in own.looked.versions:
        for name in ("zero_stage", "offload_optimizer", "offload_param"):
            lacks[name] = "DeepSpeed is not installed in the job's Python"
    return lacks


def evaluates(own: Own) -> bool:
    """Return whether the arguments ask for an evaluation during training."""
    said = own.values.get("eval_strategy", own.values.get("evaluation_strategy"))
    return str(said if said is not None else "no").lower() not in ("no", "false", "none")


def faults_of(own: Own, ranks: int, where: str) -> list[Fault]:
    """Return what is wrong with the arguments, before anything is started."""
    faults = list(key_faults(own.values, own.looked.versions, where))
    faults += _number_faults(own, where)
    faults += trainer_deepspeed.judge(own.values.get("deepspeed"), own.looked, ranks, where)[0]
    resume = own.values.get(own.habits.resume)
    if resume is not None and flag(resume) is not False:
        text = f"`{own.habits.resume}` names {resume}, a checkpoint of another run, which is "
        text += "neither gone on from nor touched without being asked"
        hint = "take it out; to go on from it, name it in the job file: "
        hint += f"checkpoints: {{continue_from: {_path_in(resume)}}}"
        faults.append(Fault(text, where, hint))
    if own.values.get("fsdp") not in (None, "", [], False):
        text = "`fsdp` shards the training in a way that autotune does not steer"
        faults.append(Fault(text, where, "take it out; ZeRO stages 2 and 3 do the same"))
    if own.deepspeed is not None:
        faults += _deepspeed_faults(own, ranks, where)
    if own.job.probe == "off":
        text = "`probe: off` leaves nothing by which this tool's steps and checkpoints are seen"
        faults.append(Fault(text, where, "take it out"))
    return faults


def _path_in(resume: Any) -> str:
    return str(resume) if flag(resume) is None else "PATH"


def _number_faults(own: Own, where: str) -> list[Fault]:
    faults = []
    for key in (own.habits.micro, own.habits.accumulation, own.habits.eval_micro):
        value = own.values.get(key)
        if value is not None and (integer(value) or 0) < 1:
            faults.append(Fault(f"`{key}` is {value!r}, no count", where, "write a whole number"))
    return faults


def _deepspeed_faults(own: Own, ranks: int, where: str) -> list[Fault]:
    config = dict(own.deepspeed or {})
    file = trainer_deepspeed.named_file(own.values.get("deepspeed")) or where
    total = own.micro * own.accumulation * ranks
    faults = ds_config.batch_faults(config, ranks, own.micro, total, file)
    faults += ds_config.precision_faults(config, own.dtype, file)
    faults += trainer_deepspeed.mismatches(config, own.values, file)
    if (ds_config.stage(config) or 0) == 0:
        text = "the DeepSpeed configuration names no ZeRO stage, or stage 0, which shards nothing"
        faults.append(Fault(text, file, "say `stage: 1`, or leave `deepspeed` out"))
    return faults


def notes_of(own: Own, ranks: int, where: str) -> list[Fault]:
    """Return what is switched off or changed under every plan, each with its reason."""
    notes = list(trainer_deepspeed.judge(own.values.get("deepspeed"), own.looked, ranks, where)[1])

    def say(what: str) -> None:
        notes.append(Fault(what, where))

    say("`output_dir` is `checkpoints` of the run folder; the folder named there is left alone")
    if own.on("auto_find_batch_size"):
        say("`auto_find_batch_size` is switched off: it changes the batch behind our back")
    if own.on("save_only_model"):
        say("`save_only_model` is switched off: nothing could be resumed from such a checkpoint")
    if str(own.values.get("save_strategy", "steps")).lower() == "no":
        say("`save_strategy` is set to steps: without checkpoints nothing can be resumed")
    config = dict(own.deepspeed or {})
    if ds_config.offloads(config, "offload_optimizer") and "optimizer" not in config:
        say("torch's AdamW steps on the host in place of DeepSpeed's CPU Adam, so that offloading "
            "can be switched on and off from one checkpoint")  # fmt: skip
    return notes


def _checkpoints(own: Own) -> bool:
    if own.habits.checkpointing is None:
        return own.habits.checkpointing_default
    names = (own.habits.checkpointing, "activation_checkpointing")
    said = [flag(own.values[name]) for name in names if own.values.get(name) is not None]
    return own.habits.checkpointing_default if not said else bool(said[-1])


def _enabled(config: Mapping[str, Any], name: str) -> bool:
    table = config.get(name)
    return isinstance(table, Mapping) and table.get("enabled") is True

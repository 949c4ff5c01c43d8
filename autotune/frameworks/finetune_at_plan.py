"""Says a job's settings again so that they start at a plan, for the known-good."""

from typing import Any

from autotune.core.job import Job, absolute
from autotune.core.plan import Plan
from autotune.frameworks import ds_config
from autotune.frameworks.finetune_file import alpha_of, attention_of
from autotune.frameworks.finetune_parts import settings_of


def settings_with_plan(
    job: Job, config: ds_config.Config, plan: Plan, folder: str
) -> dict[str, Any]:
    """Return the job's `settings` starting at `plan`, with every path absolute."""
    given = settings_of(job)
    settings: dict[str, Any] = {
        **job.settings,
        "data": {**job.settings["data"], "train": absolute(given.data.train, folder)},
        "method": "qlora" if plan.quantization == "nf4" else given.method,
        "dtype": plan.dtype,
        "attention": attention_of(given, plan),
        "four_bit_compute": plan.four_bit_compute,
        "loader_workers": plan.loader_workers,
        "pin_memory": given.pin_memory and plan.pinned_memory,
        "activation_checkpointing": plan.activation_checkpointing,
        "activation_offload": plan.activation_offload,
        "loss": plan.loss,
        "optimizer": plan.optimizer,
        "zero_stage": plan.zero_stage,
        "offload_optimizer": plan.offload_optimizer,
        "offload_param": plan.offload_param,
        "eval_micro_batch": plan.eval_micro_batch,
        "gather_on_save": plan.gather_on_save,
    }
    if plan.sequence:
        settings["data"]["sequence"] = plan.sequence
    if plan.lora_rank:
        ours = {"rank": plan.lora_rank, "alpha": alpha_of(given, plan)}
        settings["lora"] = {**job.settings.get("lora", {}), **ours}
    if given.data.eval:
        settings["data"]["eval"] = absolute(given.data.eval, folder)
    if isinstance(given.model, str):
        settings["model"] = absolute(given.model, folder)
    if given.tokenizer:
        settings["tokenizer"] = absolute(given.tokenizer, folder)
    # Batch keys belong to the job; everything else of the configuration that ran stays.
    edited = ds_config.with_plan(config, plan)
    settings["deepspeed"] = {k: v for k, v in edited.items() if k not in ds_config.BATCH_KEYS}
    return settings

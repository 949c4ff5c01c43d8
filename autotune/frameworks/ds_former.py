"""Keys of a DeepSpeed configuration that are gone, have two names, or are written for another."""

from collections.abc import Mapping
from typing import NamedTuple

from autotune.frameworks.ds_keys import WITH_PREFIX, ZERO


class Gone(NamedTuple):
    """A key that DeepSpeed refuses from a version on, and what to do instead."""

    since: str
    instead: str


# Both names at once are refused.
TWO_NAMES = {
    **{name: f"stage3_{name}" for name in WITH_PREFIX},
    **{name: key.instead for name, key in ZERO.items() if key.instead in ZERO},
}

_TAKE_OUT = "take it out"
GONE: Mapping[str, Gone] = {
    **dict.fromkeys(
        ("nebula", "compression_training", "quantize_training", "sparse_attention"),
        Gone("0.19.7", _TAKE_OUT),
    ),
    "zero_optimization.mics_shard_size": Gone("0.19.7", _TAKE_OUT),
    "zero_optimization.mics_hierarchical_params_gather": Gone("0.19.7", _TAKE_OUT),
    "amp": Gone("0.19.8", "say `fp16`, `bf16` or `torch_autocast` instead"),
    "elasticity": Gone("0.19.8", "set the batch sizes themselves"),
    "curriculum_learning": Gone(
        "0.19.8", "put it under `data_efficiency.data_sampling.curriculum_learning`"
    ),
    **dict.fromkeys(
        ("sparse_gradients", "eigenvalue", "graph_harvesting", "progressive_layer_drop"),
        Gone("0.19.8", _TAKE_OUT),
    ),
    "zero_optimization.zeropp_loco_param": Gone("0.19.8", _TAKE_OUT),
}  # fmt: skip

# What people write for another key, as other tools and older releases call it.
MEANT: Mapping[str, str] = {
    "batch_size": "train_batch_size",
    "global_batch_size": "train_batch_size",
    "micro_batch_size": "train_micro_batch_size_per_gpu",
    "train_micro_batch_size": "train_micro_batch_size_per_gpu",
    "per_device_train_batch_size": "train_micro_batch_size_per_gpu",
    "grad_clip": "gradient_clipping",
    "max_grad_norm": "gradient_clipping",
    "learning_rate": "optimizer.params.lr",
    "zero_stage": "zero_optimization.stage",
    "offload_optimizer_device": "zero_optimization.offload_optimizer.device",
    "offload_param_device": "zero_optimization.offload_param.device",
    "cpu_offload_params": "zero_optimization.offload_param",
    "zero3_save_16bit_model": "zero_optimization.stage3_gather_16bit_weights_on_model_save",
    "check_overflow": "bf16.check_grad_overflow",
    "mixed_precision": "bf16.enabled",
    "lr_scheduler": "scheduler",
    "zero": "zero_optimization",
}

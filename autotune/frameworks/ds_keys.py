"""Every key of a DeepSpeed configuration, as DeepSpeed 0.19.8 reads it: kind, place and versions.

Read from its configuration classes and constants, the versions from its tags; `since` stands only
where it is later than 0.14.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

CHECKED_AGAINST = "0.19.8"

Kind = Literal["whole", "number", "switch", "text", "list", "block", "any"]


@dataclass(frozen=True)
class Key:
    """What DeepSpeed takes under one key."""

    kind: Kind
    least: float | None = None
    most: float | None = None
    words: tuple[str, ...] = ()  # the only values there are
    null: bool = False  # null is as good as silence
    auto: bool = False  # DeepSpeed itself knows what "auto" means
    stages: str = "0123"  # ZeRO stages at which it is read
    since: str | None = None
    instead: str = ""  # still taken; what it is called today


@dataclass(frozen=True)
class Block:
    """The keys of one mapping, and what becomes of others: refused, or passed over in silence."""

    keys: Mapping[str, Key]
    strict: bool = True


def _each(key: Key, names: str) -> dict[str, Key]:
    return dict.fromkeys(names.split(), key)


def _at(stages: str, keys: Mapping[str, Key]) -> dict[str, Key]:
    return {name: replace(key, stages=stages) for name, key in keys.items()}


def _later(since: str, keys: Mapping[str, Key]) -> dict[str, Key]:
    return {name: replace(key, since=since) for name, key in keys.items()}


SWITCH, TEXT, LIST, ANY = Key("switch"), Key("text"), Key("list"), Key("any", null=True, auto=True)
BLOCK, MAYBE_BLOCK = Key("block"), Key("block", null=True)
WHOLE, COUNT, POSITIVE = Key("whole"), Key("whole", least=0), Key("whole", least=1)
NUMBER, SHARE = Key("number"), Key("number", least=0, most=1)
MAYBE_SWITCH, MAYBE_TEXT = Key("switch", null=True), Key("text", null=True)
DTYPE = Key("text", words=("fp32", "fp16", "bf16"), null=True)

_STAGE_3_COUNTS = "prefetch_bucket_size param_persistence_threshold model_persistence_threshold "
_STAGE_3_COUNTS += "max_live_parameters max_reuse_distance"
_STAGE_3_SWITCHES = "gather_16bit_weights_on_model_save use_all_reduce_for_fetch_params"
# DeepSpeed takes these with the prefix `stage3_` and without it; HF fills the prefixed ones only.
WITH_PREFIX = {
    **_each(COUNT, _STAGE_3_COUNTS),
    **_each(SWITCH, _STAGE_3_SWITCHES),
    "module_granularity_threshold": replace(WHOLE, since="0.16.0"),
    "allgather_sequential": replace(SWITCH, since="0.18.5"),
}

ZERO = {
    "stage": Key("whole", least=0, most=3),
    **_each(SWITCH, "contiguous_gradients reduce_scatter load_from_fp32_weights legacy_stage1"),
    **_each(SWITCH, "ignore_unused_parameters elastic_checkpoint"),
    "reduce_bucket_size": POSITIVE,
    "overlap_comm": MAYBE_SWITCH,
    "offload_optimizer": MAYBE_BLOCK,
    "offload_param": replace(MAYBE_BLOCK, stages="3"),
    "zenflow": Key("block", null=True, since="0.17.5"),
    "leaf_module": Key("block", null=True, stages="3", since="0.18.0"),
    "cpu_offload": Key("switch", null=True, instead="offload_optimizer"),
    "cpu_offload_param": Key("switch", null=True, stages="3", instead="offload_param"),
    "cpu_offload_use_pin_memory": Key("switch", null=True, instead="pin_memory of the offload"),
    **_at("12", _each(SWITCH, "use_multi_rank_bucket_allreduce allgather_partitions")),
    **_at("12", _each(SWITCH, "round_robin_gradients")),
    **_at("12", {"allgather_bucket_size": COUNT}),
    **_at("12", _later("0.19.7", _each(SWITCH, "compute_grad_norm parameter_alignment"))),
    **_at("3", {"sub_group_size": COUNT, "zero_hpz_partition_size": COUNT}),
    **_at("3", _each(SWITCH, "zero_quantized_weights zero_quantized_nontrainable_weights")),
    **_at("3", _each(SWITCH, "zero_quantized_gradients memory_efficient_linear")),
    **_at("3", _each(SWITCH, "pipeline_loading_checkpoint override_module_apply")),
    **_at("3", _later("0.16.4", _each(SWITCH, "log_trace_cache_warnings"))),
    **_at("3", _later("0.17.6", _each(SWITCH, "enable_sanity_checks"))),
    **_at("3", _later("0.18.9", _each(SWITCH, "save_muon_momentum_buffer_in_memory"))),
    **_at("3", WITH_PREFIX),
    **_at("3", {f"stage3_{name}": key for name, key in WITH_PREFIX.items()}),
    "stage3_gather_fp16_weights_on_model_save": Key(
        "switch", stages="3", instead="stage3_gather_16bit_weights_on_model_save"
    ),
}

DEVICE = Key("text", words=("none", "cpu", "nvme"))
OFFLOAD_PARAM = {
    "device": DEVICE, "nvme_path": MAYBE_TEXT, "pin_memory": SWITCH,
    **_each(COUNT, "buffer_count buffer_size max_in_cpu"),
}  # fmt: skip
OFFLOAD_OPTIMIZER = {
    "device": DEVICE, "nvme_path": MAYBE_TEXT, "buffer_count": COUNT, "ratio": SHARE,
    **_each(SWITCH, "pin_memory pipeline_read pipeline_write fast_init"),
    **_later("0.18.0", {"super_offload": replace(SWITCH, stages="3"), "cpuadam_cores_perc": SHARE}),
}  # fmt: skip

BF16 = {
    **_each(SWITCH, "enabled immediate_grad_update check_grad_overflow"),
    **_later("0.18.3", _each(SWITCH, "bf16_master_weights_and_grads bf16_optimizer_states")),
}
FP16 = {
    **_each(SWITCH, "enabled auto_cast consecutive_hysteresis fp16_master_weights_and_grads"),
    "loss_scale": Key("number", least=0),
    **_each(WHOLE, "initial_scale_power loss_scale_window hysteresis min_loss_scale"),
}

_OP = Key("text", words=("mean", "sum"), since="0.19.6")
TOP = {
    **_each(POSITIVE, "train_batch_size train_micro_batch_size_per_gpu"),
    **_each(POSITIVE, "gradient_accumulation_steps sequence_parallel_size"),
    "gradient_clipping": Key("number", least=0),
    "gradient_predivide_factor": NUMBER,
    "gradient_allreduce_op": _OP,
    "managed_gradient_accumulation": Key("switch", since="0.19.4"),
    "communication_data_type": DTYPE,
    "seq_parallel_communication_data_type": DTYPE,
    "steps_per_print": Key("any", null=True),  # accelerate writes Infinity there
    "vocabulary_size": replace(COUNT, null=True),
    **_each(SWITCH, "prescale_gradients disable_allgather dump_state wall_clock_breakdown"),
    **_each(SWITCH, "memory_breakdown dataloader_drop_last use_data_before_expert_parallelism"),
    **_each(SWITCH, "zero_allow_untested_optimizer zero_force_ds_cpu_optimizer"),
    "disable_python_gc": Key("switch", since="0.19.8"),
    "log_level": Key("text", null=True, since="0.17.6"),
    "allgather_size": COUNT,  # beside `zero_optimization: true`, the form of 2020
    **_each(BLOCK, "zero_optimization optimizer scheduler fp16 activation_checkpointing"),
    **_each(BLOCK, "flops_profiler comms_logger tensorboard wandb csv_monitor checkpoint"),
    **_each(BLOCK, "data_types timers compile hybrid_engine weight_quantization"),
    **_each(MAYBE_BLOCK, "bf16 bfloat16 aio"),
    **_each(ANY, "pipeline data_efficiency autotuning datastates_ckpt"),
    "comet": Key("block", since="0.14.3"),
    "torch_autocast": Key("block", since="0.17.2"),
    "tensor_parallel": Key("block", since="0.16.4"),
    "expert_parallel": Key("any", null=True, auto=True, since="0.19.2"),
}

_ENABLED = {"enabled": SWITCH}
_QUANTIZED = {"num_bits": WHOLE, "q_type": TEXT, "q_groups": WHOLE}
_COMPILE = "deepcompile free_activation offload_activation offload_opt_states double_buffer "
_COMPILE += "symmetric_memory debug_log offload_parameters sync_before_reduce sync_after_reduce "
_COMPILE += "sync_before_allgather sync_after_allgather keep_int_input_tensors "
_COMPILE += "keep_all_input_tensors"
_COMET = "project workspace api_key experiment_name experiment_key mode"
_AUTO_COUNT = Key("any", auto=True)

BLOCKS: Mapping[str, Block] = {
    "": Block(TOP, strict=False),
    "zero_optimization": Block(ZERO),
    "zero_optimization.offload_param": Block(OFFLOAD_PARAM),
    "zero_optimization.offload_optimizer": Block(OFFLOAD_OPTIMIZER),
    "zero_optimization.zenflow": Block({
        "topk_ratio": SHARE, "auto_ratio": SHARE, "full_warm_up_rounds": WHOLE,
        "select_strategy": Key("text", words=("auto", "step", "epoch"), auto=True),
        **_each(_AUTO_COUNT, "select_interval update_interval"),
        **_each(SWITCH, "overlap_step offload"),
        "pt_reserved_cores_perc": replace(SHARE, since="0.17.6"),
        "steps_per_epoch": replace(WHOLE, null=True),
    }),
    "zero_optimization.leaf_module": Block(_each(Key("any"), "classes names name_suffixes")),
    "bf16": Block(BF16),
    "bfloat16": Block(BF16),
    "fp16": Block(FP16),
    "torch_autocast": Block(
        {**_ENABLED, "dtype": TEXT, "lower_precision_safe_modules": LIST}, strict=False
    ),
    "optimizer": Block({"type": TEXT, "params": BLOCK, "legacy_fusion": SWITCH}, strict=False),
    "scheduler": Block({"type": TEXT, "params": BLOCK}, strict=False),
    "activation_checkpointing": Block({
        "number_checkpoints": Key("whole", null=True),
        **_each(SWITCH, "partition_activations contiguous_memory_optimization cpu_checkpointing"),
        **_each(SWITCH, "synchronize_checkpoint_boundary profile"),
    }, strict=False),
    "aio": Block({
        **_each(POSITIVE, "block_size queue_depth intra_op_parallelism"),
        **_each(SWITCH, "single_submit overlap_events"),
        "use_gds": Key("switch", since="0.15.0"),
    }, strict=False),
    "checkpoint": Block({
        "tag_validation": TEXT,
        **_each(SWITCH, "load_universal use_node_local_storage checkpoint_serialization"),
        **_each(MAYBE_BLOCK, "writer parallel_write"),
    }, strict=False),
    "checkpoint.parallel_write": Block({"pipeline_stage": SWITCH}, strict=False),
    "checkpoint.writer": Block({
        **_each(TEXT, "type data_parallel"), **_each(WHOLE, "io_buffer_size io_multiplier"),
        **_each(SWITCH, "io_buffer_double show_statistics decoupled"),
    }, strict=False),
    "data_types": Block({
        "grad_accum_dtype": DTYPE,
        "param_dtype": Key("text", null=True, since="0.18.7"),
        "buffer_dtype": Key("text", null=True, since="0.19.2"),
        "keep_in_fp32_modules": Key("any", auto=True, since="0.19.8"),
    }, strict=False),
    "flops_profiler": Block({
        **_each(SWITCH, "enabled detailed"),
        **_each(WHOLE, "profile_step module_depth top_modules"),
        "recompute_fwd_factor": NUMBER, "output_file": MAYBE_TEXT,
    }, strict=False),
    "comms_logger": Block({**_each(SWITCH, "enabled prof_all verbose debug"), "prof_ops": LIST}),
    "tensorboard": Block({**_ENABLED, **_each(TEXT, "output_path job_name")}),
    "csv_monitor": Block({**_ENABLED, **_each(TEXT, "output_path job_name")}),
    "wandb": Block({**_ENABLED, "project": TEXT, **_each(MAYBE_TEXT, "group team")}),
    "comet": Block({
        **_ENABLED, "samples_log_interval": WHOLE, "online": MAYBE_SWITCH,
        **_each(MAYBE_TEXT, _COMET),
    }),
    "timers": Block({"throughput": BLOCK}, strict=False),
    "timers.throughput": Block(_each(SWITCH, "enabled synchronized")),
    "compile": Block({
        **_later("0.16.6", _each(SWITCH, _COMPILE)),
        "free_activation_threshold": Key("whole", since="0.18.0"),
        "passes": Key("list", null=True, since="0.18.9"),
        "offload_activation_pin_memory": Key("switch", since="0.19.6"),
        "autoep_non_moe": Key("switch", since="0.19.8"),
    }),
    "tensor_parallel": Block({
        "autotp_size": COUNT, "tp_overlap_comm": SWITCH, "keep_module_on_host": SWITCH,
        **_each(ANY, "dtype tp tensor_parallel injection_policy_tuple"),
        **_each(SWITCH, "kernel_inject replace_with_kernel_inject"),
        "partition_config": Key("block", null=True, since="0.18.6"),
        "preset_model": Key("text", null=True, since="0.18.6"),
        "vocab_parallel_lm_head": Key("switch", null=True, since="0.19.8"),
        "vocab_parallel_ce_backend": Key("text", words=("torch", "liger"), since="0.19.8"),
    }),
    "hybrid_engine": Block({
        "max_out_tokens": POSITIVE, **_each(WHOLE, "inference_tp_size tp_gather_partition_size"),
        **_each(SWITCH, "enabled release_inference_cache pin_parameters enable_cuda_graph"),
    }),
    "weight_quantization": Block({
        **_ENABLED, **_QUANTIZED, **_each(BLOCK, "quantized_initialization post_init_quant"),
    }),
}  # fmt: skip


def places(name: str) -> Iterable[str]:
    """Return the dotted path of every place where a key of this name is read."""
    for block, known in BLOCKS.items():
        if name in known.keys and block != "bfloat16":
            yield f"{block}.{name}" if block else name

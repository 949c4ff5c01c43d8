"""The keys and packages that each version of LLaMA-Factory takes; another one ends a start.

Keys were read from the dataclasses of hparams/ in 0.9.3, 0.9.4 and 0.9.5 and from the
TrainingArguments of transformers 4.52.4, 4.57.1 and 5.6.0, packages from extras/misc.py.
"""

from collections.abc import Iterator, Mapping

from autotune.core.compatibility import parse_version
from autotune.core.fault import Fault, nearest
from autotune.frameworks.llamafactory_config import Given


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# In each of 0.9.3 to 0.9.5.
LASTING = _words(
    """
    adapter_folder adapter_name_or_path add_special_tokens add_tokens additional_target
    apollo_layerwise apollo_proj apollo_proj_type apollo_rank apollo_scale apollo_scale_front
    apollo_scale_type apollo_target apollo_update_interval audio_sampling_rate badam_mask_mode
    badam_mode badam_start_block badam_switch_interval badam_switch_mode badam_update_ratio
    badam_verbose buffer_size cache_dir compute_accuracy create_new_adapter crop_to_patches
    cutoff_len data_shared_file_system dataset dataset_dir default_system
    disable_gradient_checkpointing disable_shuffling do_sample double_quantization
    dpo_label_smoothing early_stopping_steps enable_liger_kernel enable_thinking eval_dataset
    eval_num_beams eval_on_each_dataset export_device export_dir export_hub_model_id
    export_legacy_format export_quantization_bit export_quantization_dataset
    export_quantization_maxlen export_quantization_nsamples export_size finetuning_type
    flash_attn freeze_extra_modules freeze_language_model freeze_multi_modal_projector
    freeze_trainable_layers freeze_trainable_modules freeze_vision_tower galore_layerwise
    galore_proj_type galore_rank galore_scale galore_target galore_update_interval hf_hub_token
    ignore_pad_token_for_loss image_do_pan_and_scan image_max_pixels image_min_pixels
    include_effective_tokens_per_second infer_backend infer_dtype interleave_probs
    kto_chosen_weight kto_rejected_weight ld_alpha length_penalty lora_alpha lora_dropout
    lora_rank lora_target loraplus_lr_embedding loraplus_lr_ratio low_cpu_mem_usage mask_history
    max_length max_new_tokens max_samples media_dir mix_strategy mixture_of_depths
    model_name_or_path model_revision moe_aux_loss_coef ms_hub_token neat_packing num_beams
    offload_folder om_hub_token overwrite_cache packing pissa_convert pissa_init pissa_iter
    plot_loss ppo_buffer_size ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards pref_beta
    pref_ftx pref_loss preprocessing_batch_size preprocessing_num_workers print_param_status
    pure_bf16 quantization_bit quantization_device_map quantization_method quantization_type
    ray_init_kwargs ray_num_workers ref_model ref_model_adapters ref_model_quantization_bit
    repetition_penalty resize_vocab reward_model reward_model_adapters
    reward_model_quantization_bit reward_model_type rope_scaling sglang_config
    sglang_lora_backend sglang_maxlen sglang_mem_fraction sglang_tp_size shift_attn simpo_gamma
    skip_special_tokens split_special_tokens stage streaming swanlab_api_key swanlab_lark_secret
    swanlab_lark_webhook_url swanlab_logdir swanlab_mode swanlab_project swanlab_run_name
    swanlab_workspace temperature template tokenized_path tool_format top_k top_p
    train_from_scratch train_on_prompt trust_remote_code upcast_layernorm upcast_lmhead_output
    use_adam_mini use_apollo use_audio_in_video use_badam use_dora use_fast_tokenizer use_galore
    use_llama_pro use_muon use_reentrant_gc use_rslora use_swanlab use_unsloth use_unsloth_gc
    val_size video_fps video_max_pixels video_maxlen video_min_pixels vllm_config
    vllm_enforce_eager vllm_gpu_util vllm_max_lora_rank vllm_maxlen
    """
)
ADDED = {
    "0.9.4": _words(
        """
        chunk_size cpu_infer fp8 fp8_backend fp8_enable_fsdp_float8_all_gather init_special_tokens
        kt_force_think kt_maxlen kt_mode kt_optimize_rule kt_use_cuda_graph mode module_dropout
        new_special_tokens_config oft_block_size oft_rank oft_target overwrite_output_dir
        pref_bco_weight use_dft_loss use_kt use_kv_cache use_mca use_v1_kernels
        """
    ),
    "0.9.5": _words(
        """
        asft_alpha eaft_alpha enable_torch_profiler hyper_parallel_args kt_expert_checkpoint_path
        kt_lora_expert_intermediate_size kt_lora_expert_num kt_use_lora_experts kt_weight_path
        master_addr master_port preserve_thinking profile_modules profiler_active_steps
        profiler_output_dir profiler_profile_memory profiler_record_shapes profiler_repeat
        profiler_wait_steps profiler_warmup_steps profiler_with_stack use_asft_loss use_eaft_loss
        use_hyper_parallel
        """
    ),
}
REMOVED = {
    "0.9.4": _words(
        """
        use_cache
        """
    ),
    "0.9.5": _words(
        """
        chunk_size cpu_infer kt_force_think kt_maxlen kt_mode kt_optimize_rule kt_use_cuda_graph
        mode placement_strategy ray_run_name ray_storage_filesystem ray_storage_path
        resources_per_worker
        """
    ),
}

# Of TrainingArguments in any of the versions that LLaMA-Factory takes.
OF_THE_TRAINER = _words(
    """
    accelerator_config adafactor adam_beta1 adam_beta2 adam_epsilon auto_find_batch_size
    average_tokens_across_devices batch_eval_metrics bf16 bf16_full_eval data_seed
    dataloader_drop_last dataloader_num_workers dataloader_persistent_workers
    dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers
    ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed
    disable_tqdm do_eval do_predict do_train enable_jit_checkpoint eval_accumulation_steps
    eval_delay eval_do_concat_batches eval_on_start eval_steps eval_strategy
    eval_use_gather_object fp16 fp16_backend fp16_full_eval fp16_opt_level fsdp fsdp_config
    fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap full_determinism generation_config
    generation_max_length generation_num_beams gradient_accumulation_steps
    gradient_checkpointing gradient_checkpointing_kwargs greater_is_better group_by_length
    half_precision_backend hub_always_push hub_model_id hub_private_repo hub_revision
    hub_strategy hub_token ignore_data_skip include_for_metrics include_inputs_for_metrics
    include_num_input_tokens_seen include_tokens_per_second jit_mode_eval label_names
    label_smoothing_factor learning_rate length_column_name liger_kernel_config
    load_best_model_at_end local_rank log_level log_level_replica log_on_each_node logging_dir
    logging_first_step logging_nan_inf_filter logging_steps logging_strategy lr_scheduler_kwargs
    lr_scheduler_type max_grad_norm max_steps metric_for_best_model mp_parameters
    neftune_noise_alpha no_cuda num_train_epochs optim optim_args optim_target_modules
    output_dir overwrite_output_dir parallelism_config past_index per_device_eval_batch_size
    per_device_train_batch_size per_gpu_eval_batch_size per_gpu_train_batch_size
    predict_with_generate prediction_loss_only project push_to_hub push_to_hub_model_id
    push_to_hub_organization push_to_hub_token ray_scope remove_unused_columns report_to
    restore_callback_states_from_checkpoint resume_from_checkpoint run_name save_on_each_node
    save_only_model save_safetensors save_steps save_strategy save_total_limit seed
    skip_memory_metrics sortish_sampler tf32 torch_compile torch_compile_backend
    torch_compile_mode torch_empty_cache_steps torchdynamo tpu_metrics_debug tpu_num_cores
    trackio_bucket_id trackio_space_id trackio_static_space_id train_sampling_strategy use_cache
    use_cpu use_ipex use_legacy_prediction_loop use_liger_kernel use_mps_device warmup_ratio
    warmup_steps weight_decay
    """
)
# Gone from transformers and taken over: it decides whether a resume is looked for.
OWN = frozenset({"overwrite_output_dir"})

# From and to, both taken. LLaMA-Factory ends where one is not met (DISABLE_VERSION_CHECK=1: not).
PACKAGES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "0.9.3": {
        "transformers": ("4.45.0", "4.52.4"),
        "datasets": ("2.16.0", "3.6.0"),
        "accelerate": ("0.34.0", "1.7.0"),
        "peft": ("0.14.0", "0.15.2"),
        "trl": ("0.8.6", "0.9.6"),
    },
    "0.9.4": {
        "transformers": ("4.51.0", "4.57.1"),
        "datasets": ("2.16.0", "4.0.0"),
        "accelerate": ("1.3.0", "1.11.0"),
        "peft": ("0.14.0", "0.17.1"),
        "trl": ("0.18.0", "0.24.0"),
    },
    "0.9.5": {
        "transformers": ("4.55.0", "5.6.0"),
        "datasets": ("2.16.0", "4.0.0"),
        "accelerate": ("1.3.0", "1.15.0"),
        "peft": ("0.18.0", "0.20.0"),
        "trl": ("0.18.0", "0.24.0"),
    },
}


def version_faults(given: Given, versions: Mapping[str, str], where: str) -> Iterator[Fault]:
    """Yield the installed packages that the installed LLaMA-Factory refuses to start with."""
    own = versions.get("llamafactory", "")
    if own not in PACKAGES or given.enabled("DISABLE_VERSION_CHECK"):
        return
    for name, (least, most) in PACKAGES[own].items():
        installed = versions.get(name)
        if installed is None:
            continue
        if not parse_version(least) <= parse_version(installed) <= parse_version(most):
            text = f"LLaMA-Factory {own} takes {name} {least} to {most}, and {installed} is "
            hint = f"install what it takes there: pip install '{name}>={least},<={most}'"
            yield Fault(text + "installed in the job's Python", where, hint)


def unknown_key_faults(given: Given, versions: Mapping[str, str], where: str) -> Iterator[Fault]:
    """Yield the keys that the installed LLaMA-Factory would refuse, with what to write instead."""
    if given.enabled("ALLOW_EXTRA_ARGS"):
        return
    own = parse_version(versions.get("llamafactory", "0.9.5"))
    if own > parse_version("0.9.5"):
        return  # it may know keys that nobody here has read
    known = known_keys(own)
    for key in given.values:
        if key in known:
            continue
        since = next((version for version, keys in ADDED.items() if key in keys), "")
        until = next((version for version, keys in REMOVED.items() if key in keys), "")
        text, hint = f"`{key}` is no key of LLaMA-Factory", nearest(str(key), known)
        if until and own >= parse_version(until):
            text, hint = f"`{key}` is gone from LLaMA-Factory since {until}", "take it out"
        elif since:
            text, hint = f"`{key}` needs LLaMA-Factory {since}", "take it out, or install that"
        yield Fault(text, where, hint)


def known_keys(own: tuple[int, ...]) -> frozenset[str]:
    """Return every key that a version of LLaMA-Factory takes."""
    known = LASTING | OF_THE_TRAINER
    for version, keys in ADDED.items():
        known |= keys if own >= parse_version(version) else frozenset()
    for version, keys in REMOVED.items():
        known |= keys if own < parse_version(version) else frozenset()
        known -= keys - OF_THE_TRAINER if own >= parse_version(version) else frozenset()
    return known

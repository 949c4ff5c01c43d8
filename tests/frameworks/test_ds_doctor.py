"""The doctor of DeepSpeed configurations: each mistake is one sentence at the place where it is."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.frameworks.ds_config import BUILT_IN, with_plan
from autotune.frameworks.ds_doctor import examine
from autotune.frameworks.ds_keys import BLOCKS
from autotune.frameworks.ds_remark import HF_TRAINER, PLAIN, Remark, Use
from tests import builders

AUTO = "auto"
ADAMW = {"type": "AdamW", "params": {"lr": 1e-5}}
GOOD: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": 4, "gradient_clipping": 1.0, "optimizer": ADAMW,
    "bf16": {"enabled": True}, "zero_optimization": {"stage": 2},
}  # fmt: skip
# What the documentation of transformers tells people to copy.
COPIED: dict[str, Any] = {
    "fp16": {
        "enabled": AUTO, "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16,
        "hysteresis": 2, "min_loss_scale": 1,
    },
    "bf16": {"enabled": AUTO},
    "optimizer": {
        "type": "AdamW", "params": dict.fromkeys(("lr", "betas", "eps", "weight_decay"), AUTO)
    },
    "scheduler": {
        "type": "WarmupLR",
        "params": dict.fromkeys(("warmup_min_lr", "warmup_max_lr", "warmup_num_steps"), AUTO),
    },
    "zero_optimization": {
        "stage": 3, "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "offload_param": {"device": "cpu", "pin_memory": True}, "overlap_comm": True,
        "contiguous_gradients": True, "sub_group_size": 1e9, "reduce_bucket_size": AUTO,
        "stage3_prefetch_bucket_size": AUTO, "stage3_param_persistence_threshold": AUTO,
        "stage3_max_live_parameters": 1e9, "stage3_max_reuse_distance": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    "gradient_accumulation_steps": AUTO, "gradient_clipping": AUTO, "steps_per_print": 2000,
    "train_batch_size": AUTO, "train_micro_batch_size_per_gpu": AUTO,
    "wall_clock_breakdown": False,
}  # fmt: skip


def faults(config: Any, use: Use = PLAIN) -> list[Remark]:
    return [remark for remark in examine(config, use) if remark.fault]


def the_fault(config: Any, use: Use = PLAIN) -> Remark:
    found = faults(config, use)
    assert len(found) == 1, found
    return found[0]


def with_(changes: dict[str, Any], base: dict[str, Any] = GOOD) -> dict[str, Any]:
    """Return a configuration with keys set by dotted path."""
    config = {key: _copy(value) for key, value in base.items()}
    for path, value in changes.items():
        *tables, last = path.split(".")
        node = config
        for name in tables:
            node = node.setdefault(name, {})
        node[last] = value
    return config


def _copy(value: Any) -> Any:
    return {key: _copy(held) for key, held in value.items()} if isinstance(value, dict) else value


def test_a_good_configuration_leaves_nothing_to_say() -> None:
    assert examine(GOOD, PLAIN) == []


def test_a_configuration_from_the_documentation_has_no_fault_under_hf_trainer() -> None:
    assert faults(COPIED, HF_TRAINER) == []
    notes = [remark.what for remark in examine(COPIED, HF_TRAINER)]
    assert notes == ["the block `optimizer` decides, and the trainer's own `optim` is not used"]


def test_the_same_configuration_is_full_of_auto_for_a_plain_program() -> None:
    words, off = faults(COPIED)
    off, words = sorted((words, off), key=lambda remark: len(remark.what))
    assert "`fp16.enabled`, `bf16.enabled`: " in off.what
    assert "this stays off" in off.what
    assert "`gradient_accumulation_steps`, `gradient_clipping`, `train_batch_size`" in words.what
    assert "`optimizer.params.lr`" in words.what
    assert "uses the word itself as the value" in words.what
    (note,) = (remark for remark in examine(COPIED, PLAIN) if not remark.fault)
    assert "`zero_optimization.reduce_bucket_size`" in note.what
    assert "its own default" in note.what


@pytest.mark.parametrize(
    ("changes", "words", "hint"),
    [
        # A key in the wrong place.
        ({"stage": 3}, "`stage` stands in the wrong place", "`zero_optimization.stage`"),
        ({"reduce_bucket_size": 5}, "wrong place", "`zero_optimization.reduce_bucket_size`"),
        ({"lr": 1e-5}, "does not read it there", "`optimizer.params.lr`"),
        ({"optimizer.lr": 1e-5}, "`optimizer.lr` stands", "`optimizer.params.lr`"),
        ({"optimizer.weight_decay": 0}, "wrong place", "`optimizer.params.weight_decay`"),
        ({"loss_scale": 0}, "wrong place", "`fp16.loss_scale`"),
        ({"warmup_num_steps": 5}, "wrong place", "`scheduler.params.warmup_num_steps`"),
        (
            {"zero_optimization.offload_optimizer": {"device": "cpu", "overlap_comm": True}},
            "`zero_optimization.offload_optimizer.overlap_comm` stands in the wrong place",
            "`zero_optimization.overlap_comm`",
        ),
        ({"zero_optimization.gradient_clipping": 1}, "wrong place", "`gradient_clipping`"),
        ({"zero_optimization.optimizer": ADAMW}, "refuses to start", "move it to `optimizer`"),
        ({"zero_optimization.device": "cpu"}, "wrong place", "offload_param.device`"),
        ({"zero_optimization.zero_optimization": {}}, "wrong place", "`zero_optimization`"),
        # A key by another name.
        ({"max_grad_norm": 1.0}, "no key of DeepSpeed", "`gradient_clipping`"),
        ({"per_device_train_batch_size": 4}, "no key", "`train_micro_batch_size_per_gpu`"),
        ({"zero_optimization.cpu_offload_params": True}, "no key", "`zero_optimization.offload"),
        ({"bf16.check_overflow": True}, "no key", "`bf16.check_grad_overflow`"),
        ({"zero_optimisation": {"stage": 2}}, "does not read it", "`zero_optimization`"),
        ({"zero_optimization.reduce_bucket": 5}, "refuses", "`reduce_bucket_size`"),
        ({"zero_optimization.enabled": True}, "refuses", "take it out"),
        ({"fp16": {"enable": False}}, "`fp16.enable` is no key", "`enabled`"),
        ({"deepspeed": {"zero_optimization": {}}}, "one level too deep", "take `deepspeed`"),
        # A key that is gone.
        ({"amp": {"enabled": False}}, "gone from DeepSpeed since 0.19.8", "torch_autocast"),
        ({"sparse_attention": {}}, "since 0.19.7", "take it out"),
        ({"zero_optimization.mics_shard_size": 8}, "since 0.19.7", "take it out"),
    ],
)  # fmt: skip
def test_a_key_that_deepspeed_does_not_know_is_a_fault_with_the_one_that_was_meant(
    changes: dict[str, Any], words: str, hint: str
) -> None:
    fault = the_fault(with_(changes))
    assert (words in fault.what, hint in fault.hint) == (True, True), fault


def test_a_key_that_resembles_nothing_is_a_note_where_deepspeed_passes_over_it() -> None:
    (note,) = examine(with_({"my_own_thing": 3}), PLAIN)
    assert (note.fault, note.path) == (False, ("my_own_thing",))
    assert examine(with_({"_comment": "mine", "optimizer.//": "this too"}), PLAIN) == []


@pytest.mark.parametrize(
    ("changes", "since", "before"),
    [
        ({"zero_optimization.zenflow": {}}, "0.17.5", "0.17.4"),
        ({"bf16.bf16_master_weights_and_grads": False}, "0.18.3", "0.18.2"),
        ({"managed_gradient_accumulation": True}, "0.19.4", "0.19.3"),
        ({"zero_optimization.parameter_alignment": False}, "0.19.7", "0.19.6"),
        ({"disable_python_gc": True}, "0.19.8", "0.19.7"),
    ],
)
def test_a_key_too_new_for_the_installed_deepspeed_names_the_version_it_needs(
    changes: dict[str, Any], since: str, before: str
) -> None:
    assert examine(with_(changes), replace(PLAIN, deepspeed=since)) == []
    fault = the_fault(with_(changes), replace(PLAIN, deepspeed=before))
    assert f"needs DeepSpeed {since}, and {before} is installed" in fault.what


def test_a_key_that_is_gone_later_is_a_note_before() -> None:
    (note,) = examine(with_({"amp": {}}), replace(PLAIN, deepspeed="0.19.7"))
    assert not note.fault


@pytest.mark.parametrize(
    ("changes", "words", "hint"),
    [
        ({"zero_optimization.reduce_bucket_size": "5e8"}, 'the text "5e8"', "write 500000000 with"),
        ({"zero_optimization.reduce_bucket_size": "lots"}, "a whole number", "write a number"),
        ({"zero_optimization.reduce_bucket_size": 0}, "at least 1", "larger"),
        ({"zero_optimization.reduce_bucket_size": 0.5}, "a whole number", "write 0"),
        ({"zero_optimization.reduce_bucket_size": True}, "a whole number", "write a number"),
        ({"zero_optimization.reduce_bucket_size": None}, "is null", "take the key out"),
        ({"zero_optimization.stage": 4}, "at most 3", "smaller"),
        ({"gradient_clipping": float("nan")}, "no number to train with", "write one"),
        ({"gradient_clipping": float("inf")}, "no number to train with", "write one"),
        ({"gradient_clipping": "1.0"}, 'the text "1.0"', "write 1 without quotes"),
        ({"gradient_clipping": None}, "is null", "take the key out"),
        ({"optimizer.params.lr": "1e-5"}, "must be a number", "without quotes"),
        ({"optimizer.params.lr": float("nan")}, "must be a number", "without quotes"),
        ({"optimizer.params.betas": 0.9}, "must be two numbers", "[0.9, 0.999]"),
        ({"prescale_gradients": "false"}, "any text counts as true", "write false"),
        ({"fp16": True}, "must be a mapping", '{"enabled": true}'),
        ({"optimizer": None}, "is null", "take the key out"),
        ({"bf16.enabled": "perhaps"}, "must be true or false", "write true or false"),
        ({"zero_optimization": "stage 2"}, "must be a mapping", "{"),
        ({"zero_optimization.offload_optimizer": {"device": "gpu"}}, "refuses", "none, cpu, nvme"),
        ({"zero_optimization.offload_optimizer": {"device": None}}, "is null", "take the key"),
        ({"communication_data_type": "bfloat16"}, "refuses", "fp32, fp16, bf16"),
        ({"train_micro_batch_size_per_gpu": "4"}, 'the text "4"', "write 4 without quotes"),
    ],
)
def test_a_value_that_deepspeed_does_not_take_is_a_fault(
    changes: dict[str, Any], words: str, hint: str
) -> None:
    fault = the_fault(with_(changes))
    assert (words in fault.what, hint in fault.hint) == (True, True), fault


@pytest.mark.parametrize(
    "changes",
    [
        {"zero_optimization.reduce_bucket_size": 5e8},
        {"zero_optimization.offload_param": None},
        {"bf16.enabled": 1},
        {"steps_per_print": None},
        {"optimizer.type": "adamw"},
        {"optimizer": {"type": "Lion", "params": {"lr": 1, "betas": [0.9, 0.99]}}},
        {"scheduler": {"type": "CosineAnnealingLR", "params": {"T_max": 5}}},
        {"zero_optimization.offload_optimizer": {"device": "none"}},
        {"zero_optimization.offload_optimizer": {"device": "cpu"}},
        {"data_types": {"keep_in_fp32_modules": AUTO}},
    ],
)
def test_what_deepspeed_takes_leaves_nothing_to_say(changes: dict[str, Any]) -> None:
    assert examine(with_(changes), PLAIN) == []


def test_a_number_as_text_is_a_note_unless_the_program_reads_it_itself() -> None:
    config = with_({"zero_optimization.stage": "3"}, COPIED)
    assert "the text" in the_fault(config, HF_TRAINER).what
    (note,) = examine(with_({"zero_optimization.stage": "3"}), PLAIN)
    assert not note.fault
    assert "DeepSpeed reads the number" in note.what


BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


@pytest.mark.parametrize(
    ("triad", "ranks", "words"),
    [
        ((32, 4, 2), 3, "32, and 4 of `train_micro_batch_size_per_gpu` × 2 of"),
        ((32, 4, 2), 3, "3 ranks make 24"),
        ((32, 5, None), None, "do not divide it"),
        ((32, 4, 3), None, "do not divide it"),
        ((32, None, 3), 1, "do not divide it"),
        ((32, None, None), 5, "5 ranks do not divide it"),
        ((None, None, 4), None, "neither `train_batch_size` nor"),
        ((None, None, None), 2, "neither `train_batch_size` nor"),
        ((0, 4, 2), 2, "at least 1"),
        ((32, 4, 2), 4, ""),
        ((32, 4, 2), None, ""),
        ((None, 4, None), 3, ""),
        ((32, None, None), None, ""),
        ((None, 4, 3), 7, ""),
    ],
)
def test_a_batch_that_cannot_be_is_a_fault_with_the_numbers(
    triad: tuple[int | None, ...], ranks: int | None, words: str
) -> None:
    given_ = {key: n for key, n in zip(BATCH, triad, strict=True) if n is not None}
    rest = {key: value for key, value in GOOD.items() if key not in BATCH}
    found = faults({**rest, **given_}, replace(PLAIN, world_size=ranks))
    assert [words in fault.what for fault in found] == [True] * bool(words), found


def test_ranks_that_are_not_all_data_parallel_are_not_counted() -> None:
    config = with_({"train_batch_size": 8, "tensor_parallel": {"autotp_size": 2}})
    assert faults(config, replace(PLAIN, world_size=4)) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fp16": {"enabled": True}}, "both enabled"),
        ({"bf16.bf16_optimizer_states": True}, "needs `bf16_master_weights_and_grads`"),
        ({"zero_optimization": {"overlap_comm": True}}, "names no `stage`, so that ZeRO is off"),
        ({"zero_optimization.offload_param": {"device": "cpu"}}, "at ZeRO stage 3 only"),
        (
            {"zero_optimization": {"stage": 0, "offload_optimizer": {"device": "cpu"}}},
            "from ZeRO stage 1 on",
        ),
        (
            {"zero_optimization.offload_optimizer": {"device": "nvme", "nvme_path": "/nvme"}},
            "stays in host memory",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}},
            "names no `nvme_path`",
        ),
        ({"zero_optimization.offload_optimizer": {"pin_memory": True}}, "names no `device`"),
        ({"zero_optimization.offload_optimizer": {"device": "cpu", "ratio": 0.5}}, "`ratio`"),
        (
            {"zero_optimization": {"stage": 3, "max_live_parameters": 1,
                                   "stage3_max_live_parameters": 1}},
            "names of one key",
        ),
        ({"zero_optimization.legacy_stage1": True}, "0.5.9"),
        ({"zero_optimization.compute_grad_norm": False}, "needs `gradient_clipping: 0`"),
        ({"optimizer": {"params": {"lr": 1}}}, "names no `type`"),
        ({"optimizer.type": "AdamW8bit"}, "no optimizer that DeepSpeed can make"),
        ({"optimizer.type": "OneBitAdam"}, "since 0.19.7"),
        ({"optimizer": {"type": "Lamb"}}, "not tested with ZeRO"),
        ({"optimizer.type": "SGD"}, "not tested with ZeRO"),
        (
            {"optimizer": {"type": "Lamb"}, "zero_allow_untested_optimizer": True,
             "zero_optimization.offload_optimizer": {"device": "cpu"}},
            "cannot be offloaded",
        ),
        ({"optimizer.params.max_grad_norm": 1.0}, "refused by DeepSpeed"),
        ({"optimizer.params.learning_rate": 1.0}, "nothing that AdamW takes"),
        ({"optimizer.params.amsgrad": True}, "has no AMSGrad"),
        ({"scheduler": {"params": {}}}, "names no `type`"),
        ({"scheduler": {"type": "cosine", "params": {}}}, "no schedule that DeepSpeed"),
        ({"scheduler": {"type": "WarmupDecayLR", "params": {}}}, "needs `total_num_steps`"),
        ({"scheduler": {"type": "WarmupLR"}}, "has no `params`"),
        (
            {"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 0}}},
            "above 0 only since 0.19.3",
        ),
        (
            {"scheduler": {"type": "WarmupCosineLR",
                           "params": {"total_num_steps": 9, "warmup_max_lr": 1}}},
            "nothing that WarmupCosineLR takes",
        ),
    ],
)  # fmt: skip
def test_settings_that_cannot_go_together_are_a_fault(changes: dict[str, Any], words: str) -> None:
    assert words in the_fault(with_(changes)).what


@pytest.mark.parametrize(
    ("changes", "use", "words"),
    [
        (
            {"zero_optimization.stage3_max_live_parameters": 1e9,
             "zero_optimization.sub_group_size": 1e9},
            PLAIN, "`stage3_max_live_parameters`, `sub_group_size`: read at ZeRO stage 3 only",
        ),
        ({"zero_optimization": {"stage": 3, "round_robin_gradients": True}}, PLAIN, "1 and 2 only"),
        ({"zero_optimization.cpu_offload": True}, PLAIN, "is called `offload_optimizer` today"),
        ({"zero_optimization": True}, PLAIN, "the form of 2020"),
        ({"bfloat16": {"enabled": True}}, PLAIN, "the old name of `bf16`"),
        ({"activation_checkpointing": {"cpu_checkpointing": True}}, HF_TRAINER, "turns nothing on"),
    ],
)  # fmt: skip
def test_what_is_ignored_is_a_note(changes: dict[str, Any], use: Use, words: str) -> None:
    remarks = examine(with_(changes), use)
    assert not any(remark.fault for remark in remarks), remarks
    assert sum(words in remark.what for remark in remarks) == 1, remarks


def test_a_switch_left_at_its_default_is_not_worth_a_note() -> None:
    off = {"stage3_gather_16bit_weights_on_model_save": False, "memory_efficient_linear": True}
    assert examine(with_({"zero_optimization": {"stage": 2, **off}}), PLAIN) == []


def test_offload_without_an_optimizer_in_the_file_says_what_becomes_of_the_programs_own() -> None:
    rest = {key: value for key, value in GOOD.items() if key != "optimizer"}
    config = with_({"zero_optimization.offload_optimizer": {"device": "cpu"}}, rest)
    (plain,), (hf,) = examine(config, PLAIN), examine(config, HF_TRAINER)
    assert "refuses a program's own optimizer" in plain.what
    assert "replaced by DeepSpeed's CPU Adam" in hf.what
    assert not plain.fault
    assert not hf.fault
    assert examine({**config, "zero_force_ds_cpu_optimizer": False}, PLAIN) == []


def test_a_scheduler_alone_is_a_note_that_the_program_must_bring_an_optimizer() -> None:
    rest = {key: value for key, value in GOOD.items() if key != "optimizer"}
    scheduler = {"type": "WarmupLR", "params": {"warmup_num_steps": 5}}
    (note,) = examine({**rest, "scheduler": scheduler}, PLAIN)
    assert (note.fault, note.path) == (False, ("scheduler",))


def test_clipping_left_open_says_what_deepspeed_does_by_default() -> None:
    rest = {key: value for key, value in GOOD.items() if key != "gradient_clipping"}
    assert "clips at 1.0 since 0.19.3" in examine(rest, PLAIN)[0].what
    assert "whatever `max_grad_norm` says" in examine(rest, HF_TRAINER)[-1].what
    assert examine(rest, replace(PLAIN, deepspeed="0.19.2")) == []


def test_hf_trainer_refuses_a_configuration_without_zero() -> None:
    rest = {key: value for key, value in GOOD.items() if key != "zero_optimization"}
    assert "HF Trainer refuses" in the_fault(rest, HF_TRAINER).what


OURS = replace(BUILT_IN, world_size=2, stage=2)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"zero_optimization": {"reduce_bucket_size": 5e6, "allgather_bucket_size": AUTO}},
        {"zero_optimization": {"overlap_comm": True}},
        {"train_batch_size": 7, "train_micro_batch_size_per_gpu": 2},
        {"fp16": {"enabled": True}, "bf16": {"enabled": True}},
        {"optimizer": {"type": "nothing"}, "scheduler": 3},
        {"zero_optimization": {"stage": 3, "offload_param": {"pin_memory": True}}},
    ],
)
def test_what_the_built_in_trainer_sets_or_judges_itself_is_left_to_it(
    config: dict[str, Any],
) -> None:
    assert examine(config, OURS) == []


@pytest.mark.parametrize(
    ("config", "words", "hint"),
    [
        ({"lr": 1}, "wrong place", "the built-in trainer sets it itself"),
        ({"zero_optimization": {"reduce_bucket_size": "500"}}, "does not take it", "write 500"),
        ({"zero_optimization": {"round_robin_gradients": 1}}, "true and false only", "write true"),
        ({"zero_optimization": {"cpu_offload": True}}, "another name", "write `offload_optimizer`"),
        ({"zero_optimization": {"prefetch_bucket_size": 5}}, "writes itself", "write `stage3_pre"),
        ({"zero_optimization": True}, "means stage 1", '{"stage": 1}'),
        ({"zero_optimization": [1]}, "must be a mapping", "{"),
        ({"zero_optimization": {"offload_param": {"device": AUTO}}}, "stays off", "write a value"),
        ({"gradient_clipping": "0.5"}, 'the text "0.5"', "write 0.5 without quotes"),
    ],
)  # fmt: skip
def test_what_the_built_in_trainer_would_read_otherwise_is_a_fault(
    config: dict[str, Any], words: str, hint: str
) -> None:
    fault = the_fault(config, OURS)
    assert (words in fault.what, hint in fault.hint) == (True, True), fault


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("offload", [False, True])
def test_what_autotune_writes_itself_leaves_no_fault(stage: int, offload: bool) -> None:
    plan = builders.plan(
        zero_stage=stage, offload_optimizer=offload, offload_param=offload and stage == 3
    )
    written = with_plan({"zero_optimization": {"stage3_max_live_parameters": 1e9}}, plan)
    assert faults(written, replace(BUILT_IN, world_size=2, stage=stage)) == []
    assert faults(written, replace(HF_TRAINER, world_size=2)) == []
    assert faults(written, replace(PLAIN, world_size=2)) == []


names = st.sampled_from(sorted({name for block in BLOCKS.values() for name in block.keys}))
odd = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
odd |= st.sampled_from([AUTO, "5e8", "true", "AdamW", "WarmupLR", "cpu", "nvme"])
anything = st.recursive(
    odd,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(names | st.text(max_size=4), inner, max_size=6)
        | st.dictionaries(st.integers() | names, inner, max_size=3)
    ),
    max_leaves=25,
)


@given(anything, st.sampled_from([PLAIN, HF_TRAINER, OURS]), st.sampled_from([None, 1, 3]))
def test_no_value_makes_the_doctor_raise_and_every_remark_has_a_hint(
    config: Any, use: Use, ranks: int | None
) -> None:
    for remark in examine(config, replace(use, world_size=ranks)):
        assert remark.what
        assert remark.hint


@given(st.dictionaries(st.sampled_from(sorted(BLOCKS[""].keys)), anything, max_size=5))
def test_no_value_under_a_key_of_deepspeed_makes_the_doctor_raise(config: Any) -> None:
    for use in (PLAIN, HF_TRAINER, OURS):
        examine(config, use)

"""The built-in trainer's settings become a plan, a file for its child, or faults with a hint."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from autotune.child import finetune as child
from autotune.core.carry import WantedShape, decide_carry
from autotune.core.job import Job
from autotune.core.outlook import STEPS_WITH
from autotune.core.plan import Plan
from autotune.frameworks.ds_remark import AUTO
from autotune.frameworks.finetune import Finetune
from autotune.frameworks.finetune_at_plan import settings_with_plan
from autotune.frameworks.framework import Looked, Setting
from tests import builders

TRAINER = Finetune()


def job(settings: dict[str, Any] | None = None, **changes: Any) -> Job:
    given = builders.job().settings
    return builders.job(settings={**given, **(settings or {})}, **changes)


def start(settings: dict[str, Any] | None = None, world: int = 2, **deepspeed: Any) -> Plan:
    return TRAINER.start(job(settings), Looked(deepspeed=deepspeed), world)


def said(settings: dict[str, Any] | None = None, world: int = 2, **changes: Any) -> list[str]:
    """Return what is wrong with a job, each as one sentence; each has a place and a hint."""
    looked = Looked(deepspeed=changes.pop("deepspeed", {}))
    faults = TRAINER.faults(job(settings, **changes), looked, world, "job.yaml:3")
    assert all(fault.where == "job.yaml:3" and fault.hint for fault in faults)
    return [fault.what for fault in faults]


def test_silence_starts_at_stage_two_with_deepspeeds_own_buckets() -> None:
    plan = start()
    assert plan == builders.plan(micro_batch=8, accumulation=1)


def test_a_plan_starts_where_the_settings_and_the_configuration_say() -> None:
    plan = start(
        {"method": "qlora", "dtype": "fp32", "eval_micro_batch": 2, "gather_on_save": False},
        zero_optimization={
            "stage": 3,
            "reduce_bucket_size": 5e6,
            "allgather_bucket_size": AUTO,
            "sub_group_size": 1e8,
            "offload_optimizer": {"device": "cpu"},
            "round_robin_gradients": True,
        },
    )
    assert (plan.method, plan.quantization, plan.dtype) == ("lora", "nf4", "fp32")
    assert (plan.zero_stage, plan.offload_optimizer, plan.offload_param) == (3, True, False)
    assert (plan.reduce_bucket, plan.allgather_bucket) == (5_000_000, 500_000_000)
    assert (plan.sub_group_size, plan.round_robin_gradients) == (100_000_000, True)
    assert (plan.eval_micro_batch, plan.gather_on_save) == (2, False)


def test_the_jobs_own_word_on_offload_comes_before_the_configuration() -> None:
    table = {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    assert start(zero_optimization=table).offload_optimizer
    assert not start({"offload_optimizer": False}, zero_optimization=table).offload_optimizer


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_users_allocator_settings_are_where_the_plan_starts(name: str) -> None:
    given = job(env={name: "max_split_size_mb:128,expandable_segments:False"})
    plan = TRAINER.start(given, Looked(), 2)
    assert plan.allocator == (("max_split_size_mb", "128"), ("expandable_segments", "False"))


def test_three_ranks_share_the_global_batch_exactly() -> None:
    given = job(batch={"global": 45, "micro": 5})
    plan = TRAINER.start(given, Looked(), 3)
    assert (plan.accumulation, plan.global_batch) == (3, 45)


def test_a_good_job_has_no_faults() -> None:
    assert said() == []
    assert said(deepspeed={"zero_optimization": {"stage": 3}}, settings={"zero_stage": 3}) == []


@pytest.mark.parametrize(
    ("batch", "world", "words", "hint"),
    [
        ({"global": 16, "micro": 8}, 3, "cannot be shared equally by 3 ranks", "use 15 or 18"),
        ({"global": 2, "micro": 1}, 4, "cannot be shared equally by 4 ranks", "use 4 or 8"),
        ({"global": 30, "micro": 4}, 2, "micro-batches of 4 cannot make", "1, 3, 5, 15"),
        ({"global": 8, "micro": 16}, 2, "micro-batches of 16 cannot make", "1, 2, 4"),
    ],
)
def test_a_global_batch_that_cannot_be_made_is_refused_with_what_can(
    batch: dict[str, int], world: int, words: str, hint: str
) -> None:
    (fault,) = TRAINER.faults(job(batch=batch), Looked(), world, "job.yaml:3")
    assert words in fault.what
    assert hint in fault.hint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_steps": 5}, "must be given once"),
        ({"epochs": None}, "must be given once"),
        ({"model": {"model_type": "llama"}}, "brings no tokenizer"),
        ({"eval_every": 5}, "nothing to evaluate on"),
        ({"offload_param": True}, "ZeRO stage 3 only"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], words: str
) -> None:
    found = said(settings)
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    ("deepspeed", "settings", "words"),
    [
        ({"zero_optimization": {"stage": 3}}, {"zero_stage": 2}, "configuration says 3"),
        ({"zero_optimization": {"stage": 0}}, {}, "stage 1, 2 or 3"),
        ({"train_batch_size": 64}, {}, "`train_batch_size` is 64"),
        ({"optimizer": {"type": "Adam"}}, {}, "brings its own optimizer"),
        ({"zero_optimization": {"stage": 4}}, {}, "stage 1, 2 or 3"),
        ({"bf16": {"enabled": False}}, {}, "`bf16`"),
        ({"fp16": {"enabled": True}}, {"dtype": "bf16"}, "`fp16`"),
    ],
)
def test_a_configuration_that_contradicts_the_job_is_refused(
    deepspeed: dict[str, Any], settings: dict[str, Any], words: str
) -> None:
    found = said(settings, deepspeed=deepspeed)
    assert len(found) == 1, found
    assert words in found[0]


def test_an_offload_of_parameters_is_judged_by_the_stage_that_will_be_in_force() -> None:
    table = {"offload_param": {"device": "cpu"}}
    assert said({"zero_stage": 3}, deepspeed={"zero_optimization": table}) == []
    assert said({"offload_param": False}, deepspeed={"zero_optimization": table}) == []
    (found,) = said(deepspeed={"zero_optimization": table})
    assert "ZeRO stage 3 only" in found


def test_everything_wrong_is_said_at_once() -> None:
    found = said(
        {"max_steps": 5, "eval_every": 2, "model": {"model_type": "llama"}},
        world=3,
        deepspeed={"optimizer": {}, "elasticity": {}},
    )
    assert len(found) == 6


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "dora"}, {"zero_stage": 4}, {"learning_rate": 0}, {"epochs": -1},
        {"lora": {"rank": 0}}, {"data": {"train": "rows.jsonl"}}, {"learning_rates": 1e-3},
        {"data": {"train": "rows.jsonl", "sequence": 64, "eval_fraction": 1}},
    ],
)  # fmt: skip
def test_a_setting_of_the_wrong_shape_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        start(settings)


def setting(plan: Plan, given: Job | None = None, **changes: Any) -> Setting:
    carry = decide_carry(None, WantedShape(zero_stage=plan.zero_stage, world_size=plan.world_size))
    told: dict[str, Any] = {
        "job": given or job(), "looked": Looked(), "job_folder": "/jobs", "plan": plan,
        "device": "cpu", "attempt": 3, "folder": "/runs/a/attempts/003",
        "checkpoints": "/runs/a/checkpoints", "control": "/runs/a/control.json",
        "ds_overrides": carry.ds_overrides,
    }  # fmt: skip
    return Setting(**told | changes)


def train_file(*args: Any, **changes: Any) -> dict[str, Any]:
    program = TRAINER.program(setting(*args, **changes))
    assert program.argv == ("finetune.py", "/runs/a/attempts/003/train.json")
    read: dict[str, Any] = json.loads(program.files["train.json"])
    child.refuse_impossible(read)  # what we write is what the child accepts
    assert read["schema"] == child.SCHEMA
    return read


PLANS = {
    "plain": builders.plan(),
    "three_ranks": builders.plan(world_size=3, micro_batch=5, accumulation=3),
    "lora": builders.plan(method="lora", quantization="nf4", activation_checkpointing=True),
    "stage_3": builders.plan(zero_stage=3, gather_on_save=False, offload_param=True),
    "small": builders.plan(reduce_bucket=5, allgather_bucket=6, eval_micro_batch=1, dtype="fp32"),
    "readers": builders.plan(attention="eager", loader_workers=3),
    "adapters": builders.plan(method="lora", quantization="nf4", lora_rank=4),
    "leaner": builders.plan(
        loss="chunked",
        activation_checkpointing=True,
        activation_offload=True,
        optimizer="adamw_8bit",
        sequence=32,
    ),
    "in_fp32": builders.plan(method="lora", quantization="nf4", four_bit_compute="fp32"),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_setting_of_a_plan_reaches_the_file_the_child_reads(plan: Plan) -> None:
    read = train_file(plan)
    zero, batch = read["deepspeed"]["zero_optimization"], read["batch"]
    assert batch == {
        "global": plan.global_batch, "micro": plan.micro_batch, "accumulation": plan.accumulation,
        "eval_micro": plan.eval_micro_batch, "world_size": plan.world_size,
    }  # fmt: skip
    assert read["method"]["kind"] == plan.method
    assert read["method"]["quantization"] == plan.quantization
    assert read["model"]["dtype"] == plan.dtype
    assert read["model"]["attention"] == plan.attention
    compute = plan.dtype if plan.four_bit_compute == "dtype" else "fp32"
    assert read["method"]["compute"] == compute
    assert read["data"]["workers"] == plan.loader_workers
    assert read["activation_checkpointing"] is plan.activation_checkpointing
    assert read["activation_offload"] is plan.activation_offload
    assert read["loss"] == plan.loss
    assert read["schedule"]["optimizer"] == STEPS_WITH[plan.optimizer]
    assert read["data"]["sequence"] == plan.sequence
    assert read["method"]["lora_rank"] == (plan.lora_rank or 8)
    assert read["method"]["lora_alpha"] == 2 * (plan.lora_rank or 8)  # the scale stays
    assert zero["stage"] == plan.zero_stage
    assert (zero["reduce_bucket_size"], zero["allgather_bucket_size"]) == (
        plan.reduce_bucket, plan.allgather_bucket
    )  # fmt: skip
    for key in ("offload_optimizer", "offload_param"):
        assert (key in zero) is getattr(plan, key)
    gathers = zero.get("stage3_gather_16bit_weights_on_model_save")
    assert gathers == (plan.gather_on_save if plan.zero_stage == 3 else None)


def test_a_plan_of_an_older_journal_keeps_the_attention_of_the_settings() -> None:
    held = builders.plan(attention="given")
    assert train_file(held, job({"attention": "eager"}))["model"]["attention"] == "eager"


def test_a_plan_of_an_older_journal_keeps_the_sequence_and_rank_of_the_settings() -> None:
    read = train_file(builders.plan(method="lora", sequence=0), job({"lora": {"rank": 6}}))
    assert (read["data"]["sequence"], read["method"]["lora_rank"]) == (64, 6)


def test_nvme_is_refused_with_its_reason_and_what_to_do_instead() -> None:
    table = {"stage": 3, "offload_optimizer": {"device": "nvme"}}
    (found,) = said(deepspeed={"zero_optimization": table})
    assert "swap files of one layout, which no other plan can go on from" in found


def test_memory_is_pinned_where_settings_or_configuration_say_so_until_a_rung_forbids_it() -> None:
    offload = {"offload_optimizer": {"device": "cpu", "pin_memory": True}}
    assert not start().pinned_memory
    assert start(zero_optimization=offload).pinned_memory
    plan = start({"pin_memory": True}, zero_optimization=offload)
    looked = Looked(deepspeed={"zero_optimization": offload})
    for pinned in (True, False):
        wanted = plan.but(pinned_memory=pinned)
        read = train_file(wanted, job({"pin_memory": True}), looked=looked)
        assert read["data"]["pin_memory"] is pinned
        zero = read["deepspeed"]["zero_optimization"]
        assert zero["offload_optimizer"]["pin_memory"] is pinned


def test_blocking_launches_of_the_jobs_environment_are_where_the_plan_starts() -> None:
    given = job(env={"CUDA_LAUNCH_BLOCKING": "1"})
    assert TRAINER.start(given, Looked(), 2).blocking_launches
    assert not start().blocking_launches


def test_paths_are_read_against_the_folder_of_the_job() -> None:
    given = job({"tokenizer": "../words", "data": {"train": "/data/rows.jsonl", "sequence": 64}})
    read = train_file(builders.plan(), given)
    assert read["model"]["path"] == "/jobs/model"
    assert read["model"]["tokenizer"] == "/jobs/../words"
    assert read["data"]["train"] == "/data/rows.jsonl"
    assert read["channel"]["events"] == "/runs/a/attempts/003/events"


def test_the_length_of_the_training_and_its_schedule_are_the_jobs_own() -> None:
    given = job({"epochs": None, "max_steps": 7, "weight_decay": 0.1, "max_grad_norm": 0.5})
    schedule = train_file(builders.plan(), given)["schedule"]
    assert (schedule["epochs"], schedule["max_steps"]) == (None, 7)
    assert (schedule["weight_decay"], schedule["max_grad_norm"]) == (0.1, 0.5)


def test_clipping_is_written_out_because_deepspeeds_default_has_moved() -> None:
    assert train_file(builders.plan())["deepspeed"]["gradient_clipping"] == 1.0
    assert train_file(builders.plan(), looked=AUTO_CLIP)["deepspeed"]["gradient_clipping"] == 1.0


AUTO_CLIP = Looked(deepspeed={"gradient_clipping": AUTO})


def test_clipping_in_the_configuration_alone_holds_for_trainer_and_deepspeed_alike() -> None:
    looked = Looked(deepspeed={"gradient_clipping": 0.3})
    read = train_file(builders.plan(), looked=looked)
    assert read["deepspeed"]["gradient_clipping"] == read["schedule"]["max_grad_norm"] == 0.3
    assert said({"max_grad_norm": 0.3}, deepspeed={"gradient_clipping": 0.3}) == []
    (found,) = said({"max_grad_norm": 1.0}, deepspeed={"gradient_clipping": 0.3})
    assert found == "`max_grad_norm` is 1, and the DeepSpeed configuration clips gradients to 0.3"


def test_what_a_carry_demands_wins_over_the_configuration() -> None:
    looked = Looked(deepspeed={"zero_force_ds_cpu_optimizer": True})
    overrides = (("zero_force_ds_cpu_optimizer", False),)
    plan = builders.plan(offload_optimizer=True)
    read = train_file(plan, looked=looked, ds_overrides=overrides, load_universal=True)
    assert read["deepspeed"]["zero_force_ds_cpu_optimizer"] is False
    assert read["deepspeed"]["checkpoint"] == {"load_universal": True}


def test_an_ordinary_resume_asks_for_no_universal_checkpoint() -> None:
    read = train_file(builders.plan(), resume="/runs/a/checkpoints/checkpoint-5")
    assert "checkpoint" not in read["deepspeed"]
    assert read["checkpoints"]["resume"] == "/runs/a/checkpoints/checkpoint-5"


def test_a_job_started_at_a_plan_starts_at_that_plan_again() -> None:
    for plan in PLANS.values():
        given = job(batch={"global": plan.global_batch, "micro": plan.micro_batch})
        settings = settings_with_plan(given, {"steps_per_print": 5}, plan, "/jobs")
        again = given.model_copy(update={"settings": settings})
        looked = Looked(deepspeed=settings["deepspeed"])
        assert TRAINER.faults(again, looked, plan.world_size, "job.yaml:3") == []
        rank = 0 if plan.method == "full" else plan.lora_rank or 8  # 0: as the settings say
        assert TRAINER.start(again, looked, plan.world_size) == plan.but(lora_rank=rank)
        assert settings["deepspeed"]["steps_per_print"] == 5
        assert settings["model"] == "/jobs/model"

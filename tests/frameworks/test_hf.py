"""A script's own TrainingArguments become a plan, and a plan becomes changed arguments."""

import json
from typing import Any

import pytest

from autotune.core.carry import WantedShape, decide_carry
from autotune.core.fault import Fault
from autotune.core.job import Batch, Job
from autotune.core.outlook import shape_of
from autotune.core.plan import KNOBS, Plan
from autotune.frameworks.arguments import Arguments, flag
from autotune.frameworks.framework import Looked, Program, Setting
from autotune.frameworks.hf import Hf
from tests import builders

HF = Hf()
LINE = [
    "--output_dir", "out", "--per_device_train_batch_size", "4",
    "--gradient_accumulation_steps", "2", "--bf16", "--learning_rate", "1e-4",
]  # fmt: skip
CONFIG: dict[str, Any] = {
    "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto", "allgather_bucket_size": 2e8},
    "bf16": {"enabled": "auto"},
    "train_micro_batch_size_per_gpu": "auto",
    "steps_per_print": 50,
}
NEW = {"transformers": "5.23.0", "deepspeed": "0.19.8", "torch": "2.13.0"}


def job(*more: str, start: tuple[str, ...] = ("torchrun", "--nproc_per_node", "2")) -> Job:
    command = [*start, "run_clm.py", *LINE, *more]
    return builders.job(framework="hf", settings={"command": command}, batch=None)


def looked(config: dict[str, Any] | None = None, **changes: Any) -> Looked:
    text = json.dumps(config if config is not None else CONFIG)
    given: dict[str, Any] = {
        "texts": {"ds.json": text}, "documents": {"ds.json": config or CONFIG}, "versions": NEW,
        "model_config": {"hidden_size": 64},
    }  # fmt: skip
    return Looked(**given | changes)


def filled(given: Job, seen: Looked, ranks: int = 2) -> Job:
    batch = HF.batch(given, seen, ranks)
    assert isinstance(batch, Batch)
    return given.model_copy(update={"batch": batch})


def setting(plan: Plan, given: Job, seen: Looked, **changes: Any) -> Setting:
    carry = decide_carry(None, WantedShape(**shape_of(plan)))
    told: dict[str, Any] = {
        "job": filled(given, seen), "looked": seen, "job_folder": "/jobs", "plan": plan,
        "device": "cpu", "attempt": 3, "folder": "/runs/a/attempts/003",
        "checkpoints": "/runs/a/checkpoints", "control": None, "python": "/venv/bin/python",
        "port": 29001, "ds_overrides": carry.ds_overrides,
    }  # fmt: skip
    return Setting(**told | changes)


def values(program: Program) -> dict[str, Any]:
    """Return the arguments that the script will read."""
    words = program.argv[program.argv.index("run_clm.py") + 1 :]
    return Arguments(tuple(words)).values()


def said(given: Job, seen: Looked | None = None, ranks: int = 2) -> list[str]:
    seen = seen or looked()
    return [fault.what for fault in HF.faults(given, seen, ranks, "job.yaml:3")]


def test_the_arguments_are_where_a_plan_starts() -> None:
    given, seen = job("--deepspeed", "ds.json", "--gradient_checkpointing"), looked()
    plan = HF.start(given, seen, 2)
    assert (plan.micro_batch, plan.accumulation, plan.global_batch) == (4, 2, 16)
    assert (plan.dtype, plan.zero_stage, plan.activation_checkpointing) == ("bf16", 2, True)
    assert (plan.reduce_bucket, plan.allgather_bucket) == (64 * 64, 200_000_000)
    assert HF.batch(given, seen, 2) == Batch(**{"global": 16}, micro=4)


def test_a_precision_of_the_arguments_goes_before_one_of_the_deepspeed_file() -> None:
    line = ("python", "a.py", "--deepspeed", "ds.json", "--fp16")
    given = builders.job(framework="hf", settings={"command": list(line)}, batch=None)
    seen = Looked(texts={"ds.json": json.dumps({"bf16": {"enabled": True}})})
    assert HF.start(given, seen, 1).dtype == "fp16"


def test_what_the_arguments_leave_open_is_as_transformers_has_it() -> None:
    given = builders.job(framework="hf", settings={"command": ["python", "a.py"]}, batch=None)
    plan = HF.start(given, Looked(), 1)
    assert (plan.micro_batch, plan.accumulation, plan.eval_micro_batch) == (8, 1, 8)
    assert (plan.dtype, plan.zero_stage, plan.activation_checkpointing) == ("fp32", 0, False)
    assert HF.ranks(given, Looked()) == 1


@pytest.mark.parametrize(
    ("start", "ranks"),
    [
        (("python",), 1),
        (("torchrun", "--nproc_per_node", "4"), 4),
        (("torchrun",), 1),
        (("deepspeed", "--num_gpus", "3"), 3),
        (("deepspeed", "--include", "localhost:1,2"), 2),
        (("deepspeed",), None),
        (("accelerate", "launch", "--num_processes", "2"), 2),
    ],
)
def test_the_command_says_how_many_ranks_there_are(
    start: tuple[str, ...], ranks: int | None
) -> None:
    assert HF.ranks(job(start=start), Looked()) == ranks


def test_the_deepspeed_configuration_is_asked_for_and_an_inline_one_is_not() -> None:
    assert HF.wants(job("--deepspeed", "ds.json"), Looked()) == ("ds.json",)
    assert HF.wants(job("--deepspeed", '{"zero_optimization": {"stage": 3}}'), Looked()) == ()
    inline = job("--deepspeed", '{"zero_optimization": {"stage": 3}}')
    assert HF.start(inline, Looked(), 2).zero_stage == 3


def test_a_file_of_arguments_is_asked_for_before_what_it_names() -> None:
    command = ["python", "run_clm.py", "own.json"]
    given = builders.job(framework="hf", settings={"command": command}, batch=None)
    held = {"per_device_train_batch_size": 2, "deepspeed": "ds.json", "output_dir": "out"}
    assert HF.wants(given, Looked()) == ("own.json",)
    seen = looked(documents={"own.json": held})
    assert HF.wants(given, seen) == ("ds.json",)
    plan = HF.start(given, seen, 1)
    assert (plan.micro_batch, plan.zero_stage) == (2, 2)
    program = HF.program(setting(plan.but(micro_batch=1, accumulation=2), given, seen))
    assert program.argv[-1] == "/runs/a/attempts/003/arguments.json"
    written = json.loads(program.files["arguments.json"])
    assert (written["per_device_train_batch_size"], written["gradient_accumulation_steps"]) == (
        1,
        2,
    )


def test_the_start_leaves_everything_but_where_it_is_saved_as_it_is_written() -> None:
    given, seen = job("--deepspeed", "ds.json"), looked()
    program = HF.program(setting(HF.start(given, seen, 2), given, seen))
    found = values(program)
    assert (found["per_device_train_batch_size"], found["bf16"]) == (4, True)
    assert found["learning_rate"] == 1e-4
    assert found["output_dir"] == "/runs/a/checkpoints"
    assert (found["save_strategy"], found["save_steps"]) == ("steps", 0.1)
    assert "resume_from_checkpoint" not in found
    config = json.loads(program.files["ds_config.json"])
    assert config["zero_optimization"]["reduce_bucket_size"] == "auto"
    assert config["zero_optimization"]["allgather_bucket_size"] == 2e8
    assert config["train_micro_batch_size_per_gpu"] == config["train_batch_size"] == "auto"
    assert config["steps_per_print"] == 50
    assert found["deepspeed"] == "/runs/a/attempts/003/ds_config.json"


CHANGED = {
    "micro_batch": ({"micro_batch": 2, "accumulation": 4}, {"per_device_train_batch_size": 2}),
    "evaluation": ({"eval_micro_batch": 1}, {"per_device_eval_batch_size": 1}),
    "checkpointing": ({"activation_checkpointing": True}, {"activation_checkpointing": True}),
    "dtype": ({"dtype": "fp32"}, {"bf16": False, "fp16": False}),
    "optimizer": ({"optimizer": "paged_adamw_8bit"}, {"optim": "paged_adamw_8bit"}),
    "readers": ({"loader_workers": 2}, {"dataloader_num_workers": 2}),
    "pinned": ({"pinned_memory": False}, {"dataloader_pin_memory": False}),
}


@pytest.mark.parametrize(("changes", "wanted"), CHANGED.values(), ids=CHANGED)
def test_what_a_plan_changes_reaches_the_arguments(
    changes: dict[str, Any], wanted: dict[str, Any]
) -> None:
    given, seen = job("--deepspeed", "ds.json"), looked()
    plan = HF.start(given, seen, 2).but(**changes)
    found = values(HF.program(setting(plan, given, seen)))
    assert {key: found[key] for key in wanted} == wanted


def test_stage_buckets_and_offload_reach_the_users_own_configuration() -> None:
    given, seen = job("--deepspeed", "ds.json"), looked()
    plan = HF.start(given, seen, 2).but(
        zero_stage=3, reduce_bucket=5, allgather_bucket=6, offload_optimizer=True
    )
    config = json.loads(HF.program(setting(plan, given, seen)).files["ds_config.json"])
    zero = config["zero_optimization"]
    assert (zero["stage"], zero["reduce_bucket_size"], zero["allgather_bucket_size"]) == (3, 5, 6)
    assert zero["offload_optimizer"]["device"] == "cpu"
    assert config["zero_force_ds_cpu_optimizer"] is False


def test_a_rung_may_bring_deepspeed_in_where_the_script_had_none() -> None:
    given, seen = job(), looked()
    plan = HF.start(given, seen, 2)
    assert plan.zero_stage == 0
    assert "deepspeed" not in values(HF.program(setting(plan, given, seen)))
    program = HF.program(setting(plan.but(zero_stage=2), given, seen))
    assert values(program)["deepspeed"] == "/runs/a/attempts/003/ds_config.json"
    config = json.loads(program.files["ds_config.json"])
    assert config["zero_optimization"]["stage"] == 2
    assert config["gradient_accumulation_steps"] == "auto"


@pytest.mark.parametrize(
    ("start", "whole", "launcher", "first"),
    [
        (("python",), True, "torchrun", "/venv/bin/python"),
        (("torchrun",), False, "torchrun", "run_clm.py"),
        (("deepspeed", "--num_gpus", "1"), False, "deepspeed", "run_clm.py"),
        (("accelerate", "launch", "--num_processes", "1"), True, "torchrun", "/venv/bin/python"),
    ],
)
def test_the_script_is_launched_the_way_its_command_launches_it(
    start: tuple[str, ...], whole: bool, launcher: str, first: str
) -> None:
    given, seen = job(start=start), looked()
    program = HF.program(setting(HF.start(given, seen, 1), given, seen))
    assert (program.starts_ranks, program.launcher, program.argv[0]) == (whole, launcher, first)
    assert program.folder == "/jobs"


def test_a_bare_script_under_zero_gets_a_launcher() -> None:
    given, seen = job("--deepspeed", "ds.json", start=("python",)), looked()
    assert not HF.program(setting(HF.start(given, seen, 1), given, seen)).starts_ranks


def test_accelerate_meets_at_our_port_and_starts_as_many_ranks_as_the_plan_has() -> None:
    given = job(start=("accelerate", "launch", "--num_processes", "4", "--mixed_precision", "no"))
    seen = looked()
    argv = HF.program(setting(HF.start(given, seen, 2), given, seen)).argv
    assert argv[:3] == ("/venv/bin/python", "-m", "accelerate.commands.launch")
    options = Arguments(argv[3 : argv.index("run_clm.py")]).values()
    assert options["num_processes"] == 2
    assert options["main_process_port"] == 29001
    assert options["mixed_precision"] == "no" or options["mixed_precision"] is False


def test_a_resume_names_its_checkpoint_and_a_proof_trains_one_step_of_it() -> None:
    given, seen = job(), looked()
    plan = HF.start(given, seen, 2)
    resume = "/runs/a/checkpoints/checkpoint-7"
    found = values(HF.program(setting(plan, given, seen, resume=resume)))
    assert found["resume_from_checkpoint"] == resume
    proof = values(HF.program(setting(plan, given, seen, resume=resume, mode="prove")))
    assert (proof["max_steps"], proof["save_strategy"]) == (8, "no")
    assert proof["output_dir"] == "/runs/a/attempts/003/output"


@pytest.mark.parametrize(
    ("device", "ranks", "accelerate", "told"),
    [
        ("cpu", 2, "1.15.0", True),
        ("cpu", 2, "1.12.0", None),  # this one takes ranks without a GPU for ranks on the CPU
        ("cpu", 1, "1.15.0", None),
        ("cuda", 2, "1.15.0", None),
    ],
)
def test_several_ranks_on_the_cpu_are_told_so_since_each_would_train_alone(
    device: str, ranks: int, accelerate: str, told: bool | None
) -> None:
    given, seen = job(), looked(versions={**NEW, "accelerate": accelerate})
    plan = HF.start(given, seen, ranks)
    program = HF.program(setting(plan, given, seen, device=device))
    assert flag(values(program).get("use_cpu", "")) is told
    seen = looked(versions={**NEW, "accelerate": accelerate, "torch": f"2.13.0+{device}"})
    noted = [note.what for note in HF.notes(given, seen, ranks, "job.yaml:3")]
    assert any("`use_cpu` is switched on" in what for what in noted) is bool(told)


def test_the_users_own_interval_is_kept_unless_the_job_says_one() -> None:
    given, seen = job("--save_steps", "30"), looked()
    plan = HF.start(given, seen, 2)
    assert values(HF.program(setting(plan, given, seen)))["save_steps"] == 30
    told = given.model_copy(
        update={"checkpoints": builders.job(checkpoints={"every": 5}).checkpoints}
    )
    assert values(HF.program(setting(plan, told, seen)))["save_steps"] == 5


def test_where_the_best_model_is_loaded_saves_follow_the_evaluation() -> None:
    given, seen = job("--load_best_model_at_end", "--eval_strategy", "epoch"), looked()
    found = values(HF.program(setting(HF.start(given, seen, 2), given, seen)))
    assert "save_strategy" not in found
    assert HF.has_evaluation(given, seen)


def test_what_fights_us_is_switched_off_with_a_word() -> None:
    given, seen = job("--auto_find_batch_size", "--save_only_model", "true"), looked()
    found = values(HF.program(setting(HF.start(given, seen, 2), given, seen)))
    assert (found["auto_find_batch_size"], found["save_only_model"]) == (False, False)
    notes = " ".join(note.what for note in HF.notes(given, seen, 2, "job.yaml:3"))
    assert "`auto_find_batch_size` is switched off" in notes
    assert "`save_only_model` is switched off" in notes


def test_an_older_transformers_is_spoken_to_in_its_own_words() -> None:
    given, seen = job(), looked(versions={**NEW, "transformers": "4.57.6"})
    plan = HF.start(given, seen, 2).but(activation_checkpointing=True)
    found = values(HF.program(setting(plan, given, seen)))
    assert found["gradient_checkpointing"] is True
    assert found["overwrite_output_dir"] is True


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--overwrite_output_dir",), "gone from transformers since 5.0"),
        (("--warmup_ratio", "0.1"), "gone from transformers since 5.15"),
        (("--resume_from_checkpoint", "old/checkpoint-5"), "a checkpoint of another run"),
        (("--fsdp", "full_shard"), "does not steer"),
        (("--per_device_train_batch_size", "0"), "no count"),
    ],
)
def test_arguments_that_cannot_work_are_refused_with_a_hint(
    more: tuple[str, ...], words: str
) -> None:
    (fault,) = HF.faults(job(*more), looked(), 2, "job.yaml:3")
    assert words in fault.what
    assert fault.hint


def test_a_key_of_the_newest_transformers_is_refused_by_an_older_one() -> None:
    (found,) = said(job("--activation_checkpointing"), looked(versions={"transformers": "5.20.0"}))
    assert "needs transformers 5.23" in found


def test_good_arguments_have_no_faults() -> None:
    assert said(job()) == []
    assert said(job("--deepspeed", "ds.json")) == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"zero_optimization": {"stage": 2}, "train_batch_size": 64}, "`train_batch_size` is 64"),
        ({"zero_optimization": {"stage": 2}, "fp16": {"enabled": True}}, "fp16"),
        ({"zero_optimization": {}}, "names no ZeRO stage"),
        ({"zero_optimization": {"stage": 2}, "gradient_clipping": 0.5}, "`max_grad_norm` is 1"),
        (
            {"zero_optimization": {"stage": 2}, "optimizer": {"params": {"lr": 1e-3}}},
            "`learning_rate` is 0.0001",
        ),
    ],
)
def test_a_configuration_that_contradicts_the_arguments_is_refused(
    config: dict[str, Any], words: str
) -> None:
    assert any(words in one for one in said(job("--deepspeed", "ds.json"), looked(config)))


def test_a_misplaced_key_of_the_configuration_is_told_with_its_line() -> None:
    lines = ('{"train_batch_size": "auto",', '"zero_optimization": {"stage": 2},')
    text = "\n".join((*lines, '"offload_optimizer": {"device": "cpu"}}'))
    seen = looked(texts={"ds.json": text})
    found = HF.faults(job("--deepspeed", "ds.json"), seen, 2, "job.yaml:3")
    assert [fault.where for fault in found] == ["ds.json:3"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["llamafactory-cli", "train", "x.yaml"], "no Python script"),
        (["accelerate", "launch", "--use_deepspeed", "a.py"], "settings of its own"),
    ],
)
def test_a_command_that_cannot_be_steered_is_refused(command: list[str], words: str) -> None:
    given = builders.job(framework="hf", settings={"command": command}, batch=None)
    found = said(given, Looked(), 2)
    assert any(words in one for one in found), found


def test_without_the_probe_nothing_could_be_followed() -> None:
    given = job().model_copy(update={"probe": "off"})
    assert "`probe: off`" in said(given)[0]


def test_what_training_arguments_have_no_key_for_is_said() -> None:
    lacks = HF.lacks(job(), looked())
    assert {"quantization", "attention", "sequence", "lora_rank"} <= lacks.keys() <= KNOBS
    assert "zero_stage" not in lacks
    assert "zero_stage" in HF.lacks(job(), looked(versions={"transformers": "5.23.0"}))
    assert "adafactor" in HF.lacks(job("--optim", "adafactor"), looked())["optimizer"]
    own = {**CONFIG, "optimizer": {"type": "AdamW"}}
    assert "of its own" in HF.lacks(job("--deepspeed", "ds.json"), looked(own))["optimizer"]


def test_the_length_of_a_row_is_read_where_a_script_calls_it_by_a_usual_name() -> None:
    assert HF.trained(job("--block_size", "512"), looked()).sequence == 512
    assert HF.trained(job(), looked()).sequence is None
    assert HF.packs(job("--block_size", "512"), looked())


def test_a_job_started_at_the_known_good_starts_at_its_plan() -> None:
    seen = looked()
    for more in ((), ("--deepspeed", "ds.json")):
        given = job(*more)
        plan = HF.start(given, seen, 2).but(micro_batch=1, accumulation=8, dtype="fp32")
        good = HF.known_good(setting(plan, given, seen, folder="/runs/a/known-good"))
        again = given.model_copy(update={"settings": dict(good.settings)})
        held = good.files.get("ds_config.json", "{}")
        path = "/runs/a/known-good/ds_config.json"
        then = looked(texts={path: held})
        assert said(again, then) == []
        assert HF.start(again, then, 2) == plan
        found = Arguments(good.argv[1:]).values()
        assert found["output_dir"] == "/runs/a/known-good/output"


def test_a_fault_of_the_command_is_no_batch() -> None:
    given = builders.job(framework="hf", settings={"command": ["trl", "sft"]}, batch=None)
    assert isinstance(HF.batch(given, Looked(), 2), Fault)


def test_the_only_rank_of_a_plain_command_is_told_that_it_is_the_only_one() -> None:
    def env_of(start: tuple[str, ...], ranks: int, *more: str) -> dict[str, str]:
        given, seen = job(*more, start=start), looked()
        return dict(HF.program(setting(HF.start(given, seen, ranks), given, seen)).env)

    assert env_of(("python",), 1) == {"AUTOTUNE_ALONE": "1"}
    assert env_of(("accelerate", "launch", "--num_processes", "1"), 1) == {"AUTOTUNE_ALONE": "1"}
    # Under a launcher a rank knows its number from the start.
    assert env_of(("torchrun",), 1) == {}
    assert env_of(("accelerate", "launch", "--num_processes", "2"), 2) == {}
    given, seen = job(start=("python",)), looked()
    assert HF.known_good(setting(HF.start(given, seen, 1), given, seen)).env == {}


def test_whoever_names_a_checkpoint_of_another_run_is_told_how_to_ask_for_it() -> None:
    given = job("--resume_from_checkpoint", "old/checkpoint-5", "--deepspeed", "ds.json")
    hints = [one.hint for one in HF.faults(given, looked(), 2, "job.yaml:3")]
    assert any("checkpoints: {continue_from: old/checkpoint-5}" in hint for hint in hints)

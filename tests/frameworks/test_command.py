"""Any command as a framework: its places are its knobs, and what has no place is left alone."""

import json
import shlex
from typing import Any

import pytest

from autotune.core.fault import Fault
from autotune.core.job import Batch, Job
from autotune.core.plan import Plan
from autotune.frameworks.command import AnyCommand
from autotune.frameworks.command_line import Call, split
from autotune.frameworks.deepspeed import PlainDeepSpeed
from autotune.frameworks.framework import Looked, Program, Setting
from autotune.frameworks.known import recognise
from autotune.frameworks.placeholders import FIELDS, escaped, filled, places
from tests import builders

ANY, PLAIN = AnyCommand(), PlainDeepSpeed()
CONFIG = {
    "train_batch_size": 16,
    "train_micro_batch_size_per_gpu": 4,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}},
    "fp16": {"enabled": True},
    "zero_optimization": {"stage": 2, "reduce_bucket_size": 2e8},
}


def job(line: str, framework: str = "command", **changes: Any) -> Job:
    given = {"command": shlex.split(line), **changes.pop("settings", {})}
    return builders.job(framework=framework, settings=given, **{"batch": None, **changes})


def looked(config: Any = CONFIG, path: str = "ds.json") -> Looked:
    return Looked(texts={path: json.dumps(config)}, versions={"deepspeed": "0.19.8"})


def begun(
    tool: AnyCommand, asked: Job, ranks: int = 2, seen: Looked | None = None
) -> tuple[Job, Plan]:
    seen = seen or Looked()
    batch = tool.batch(asked, seen, ranks)
    assert isinstance(batch, Batch), batch
    asked = asked.model_copy(update={"batch": batch})
    assert tool.faults(asked, seen, ranks, "job.yaml:3") == []
    return asked, tool.start(asked, seen, ranks)


def setting(asked: Job, plan: Plan, seen: Looked | None = None, **changes: Any) -> Setting:
    given: dict[str, Any] = {
        "job": asked, "looked": seen or Looked(), "job_folder": "/jobs", "plan": plan,
        "device": "cpu", "attempt": 2, "folder": "/run/attempts/002",
        "checkpoints": "/run/checkpoints", "control": None, "python": "/venv/bin/python",
        "port": 4321,
    }  # fmt: skip
    return Setting(**{**given, **changes})


def said(tool: AnyCommand, asked: Job, seen: Looked | None = None) -> list[str]:
    whole = asked.model_copy(update={"batch": asked.batch or Batch(**{"global": 8}, micro=2)})
    return [fault.what for fault in tool.faults(whole, seen or Looked(), 2, "job.yaml:3")]


def test_without_places_only_the_surroundings_are_ours() -> None:
    asked, plan = begun(ANY, job("python train.py --lr 1"), ranks=1)
    assert ANY.lacks(asked, Looked()).keys() == FIELDS
    program = ANY.program(setting(asked, plan))
    assert program.argv == ("/venv/bin/python", "train.py", "--lr", "1")
    assert (program.starts_ranks, program.folder, program.files) == (True, "/jobs", {})
    assert any("starts over" in note.what for note in ANY.notes(asked, Looked(), 1, ""))


def test_places_are_the_knobs_and_are_filled_in() -> None:
    line = (
        "python t.py --bs {micro_batch=8} --gas={accumulation=2} --ac {activation_checkpointing=no}"
    )
    asked, plan = begun(ANY, job(line), ranks=1)
    assert (plan.micro_batch, plan.accumulation, plan.activation_checkpointing) == (8, 2, False)
    had = FIELDS - ANY.lacks(asked, Looked()).keys()
    assert had == {
        "micro_batch", "accumulation", "eval_micro_batch", "activation_checkpointing",
    }  # fmt: skip
    smaller = plan.but(micro_batch=4, accumulation=4, activation_checkpointing=True)
    assert ANY.program(setting(asked, smaller)).argv[2:] == (
        "--bs", "4", "--gas=4", "--ac", "true",
    )  # fmt: skip


def test_a_micro_batch_alone_is_never_changed() -> None:
    asked, _ = begun(ANY, job("python t.py --bs {micro_batch}", batch={"global": 8, "micro": 2}))
    assert "micro_batch" in ANY.lacks(asked, Looked())
    assert any("never changed" in note.what for note in ANY.notes(asked, Looked(), 1, ""))
    both = job("python t.py --bs {micro_batch=2} --total {global_batch=8}")
    assert "micro_batch" not in ANY.lacks(begun(ANY, both)[0], Looked())


def test_resuming_is_left_out_where_there_is_nothing_to_resume() -> None:
    asked, plan = begun(ANY, job("python t.py --resume {resume} --x --out={output} --r={resume}"))
    assert ANY.program(setting(asked, plan)).argv[2:] == ("--x", "--out=/run/checkpoints")
    again = ANY.program(setting(asked, plan, resume="/run/checkpoints/checkpoint-4"))
    assert again.argv[2:4] == ("--resume", "/run/checkpoints/checkpoint-4")


def test_checkpoints_that_nobody_resumes_from_lie_in_the_attempt() -> None:
    asked, plan = begun(ANY, job("python t.py --out {output}"))
    assert ANY.program(setting(asked, plan)).argv[-1] == "/run/attempts/002/output"


def test_a_launcher_is_started_with_the_jobs_python() -> None:
    line = "OMP_NUM_THREADS=1 torchrun --nproc_per_node {world_size} --master_port {port} t.py"
    asked, plan = begun(ANY, job(line))
    program = ANY.program(setting(asked, plan))
    assert program.argv == (
        "/venv/bin/python", "-m", "torch.distributed.run", "--nproc_per_node", "2",
        "--master_port", "4321", "t.py",
    )  # fmt: skip
    assert program.env == {"OMP_NUM_THREADS": "1"}
    assert ANY.ranks(job("torchrun --nproc_per_node 3 t.py"), Looked()) == 3


def test_braces_are_doubled_to_stand_for_themselves() -> None:
    word = '{"a": {"b": 1}}'
    assert filled([escaped(word)], {}) == (word,)
    assert places([escaped(word)]) == {}
    assert "a brace" in said(ANY, job(shlex.join(["python", "t.py", word])))[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("python t.py {micro_bach}", "no place"),
        ("python t.py {zero_stage=much}", "starts at no value"),
        ("python t.py {zero_stage}", "does not say where it starts"),
        ("python t.py --r {resume}", "no `{output}`"),
        ("python t.py {deepspeed_config}", "which file"),
        ("torchrun --nnodes 2", "no program"),
    ],
)
def test_places_that_cannot_be_filled_in_are_faults(line: str, words: str) -> None:
    assert any(words in one for one in said(ANY, job(line)))


def test_a_place_for_batches_without_a_start_asks_for_the_batch() -> None:
    fault = ANY.batch(job("python t.py {micro_batch} {accumulation}"), Looked(), 2)
    assert isinstance(fault, Fault)
    assert "batch" in fault.hint


LINE = "deepspeed --num_gpus 2 train.py --deepspeed_config ds.json --lr 1"


def test_a_plain_deepspeed_program_starts_where_its_configuration_says() -> None:
    assert PLAIN.ranks(job(LINE, "deepspeed"), Looked()) == 2
    assert PLAIN.wants(job(LINE, "deepspeed"), Looked()) == ("ds.json",)
    _, plan = begun(PLAIN, job(LINE, "deepspeed"), seen=looked())
    assert (plan.micro_batch, plan.accumulation, plan.global_batch) == (4, 2, 16)
    assert (plan.zero_stage, plan.dtype, plan.reduce_bucket) == (2, "fp16", 200_000_000)


def test_the_first_attempt_gets_the_users_own_configuration() -> None:
    asked, plan = begun(PLAIN, job(LINE, "deepspeed"), seen=looked())
    program = PLAIN.program(setting(asked, plan, looked()))
    assert program.argv == (
        "train.py", "--deepspeed_config", "/run/attempts/002/ds_config.json", "--lr", "1",
    )  # fmt: skip
    assert (program.starts_ranks, program.launcher) == (False, "deepspeed")
    assert json.loads(program.files["ds_config.json"]) == CONFIG


def test_a_changed_plan_changes_its_own_keys_alone() -> None:
    asked, plan = begun(PLAIN, job(LINE, "deepspeed"), seen=looked())
    other = plan.but(zero_stage=3, offload_optimizer=True, micro_batch=2, accumulation=4)
    written = json.loads(PLAIN.program(setting(asked, other, looked())).files["ds_config.json"])
    assert written == {
        **CONFIG,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 4,
        "zero_optimization": {
            "stage": 3,
            "reduce_bucket_size": 2e8,
            "offload_optimizer": {"device": "cpu", "pin_memory": False},
        },
    }


def test_batches_are_changed_only_where_the_program_reads_them_from_the_configuration() -> None:
    asked, _ = begun(PLAIN, job(LINE, "deepspeed"), seen=looked())
    assert "batch_from_config" in PLAIN.lacks(asked, looked())["micro_batch"]
    says = job(LINE, "deepspeed", settings={"batch_from_config": True})
    assert not {"micro_batch", "accumulation"} & PLAIN.lacks(says, looked()).keys()


def test_a_programs_own_optimizer_is_not_offloaded() -> None:
    own = {key: value for key, value in CONFIG.items() if key != "optimizer"}
    lacks = PLAIN.lacks(job(LINE, "deepspeed"), looked(own))
    assert "its own optimizer" in lacks["offload_optimizer"]
    assert "zero_stage" not in lacks
    assert "zero_stage" in PLAIN.lacks(job(LINE, "deepspeed"), looked({"train_batch_size": 2}))


@pytest.mark.parametrize(
    ("config", "batches"),
    [
        ({"train_batch_size": 16}, (16, 8)),
        ({"train_micro_batch_size_per_gpu": 4}, (8, 4)),
        ({"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 3}, (24, 4)),
        ({"train_batch_size": 16, "gradient_accumulation_steps": 4}, (16, 2)),
        ({"train_batch_size": 15}, None),
        ({"train_batch_size": 16, "train_micro_batch_size_per_gpu": 3}, None),
        ({}, None),
    ],
)
def test_batches_are_worked_out_as_deepspeed_does(
    config: dict[str, Any], batches: tuple[int, int] | None
) -> None:
    found = PLAIN.batch(job(LINE, "deepspeed"), looked(config), 2)
    assert isinstance(found, Fault if batches is None else Batch)
    if isinstance(found, Batch):
        assert (found.global_, found.micro) == batches


def test_the_known_good_starts_at_its_plan_again() -> None:
    asked, plan = begun(PLAIN, job(LINE, "deepspeed"), seen=looked())
    other = plan.but(zero_stage=3)
    good = PLAIN.known_good(setting(asked, other, looked(), folder="/run/known-good"))
    written = json.loads(good.files["ds_config.json"])
    assert written["zero_optimization"]["stage"] == 3
    path = "/run/known-good/ds_config.json"
    again = builders.job(framework="deepspeed", settings=dict(good.settings), batch=None)
    assert PLAIN.wants(again, Looked()) == (path,)
    assert begun(PLAIN, again, seen=looked(written, path))[1] == other


def test_a_known_good_of_any_command_starts_its_places_at_the_plan() -> None:
    line = "python t.py {micro_batch=8} {accumulation=2} --o {output} --r {resume}"
    asked, plan = begun(ANY, job(line), ranks=1)
    other = plan.but(micro_batch=4, accumulation=4, eval_micro_batch=4)
    good = ANY.known_good(setting(asked, other, folder="/kg", resume="/run/checkpoints/c"))
    assert good.argv[2:] == ("4", "4", "--o", "/kg/output")
    again = builders.job(framework="command", settings=dict(good.settings), batch=None)
    assert begun(ANY, again, ranks=1)[1] == other


def test_programs_without_a_configuration_file_are_faults() -> None:
    assert any("names no DeepSpeed" in one for one in said(PLAIN, job("python t.py", "deepspeed")))
    line = "bash run.sh --deepspeed_config ds.json"
    assert any("no Python program" in one for one in said(PLAIN, job(line, "deepspeed"), looked()))
    assert any(
        "is given twice" in one or "JSON" in one
        for one in said(PLAIN, job(LINE, "deepspeed"), Looked(texts={"ds.json": "{,,"}))
    )


def test_a_command_line_shows_what_it_is_for() -> None:
    def named(line: str) -> str:
        call = split(shlex.split(line))
        assert isinstance(call, Call)
        return recognise(call)

    assert named(LINE) == "deepspeed"
    assert named("torchrun t.py --deepspeed zero.json") == "deepspeed"
    assert named("./train.sh --fast") == "command"
    assert named("python t.py") == "command"
    assert named("python run_clm.py args.json") == "hf"
    assert named("torchrun t.py --output_dir out --deepspeed zero.json") == "hf"
    assert named("llamafactory-cli train x.yaml") == "llamafactory"


def test_a_module_stays_a_module_under_our_launcher() -> None:
    line = "python -m pkg.train --deepspeed_config ds.json"
    asked, plan = begun(PLAIN, job(line, "deepspeed"), ranks=1, seen=looked())
    program = PLAIN.program(setting(asked, plan, looked()))
    assert isinstance(program, Program)
    assert program.argv[:2] == ("--module", "pkg.train")
    assert program.launcher == "torchrun"


def test_a_checkpoint_of_another_run_needs_a_place_in_the_command() -> None:
    asks: dict[str, Any] = {"checkpoints": {"continue_from": "old/checkpoint-4"}}
    assert any("has no {resume} for it" in one for one in said(ANY, job("python t.py", **asks)))
    line = "python t.py --o {output} --r {resume}"
    assert not any("{resume} for it" in one for one in said(ANY, job(line, **asks)))

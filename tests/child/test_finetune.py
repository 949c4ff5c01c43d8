"""The built-in trainer on real, tiny trainings under DeepSpeed on the CPU."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.child import finetune

pytestmark = pytest.mark.train

SCRIPT = Path(finetune.__file__)
TIME_LIMIT = 600
MODEL = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 64,
}


def ds_config(micro: int, accumulation: int, world_size: int, stage: int = 2) -> dict[str, Any]:
    return {
        "train_batch_size": micro * accumulation * world_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": False,
            "reduce_bucket_size": 100_000,
            "allgather_bucket_size": 100_000,
            "stage3_prefetch_bucket_size": 100_000,
            "stage3_param_persistence_threshold": 0,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
    }


# Into every rank: each file that is put on disk, and what is renamed, in order.
WRITES_DOWN = """
import os
fsync, replace = os.fsync, os.replace
def told(line):
    with open(os.environ["DISK_LOG"], "a") as file:
        file.write(line + "\\n")
def synced(descriptor):
    fsync(descriptor)
    told(os.readlink(f"/proc/self/fd/{descriptor}"))
def replaced(source, target, **more):
    replace(source, target, **more)
    told(f"to {target}")
os.fsync, os.replace = synced, replaced
"""


class Outcome:
    """A finished child: its exit code, its words and what its ranks reported."""

    def __init__(
        self, returncode: int, output: str, events: Path, disk_log: Path | None = None
    ) -> None:
        kept = disk_log is not None and disk_log.exists()  # one that saves nothing writes none
        self.disk = disk_log.read_text().splitlines() if disk_log and kept else []
        self.returncode = returncode
        self.output = output
        self.ranks: list[list[dict[str, Any]]] = []
        while (path := events / f"rank{len(self.ranks)}.jsonl").exists():
            self.ranks.append([json.loads(line) for line in path.read_text().splitlines()])

    def events(self, kind: str, rank: int = 0) -> list[dict[str, Any]]:
        return [event for event in self.ranks[rank] if event["kind"] == kind]

    def only(self, kind: str, rank: int = 0) -> dict[str, Any]:
        found = self.events(kind, rank)
        assert len(found) == 1, (kind, found, self.output[-3000:])
        return found[0]

    def losses(self) -> dict[int, float]:
        return {event["step"]: event["loss"] for event in self.events("step")}

    def samples(self) -> dict[int, list[int]]:
        """The sample ids of each optimizer step over all ranks, in ascending order."""
        taken: dict[int, list[int]] = {}
        for rank in range(len(self.ranks)):
            for event in self.events("step", rank):
                taken.setdefault(event["step"], []).extend(event["samples"])
        return {step: sorted(ids) for step, ids in taken.items()}


class Bench:
    """A folder with a tiny tokenizer and rows, where trainings are started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_tokenizer(folder / "tokenizer")
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(WRITES_DOWN)
        with (folder / "rows.jsonl").open("w") as rows:
            for at in range(24):
                row = {"prompt": f"count {at}: ", "completion": "one two three " * (1 + at % 5)}
                rows.write(json.dumps(row) + "\n")

    def settings(
        self, micro: int, accumulation: int, world_size: int, stage: int = 2
    ) -> dict[str, Any]:
        return {
            "schema": 1,
            "mode": "train",
            "model": {
                "path": None,
                "config": copy.deepcopy(MODEL),
                "tokenizer": str(self.folder / "tokenizer"),
                "trust_remote_code": False,
                "attention": "sdpa",
                "dtype": "fp32",
            },
            "method": {"kind": "full", "quantization": "none", "double_quantization": True}
            | {"lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_targets": "all-linear"},
            # 21 rows to train on: three steps of 8 an epoch, the last with three null rows.
            "data": {"train": str(self.folder / "rows.jsonl"), "eval": None, "eval_fraction": 0.125}
            | {"sequence": 64, "packing": False, "response_only": True, "shuffle": True, "seed": 1},
            "schedule": {"epochs": 2.0, "max_steps": None, "learning_rate": 5e-3}
            | {"scheduler": "cosine", "warmup_steps": 2, "weight_decay": 0.1}
            | {"adam_betas": [0.9, 0.98], "adam_epsilon": 1e-7, "max_grad_norm": 1.0}
            | {"optimizer": "adamw_torch", "seed": 1, "eval_every": 3},
            "batch": {"global": micro * accumulation * world_size, "micro": micro}
            | {"accumulation": accumulation, "eval_micro": 2, "world_size": world_size},
            "activation_checkpointing": False,
            "deepspeed": ds_config(micro, accumulation, world_size, stage),
            "memory": {"device": "cpu", "limit_bytes": None},
            "checkpoints": {"dir": "checkpoints", "every": 2, "keep": 3, "resume": None},
            "channel": {"events": "events", "control": "control.json", "attempt": 1},
        }

    def run(self, name: str, settings: dict[str, Any]) -> Outcome:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        path = folder / "train.json"
        path.write_text(json.dumps(settings))
        world_size = settings["batch"]["world_size"]
        command = [sys.executable, str(SCRIPT), str(path)]
        if world_size > 1:
            launcher = ["-m", "deepspeed.launcher.runner", "--num_gpus", str(world_size)]
            command = [sys.executable, *launcher, "--master_port", str(free_port()), *command[1:]]
        # Threads that wait for each other spin, and these models are too small to share.
        alone = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", **alone}
        # The launcher and the op builder look for their tools beside this interpreter.
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        paths = [str(self.folder / "site"), *filter(None, [environment.get("PYTHONPATH")])]
        environment |= {"PYTHONPATH": os.pathsep.join(paths), "DISK_LOG": str(folder / "disk.log")}
        with (folder / "output.log").open("w+") as log:
            child = subprocess.run(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=TIME_LIMIT
            )
            log.seek(0)
            return Outcome(child.returncode, log.read(), folder / "events", folder / "disk.log")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_tokenizer(folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<end>", "<pad>"],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["count one two three"], trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "<pad>"}))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("finetune"))


@pytest.fixture(scope="module")
def whole(bench: Bench) -> Outcome:
    """One undisturbed training on one rank: micro-batch 2, accumulated four times."""
    outcome = bench.run("whole", bench.settings(2, 4, 1))
    assert outcome.returncode == 0, outcome.output[-3000:]
    return outcome


def test_two_ranks_and_one_make_the_same_steps(bench: Bench, whole: Outcome) -> None:
    both = bench.run("both", bench.settings(4, 1, 2))
    assert both.returncode == 0, both.output[-3000:]
    assert both.samples() == whole.samples()
    assert both.losses() == pytest.approx(whole.losses(), rel=1e-5)
    evaluations = [[event["loss"] for event in one.events("eval")] for one in (both, whole)]
    assert evaluations[0] == pytest.approx(evaluations[1], rel=1e-5)
    for rank in range(2):
        assert both.only("finished", rank)["step"] == both.only("finished", rank)["total"] == 6
        assert both.only("settings", rank)["micro_batch"] == 4
        assert both.only("settings", rank)["accumulation"] == 1


def test_a_training_reports_what_is_in_force_and_keeps_complete_checkpoints(
    bench: Bench, whole: Outcome
) -> None:
    settings = whole.only("settings")
    assert (settings["zero_stage"], settings["world_size"], settings["global_batch"]) == (2, 1, 8)
    assert settings["reduce_bucket_elements"] == 100_000
    assert settings["total_steps"] == 6
    assert {group["weight_decay"] for group in settings["param_groups"]} == {0.1, 0.0}
    assert whole.samples()[3].count(finetune.NULL_ROW) == 3
    kept = [Path(event["path"]) for event in whole.events("checkpoint")]
    assert [path.name for path in kept] == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    for path, step in zip(kept, (2, 4, 6), strict=True):
        mark = json.loads((path / finetune.COMPLETE_MARK).read_text())
        told = {"step": step, "attempt": 1, "world_size": 1, "zero_stage": 2}
        assert {name: mark[name] for name in told} == told
        files = [one for one in path.rglob("*") if one.is_file()]
        assert mark["bytes"] == pytest.approx(sum(one.stat().st_size for one in files), abs=1000)
        assert 0 < mark["seconds"] < TIME_LIMIT
        assert mark["reference"]["loss"] > 0
        assert not (path / finetune.BEGUN_MARK).exists()
        marked = whole.disk.index(f"to {path / finetune.COMPLETE_MARK}")
        before = set(whole.disk[:marked])
        assert {str(one) for one in files if one.name != finetune.COMPLETE_MARK} <= before
        assert {str(path), str(path.parent)} <= before
        assert whole.disk[marked + 1] == str(path)


def test_a_stopped_training_goes_on_under_another_shape_as_if_undisturbed(
    bench: Bench, whole: Outcome
) -> None:
    settings = bench.settings(2, 4, 1)
    control = bench.folder / "stopped" / "control.json"
    control.parent.mkdir()
    control.write_text('{"seq": 1, "command": "stop"}')
    stopped = bench.run("stopped", settings)
    assert stopped.returncode == 0, stopped.output[-3000:]
    assert stopped.only("stopped")["step"] == 1
    assert not stopped.events("finished")
    checkpoint = Path(stopped.only("checkpoint")["path"])
    assert (checkpoint / finetune.COMPLETE_MARK).exists()

    control.write_text('{"seq": 2, "command": "run"}')
    again = bench.settings(8, 1, 1)
    again["checkpoints"]["resume"] = str(checkpoint)
    again["channel"]["events"] = "events-again"
    again["checkpoints"]["every"] = 3  # the checkpoint's own figure must not win
    resumed = bench.run("stopped", again)
    resumed = Outcome(resumed.returncode, resumed.output, control.parent / "events-again")
    assert resumed.returncode == 0, resumed.output[-3000:]
    rest = {step: loss for step, loss in whole.losses().items() if step > 1}
    assert resumed.losses() == pytest.approx(rest, rel=1e-5)
    assert resumed.samples() == {step: whole.samples()[step] for step in rest}
    assert [event["lr"] for event in resumed.events("step")] == pytest.approx(
        [event["lr"] for event in whole.events("step")][1:]
    )
    assert [event["step"] for event in resumed.events("checkpoint")] == [3, 6]
    assert resumed.only("settings")["micro_batch"] == 8
    assert (
        resumed.only("settings")["param_groups"][0]["weight_decay"]
        == whole.only("settings")["param_groups"][0]["weight_decay"]
    )


def test_memory_refused_under_the_limit_is_reported_with_its_phase(bench: Bench) -> None:
    settings = bench.settings(64, 1, 1)
    limit = 2_000_000_000
    # The logits alone, 64 x 1024 x 8192 floats, are more than the limit.
    settings["model"]["config"] |= {"vocab_size": 8192, "max_position_embeddings": 1024}
    settings["data"] |= {"train": "long.jsonl", "eval_fraction": 0.0, "sequence": 1024}
    settings["memory"]["limit_bytes"] = limit
    folder = bench.folder / "refused"
    folder.mkdir()
    row = {"text": "count one two three " * 300}
    (folder / "long.jsonl").write_text((json.dumps(row) + "\n") * 64)
    refused = bench.run("refused", settings)
    assert refused.returncode != 0
    assert refused.only("settings")["soft_limit_bytes"] == limit
    failure = refused.only("exception")
    assert failure["phase"] == "forward"
    assert failure["memory"]["data_bytes"] < limit
    assert "alloc" in failure["message"]
    assert failure["traceback"].rstrip().endswith(failure["message"].rstrip())
    assert failure["message"].splitlines()[0] in refused.output


def test_a_proof_runs_the_longest_rows_and_writes_nothing(bench: Bench, whole: Outcome) -> None:
    checkpoints = bench.folder / "whole" / "checkpoints"
    before = sorted((path, path.stat().st_mtime_ns) for path in checkpoints.rglob("*"))
    settings = bench.settings(2, 4, 1)
    settings["mode"] = "prove"
    settings["checkpoints"] |= {
        "dir": str(checkpoints),
        "resume": str(checkpoints / "checkpoint-6"),
    }
    proof = bench.run("proof", settings)
    assert proof.returncode == 0, proof.output[-3000:]
    proven = proof.only("proven")
    assert proven["step"] == 7
    assert proven["eval_loss"] == pytest.approx(whole.events("eval")[-1]["loss"], rel=0.5)
    assert all(index % 5 >= 3 for index in proof.samples()[7])
    assert sorted((path, path.stat().st_mtime_ns) for path in checkpoints.rglob("*")) == before
    assert not proof.events("finished")


@pytest.mark.slow
def test_the_same_weights_are_drawn_under_every_zero_stage(bench: Bench, whole: Outcome) -> None:
    sharded = bench.run("stage3", bench.settings(4, 1, 2, stage=3))
    assert sharded.returncode == 0, sharded.output[-3000:]
    assert sharded.only("settings")["zero_stage"] == 3
    assert sharded.losses() == pytest.approx(whole.losses(), rel=1e-4)


@pytest.mark.slow
def test_a_stored_model_starts_from_the_same_weights_under_stage_three(
    bench: Bench, whole: Outcome
) -> None:
    losses = []
    for name, shape, stage in (("stored2", (2, 4, 1), 2), ("stored3", (4, 1, 2), 3)):
        settings = bench.settings(*shape, stage=stage)
        stored = bench.folder / "whole" / "checkpoints" / "checkpoint-6"
        settings["model"] |= {"config": None, "path": str(stored)}
        settings["schedule"] |= {"max_steps": 2}
        outcome = bench.run(name, settings)
        assert outcome.returncode == 0, outcome.output[-3000:]
        losses.append(outcome.losses())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][1] < whole.losses()[1]


def adapter_settings(bench: Bench, quantization: str) -> dict[str, Any]:
    settings = bench.settings(4, 1, 2)
    settings["model"]["dtype"] = "bf16"
    settings["deepspeed"]["bf16"] = {"enabled": True, "check_grad_overflow": False}
    # bitsandbytes' blocks of 64 weights must divide every row.
    settings["model"]["config"] |= {"hidden_size": 64, "intermediate_size": 128}
    settings["method"] |= {"kind": "lora", "quantization": quantization}
    settings["activation_checkpointing"] = True
    return settings


@pytest.mark.slow
def test_adapters_train_with_activation_checkpointing(bench: Bench) -> None:
    outcome = bench.run("lora", adapter_settings(bench, "none"))
    assert outcome.returncode == 0, outcome.output[-3000:]
    in_force = outcome.only("settings")
    assert in_force["quantization"] == "none"
    assert in_force["activation_checkpointing"] is True
    assert in_force["trainable_parameters"] < in_force["parameters"]
    assert outcome.losses()[6] < outcome.losses()[1]


@pytest.mark.slow
def test_evaluating_does_not_disturb_a_four_bit_training(bench: Bench) -> None:
    losses = []
    for often in (1, 6):
        settings = adapter_settings(bench, "nf4")
        settings["schedule"]["eval_every"] = often
        outcome = bench.run(f"nf4-{often}", settings)
        assert outcome.returncode == 0, outcome.output[-3000:]
        assert outcome.only("settings")["quantization"] == "nf4"
        losses.append(outcome.losses())
    assert losses[0] == losses[1]
    assert losses[0][6] < losses[0][1]

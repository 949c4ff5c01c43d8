"""A staged copy goes on as the undisturbed run would have, or is refused and leaves nothing behind.

The trainings are real: two ranks of DeepSpeed on the CPU under HF Trainer (tiny_trainer.py), weight
decay 0.1 on the matrices and none on the norms, eight steps. `decide_carry` chooses the way, so
that what the core decides, what the converter writes and what DeepSpeed reads are tried as one.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from autotune.child import convert
from autotune.core import carry
from autotune.core.carry import (
    Carry,
    CarryKind,
    SavedShape,
    WantedShape,
    conversion_request,
    decide_carry,
)

TRAINER = Path(__file__).with_name("tiny_trainer.py")
MISSING = [m for m in ("torch", "transformers", "deepspeed", "peft") if find_spec(m) is None]
training_stack = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
TESTED = carry.PROVEN_ON_DEEPSPEED


# --- one plan, and the laboratory that runs it --------------------------------------------------


@dataclass(frozen=True)
class TinyPlan:
    """What the tiny trainer is told; its shape is what `decide_carry` is asked about."""

    stage: int = 2
    world: int = 2
    offload: bool = False
    offload_param: bool = False
    optimizer: str = "adamw_torch"
    bf16: bool = False
    lora: bool = False
    nf4: bool = False
    tied: bool = False
    sub_group_size: int = 1_000_000_000

    def shape(self) -> dict[str, Any]:
        return {
            "zero_stage": self.stage,
            "world_size": self.world,
            "offload_optimizer": "cpu" if self.offload else "none",
            "offload_param": "cpu" if self.offload_param else "none",
            "optimizer": self.optimizer,
            "dtype": "bf16" if self.bf16 else "fp32",
            "method": "lora" if self.lora else "full",
            "quantization": "nf4" if self.nf4 else "none",
            "sub_group_size": self.sub_group_size,
        }

    def told(self, carried: Carry) -> dict[str, Any]:
        zero: dict[str, Any] = {"stage": self.stage, "overlap_comm": False}
        zero |= {"reduce_bucket_size": 50_000, "allgather_bucket_size": 50_000}
        if self.stage == 3:
            zero["stage3_gather_16bit_weights_on_model_save"] = True
            zero["stage3_prefetch_bucket_size"] = 50_000
        if self.offload:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
        if self.offload_param:
            zero["offload_param"] = {"device": "cpu", "pin_memory": False}
        config: dict[str, Any] = {
            "zero_optimization": zero,
            "bf16": {"enabled": self.bf16},
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
            "gradient_clipping": "auto",
        }
        for path, value in carried.ds_overrides:
            *folders, key = path.split(".")
            place = config
            for folder in folders:
                place = place[folder]
            place[key] = value
        if carried.load_universal:
            config["checkpoint"] = {"load_universal": True}
        return {
            "deepspeed": config,
            "optim": "adamw_torch" if self.optimizer == carry.CPU_ADAM else self.optimizer,
            **{key: getattr(self, key) for key in ("bf16", "lora", "nf4", "tied")},
        }


Z1, Z2, Z3 = TinyPlan(stage=1), TinyPlan(stage=2), TinyPlan(stage=3)


@dataclass
class Trained:
    folder: Path
    losses: dict[int, float]
    first: dict[str, Any]

    @property
    def groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self.first["groups"]
        return groups

    def checkpoint(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step}"

    def weights(self) -> dict[str, Any]:
        from safetensors.torch import load_file

        found: dict[str, Any] = {}
        for path in self.checkpoint(8).glob("*.safetensors"):
            found |= load_file(path)
        return found


@dataclass
class Lab:
    """Trains each plan once and keeps what came of it."""

    folder: Path
    undisturbed: dict[TinyPlan, Trained] = field(default_factory=dict)
    count: int = 0

    def train(self, plan: TinyPlan) -> Trained:
        if plan not in self.undisturbed:
            fresh = decide_carry(None, WantedShape(**plan.shape()))
            self.undisturbed[plan] = self.start(plan, fresh, None)
        return self.undisturbed[plan]

    def resume(
        self, saved: TinyPlan, checkpoint: Path, wanted: TinyPlan, carried: Carry
    ) -> Trained:
        return self.start(wanted, carried, self.staged(checkpoint, saved, wanted, carried))

    def staged(self, checkpoint: Path, saved: TinyPlan, wanted: TinyPlan, carried: Carry) -> Path:
        if not carried.conversions:
            return checkpoint
        target = self.fresh("staged")
        shape = WantedShape(**wanted.shape())
        request = conversion_request(carried, shape, str(checkpoint), str(target))
        answer = run_converter(request)
        assert answer["ok"], answer
        return Path(answer["resume"])

    def start(self, plan: TinyPlan, carried: Carry, resume: Path | None) -> Trained:
        out = self.fresh("run")
        out.mkdir()
        base = self.folder / "base"
        if plan.lora and not base.exists():
            self.python([str(TRAINER), "--base", str(base)], out / "base.log")
        told = {"out": str(out), "base": str(base), "resume": str(resume) if resume else None}
        request = out / "plan.json"
        request.write_text(json.dumps(told | plan.told(carried)))
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={plan.world}"]
        self.python([*launch, str(TRAINER), str(request)], out / "log")
        # Finished is read from files: a rank may abort in its own teardown after the last save.
        ranks = [out / f"rank{rank}.json" for rank in range(plan.world)]
        assert all(path.exists() for path in ranks), (out / "log").read_text()[-6000:]
        said = [json.loads(path.read_text()) for path in ranks]
        steps = said[0]["losses"]
        losses = {int(s): sum(r["losses"][s] for r in said) / len(said) for s in steps}
        return Trained(out, losses, said[0])

    def fresh(self, word: str) -> Path:
        self.count += 1
        return self.folder / f"{word}-{self.count}"

    def python(self, arguments: list[str], log: Path) -> None:
        env = {
            **os.environ,
            "DS_ACCELERATOR": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        # One folder for the whole session: an op is compiled once.
        env.setdefault("TORCH_EXTENSIONS_DIR", str(self.folder / "ops"))
        with ExitStack() as stack:
            file = stack.enter_context(log.open("w"))
            child = subprocess.Popen(
                [sys.executable, *arguments], env=env, stdout=file, stderr=subprocess.STDOUT
            )
            # torchrun gives each rank a session of its own, and ends them when it is asked to end.
            stack.callback(child.wait, 60)
            stack.callback(child.send_signal, signal.SIGTERM)
            child.wait(timeout=500)


def run_converter(request: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, convert.__file__, json.dumps(request)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(lines[0])
    assert done.returncode == (0 if answer["ok"] else 1)
    return answer


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("carry"))


def decided(saved: TinyPlan, wanted: TinyPlan, *consented: str) -> Carry:
    shapes = SavedShape(**saved.shape()), WantedShape(**wanted.shape())
    answer = decide_carry(*shapes, frozenset(consented))
    assert answer.usable, answer
    return answer


def apart(one: Trained, other: Trained, since: int) -> float:
    return max(abs(one.losses[s] - other.losses[s]) for s in range(since + 1, 9))


def weights_apart(one: Trained, other: Trained) -> float:
    ours, theirs = one.weights(), other.weights()
    shared = ours.keys() & theirs.keys()
    assert shared
    return max(float((ours[k].float() - theirs[k].float()).abs().max()) for k in shared)


# --- real trainings -----------------------------------------------------------------------------

# Rounding in another order. What lost moments do to these losses is four magnitudes above it.
EXACT = 2e-6


@training_stack
@pytest.mark.train
@pytest.mark.slow  # tests/e2e/test_real_carry.py takes the first of these ways, supervised
def test_from_stage_two_to_three_and_back_the_losses_are_those_of_an_undisturbed_run(
    lab: Lab,
) -> None:
    undisturbed = lab.train(Z2)
    up = lab.resume(Z2, undisturbed.checkpoint(4), Z3, decided(Z2, Z3))
    assert up.first["step"] == 4
    assert up.first["zero"] == "DeepSpeedZeroOptimizer_Stage3"
    assert apart(up, undisturbed, 4) < EXACT
    assert weights_apart(up, undisturbed) < EXACT
    down = lab.resume(Z3, up.checkpoint(6), Z2, decided(Z3, Z2))
    assert down.first["step"] == 6
    assert apart(down, undisturbed, 6) < EXACT
    assert weights_apart(down, undisturbed) < EXACT
    # Read in the rank after the load and before the first step: the norms are not decayed.
    for resumed in (up, down):
        assert [g["weight_decay"] for g in resumed.groups] == [0.1, 0.0]
        assert resumed.groups[0]["lr"] == resumed.groups[1]["lr"] > 0
        assert resumed.first["moment_norm"] > 0


@dataclass(frozen=True)
class Way:
    name: str
    saved: TinyPlan
    wanted: TinyPlan
    kind: CarryKind
    limit: float = EXACT
    weights: float = EXACT
    consent: str = ""


SAME, STAGED = CarryKind.SAME, CarryKind.STAGED
CPU: dict[str, Any] = {"offload": True, "optimizer": carry.CPU_ADAM}
LORA = TinyPlan(lora=True)
Z2_ALONE = replace(Z2, world=1)
FUSED = replace(Z2, optimizer="adamw_torch_fused")
WAYS = [
    Way("one to two", Z1, Z2, SAME),
    Way("two to one", Z2, Z1, SAME),
    Way("one to three", Z1, Z3, STAGED),
    Way("two to offloaded", Z2, replace(Z2, offload=True), SAME),
    Way("two to offloaded with CPU Adam", Z2, replace(Z2, **CPU), STAGED),
    Way("two offloaded to two", replace(Z2, offload=True), Z2, SAME),
    Way("two offloaded with CPU Adam to two", replace(Z2, **CPU), Z2, SAME),
    Way("two offloaded to three", replace(Z2, **CPU), Z3, STAGED),
    Way("three to all offloaded", Z3, replace(Z3, offload=True, offload_param=True), SAME),
    Way(
        "three to all offloaded with CPU Adam",
        Z3,
        replace(Z3, offload_param=True, **CPU),
        STAGED,
    ),
    Way("three offloaded to three", replace(Z3, **CPU), Z3, SAME),
    Way("two to one rank", Z2, Z2_ALONE, STAGED),
    Way("fused two to one rank", FUSED, replace(FUSED, world=1), STAGED),
    Way("fused two to three", FUSED, replace(FUSED, stage=3), STAGED),
    Way("fused two to offloaded", FUSED, replace(FUSED, offload=True), SAME),
    Way("one rank to two", Z2_ALONE, Z2, STAGED),
    Way("two offloaded with CPU Adam to one rank", replace(Z2, **CPU), Z2_ALONE, STAGED),
    Way("three offloaded with CPU Adam to two", replace(Z3, **CPU), Z2, STAGED),
    Way("three to one rank", Z3, replace(Z3, world=1), STAGED),
    Way("two to three on one rank", Z2, replace(Z3, world=1), STAGED),
    Way("two to three in small groups", Z2, replace(Z3, sub_group_size=9_000), STAGED),
    Way("three in small groups to two", replace(Z3, sub_group_size=9_000), Z2, STAGED),
    Way("tied two to three", replace(Z2, tied=True), replace(Z3, tied=True), STAGED),
    Way("adapters two to three", LORA, replace(LORA, stage=3), STAGED),
    Way("adapters three to two", replace(LORA, stage=3), LORA, STAGED),
    # 16-bit weights round where fp32 ones do not: undisturbed, the two stages differ by 3e-5.
    Way("bf16 two to three", replace(Z2, bf16=True), replace(Z3, bf16=True), STAGED, 5e-4, 2e-3),
    Way("bf16 to fp32", replace(Z2, bf16=True), Z2, STAGED, 2e-3, 1e-2, carry.CHANGE_DTYPE),
    Way("fp32 to bf16", Z2, replace(Z2, bf16=True), STAGED, 2e-3, 1e-2, carry.CHANGE_DTYPE),
    # The base is another one after quantisation; the adapters and their moments go on.
    Way("adapters over an nf4 base", LORA, replace(LORA, nf4=True), SAME, 1e-2, 1e-2),
]


@training_stack
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=[w.name for w in WAYS])
def test_the_losses_after_a_carry_are_those_of_an_undisturbed_run(
    lab: Lab, way: Way, record_property: Any
) -> None:
    carried = decided(way.saved, way.wanted, way.consent)
    assert carried.kind is way.kind
    before, after = lab.train(way.saved), lab.train(way.wanted)
    resumed = lab.resume(way.saved, before.checkpoint(4), way.wanted, carried)
    measured = {
        "loss_from_saved": apart(resumed, before, 4),
        "loss_from_wanted": apart(resumed, after, 4),
        "weights_from_saved": weights_apart(resumed, before),
    }
    for key, value in measured.items():
        record_property(key, value)
    print(f"\n{way.name}: {measured}")
    assert resumed.first["step"] == 4
    assert resumed.first["moment_norm"] > 0
    assert [g["weight_decay"] for g in resumed.groups] == [g["weight_decay"] for g in before.groups]
    swapped = way.wanted.optimizer == carry.CPU_ADAM
    assert resumed.first["optimizer"] == ("DeepSpeedCPUAdam" if swapped else "AdamW")
    assert measured["loss_from_saved"] < way.limit
    assert measured["weights_from_saved"] < way.weights


EIGHT = replace(Z2, optimizer="adamw_8bit")


@training_stack
@pytest.mark.slow
@pytest.mark.parametrize(
    ("saved", "wanted", "library"),
    [
        (Z2, EIGHT, "bitsandbytes"),
        (EIGHT, Z2, "torch"),
        (Z3, replace(EIGHT, stage=3), "bitsandbytes"),
    ],
    ids=["to 8 bit", "from 8 bit", "to 8 bit at stage 3"],
)
def test_another_optimizer_keeps_weights_and_schedule_and_begins_its_moments_anew(
    lab: Lab, saved: TinyPlan, wanted: TinyPlan, library: str
) -> None:
    before = lab.train(saved)
    carried = decided(saved, wanted, carry.RESET_OPTIMIZER)
    resumed = lab.resume(saved, before.checkpoint(4), wanted, carried)
    assert resumed.first["library"] == library
    assert resumed.first["moment_norm"] == 0
    # The first step's loss is computed before any update: the weights are the checkpoint's.
    assert abs(resumed.losses[5] - before.losses[5]) < EXACT
    # And this is what lost moments do to the losses, so the comparisons here can fail.
    assert apart(resumed, before, 5) > 1e-2


@training_stack
@pytest.mark.slow
def test_moments_that_began_anew_are_counted_from_there(lab: Lab, tmp_path: Path) -> None:
    before = lab.train(Z2)
    dropped = replace(decided(Z2, Z2), conversions=("drop_moments",))
    resumed = lab.resume(Z2, before.checkpoint(4), Z2, dropped)
    request = a_request(resumed.checkpoint(6), tmp_path / "staged")
    assert "The optimizer has made 2 steps" in run_converter(request)["error"]
    assert run_converter(request | {"moments_since": 4})["ok"]


@training_stack
@pytest.mark.slow
def test_deepspeeds_own_universal_load_into_stage_three_trains_something_else(lab: Lab) -> None:
    # Why shards_of_3 is there. When this fails, DeepSpeed has mended it, and shards_of_3 may go.
    before = lab.train(Z3)
    source = before.checkpoint(4)
    staged = lab.fresh("upstream")
    shutil.copytree(source, staged, ignore=shutil.ignore_patterns("global_step*"))
    lab.python(
        [
            "-m",
            "deepspeed.checkpoint.ds_to_universal",
            f"--input_folder={source / 'global_step4'}",
            f"--output_folder={staged / 'global_step4_universal'}",
        ],
        staged / "log",
    )
    universal = replace(decided(Z3, Z3), load_universal=True)
    resumed = lab.start(Z3, universal, staged)
    assert [g["weight_decay"] for g in resumed.groups] == [0.1, 0.1]
    assert apart(resumed, before, 4) > 1e-4


# --- one checkpoint, and what may be wrong with it ----------------------------------------------


def a_request(source: Path, target: Path, *conversions: str, **more: Any) -> dict[str, Any]:
    return {
        "source": str(source),
        "target": str(target),
        "conversions": conversions or ("universal", "shards_of_3"),
        "ds_version_tested": TESTED,
        "world_size": 2,
        "free_margin_bytes": 0,
        **more,
    }


def refused(request: dict[str, Any]) -> str:
    with pytest.raises(convert.Refused) as caught:
        convert.convert(convert.read_request(json.dumps(request)))
    return str(caught.value)


@pytest.fixture
def whole(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of a real checkpoint, to be spoilt; the training is shared with the test above."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")  # some tests convert in this process
    copy = tmp_path / "checkpoint-4"
    shutil.copytree(lab.train(Z2).checkpoint(4), copy)
    yield copy
    assert not list(tmp_path.glob("*.partial"))


def digest(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def spoil(path: Path, change: Any) -> None:
    import torch

    held = torch.load(path, map_location="cpu", weights_only=False)
    change(held)
    torch.save(held, path)


def shard_of(checkpoint: Path) -> Path:
    return checkpoint / "global_step4" / "zero_pp_rank_1_mp_rank_00_optim_states.pt"


def state_of(held: Any) -> Any:
    return held["optimizer_state_dict"]["base_optimizer_state"]["state"]


@training_stack
@pytest.mark.train
def test_the_source_is_not_touched_and_the_weights_are_linked(whole: Path, tmp_path: Path) -> None:
    before = digest(whole)
    # A name that is also a pattern: the converter below us globs its own paths.
    target = tmp_path / "run [1](a+b)" / "staged"
    answer = run_converter(a_request(whole, target))
    assert answer["ok"], answer
    assert (answer["resume"], answer["parameters"], answer["compared"]) == (str(target), 21, 21)
    assert digest(whole) == before
    assert (target / "model.safetensors").samefile(whole / "model.safetensors")
    assert (target / "latest").read_text() == "global_step4"
    assert sorted(p.name for p in target.iterdir() if p.is_dir()) == ["global_step4"]
    assert answer["bytes"] > 0


@training_stack
@pytest.mark.train
def test_a_universal_tree_leaves_no_ordinary_checkpoint_beside_it(
    whole: Path, tmp_path: Path
) -> None:
    target = tmp_path / "staged"
    assert run_converter(a_request(whole, target, "universal"))["ok"]
    assert not (target / "latest").exists()
    assert (target / "latest_universal").read_text() == "global_step4_universal"


def not_finite(held: Any) -> None:
    state_of(held)[0]["exp_avg"][3] = float("nan")


def negative(held: Any) -> None:
    state_of(held)[0]["exp_avg_sq"][3] = -1.0


def without_moment(held: Any) -> None:
    for state in state_of(held).values():
        del state["exp_avg_sq"]


def other_weights(held: Any) -> None:
    held["optimizer_state_dict"]["single_partition_of_fp32_groups"][0].data.mul_(1.5)


def swapped_names(held: Any) -> None:
    mapping = held["optimizer_state_dict"]["param_slice_mappings"][0]
    a, b = "model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight"
    mapping[a], mapping[b] = mapping[b], mapping[a]


def other_deepspeed(held: Any) -> None:
    held["ds_version"] = "0.18.1"


def stepped_less(held: Any) -> None:
    for state in state_of(held).values():
        state["step"] -= 1


def buffers(held: Any) -> None:
    held["buffer_names"] = ["norm.running_mean"]


def other_step(held: Any) -> None:
    held["global_steps"] = 3


def infinite(held: Any) -> None:
    held["optimizer_state_dict"]["single_partition_of_fp32_groups"][0].data[7] = float("inf")


FIRST, LAST = (f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1))
MODEL = "mp_rank_00_model_states.pt"


@training_stack
@pytest.mark.train
@pytest.mark.parametrize(
    ("files", "change", "conversions", "words"),
    [
        ([LAST], not_finite, (), "is not finite"),
        ([LAST], negative, (), "is negative somewhere"),
        ([LAST], without_moment, ("universal",), "only the moments of Adam"),
        ([LAST], other_weights, (), "differs from the weights file"),
        ([LAST], swapped_names, ("universal",), "differs from the weights file"),
        ([LAST], stepped_less, (), "at different steps: [3, 4]"),
        ([FIRST, LAST], stepped_less, (), "has made 3 steps and the checkpoint says 4"),
        ([FIRST], other_deepspeed, (), "saved by DeepSpeed 0.18.1"),
        ([MODEL], other_step, (), "not of one save"),
        ([MODEL], buffers, ("universal",), "does not restore them"),
        ([LAST], infinite, ("drop_moments",), "not finite"),
    ],
)
def test_a_checkpoint_whose_state_is_not_right_is_refused(
    whole: Path,
    tmp_path: Path,
    files: list[str],
    change: Any,
    conversions: tuple[str, ...],
    words: str,
) -> None:
    for file in files:
        spoil(whole / "global_step4" / file, change)
    assert words in refused(a_request(whole, tmp_path / "staged", *conversions))
    assert not (tmp_path / "staged").exists()


@training_stack
@pytest.mark.train
@pytest.mark.parametrize(
    ("optimizer", "kind"), [("adamw_torch", "Tensor"), (carry.CPU_ADAM, "int")]
)
@pytest.mark.parametrize("conversions", [("universal",), ("universal", "shards_of_3")])
def test_the_step_is_of_the_kind_that_the_next_optimizer_counts_in(
    whole: Path, tmp_path: Path, optimizer: str, kind: str, conversions: tuple[str, ...]
) -> None:
    import torch

    # torch's AdamW advances a tensor in place, and a plain number not at all.
    request = a_request(whole, tmp_path / "staged", *conversions, optimizer=optimizer)
    assert convert.convert(convert.read_request(json.dumps(request)))["ok"]
    if conversions == ("universal",):
        folder = tmp_path / "staged" / "global_step4_universal" / "zero"
        steps = [torch.load(p, weights_only=False) for p in folder.glob("*/step.pt")]
    else:
        held = torch.load(tmp_path / "staged" / "global_step4" / FIRST, weights_only=False)
        inner = held["optimizer_state_dict"]["optimizer_state_dict"]
        steps = [state["step"] for state in inner["state"].values()]
        assert ("bias_correction" in inner["param_groups"][0]) == (kind == "int")
    assert steps
    assert {type(step).__name__ for step in steps} == {kind}
    assert {int(step) for step in steps} == {4}


@training_stack
@pytest.mark.train
def test_a_universal_tree_asks_for_the_unfused_kernel(whole: Path, tmp_path: Path) -> None:
    import torch

    def fuse(held: Any) -> None:
        for group in held["optimizer_state_dict"]["base_optimizer_state"]["param_groups"]:
            group["fused"] = True

    for file in (FIRST, LAST):
        spoil(whole / "global_step4" / file, fuse)
    request = a_request(whole, tmp_path / "staged", "universal")
    assert convert.convert(convert.read_request(json.dumps(request)))["ok"]
    folder = tmp_path / "staged" / "global_step4_universal" / "zero"
    groups = torch.load(folder / "optimizer_state.pt", weights_only=False)["param_groups"]
    assert [g["fused"] for g in groups] == [False, False]
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]


@training_stack
@pytest.mark.train
def test_stage_three_keeps_saved_buffers(whole: Path, tmp_path: Path) -> None:
    import torch

    def add(held: Any) -> None:
        held["buffer_names"] = ["norm.running_mean"]
        held["module"]["norm.running_mean"] = torch.arange(3.0)

    spoil(whole / "global_step4" / MODEL, add)
    request = a_request(whole, tmp_path / "staged")
    assert convert.convert(convert.read_request(json.dumps(request)))["ok"]
    name = "zero_pp_rank_1_mp_rank_00_model_states.pt"
    made = torch.load(tmp_path / "staged" / "global_step4" / name, weights_only=False)
    assert made["module"]["norm.running_mean"].tolist() == [0.0, 1.0, 2.0]
    assert made["module"]["model.norm.weight"].numel() == 0
    assert made["dp_world_size"] == 2


@training_stack
@pytest.mark.train
def test_a_truncated_shard_is_an_answer_and_not_a_traceback(whole: Path, tmp_path: Path) -> None:
    data = shard_of(whole).read_bytes()
    shard_of(whole).write_bytes(data[: len(data) // 2])
    answer = run_converter(a_request(whole, tmp_path / "staged"))
    assert not answer["ok"]
    assert answer["error"].startswith("The conversion failed")


# --- what is refused before anything is read: no training stack needed --------------------------


@pytest.fixture
def hollow(tmp_path: Path) -> Path:
    """The names of a checkpoint of two ranks, with nothing in the files."""
    folder = tmp_path / "checkpoint-4"
    shards = folder / "global_step4"
    shards.mkdir(parents=True)
    (folder / "trainer_state.json").write_text('{"global_step": 4}')
    (folder / "latest").write_text("global_step4")
    (shards / "mp_rank_00_model_states.pt").write_bytes(b"")
    for rank in (0, 1):
        (shards / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_bytes(b"")
    return folder


@pytest.fixture
def tested_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: TESTED[0])


def test_another_deepspeed_is_refused_with_both_versions(
    hollow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.20.1")
    said = refused(a_request(hollow, tmp_path / "staged"))
    assert "0.20.1" in said
    assert TESTED[0] in said


def test_another_deepspeed_is_taken_at_ones_own_risk(
    hollow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.20.1")
    (tmp_path / "staged").mkdir()
    said = refused(a_request(hollow, tmp_path / "staged", unsupported=True))
    assert "exists already" in said


@pytest.mark.usefixtures("tested_version")
@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("trainer_state.json", "not a whole DeepSpeed checkpoint"),
        ("latest", "not a whole DeepSpeed checkpoint"),
        ("global_step4/mp_rank_00_model_states.pt", "has no mp_rank_00_model_states.pt"),
        ("global_step4/zero_pp_rank_0_mp_rank_00_optim_states.pt", "lacks optimizer shards"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused_by_its_names(
    hollow: Path, tmp_path: Path, gone: str, words: str
) -> None:
    (hollow / gone).unlink()
    assert words in refused(a_request(hollow, tmp_path / "staged"))


@pytest.mark.usefixtures("tested_version")
def test_too_little_disk_is_refused_before_a_byte_is_written(hollow: Path, tmp_path: Path) -> None:
    said = refused(a_request(hollow, tmp_path / "staged", free_margin_bytes=1 << 60))
    assert "GB are free" in said
    assert not list(tmp_path.glob("staged*"))


@pytest.mark.usefixtures("tested_version")
@pytest.mark.parametrize(
    ("conversions", "words"),
    [
        (("family_3_to_2",), "not a known row"),
        (("universal", "family_3_to_2"), "asked of a checkpoint of stage 1 or 2"),
        (("universal", "shards_of_3"), "needs the world_size"),
    ],
)
def test_a_conversion_that_does_not_fit_is_refused(
    hollow: Path, tmp_path: Path, conversions: tuple[str, ...], words: str
) -> None:
    assert words in refused(a_request(hollow, tmp_path / "staged", *conversions, world_size=0))


@pytest.mark.usefixtures("tested_version")
def test_what_a_killed_converter_left_is_removed_and_so_is_what_a_failed_one_made(
    hollow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def fail(request: convert.Request, layout: convert.Layout) -> int:
        seen.append(request.partial.exists())
        request.partial.mkdir()
        (request.partial / "half").write_text("made")
        raise RuntimeError("the disk went away")

    monkeypatch.setattr(convert, "build", fail)
    (tmp_path / "staged.partial").mkdir()
    request = convert.read_request(json.dumps(a_request(hollow, tmp_path / "staged")))
    with pytest.raises(RuntimeError, match="disk"):
        convert.convert(request)
    assert seen == [False]
    assert not list(tmp_path.glob("staged*"))


def test_a_converter_that_is_asked_to_stop_says_so_and_removes_what_it_made(
    hollow: Path, tmp_path: Path
) -> None:
    request = a_request(hollow, tmp_path / "staged", unsupported=True)
    program = """
import os, signal, sys
from autotune.child import convert
def build(request, layout):
    request.partial.mkdir()
    os.kill(os.getpid(), signal.SIGTERM)
convert.build = build
convert.check_versions = lambda request: None
sys.exit(convert.main(sys.argv[1:]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(request)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(convert.__file__).parents[2],
    )
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"ok": False, "error": "The conversion was asked to stop."}
    assert not list(tmp_path.glob("staged*"))


def test_sub_groups_are_cut_where_stage_three_cuts_them() -> None:
    parts = {"a": 4, "b": 4, "c": 3, "d": 9}
    assert list(convert.sub_groups([*parts], parts, 20)) == [["a", "b", "c", "d"]]
    assert list(convert.sub_groups([*parts], parts, 7)) == [["a", "b"], ["c", "d"]]
    assert list(convert.sub_groups([*parts], parts, 1)) == [["a"], ["b"], ["c"], ["d"]]

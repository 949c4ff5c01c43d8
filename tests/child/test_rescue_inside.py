"""What a rank does when it is refused memory, on stand-ins: no training is started here."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autotune.child.probe import boundary, rescue, room, settings, shards, state, watcher


@pytest.fixture(autouse=True)
def at_the_start(tmp_path: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        given = {
            "attempt": 1,
            "control": str(tmp_path / "control.json"),
            "events": str(tmp_path),
            "rescue": {"folder": str(tmp_path / "rescue"), "seconds": 0.3},
        }
        patch.setattr(settings, "_given", given)
        patch.setattr(boundary, "newest", None)
        patch.setattr(boundary, "inside", False)
        patch.setattr(boundary, "_ended", False)
        patch.setattr(rescue, "_answered", 0)
        patch.setattr(rescue, "_released", threading.Event())
        patch.setattr(watcher, "heard", 0.0)
        patch.setattr(watcher, "_date", None)
        patch.setattr(watcher, "_handlers", {})
        patch.setattr(room, "lift", lambda: None)
        yield


def chained(cause: BaseException) -> BaseException:
    try:
        raise RuntimeError("the loader failed") from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("could not create a primitive"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("std::bad_alloc"), True),  # as torch hands on what C++ throws
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (chained(MemoryError()), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (KeyError("memory"), False),
    ],
)
def test_a_refusal_is_told_by_its_type_or_its_words(error: BaseException, is_one: bool) -> None:
    assert room.is_refusal(error) is is_one


class Engine:
    """Stands for a DeepSpeedEngine."""

    def __init__(self, ends_a_step: bool = True) -> None:
        self.global_steps = 3
        self.ends_a_step = ends_a_step

    def is_gradient_accumulation_boundary(self) -> bool:
        return self.ends_a_step


def trainer() -> Any:
    return SimpleNamespace(
        state=SimpleNamespace(global_step=3, epoch=0.5, num_input_tokens_seen=7, total_flos=10.0),
        lr_scheduler=SimpleNamespace(state_dict=lambda: {"last_epoch": 3}),
        args=SimpleNamespace(world_size=2, parallel_mode=SimpleNamespace(value="distributed")),
        current_flos=5.0,
    )


def test_a_step_is_held_whole_from_its_boundary_until_the_next_one_begins() -> None:
    engine = Engine()
    assert boundary.committed_step() is None
    boundary.remember(3, trainer(), engine)
    assert boundary.committed_step() == 3
    boundary.step_begins(Engine(ends_a_step=False))  # of a micro-batch that only accumulates
    assert boundary.committed_step() == 3
    boundary.step_begins(engine)
    assert boundary.committed_step() is None
    assert rescue.why_not() is not None
    boundary.remember(4, trainer(), engine)
    assert boundary.committed_step() == 4


def test_a_step_whose_callbacks_fail_is_held_whole_once_it_is_counted() -> None:
    engine, ours = Engine(), trainer()
    boundary.remember(3, ours, engine)
    boundary.step_begins(engine)
    boundary.catch_up()
    assert boundary.committed_step() is None  # the weights may be half updated
    engine.global_steps = 4
    boundary.step_ends(engine=engine, applied=True)
    boundary.catch_up()
    assert boundary.committed_step() is None  # its schedule may not have moved yet
    ours.state.global_step = 4
    boundary.catch_up()
    assert boundary.committed_step() == 4
    assert boundary.newest is not None
    assert boundary.newest.engine_steps == 4


def test_random_states_are_those_of_the_boundary_and_are_drawn_again_after_an_evaluation() -> None:
    boundary.remember(3, trainer(), Engine())
    assert boundary.newest is not None
    before = boundary.newest.random["cpu"].clone()
    torch.rand(3)
    assert torch.equal(boundary.newest.random["cpu"], before)
    boundary.draw_again()
    assert torch.equal(boundary.newest.random["cpu"], torch.random.get_rng_state())
    assert boundary.newest.counters["total_flos"] == 20.0


def test_a_step_waits_until_the_state_was_written() -> None:
    boundary.remember(3, trainer(), Engine())
    began = threading.Event()

    def train() -> None:
        began.set()
        boundary.step_begins(Engine())

    with boundary.gate:
        thread = threading.Thread(target=train)
        thread.start()
        began.wait()
        assert boundary.committed_step() == 3
    thread.join()
    assert boundary.committed_step() is None


def test_a_rank_without_a_word_from_the_supervisor_does_not_hold_for_ever() -> None:
    began = time.monotonic()
    rescue.hold()
    assert 0.2 < time.monotonic() - began < 30


def test_a_rank_holds_while_the_supervisor_shows_that_it_lives(tmp_path: Path) -> None:
    (tmp_path / "control.json").write_text(json.dumps({"command": "run"}))
    watcher.when_told("release", rescue.release)
    thread = threading.Thread(target=rescue.hold)
    thread.start()
    began, tick = time.monotonic(), 0
    while time.monotonic() - began < 1.0:  # three times its patience
        tick += 1
        os.utime(tmp_path / "control.json", ns=(tick, tick))
        watcher.look()
        assert thread.is_alive()
        thread.join(0.02)
    (tmp_path / "control.json").write_text(json.dumps({"command": "release", "attempt": 1}))
    watcher.look()
    thread.join(10)
    assert not thread.is_alive()


def test_a_word_for_another_attempt_is_none_for_this(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    watcher.when_told("save", heard.append)
    (tmp_path / "control.json").write_text(json.dumps({"command": "save", "attempt": 2, "id": 1}))
    watcher.look()
    assert heard == []


def test_a_rank_that_stands_elsewhere_says_so_and_writes_nothing(tmp_path: Path) -> None:
    boundary.remember(4, trainer(), Engine())
    rescue.save({"command": "save", "attempt": 1, "step": 3, "id": 1})
    told = json.loads((tmp_path / "rescue" / f"rank{state.rank()}.json").read_text())
    assert "at step 4" in told["why"]
    assert "files" not in told
    assert not (tmp_path / "rescue" / "checkpoint-3").exists()


def test_files_are_told_by_the_sum_of_what_lies_on_the_disk(tmp_path: Path) -> None:
    files = shards.Files(str(tmp_path))
    base = torch.arange(100_000, dtype=torch.float32)
    files.save("global_step3/a.pt", {"view": base[10:], "list": [base, 3]})
    files.text("latest", "global_step3")
    for told in files.written:
        content = (tmp_path / told["name"]).read_bytes()
        assert told["bytes"] == len(content)
        assert told["sha256"] == hashlib.sha256(content).hexdigest()
    assert [one["name"] for one in files.written] == ["global_step3/a.pt", "latest"]
    loaded = torch.load(tmp_path / "global_step3" / "a.pt")
    assert torch.equal(loaded["view"], base[10:])
    assert (
        loaded["view"].untyped_storage().data_ptr()
        == loaded["list"][0].untyped_storage().data_ptr()
    )


class Gathering(OrderedDict):  # type: ignore[type-arg]
    """Stands for ZeRO-3's dict of parameters, where looking one up gathers it."""

    def __getitem__(self, key: str) -> Any:
        raise AssertionError(f"{key} was gathered")


def test_a_gathered_parameter_is_written_as_the_empty_one_it_stands_for() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    for part in module:
        for parameter in part.parameters():
            parameter.ds_id = 1
        part._parameters = Gathering(part._parameters)
    found = shards.placeholders(module, exclude_frozen=False)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "0.weight": (0,),
        "0.bias": (0,),
        "1.weight": (0,),
        "1.bias": (0,),
        "1.running_mean": (3,),
        "1.running_var": (3,),
        "1.num_batches_tracked": (),
    }


class DeepSpeedZeroOptimizer_Stage3:  # noqa: N801 - its name is what it is known by
    """Lends its tensors to the optimizer's groups, as the real one does."""

    def __init__(self) -> None:
        self.flat = torch.zeros(4, requires_grad=True)
        self.optimizer = torch.optim.AdamW([self.flat], lr=0.5)
        self.flat.grad = torch.ones(4)
        self.optimizer.step()
        self.optimizer.param_groups[0]["params"] = []

    def state_dict(self) -> dict[str, Any]:
        self.optimizer.param_groups[0]["params"].append(self.flat)
        found = {"optimizer": self.optimizer.state_dict(), "flat": self.flat}
        self.optimizer.param_groups[0]["params"] = []
        return found


def test_the_groups_of_the_optimizer_are_not_touched_by_reading_its_state() -> None:
    zero = DeepSpeedZeroOptimizer_Stage3()
    ordinary = zero.state_dict()
    params = zero.optimizer.param_groups[0]["params"]
    found = shards.optimizer_states(zero)
    assert zero.optimizer.param_groups[0]["params"] is params
    assert params == []
    assert found["optimizer"]["param_groups"] == ordinary["optimizer"]["param_groups"]
    moments, same = found["optimizer"]["state"][0], ordinary["optimizer"]["state"][0]
    assert all(torch.equal(moments[name], same[name]) for name in same)
    assert found["flat"] is zero.flat

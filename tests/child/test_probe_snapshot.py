"""A rank that is refused memory writes down what fills it, within its bound."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.child.probe import events, figures, room, settings, snapshot, state
from tests.child.probed import Probed

# A bare loop whose third step finds its soft limit just above what it holds.
LOOP = """
import resource, torch
model = torch.nn.Linear(512, 512)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
held = [torch.ones(1000, 1000) for _ in range(3)]
view = held[0][1:]
for step in range(4):
    if step == 3:
        with open('/proc/self/status') as status:
            data = next(int(line.split()[1]) for line in status if line.startswith('VmData'))
        resource.setrlimit(resource.RLIMIT_DATA, (data * 1024 + 2**20, resource.RLIM_INFINITY))
        torch.empty(2**30)
    model(torch.randn(4, 512)).sum().backward()
    optimizer.step()
"""


@pytest.mark.long
def test_a_real_refusal_shows_what_filled_the_rank(tmp_path: Path) -> None:
    probed = Probed(tmp_path, {"snapshot_bytes": 2**20})
    env = {**probed.environment(more_path=""), "OMP_NUM_THREADS": "1"}
    code, _, err = probed.program(LOOP, env=env)
    assert (code, "can't allocate memory" in err) == (1, True), err
    assert probed.events(kinds=["probe_gap"]) == []
    (told,) = probed.events(kinds=["snapshot"])
    path = tmp_path / told["file"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == told["bytes"] < 2**20
    shown = json.loads(path.read_text())
    assert (shown["step"], shown["rank"]) == (3, 0)
    assert "can't allocate memory" in shown["error"]["message"]
    assert shown["limit_before_bytes"] > shown["memory"]["data_bytes"] / 2
    assert shown["largest"][0] == {
        "kind": "tensor", "shape": [1000, 1000], "dtype": "float32", "device": "cpu", "count": 3,
        "bytes": 12_000_000,
    }  # fmt: skip
    kinds = {(one["kind"], tuple(one["shape"])): one["count"] for one in shown["largest"]}
    assert kinds["parameter", (512, 512)] == 1
    assert not list(tmp_path.glob("*.draft"))


@pytest.mark.long
def test_nothing_is_written_where_nobody_asked(tmp_path: Path) -> None:
    probed = Probed(tmp_path)
    env = {**probed.environment(more_path=""), "OMP_NUM_THREADS": "1"}
    assert probed.program(LOOP, env=env)[0] == 1
    assert not list(tmp_path.glob("snapshot*"))
    assert probed.events(kinds=["snapshot"]) == []


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    given = {"events": str(tmp_path / "events"), "snapshot_bytes": 20_000}
    monkeypatch.setattr(settings, "_given", given)
    monkeypatch.setattr(events, "emit", lambda kind, **fields: said.append(fields))
    monkeypatch.setattr(state, "armed", lambda: True)
    return said


class Cuda:
    """Stands for torch.cuda, with a record of as many events as it is told."""

    def __init__(self, recorded: int, blocks: int = 3) -> None:
        self.later: list[Any] = []
        self.asked: dict[str, Any] = {}
        self.memory = self
        frame = {"name": "forward", "filename": "model.py", "line": 7}
        held = [{"size": 512, "frames": [dict(frame)]} for _ in range(blocks)]
        self.found = {
            "segments": [{"total_size": 2**21, "blocks": held, "frames": [dict(frame)]}],
            "device_traces": [[{"action": "alloc", "addr": at} for at in range(recorded)], []],
        }

    def _lazy_call(self, begin: Any) -> None:
        self.later.append(begin)

    def _record_memory_history(self, **asked: Any) -> None:
        self.asked = asked

    def _snapshot(self) -> dict[str, Any]:
        return self.found


def test_on_cuda_the_newest_events_are_kept(
    told: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Cuda(recorded=10_000)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(figures, "cuda_in_use", lambda: cuda)
    snapshot.record()
    assert cuda.asked == {}  # CUDA has not begun yet
    cuda.later[0]()
    assert cuda.asked["max_entries"] == 1000
    snapshot.refused(MemoryError(), "forward")
    (one,) = told
    path = tmp_path / one["file"]
    assert one["file"] == "snapshot-rank0.pickle"
    assert path.stat().st_size == one["bytes"] <= 20_000
    shown = pickle.loads(path.read_bytes())
    (kept, _) = shown["device_traces"]
    assert kept[-1]["addr"] == 9999
    assert one["left_out"] == f"all but the newest {len(kept)} of 10000 recorded events"
    assert shown["segments"][0]["blocks"][0]["frames"] != []


def test_a_snapshot_that_cannot_be_made_small_enough_is_not_made(
    told: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Cuda(recorded=3, blocks=20_000)
    monkeypatch.setattr(figures, "cuda_in_use", lambda: cuda)
    with pytest.raises(snapshot.TooLarge):
        snapshot.refused(MemoryError(), "forward")
    assert told == []
    assert list(tmp_path.iterdir()) == []


def test_an_exception_that_is_no_refusal_writes_nothing(told: list[dict[str, Any]]) -> None:
    snapshot.refused(ValueError("shapes differ"), "forward")
    snapshot.refused(None, "finish")
    assert told == []
    assert not room.is_refusal(ValueError("shapes differ"))


def test_the_smallest_kinds_of_tensors_are_left_out_where_there_are_too_many(
    told: list[dict[str, Any]], tmp_path: Path
) -> None:
    import torch

    held = [torch.zeros(size, size) for size in range(100, 400)]
    snapshot.refused(MemoryError(), "forward")
    (one,) = told
    shown = json.loads((tmp_path / one["file"]).read_text())
    assert one["bytes"] <= 20_000
    assert "kinds of tensors" in one["left_out"]
    assert shown["largest"][0]["shape"] == [399, 399]
    assert shown["tensors"] >= len(held)

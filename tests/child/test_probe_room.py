"""A rank without a byte to spare still lifts its limit, and tells what happened to it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.child.probe import boundary, moments, room, state
from autotune.core.required import more_words, required_words
from autotune.world.signature_file import load_signatures
from tests.child.probed import Probed

# Takes all that Python and the C library still have in store, down to the smallest blocks.
EXHAUSTED = """
import json, resource
import torch
from transformers.trainer import Trainer

hog = None

def held():
    with open('/proc/self/status') as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith('VmData'))

def meet(step):
    global hog
    if step != 3:
        return
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (held() // 2, hard))
    size = 2**20
    while size:
        try:
            while True:
                hog = (hog, bytes(size))
        except MemoryError:
            size //= 2
    raise MemoryError

class Ours(Trainer):
    def training_step(self, model, inputs):
        meet(self.state.global_step + 1)
        return 1.0

try:
    Ours('out', 10).train()
except MemoryError as error:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    hog = None
    print(json.dumps(soft == hard))
"""


def test_a_rank_without_a_byte_to_spare_lifts_its_limit_and_tells(tmp_path: Path) -> None:
    given = {"rescue": {"folder": str(tmp_path / "rescue"), "seconds": 0.3}}
    probed = Probed(tmp_path, given)
    code, out, err = probed.program(EXHAUSTED)
    assert (code, err) == (0, "")
    assert json.loads(out) is True
    (told,) = probed.events(kinds=["refused"])
    assert (told["type"], told["step"]) == ("MemoryError", 2)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limit of a process, newest last; starts with a soft one."""
    held = [(5, 9)]

    def prlimit(_: int, __: int, given: tuple[int, int]) -> tuple[int, int]:
        held.append(given)
        return held[-2]

    monkeypatch.setattr(room, "_change", prlimit)
    monkeypatch.setattr(room, "_most", (9, 9))
    return held


# Signatures of what a rank raises where memory is refused to it; of their patterns those words are
# left out that a training does not raise: of other tools or systems, or printed by what then ends.
REFUSALS = (
    "device_allocation_refused", "device_runtime_out_of_memory", "cpu_allocator_refused",
    "allocation_failed", "primitive_not_created", "thread_refused", "pinned_host_memory_refused",
)  # fmt: skip
NOT_RAISED = (
    "cache blocks", "no executable batch size", "hbm capacity", "显存", "el0004", "paging file",
    "libgomp",
)  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_whatever_is_diagnosed_as_a_refusal_is_held_as_one(name: str) -> None:
    (signature,) = (one for one in load_signatures(device="cpu").entries if one.name == name)
    missed = [
        pattern
        for pattern in signature.patterns
        if not any(
            words and all(room.is_refusal(RuntimeError(word)) for word in words)
            for words in (required_words(pattern), more_words(pattern))
        )
        and not any(word in required_words(pattern)[0] for word in NOT_RAISED)
    ]
    assert missed == []


def test_a_refusal_is_known_in_any_language() -> None:
    assert room.is_refusal(OSError(12, "Nicht genügend Hauptspeicher verfügbar"))


def test_a_limit_is_lifted_for_a_refusal_and_stays_for_anything_else(
    limits: list[tuple[int, int]],
) -> None:
    room.make(ValueError("shapes differ"))
    assert limits[-1] == (5, 9)
    room.make(MemoryError())
    assert limits[-1] == (9, 9)


def test_a_refusal_without_room_to_read_it_is_one(limits: list[tuple[int, int]]) -> None:
    class Unreadable(RuntimeError):
        def __str__(self) -> str:
            raise MemoryError

    room.make(Unreadable())
    assert limits[-1] == (9, 9)


def test_a_boundary_that_is_refused_memory_is_remembered_and_the_limit_put_back(
    limits: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def moment(step: int, trainer: Any, engine: Any) -> Any:
        if limits[-1] == (5, 9):
            raise MemoryError
        return SimpleNamespace(step=step, committed=lambda: True)

    monkeypatch.setattr(boundary, "Moment", moment)
    monkeypatch.setattr(boundary, "newest", None)
    monkeypatch.setattr(boundary, "inside", True)
    boundary.remember(4, object(), object())
    assert boundary.committed_step() == 4
    assert limits[-1] == (5, 9)


def test_a_listener_whose_guard_fails_too_does_not_keep_a_refusal_from_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_room(**_: Any) -> None:
        raise MemoryError

    heard: list[BaseException] = []
    monkeypatch.setattr(state, "armed", lambda: True)
    listeners = {"refused": [no_room, lambda error: heard.append(error)]}
    monkeypatch.setattr(moments, "_listeners", listeners)
    error = MemoryError()
    moments.tell("refused", error=error)
    assert heard == [error]

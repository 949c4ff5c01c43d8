"""Every frozen type goes into JSON and comes back the same, and a wrong shape is refused."""

import dataclasses
import json
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import pytest

from autotune.core.carry import Carry, CarryKind
from autotune.core.codec import CodecError, from_plain, to_plain
from autotune.core.evidence import Diagnosis
from autotune.core.failure import Failure, Phase
from autotune.core.plan import Change, Plan
from autotune.core.record import (
    Decided,
    Finish,
    GiveUp,
    Launch,
    PassedOver,
    Prove,
    Remedy,
    Stop,
    Wait,
    Waited,
    decode,
    encode,
)
from tests import builders


class Colour(str, Enum):
    RED = "red"


@dataclass(frozen=True)
class Noun:
    number: int
    share: float = 0.0
    colour: Colour | None = None
    word: Literal["on", "off"] = "on"
    pairs: tuple[tuple[str, str], ...] = ()
    names: frozenset[str] = frozenset()
    table: dict[str, int] | None = None


def back(value: object) -> object:
    return from_plain(type(value), json.loads(json.dumps(to_plain(value))))


def test_a_noun_with_everything_in_it_comes_back_the_same() -> None:
    noun = Noun(1, 0.5, Colour.RED, "off", (("a", "1"),), frozenset({"x", "y"}), {"k": 2})
    assert back(noun) == noun
    assert back(Noun(1)) == Noun(1)


def test_a_key_of_a_newer_version_is_passed_over_and_a_missing_one_has_its_default() -> None:
    assert from_plain(Noun, {"number": 3, "from_the_future": []}) == Noun(3)


def test_a_whole_number_may_stand_for_a_fraction_and_not_the_other_way() -> None:
    assert from_plain(Noun, {"number": 1, "share": 2}).share == 2.0
    with pytest.raises(CodecError, match=r"Noun\.number"):
        from_plain(Noun, {"number": 1.5})


@pytest.mark.parametrize(
    ("plain", "where"),
    [
        ({}, "Noun"),
        ([], "Noun"),
        ({"number": True}, r"Noun\.number"),
        ({"number": "1"}, r"Noun\.number"),
        ({"number": None}, r"Noun\.number"),
        ({"number": 1, "share": True}, r"Noun\.share"),
        ({"number": 1, "colour": "mauve"}, r"Noun\.colour"),
        ({"number": 1, "word": "maybe"}, r"Noun\.word"),
        ({"number": 1, "pairs": [["a"]]}, r"Noun\.pairs"),
        ({"number": 1, "pairs": "ab"}, r"Noun\.pairs"),
        ({"number": 1, "table": ["k"]}, r"Noun\.table"),
    ],
)
def test_a_wrong_shape_is_refused_where_it_is(plain: object, where: str) -> None:
    with pytest.raises(CodecError, match=where):
        from_plain(Noun, plain)


def test_plans_and_diagnoses_come_back_the_same() -> None:
    plan = builders.plan(allocator=(("expandable_segments", "True"),), method="lora")
    diagnosis = builders.diagnosis(
        Failure.HOST_OOM, phase=Phase.SAVE, secondary=(Failure.UNKNOWN,), rank=1
    )
    assert back(plan) == plan
    assert back(diagnosis) == diagnosis
    assert isinstance(back(diagnosis), Diagnosis)


def test_an_unknown_precision_is_no_plan() -> None:
    plain = to_plain(builders.plan()) | {"dtype": "int3"}
    with pytest.raises(CodecError, match=r"Plan\.dtype"):
        from_plain(Plan, plain)


REMEDY = Remedy(
    "four_bit", (Change("quantization", "none", "nf4"),), 3, "why", True, 5.0,
    (PassedOver("zero_up", "one rank"),),
)  # fmt: skip
CARRY = Carry(
    CarryKind.STAGED, "why", ("universal",), True, (("a.b", True), ("c", 7)), "change_dtype"
)


@pytest.mark.parametrize(
    "step",
    [
        Launch(2, builders.plan(), CARRY, "checkpoints/checkpoint-5", 5, REMEDY, "why"),
        Launch(1, builders.plan(), Carry(CarryKind.FRESH, "why"), None, 0, None, "why"),
        Launch(3, builders.plan(excluded=(1,)), CARRY, "c-5", 5, REMEDY, "why", ("c-9",), True, 4),
        Wait(5.0, "why"),
        Wait(5.0, "why", 10, 5.0),
        Prove(builders.plan(), 2, "checkpoints/checkpoint-5", 5),
        Finish(builders.plan(), 2, "why"),
        GiveUp("why", (PassedOver("zero_up", "one rank"),), "cure"),
        Stop("why"),
    ],
    ids=lambda step: type(step).__name__,
)
def test_every_step_comes_back_from_the_journal_the_same(step: object) -> None:
    line = json.loads(json.dumps(encode(Decided(step), 12.0)))  # type: ignore[arg-type]
    assert decode(line) == Decided(step)  # type: ignore[arg-type]
    assert isinstance(decode(line).step, type(step))  # type: ignore[union-attr]


NEW_OF_A_PLAN = (
    "attention", "four_bit_compute", "loader_workers", "pinned_memory", "blocking_launches",
    "excluded",
)  # fmt: skip


def test_a_launch_of_an_older_journal_says_nothing_of_what_came_later() -> None:
    launch = Launch(2, builders.plan(), CARRY, "checkpoints/checkpoint-5", 5, REMEDY, "why")
    line = json.loads(json.dumps(encode(Decided(launch), 12.0)))
    for name in ("set_aside", "rebuild_ops", "steps_again"):
        del line[name]
    for name in NEW_OF_A_PLAN:
        del line["plan"][name]
    read = decode(line)
    assert read == Decided(dataclasses.replace(launch, plan=launch.plan.but(attention="given")))


def test_a_wait_and_an_end_of_an_older_journal_still_load() -> None:
    for event, name in ((Decided(Wait(5.0, "why")), "free_bytes"), (Waited(5.0), "room")):
        line = json.loads(json.dumps(encode(event, 12.0)))
        del line[name]
        assert decode(line) == event
    line = json.loads(json.dumps(encode(Decided(GiveUp("why")), 12.0)))
    del line["cure"]
    assert decode(line) == Decided(GiveUp("why"))

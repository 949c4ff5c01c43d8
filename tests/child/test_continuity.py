"""A resume that does not go on as the training ended is refused, and rounding is not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.child import finetune
from autotune.child.finetune import (
    NULL_ROW,
    Continuity,
    Discontinuity,
    fingerprint,
    from_limbs,
    in_limbs,
)


class Said:
    """Stands for a reporter."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def emit(self, kind: str, **fields: Any) -> None:
        self.events.append({"kind": kind, **fields})


class Group:
    """Whatever has these attributes."""

    def __init__(self, **held: Any) -> None:
        vars(self).update(held)


def trainer(reference: float, dropout: float = 0.0, rows: str = "r", mode: str = "train") -> Any:
    """Return the little that is asked of a trainer after a resume at step 40."""
    return Group(
        settings={"mode": mode},
        reference=Group(loss=lambda _: {"loss": reference, "rows": rows}),
        state=Group(global_step=40),
        optimizer=Group(param_groups=[{"lr": 5e-4}]),
        lr_scheduler=Group(lr_lambdas=[lambda step: 20 / step], base_lrs=[1e-3]),
        args=Group(process_index=0),
        model_wrapped=Group(skipped_steps=None),
        model=Group(config=Group(attention_dropout=dropout), modules=list),
        reporter=Said(),
    )


def resumed(folder: Path, mark: dict[str, Any] | None = None, **told: Any) -> Continuity:
    """Return what a training resumed from a checkpoint in `folder` is held against."""
    kept = {"reference": {"loss": 2.0, "rows": "r"}} if mark is None else mark
    (folder / finetune.COMPLETE_MARK).write_text(json.dumps(kept))
    settings = {"checkpoints": {"resume": str(folder)}, "continuity": {"tolerance": 1e-4} | told}
    return Continuity(settings)


def test_the_reference_loss_of_before_is_told_beside_that_of_now(tmp_path: Path) -> None:
    now = trainer(2.0001)

    resumed(tmp_path).after_resume(now)

    (event,) = now.reporter.events
    assert (event["check"], event["loss"], event["saved_loss"]) == ("reference", 2.0001, 2.0)
    assert event["lr"] == event["lr_expected"] == 5e-4


@pytest.mark.parametrize("loss", [2.0003, 1.9997, float("nan")])
def test_weights_that_came_back_otherwise_are_refused(tmp_path: Path, loss: float) -> None:
    with pytest.raises(Discontinuity, match=r"checkpoint of step 40 does not go on as it ended"):
        resumed(tmp_path).after_resume(trainer(loss))


def test_where_the_plan_moves_the_loss_both_are_told_and_nothing_is_refused(
    tmp_path: Path,
) -> None:
    now = trainer(2.7)

    resumed(tmp_path, tolerance=None).after_resume(now)

    assert now.reporter.events[0]["saved_loss"] == 2.0


@pytest.mark.parametrize("mark", [{}, {"reference": {"loss": 1.0, "rows": "others"}}])
def test_without_the_same_rows_from_before_the_following_steps_are_looked_at(
    tmp_path: Path, mark: dict[str, Any]
) -> None:
    band = {"median": 2.0, "spread": 0.1}
    now, held = trainer(2.0), resumed(tmp_path, mark, band=band)
    held.after_resume(now)
    assert held.doubting

    for step in range(41, 41 + finetune.BAND_STEPS):
        held.after_step(now, step, 2.09, 0)

    assert not held.doubting
    assert [event["check"] for event in now.reporter.events] == ["band", "band"]


@pytest.mark.parametrize("loss", [2.2, float("nan")])
def test_following_steps_that_lie_above_the_band_are_refused(tmp_path: Path, loss: float) -> None:
    now, held = trainer(2.0), resumed(tmp_path, {}, band={"median": 2.0, "spread": 0.1})
    held.after_resume(now)
    for step in range(41, 40 + finetune.BAND_STEPS):
        held.after_step(now, step, loss, 0)

    with pytest.raises(Discontinuity, match="median loss of the 8 steps"):
        held.after_step(now, 48, loss, 0)


def test_the_weaker_check_is_not_made_where_there_is_a_reference(tmp_path: Path) -> None:
    held = resumed(tmp_path, band={"median": 0.1, "spread": 0.01})

    held.after_resume(trainer(2.0))

    assert not held.doubting
    for step in range(41, 60):
        held.after_step(trainer(2.0), step, 2.0, 0)


def test_a_step_trained_again_has_its_samples_and_its_loss(tmp_path: Path) -> None:
    same = f"{fingerprint([1, 2]):016x}"
    held = resumed(tmp_path, replay=[[41, 2.0, same], [42, 2.0, same]])
    now = trainer(2.0)
    held.after_resume(now)

    assert held.doubting
    held.after_step(now, 41, 2.0001, fingerprint([2, 1]))
    with pytest.raises(Discontinuity, match=r"step 42 .* on other samples"):
        held.after_step(now, 42, 2.0, fingerprint([1, 3]))


def test_nothing_is_saved_until_the_steps_known_from_before_have_come(tmp_path: Path) -> None:
    held = resumed(tmp_path, replay=[[41, 2.0, None], [43, None, None]])
    held.after_resume(trainer(2.0))

    doubts = []
    for step in range(41, 45):
        held.after_step(trainer(2.0), step, 2.0, 7)
        doubts.append(held.doubting)

    assert doubts == [True, True, False, False]


def test_a_step_trained_again_at_another_loss_is_refused(tmp_path: Path) -> None:
    held = resumed(tmp_path, replay=[[41, 2.0, None]])
    held.after_resume(trainer(2.0))

    with pytest.raises(Discontinuity, match=r"its loss was 2\.000000 before the resume"):
        held.after_step(trainer(2.0), 41, 2.1, 7)


def test_dropout_excuses_the_loss_of_a_step_and_not_its_samples(tmp_path: Path) -> None:
    now = trainer(2.0, dropout=0.1)
    held = resumed(tmp_path, replay=[[41, 2.0, "0" * 16], [42, 2.0, "0" * 16]])
    held.after_resume(now)

    held.after_step(now, 41, 2.3, 0)
    with pytest.raises(Discontinuity, match="other samples"):
        held.after_step(now, 42, 2.0, 1)


@pytest.mark.parametrize("junk", ["", "[]", '"x"', '{"reference": null}'])
def test_a_mark_that_says_nothing_is_no_reference(tmp_path: Path, junk: str) -> None:
    held = resumed(tmp_path)
    (tmp_path / finetune.COMPLETE_MARK).write_text(junk)
    now = trainer(2.0)

    Continuity({"checkpoints": {"resume": str(tmp_path)}}).after_resume(now)

    assert now.reporter.events[0]["check"] == "none"
    assert held.mark


@given(st.lists(st.integers(0, 10**9), max_size=64), st.integers(1, 8), st.randoms())
def test_the_fingerprint_of_a_step_knows_neither_order_nor_ranks(
    samples: list[int], ranks: int, chance: random.Random
) -> None:
    whole = fingerprint(samples)
    mixed = [*samples, NULL_ROW]
    chance.shuffle(mixed)
    parts = [in_limbs(fingerprint(mixed[rank::ranks])) for rank in range(ranks)]

    assert from_limbs([sum(limbs) for limbs in zip(*parts, strict=True)]) == whole


def test_other_samples_make_another_fingerprint() -> None:
    assert len({fingerprint(one) for one in ([1], [2], [1, 1], [1, 2], [12], [])}) == 6

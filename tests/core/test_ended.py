"""A training came to its end when its last step was reached and nothing went wrong after it."""

from typing import Any

import pytest

from autotune.core.ended import came_to_its_end
from autotune.core.proof import judge_proof
from autotune.core.record import Prove
from autotune.core.view import View
from tests import builders

SETTINGS = {"kind": "settings", "rank": 0, "total_steps": 3}
RAISED = {"kind": "exception", "rank": 0, "type": "ValueError", "message": "no room"}


def seen(*events: dict[str, Any]) -> View:
    view = View()
    for rank in (0, 1):
        view.see({"kind": "armed", "rank": rank, "pid": 100 + rank, "t": 1.0})
    for event in (SETTINGS, *events):
        view.see({"t": 2.0, "rank": 0, **event})
    return view


def step(number: int) -> dict[str, Any]:
    return {"kind": "step", "step": number, "loss": 1.5}


def left(rank: int) -> dict[str, Any]:
    return {"kind": "left", "rank": rank}


SAVED = {"kind": "checkpoint", "step": 3}

ENDED = {
    "it saved its last step": (step(3), SAVED),
    "all ranks left after the last step": (step(3), left(0), left(1)),
    "it said so, whatever it raised then": (step(3), SAVED, {"kind": "finished"}, RAISED),
}
NOT_ENDED = {
    "it stands before its last step": (step(2), left(0), left(1)),
    "a rank has not left": (step(3), left(0)),
    "it failed after its last step": (step(3), SAVED, RAISED),
    "nothing was told": (),
}


@pytest.mark.parametrize("events", ENDED.values(), ids=ENDED)
def test_it_ended_where(events: tuple[dict[str, Any], ...]) -> None:
    assert came_to_its_end(seen(*events))


@pytest.mark.parametrize("events", NOT_ENDED.values(), ids=NOT_ENDED)
def test_it_did_not_end_where(events: tuple[dict[str, Any], ...]) -> None:
    assert not came_to_its_end(seen(*events))


PROVE = Prove(builders.plan(), 1, "checkpoints/checkpoint-2", 2)


def test_one_step_more_and_a_good_end_prove_a_plan_of_a_tool_that_knows_no_proofs() -> None:
    proved = judge_proof(seen(step(3), left(0), left(1)), builders.evidence(), PROVE)
    assert (proved.ok, proved.loss, proved.eval_loss) == (True, 1.5, None)
    assert proved.why.endswith("trained one step")


@pytest.mark.parametrize("events", NOT_ENDED.values(), ids=NOT_ENDED)
def test_less_than_that_proves_nothing(events: tuple[dict[str, Any], ...]) -> None:
    assert not judge_proof(seen(*events), builders.evidence(), PROVE).ok


def test_a_step_without_a_finite_loss_proves_nothing() -> None:
    lost = {"kind": "step", "step": 3, "loss": "nan"}
    assert not judge_proof(seen(lost, left(0), left(1)), builders.evidence(), PROVE).ok

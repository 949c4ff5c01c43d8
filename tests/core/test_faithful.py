"""The record of a run proves what it trained, names what it did wrong, and claims nothing else."""

import json
from typing import Any

import pytest

from autotune.core.codec import from_plain, to_plain
from autotune.core.evidence import Evidence
from autotune.core.failure import Failure
from autotune.core.faithful import Span, as_plain, examine, lineage, say_faith
from autotune.core.history import Attempt, Story
from autotune.core.inherited import Inherited
from autotune.core.known_good import proof_file
from autotune.core.record import Launch, Risk, RunStarted
from autotune.core.resumed import Band, Continued, Expected
from autotune.core.trail import Told, Tracker
from tests import builders

PLAN = builders.plan()


def attempt(
    number: int, start: int, last: int, saved: tuple[int, ...] = (), **changes: Any
) -> Attempt:
    """Return an attempt that went on from step `start` and trained until `last`."""
    others: dict[int, str] = changes.pop("others", {})
    tracker = Tracker()
    for step in range(start + 1, last + 1):
        if step not in changes.get("silent", ()):
            samples = others.get(step, f"{step:016x}")
            told = Told(step, 3.0 - step / 100, samples, 1e-3)
            tracker.step(told, changes.get("rows", PLAN.global_batch))
        if step in saved:
            tracker.saved(step)
    continued = Continued(start, "reference", 2.0, 2.0, 1e-4, None, 1e-3, 1e-3)
    given: dict[str, Any] = {
        "trail": tracker.read(), "step": last, "started_training": last > start,
        "continued": continued if start else None, **changes.get("seen", {}),
    }  # fmt: skip
    plan = changes.get("plan", PLAN)
    launch = builders.launch(number, plan, checkpoint_step=start)
    seen = builders.evidence(attempt=number, **given)
    return Attempt(launch, evidence=seen, diagnosis=builders.diagnosis(Failure.DEVICE_OOM))


def story(*attempts: Attempt) -> Story:
    return Story(RunStarted("r", "a-job", "identity", PLAN, "cuda"), attempts)


def test_a_run_with_restarts_has_the_digest_of_one_without() -> None:
    undisturbed = examine(story(attempt(1, 0, 60)))
    disturbed = examine(
        story(
            attempt(1, 0, 27, (10, 20)),
            attempt(2, 20, 58, (30, 40, 50), plan=PLAN.but(micro_batch=4, accumulation=2)),
            attempt(3, 50, 60, (60,)),
        )
    )

    assert disturbed.digest == undisturbed.digest is not None
    assert disturbed.faithful is undisturbed.faithful is True
    assert disturbed.counts == (Span(1, 1, 20), Span(2, 21, 50), Span(3, 51, 60))
    assert disturbed.again == (Span(1, 21, 27), Span(2, 51, 58))


def test_going_back_to_an_earlier_checkpoint_takes_back_what_counted() -> None:
    counts, again = lineage(
        story(
            attempt(1, 0, 25, (10, 20)),
            attempt(2, 20, 20),  # could not read it
            attempt(3, 10, 33, (20, 30)),
        )
    )

    assert counts == (Span(1, 1, 10), Span(3, 11, 33))
    assert again == (Span(1, 21, 25), Span(1, 11, 20))


def test_starting_over_leaves_nothing_of_before() -> None:
    counts, again = lineage(story(attempt(1, 0, 25, (20,)), attempt(2, 0, 30)))

    assert counts == (Span(2, 1, 30),)
    assert again == (Span(1, 1, 25),)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"others": {22: "f" * 16}}, "step 22 was trained again on other samples"),
        ({"rows": 8}, "attempt 2 trained 8 rows a step, not 16"),
        ({"seen": {"global_batch": 32}}, "attempt 2 trained 32 rows a step, not 16"),
        (
            {"seen": {"continued": Continued(20, "reference", 2.5, 2.0, 1e-4)}},
            "attempt 2 went on at a loss of 2.5, where it was 2 before",
        ),
        (
            {"seen": {"continued": Continued(20, "band", 2.5, 2.0, spread=0.1)}},
            "attempt 2 went on at a loss of 2.5, where it was 2 before",
        ),
        (
            {"seen": {"continued": Continued(20, "none", rate=1e-3, rate_expected=9e-4)}},
            "attempt 2 went on at learning rate 0.001, where the schedule gives 0.0009",
        ),
    ],
)
def test_what_an_undisturbed_run_would_not_have_done_is_named(
    wrong: dict[str, Any], words: str
) -> None:
    told = story(attempt(1, 0, 27, (20,)), attempt(2, 20, 40, **wrong))

    assert words in examine(told).breaches
    assert as_plain(told)["faithful"] is False
    assert words in say_faith(told)


def test_steps_that_no_attempt_trained_are_a_breach() -> None:
    faith = examine(story(attempt(1, 0, 20, (20,)), attempt(2, 25, 40)))

    assert "steps 21 to 25 were trained by no attempt" in faith.breaches


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        ({"silent": (35,)}, "the samples of steps 21 to 40 are not all known"),
        ({"seen": {"trail": None}}, "the samples of steps 21 to 40 are not all known"),
        ({"seen": {"continued": None}}, "attempt 2 did not say how it went on"),
        (
            {"seen": {"continued": Continued(20, "none")}},
            "there is no loss from before to hold attempt 2 to",
        ),
    ],
)
def test_what_nobody_told_is_a_gap_and_neither_proof_nor_breach(
    gap: dict[str, Any], words: str
) -> None:
    faith = examine(story(attempt(1, 0, 27, (20,)), attempt(2, 20, 40, **gap)))

    assert words in faith.gaps
    assert faith.faithful is None
    assert faith.breaches == ()


def test_a_loss_that_the_plan_itself_moved_is_recorded_and_not_judged() -> None:
    moved = Continued(20, "reference", 2.5, 2.0, None, None, 1e-3, 1e-3)
    told = story(
        attempt(1, 0, 27, (20,)),
        attempt(2, 20, 40, plan=PLAN.but(quantization="nf4"), seen={"continued": moved}),
    )

    plain = as_plain(told)

    assert plain["faithful"] is True
    assert plain["attempts"][1]["resume"]["judged"] is False
    assert plain["attempts"][1]["resume"]["loss_after"] == 2.5
    assert plain["attempts"][1]["changes"] == ["quantization none → nf4"]


def test_the_proof_numbers_the_steps_that_count_and_those_trained_again() -> None:
    plain = proof_file(story(attempt(1, 0, 27, (10, 20)), attempt(2, 20, 40)), PLAN)

    proof = plain["faithfulness"]
    assert [one["counts"] for one in proof["attempts"]] == [[1, 20], [21, 40]]
    (again,) = proof["trained_again"]
    assert (again["attempt"], again["steps"]) == (1, [21, 27])
    assert again["compared"] == list(range(21, 28))
    assert again["largest_departure"] == 0
    assert proof["global_batch"] == PLAN.global_batch


def test_a_faithful_run_is_said_in_one_sentence() -> None:
    said = say_faith(story(attempt(1, 0, 27, (20,)), attempt(2, 20, 40)))

    assert said.startswith("every step once, on its own samples, at its own learning rate")
    assert said.endswith("resumed once, steps trained again: 7)")


def test_a_launch_keeps_what_it_expected_and_an_older_one_expected_nothing() -> None:
    replay = (Told(21, 2.5, "0" * 16, 1e-3), Told(22))
    expected = Expected(1e-5, replay, Band(2.0, 0.1))
    launch = builders.launch(2, PLAN, expected=expected, risk=Risk(1.0, 2.0))
    plain = json.loads(json.dumps(to_plain(launch)))

    assert from_plain(Launch, plain) == launch
    del plain["expected"], plain["risk"]
    assert from_plain(Launch, plain).expected is None


def test_evidence_of_an_older_journal_has_no_trail_and_still_loads() -> None:
    plain = to_plain(builders.evidence(step=7))
    for name in ("trail", "continued", "global_batch"):
        del plain[name]

    assert from_plain(Evidence, plain).trail is None


def test_steps_of_another_run_are_named_as_such_and_are_no_gap_in_the_line() -> None:
    given = Inherited("../old", "/old/checkpoint-20", 20, PLAN)
    started = RunStarted("r", "a-job", "identity", PLAN, "cuda", inherited=given)
    faith = examine(Story(started, (attempt(1, 20, 40, (30,)), attempt(2, 30, 60))))
    assert (faith.breaches, faith.gaps) == ((), ("steps 1 to 20 were trained by another run",))
    over = examine(Story(started, (attempt(1, 20, 25), attempt(2, 0, 60))))  # it was started over
    assert (over.breaches, over.gaps) == ((), ())

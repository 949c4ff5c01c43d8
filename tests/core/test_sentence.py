"""A plan is said in a few words, and what is unusual about it is among them."""

from autotune.core.evidence import Snapshot
from autotune.core.record import AttemptEnded
from autotune.core.sentence import say, say_plan
from tests.builders import diagnosis, evidence, plan


def test_a_plan_says_every_setting_that_is_not_the_usual_one() -> None:
    said = say_plan(
        plan(
            loss="chunked",
            optimizer="paged_adamw_8bit",
            activation_offload=True,
            sequence=512,
            method="lora",
            lora_rank=4,
        )
    )
    for words in ("loss in pieces", "paged 8-bit AdamW", "activation offload", "rank 4"):
        assert words in said


def test_a_usual_plan_is_said_shortly() -> None:
    said = say_plan(plan())
    assert said.startswith("micro-batch 8 × accumulation 1 × 2 ranks, ZeRO 2")
    for words in ("loss", "AdamW", "offload", "rank 0"):
        assert words not in said


def test_an_end_names_the_file_that_shows_what_filled_a_rank() -> None:
    shown = tuple(Snapshot(rank, f"snapshot-rank{rank}.json", 900) for rank in (0, 2))
    said = say(AttemptEnded(7, evidence(attempt=7, snapshots=shown), diagnosis())) or ""
    assert (
        "what filled its memory: attempts/007/snapshot-rank0.json and of 1 more beside it" in said
    )

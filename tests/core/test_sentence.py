"""A plan is said in a few words, and what is unusual about it is among them."""

from autotune.core.sentence import say_plan
from tests.builders import plan


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

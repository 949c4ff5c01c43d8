"""The fixes for one phase apply only where that phase has something to give."""

from autotune.rungs import eval_micro_batch, save_without_gather
from tests import builders


def test_an_evaluation_goes_one_sample_at_a_time_and_the_training_batch_stays() -> None:
    after = eval_micro_batch.RUNG.apply(builders.scene())
    assert (after.eval_micro_batch, after.micro_batch) == (1, 8)


def test_there_must_be_an_evaluation_to_change() -> None:
    without = builders.around(has_evaluation=False)
    one = builders.plan(eval_micro_batch=1)
    reasons = [
        eval_micro_batch.RUNG.applies(builders.scene(where=without)),
        eval_micro_batch.RUNG.applies(builders.scene(one)),
    ]
    assert reasons == ["the job evaluates nothing", "it evaluates one sample at a time already"]


def test_only_stage_three_gathers_to_save() -> None:
    below, at = builders.plan(zero_stage=2), builders.plan(zero_stage=3)
    assert save_without_gather.RUNG.applies(builders.scene(below)) is not None
    assert save_without_gather.RUNG.applies(builders.scene(at)) is None
    after = save_without_gather.RUNG.apply(builders.scene(at))
    assert save_without_gather.RUNG.applies(builders.scene(after)) == (
        "nothing is gathered to save already"
    )

"""The rungs that hold less at once without another result: loss, attention, activations."""

from autotune.child import finetune as child
from autotune.core.plan import changes
from autotune.rungs import activation_offload, better_attention, chunked_loss, drop_offload
from tests import builders

ON_CPU = builders.around(device="cpu")


def test_the_loss_is_taken_in_pieces_where_a_micro_batch_is_more_than_one_piece() -> None:
    rung = chunked_loss.RUNG
    assert rung.applies(builders.scene(builders.plan(micro_batch=1, sequence=513))) is None
    for plan in (builders.plan(micro_batch=1, sequence=512), builders.plan(micro_batch=8)):
        assert "no more than the 512 tokens" in str(rung.applies(builders.scene(plan)))
    after = rung.apply(builders.scene(builders.plan(sequence=2048)))
    assert after == builders.plan(sequence=2048, loss="chunked")
    assert rung.applies(builders.scene(after)) == "the loss is taken in pieces already"


def test_a_plan_of_an_older_journal_does_not_say_its_sequence_and_may_take_it_in_pieces() -> None:
    assert chunked_loss.RUNG.applies(builders.scene(builders.plan(sequence=0))) is None


def test_the_rung_and_the_trainer_mean_the_same_piece() -> None:
    assert chunked_loss.PIECE == child.LOSS_TOKENS


def test_eager_attention_gives_way_to_one_without_a_matrix_of_scores() -> None:
    rung = better_attention.RUNG
    eager = builders.scene(builders.plan(attention="eager"))
    assert rung.applies(eager) is None
    assert rung.apply(eager).attention == "sdpa"
    for better in ("sdpa", "flash_attention_2"):
        why = rung.applies(builders.scene(builders.plan(attention=better)))
        assert why == "attention is computed without its matrix of scores already"


def test_activations_go_to_the_host_only_from_a_gpu_and_only_checkpointed_ones() -> None:
    rung = activation_offload.RUNG
    plan = builders.plan(activation_checkpointing=True)
    assert rung.applies(builders.scene(plan)) is None
    assert "relieve nothing" in str(rung.applies(builders.scene(plan, where=ON_CPU)))
    assert "too much would have to travel" in str(rung.applies(builders.scene(builders.plan())))


def test_activations_come_back_from_the_host_with_everything_else() -> None:
    plan = builders.plan(activation_checkpointing=True, activation_offload=True)
    scene = builders.scene(plan)
    assert drop_offload.RUNG.applies(scene) is None
    found = changes(plan, drop_offload.RUNG.apply(scene))
    assert [str(change) for change in found] == ["activation_offload on → off"]

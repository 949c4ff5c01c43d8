"""Offload moves to the host what the device cannot hold, and comes back whole."""

from autotune.core.plan import changes
from autotune.rungs import drop_offload, offload_optimizer, offload_param
from tests import builders

ON_CPU = builders.around(device="cpu")


def test_a_training_in_host_memory_has_nothing_to_move_there() -> None:
    plan = builders.plan(zero_stage=3)
    for rung in (offload_optimizer.RUNG, offload_param.RUNG):
        reason = rung.applies(builders.scene(plan, where=ON_CPU))
        assert reason is not None
        assert "would relieve nothing" in reason


def test_the_optimizer_is_moved_at_any_stage() -> None:
    for stage in (1, 2, 3):
        scene = builders.scene(builders.plan(zero_stage=stage))
        assert offload_optimizer.RUNG.applies(scene) is None
        assert offload_optimizer.RUNG.apply(scene).offload_optimizer


def test_parameters_are_moved_at_stage_three_only() -> None:
    at_2 = builders.scene(builders.plan(zero_stage=2))
    at_3 = builders.scene(builders.plan(zero_stage=3))
    assert offload_param.RUNG.applies(at_2) == "only ZeRO stage 3 can offload parameters"
    assert offload_param.RUNG.applies(at_3) is None


def test_everything_comes_back_at_once() -> None:
    plan = builders.plan(zero_stage=3, offload_optimizer=True, offload_param=True)
    for where in (builders.around(), ON_CPU):
        scene = builders.scene(plan, where=where)
        assert drop_offload.RUNG.applies(scene) is None
        changed = changes(plan, drop_offload.RUNG.apply(scene))
        assert [str(change) for change in changed] == [
            "offload_optimizer on → off", "offload_param on → off"
        ]  # fmt: skip


def test_nothing_comes_back_where_nothing_was_moved() -> None:
    assert drop_offload.RUNG.applies(builders.scene()) == "nothing is offloaded"

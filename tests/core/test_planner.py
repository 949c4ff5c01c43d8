"""Which plan is chosen, and when there is none."""

from collections.abc import Mapping
from typing import Any

from autotune.cli.wiring import all_rungs
from autotune.core.candidates import Candidate, candidates
from autotune.core.memory.belief import Belief, after_oom, after_peak
from autotune.core.memory.forecast import Forecast
from autotune.core.plan import Plan
from autotune.core.planner import Prospect, near_limit, pick, prospects
from autotune.core.rung import Result
from tests.builders import scene
from tests.core.memory.foretold import GIB, a_plan, forecast

RUNGS = all_rungs()


def size_of(plan: Plan) -> float:
    """GiB of a job of 4 GiB of weights and 2 GiB of activations per sample."""
    per_sample = 0.4 if plan.activation_checkpointing else 2.0
    weights = 1.2 if plan.quantization == "nf4" else 4.0
    return weights + per_sample * plan.micro_batch


def time_of(plan: Plan) -> float:
    return (1.3 if plan.activation_checkpointing else 1.0) * (1 + 0.1 / plan.micro_batch)


def choices(method: str = "lora", spread: float = 0.05, **more: Any) -> list[Prospect]:
    names = ("smaller_micro_batch", "activation_checkpointing", "four_bit")
    found = candidates(scene(a_plan(method=method)), names, RUNGS, lambda *_: None)
    belief, capacity = more.pop("belief", Belief()), more.pop("capacity")
    return prospects(
        found, lambda one: forecast(size_of(one), spread), belief, capacity, time_of, **more
    )


def chosen(capacity: float, **more: Any) -> Prospect:
    room = int(capacity * GIB)
    index = pick(choices(capacity=room, **more), room).index
    assert index is not None
    return choices(capacity=room, **more)[index]


def test_where_the_start_fits_nothing_changes() -> None:
    assert chosen(40).rungs == ()


def test_the_planner_goes_straight_to_the_cheapest_plan_that_fits() -> None:
    # 8: 20 GiB, 4: 12, 2: 8 at the same speed nearly, 8 with checkpointing: 7.2 at 1.3.
    assert chosen(13.5).plan.micro_batch == 4
    assert chosen(9).plan.micro_batch == 2
    assert not chosen(9).plan.activation_checkpointing


def test_a_slower_plan_with_the_same_result_comes_before_a_fast_close_one() -> None:
    assert chosen(5.5).result is Result.SAME
    assert chosen(5.5).plan.activation_checkpointing
    assert chosen(3).result is Result.CLOSE


def test_of_plans_equally_fast_the_one_with_fewer_changes_is_taken() -> None:
    found = candidates(
        scene(a_plan(allocator=())),
        ("shrink_buckets", "allocator_settings", "smaller_micro_batch"),
        RUNGS,
        lambda *_: None,
    )
    made = prospects(found, lambda _: forecast(5), Belief(), 10 * GIB, lambda _: 1.0)
    assert pick(made, 10 * GIB).index == 0


def test_where_none_is_likely_enough_the_likeliest_is_run_once() -> None:
    room = int(4.4 * GIB)
    found = choices(method="full", capacity=room)
    choice = pick(found, room)
    assert choice.index is not None
    assert choice.proof is None
    assert found[choice.index].plan.micro_batch == 1
    assert found[choice.index].plan.activation_checkpointing
    assert "likeliest" in choice.why


def test_where_all_are_out_of_the_question_the_proof_is_in_numbers() -> None:
    room = 2 * GIB
    choice = pick(choices(method="full", capacity=room), room)
    assert choice.index is None
    assert choice.proof is not None
    assert choice.proof.least > room
    assert "2.00 GiB" in choice.why
    assert choice.why.startswith("each rank has 2.00 GiB, and the smallest of ")
    assert "Of its 4.40 GiB predicted" in choice.why
    assert "weights" in choice.why


def test_an_uncertain_smallest_plan_is_run_once_and_its_failure_ends_the_search() -> None:
    room = int(4.2 * GIB)
    first = choices(method="full", capacity=room)
    index = pick(first, room).index
    assert index is not None
    belief = after_oom(Belief(), first[index].plan, first[index].forecast, room)
    after = choices(method="full", capacity=room, belief=belief)
    choice = pick(after, room)
    assert choice.index is None
    assert choice.proof is not None


def test_a_plan_that_did_not_suffice_is_not_chosen_again() -> None:
    room = int(9 * GIB)
    first = chosen(9)
    belief = after_oom(Belief(), first.plan, first.forecast, room)
    second = chosen(9, belief=belief)
    assert second.plan != first.plan
    assert second.p_fit >= 0.9


def test_a_plan_measured_above_its_forecast_moves_the_choice_to_a_smaller_one() -> None:
    before = chosen(13.5)
    start = a_plan(method="lora")
    belief = after_peak(Belief(), start, forecast(20), 26 * GIB)
    after = chosen(13.5, belief=belief)
    assert after.plan.micro_batch < before.plan.micro_batch


def hosted(sizes: Mapping[int, tuple[float, float]], room: int) -> list[Prospect]:
    """Prospects by micro-batch: GiB on the device and on the host."""
    found = [Candidate(a_plan(micro_batch=one), ("r",), Result.SAME) for one in sizes]

    def forecast_of(plan: Plan) -> Forecast:
        device, host = sizes[plan.micro_batch]
        return forecast(device, host=int(host * GIB))

    return prospects(found, forecast_of, Belief(), 10 * GIB, lambda _: 1.0, host_room=room)


def test_what_the_host_has_no_room_for_is_refused_with_the_sentence() -> None:
    found = hosted({8: (5, 90), 4: (6, 20)}, 64 * GIB)
    assert found[0].refused
    assert "90.00 GiB of the host's memory" in found[0].why
    assert pick(found, 10 * GIB).index == 1


def test_where_only_the_host_stands_in_the_way_the_proof_says_so() -> None:
    found = hosted({8: (5, 90), 4: (30, 1)}, 64 * GIB)
    choice = pick(found, 10 * GIB)
    assert choice.index is None
    assert "the host's memory" in choice.why


def test_a_closer_look_is_worth_it_only_for_plans_that_could_take_the_choice() -> None:
    room = int(12.2 * GIB)
    found = choices(capacity=room)
    close = near_limit(found, room)
    assert [found[i].plan.micro_batch for i in close] == [4]
    assert 0.02 < found[close[0]].p_fit < 0.9
    assert near_limit(choices(capacity=40 * GIB), 40 * GIB) == []


def test_no_candidates_is_no_proof() -> None:
    choice = pick([], GIB)
    assert choice.index is None
    assert choice.proof is None

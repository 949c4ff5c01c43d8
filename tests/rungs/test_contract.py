"""Every rung of the folder keeps the same promises, whatever plan it is given."""

import copy
import dataclasses
import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.cli.wiring import all_rungs
from autotune.core.codec import from_plain, to_plain
from autotune.core.failure import Failure
from autotune.core.plan import KNOBS, Plan, changes
from autotune.core.rung import Result, Rung, Scene
from tests import builders

RUNGS = sorted(all_rungs().values(), key=lambda rung: rung.name)
CHANGING = [rung for rung in RUNGS if not rung.keeps_plan]
FIELDS = {field.name for field in dataclasses.fields(Plan)}
# The longest way down: a micro-batch of 2**16 halves sixteen times.
FAR_ENOUGH = 20

every_rung = pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
every_change = pytest.mark.parametrize("rung", CHANGING, ids=lambda rung: rung.name)


def in_any_scene(test: Callable[[Scene], None]) -> Callable[[], None]:
    """Draw scenes once for all rungs: drawing one takes far longer than asking every rung."""
    return settings(max_examples=50)(given(scene=scenes())(test))


def applicable(rungs: list[Rung], scene: Scene) -> list[Rung]:
    return [rung for rung in rungs if rung.applies(scene) is None]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans that could be running: odd micro-batches, three ranks, any accumulation."""
    method = draw(st.sampled_from(["full", "lora"]))
    stage = draw(st.sampled_from([1, 2, 3]))
    held = draw(
        st.lists(
            st.sampled_from(
                [
                    ("expandable_segments", "True"),
                    ("garbage_collection_threshold", "0.6"),
                    ("max_split_size_mb", "128"),
                    ("roundup_power2_divisions", "[256:1,512:2]"),
                ]
            ),
            unique=True,
        )
    )
    return builders.plan(
        world_size=draw(st.sampled_from([1, 2, 3, 4, 7, 8])),
        micro_batch=draw(st.integers(1, 200)),
        accumulation=draw(st.integers(1, 64)),
        eval_micro_batch=draw(st.integers(1, 200)),
        method=method,
        quantization=draw(st.sampled_from(["none", "nf4"])) if method == "lora" else "none",
        dtype=draw(st.sampled_from(["bf16", "fp16", "fp32"])),
        activation_checkpointing=draw(st.booleans()),
        zero_stage=stage,
        offload_optimizer=draw(st.booleans()),
        offload_param=draw(st.booleans()) if stage == 3 else False,
        reduce_bucket=draw(st.integers(1, 1_000_000_000)),
        allgather_bucket=draw(st.integers(1, 1_000_000_000)),
        gather_on_save=draw(st.booleans()),
        round_robin_gradients=draw(st.booleans()),
        allocator=tuple(held),
        attention=draw(st.sampled_from(["given", "sdpa", "eager", "flash_attention_2"])),
        four_bit_compute=draw(st.sampled_from(["dtype", "fp32"])),
        loader_workers=draw(st.integers(0, 16)),
        pinned_memory=draw(st.booleans()),
        blocking_launches=draw(st.booleans()),
        loss=draw(st.sampled_from(["whole", "chunked"])),
        activation_offload=draw(st.booleans()),
        optimizer=draw(st.sampled_from(["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"])),
        sequence=draw(st.integers(0, 100_000)),
        lora_rank=draw(st.integers(0, 512)) if method == "lora" else 0,
        pins=draw(st.sampled_from([(), ("transformers<5",)])),
    )


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Plans that failed somehow somewhere, on GPUs some of which may not answer any more."""
    plan = draw(plans())
    gpus = tuple(range(plan.world_size))
    where = builders.around(
        device=draw(st.sampled_from(["cpu", "cuda"])),
        has_evaluation=draw(st.booleans()),
        packing=draw(st.booleans()),
        platform=draw(st.sampled_from(["linux", "wsl", "tegra"])),
        gpus=gpus,
        broken_gpus=tuple(draw(st.lists(st.sampled_from(gpus), unique=True, max_size=2))),
        pins=draw(st.sampled_from([(), ("peft<0.18",)])),
    )
    why = builders.diagnosis(
        draw(st.sampled_from(Failure)),
        rank=draw(st.sampled_from([None, *gpus])),
    )
    held = draw(st.lists(st.integers(1, 99), unique=True, max_size=3))
    steps = tuple(sorted(held, reverse=True))
    return dataclasses.replace(
        builders.scene(plan, why, where),
        checkpoints=steps,
        started_from=draw(st.sampled_from([0, *steps])),
    )


@every_rung
def test_a_rung_says_in_words_what_it_is(rung: Rung) -> None:
    assert rung.name.replace("_", "").isalpha()
    assert rung.summary
    assert not rung.summary.endswith(".")
    assert isinstance(rung.result, Result)


@every_rung
def test_a_rung_names_only_settings_that_a_plan_has_and_the_trainer_can_set(rung: Rung) -> None:
    assert rung.knobs <= FIELDS
    assert rung.knobs <= KNOBS


@in_any_scene
def test_a_rung_says_yes_or_the_sentence_why_not(scene: Scene) -> None:
    for rung in RUNGS:
        answer = rung.applies(scene)
        assert answer is None or (len(answer.split()) > 2 and "\n" not in answer), rung.name
        assert answer is None or not answer.endswith("."), rung.name
        assert answer == rung.applies(scene), rung.name


@in_any_scene
def test_a_rung_leaves_its_input_alone_and_answers_the_same_twice(scene: Scene) -> None:
    before = copy.deepcopy(scene)
    for rung in applicable(RUNGS, scene):
        assert rung.apply(scene) == rung.apply(scene), rung.name
        assert scene == before, rung.name


@in_any_scene
def test_a_rung_changes_something_and_only_what_it_names(scene: Scene) -> None:
    for rung in applicable(CHANGING, scene):
        changed = {change.setting for change in changes(scene.plan, rung.apply(scene))}
        assert changed, rung.name
        assert changed <= rung.knobs, rung.name


@every_change
def test_every_setting_a_rung_names_is_changed_by_it_somewhere(rung: Rung) -> None:
    wide = builders.plan(method="lora", offload_optimizer=False, loader_workers=4)
    wide = wide.but(pinned_memory=True)
    shapes = [wide, wide.but(zero_stage=3), wide.but(zero_stage=3, offload_optimizer=True)]
    shapes += [wide.but(zero_stage=3, offload_param=True)]
    shapes += [wide.but(quantization="nf4"), wide.but(quantization="nf4", zero_stage=3)]
    shapes += [wide.but(method="full"), wide.but(attention="eager", sequence=1024, lora_rank=8)]
    shapes += [wide.but(activation_checkpointing=True), wide.but(activation_offload=True)]
    shapes += [wide.but(attention="flash_attention_2"), wide.but(world_size=3, micro_batch=4)]
    broken = builders.diagnosis(Failure.GPU_HARDWARE, rank=1)
    changed: set[str] = set()
    for plan in shapes:
        gpus = builders.around(gpus=tuple(range(plan.world_size)), pins=("transformers<5",))
        scene = builders.scene(plan, broken, gpus)
        if rung.applies(scene) is None:
            changed |= {change.setting for change in changes(plan, rung.apply(scene))}
    assert changed == rung.knobs


@in_any_scene
def test_a_rung_keeps_the_global_batch_exactly(scene: Scene) -> None:
    for rung in applicable(RUNGS, scene):
        assert rung.apply(scene).global_batch == scene.plan.global_batch, rung.name


@in_any_scene
def test_a_rung_applied_again_and_again_comes_to_an_end(scene: Scene) -> None:
    for rung in CHANGING:
        seen, here = [], scene
        while rung.applies(here) is None:
            seen.append(here.plan)
            assert len(seen) <= FAR_ENOUGH, rung.name
            here = dataclasses.replace(here, plan=rung.apply(here))
            assert here.plan not in seen, rung.name


@in_any_scene
def test_the_plan_a_rung_makes_survives_the_journal(scene: Scene) -> None:
    for rung in applicable(RUNGS, scene):
        plan = rung.apply(scene)
        assert from_plain(Plan, json.loads(json.dumps(to_plain(plan)))) == plan, rung.name


def test_every_rung_applies_in_some_of_these_scenes() -> None:
    # Else the promises above would hold of nothing.
    applied: set[str] = set()

    @settings(max_examples=300, derandomize=True, database=None)
    @given(scene=scenes())
    def look(scene: Scene) -> None:
        applied.update(rung.name for rung in applicable(RUNGS, scene))

    look()
    assert applied == {rung.name for rung in RUNGS}


@pytest.mark.parametrize("name", ["default", "same_result"])
def test_a_rung_that_changes_nothing_is_bounded_by_every_shipped_policy(name: str) -> None:
    idle = {rung.name for rung in RUNGS if rung.changes_nothing}
    assert idle
    for rule in builders.shipped(name).rules:
        assert rule.at_most is not None or not idle & set(rule.try_)


def test_every_rung_has_a_place_in_the_default_policy() -> None:
    tried = {name for rule in builders.shipped().rules for name in rule.try_}
    assert tried == {rung.name for rung in RUNGS}

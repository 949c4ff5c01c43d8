"""The next rung is the first that is allowed, applies, carries and was not beaten before."""

import dataclasses
import json
from typing import Any

import pytest

from autotune.core.breaks import broken_settings
from autotune.core.carry import Carry, CarryKind
from autotune.core.failure import Failure, Phase
from autotune.core.history import Attempt, Story
from autotune.core.ladder import Choice, Means, choose
from autotune.core.plan import Change, Plan
from autotune.core.policy import Policy, Rule
from autotune.core.record import Decided, Launch, decode, encode
from autotune.core.rung import Result, Rung, Scene
from tests import builders

KEPT = Carry(CarryKind.SAME, "nothing that is saved changes")
SMALL = {"reduce_bucket": 5_000_000, "allgather_bucket": 5_000_000}
BUT = dataclasses.replace


def means(
    job: dict[str, Any] | None = None, policy: str | Policy = "default", **carries: Carry
) -> Means:
    """Return what may be used; `carries` answers by the setting that a plan turned on."""
    outlook = builders.outlook(job=builders.job(**job or {}))
    chosen = builders.shipped(policy) if isinstance(policy, str) else policy

    def carry_to(plan: Plan, _: Rung | None) -> Carry:
        return next((c for name, c in carries.items() if getattr(plan, name)), KEPT)

    return Means(outlook.job, chosen, outlook.rungs, carry_to)


def choice(scene: Scene, story: Story | None = None, using: Means | None = None) -> Choice:
    story = story or builders.story(builders.attempt(1, scene.plan, scene.diagnosis.failure))
    return choose(scene, story, using or means())


def taken(found: Choice) -> tuple[str | None, list[str]]:
    """Return the rung chosen and those passed over before it."""
    if found.remedy is None:
        return None, [one.rung for one in found.passed_over]
    return found.remedy.rung, [one.rung for one in found.remedy.passed_over]


def test_the_first_rung_that_applies_is_taken_and_nothing_was_passed_over() -> None:
    found = choice(builders.scene())
    assert taken(found) == ("shrink_buckets", [])
    assert found.plan == builders.plan(**SMALL)
    assert found.carry == KEPT


def test_every_rung_passed_over_says_why() -> None:
    scene = builders.scene(builders.plan(**SMALL), where=builders.around(device="cpu"))
    found = choice(scene)
    passed = ["shrink_buckets", "allocator_settings", "better_attention", "chunked_loss"]
    assert taken(found) == ("smaller_micro_batch", passed)
    assert found.remedy is not None
    assert [one.why for one in found.remedy.passed_over] == [
        "the buckets hold 5,000,000 elements already; less would relieve nothing",
        "these settings belong to the CUDA allocator, and the job trains on the CPU",
        "attention is computed without its matrix of scores already",
        "a micro-batch holds no more than the 512 tokens of one piece of the loss",
    ]


def test_a_remedy_names_its_rule_its_changes_and_its_reason() -> None:
    found = choice(builders.scene(builders.plan(**SMALL), where=builders.around(device="cpu")))
    assert found.remedy is not None
    policy = builders.shipped()
    rule = policy.rules[found.remedy.rule - 1]
    assert (rule.when, rule.why) == ("device_oom", found.remedy.why)
    assert [str(change) for change in found.remedy.changes] == [
        "micro_batch 8 → 4", "accumulation 1 → 2", "eval_micro_batch 8 → 4"
    ]  # fmt: skip
    assert found.remedy.spend


def climb(scene: Scene, using: Means | None = None) -> list[str]:
    """Return the rungs taken one after the other until none is left."""
    rungs: list[str] = []
    attempts = [builders.attempt(1, scene.plan, scene.diagnosis.failure)]
    while (found := choice(scene, builders.story(*attempts), using)).plan is not None:
        assert found.remedy is not None
        rungs.append(found.remedy.rung)
        scene = BUT(scene, plan=found.plan)
        attempts.append(
            # Progress each time, so that only the rungs themselves run out.
            builders.attempt(len(rungs) + 1, found.plan, reached=len(rungs), taken=found.remedy)
        )
        assert len(rungs) < 50
    assert found.why_not == f"no rung is left against `{scene.diagnosis.failure.value}`"
    _, rule = (using or means()).policy.rule_for(scene)
    assert [one.rung for one in found.passed_over] == rule.try_
    return rungs


def test_the_whole_ladder_is_climbed_in_its_order() -> None:
    long = builders.plan(zero_stage=1, attention="eager", sequence=2048)
    assert climb(builders.scene(long)) == [
        "shrink_buckets", "allocator_settings", "better_attention", "chunked_loss",
        "smaller_micro_batch", "smaller_micro_batch", "smaller_micro_batch",
        "activation_checkpointing", "activation_offload", "zero_up", "zero_up",
        "offload_optimizer", "offload_param",
    ]  # fmt: skip


def test_adapters_get_four_bits_before_zero_and_no_offloaded_parameters_after() -> None:
    plan = builders.plan(method="lora", micro_batch=1, accumulation=8, **SMALL)
    assert climb(builders.scene(plan)) == [
        "allocator_settings", "activation_checkpointing", "activation_offload", "four_bit",
        "zero_up", "offload_optimizer",
    ]  # fmt: skip


def test_same_result_climbs_the_same_ladder_without_four_bits() -> None:
    plan = builders.plan(method="lora", micro_batch=1, accumulation=8, **SMALL)
    assert climb(builders.scene(plan), means(policy="same_result")) == [
        "allocator_settings", "activation_checkpointing", "activation_offload", "zero_up",
        "offload_optimizer", "offload_param",
    ]  # fmt: skip


def test_what_the_owner_allows_comes_before_the_optimizer_goes_to_the_host() -> None:
    allowed = ["eight_bit_optimizer", "shorten_sequence", "paged_optimizer", "lower_lora_rank"]
    plan = builders.plan(micro_batch=1, accumulation=8, zero_stage=3, sequence=512, **SMALL)
    rungs = climb(builders.scene(plan), means({"allow": allowed}))
    assert rungs[-4:] == [
        "eight_bit_optimizer", "paged_optimizer", "shorten_sequence", "offload_param"
    ]  # fmt: skip
    adapters = plan.but(method="lora", lora_rank=16)
    rungs = climb(builders.scene(adapters), means({"allow": allowed, "forbid": ["four_bit"]}))
    assert rungs[-5:] == [
        "shorten_sequence", "lower_lora_rank", "lower_lora_rank",
        "offload_optimizer", "offload_param",
    ]  # fmt: skip


def test_attention_that_had_no_kernel_is_not_taken_up_again() -> None:
    plan = builders.plan(attention="eager", zero_stage=3, **SMALL)
    gap = builders.attempt(1, plan.but(attention="sdpa", zero_stage=2), Failure.DTYPE_KERNEL_GAP)
    forbidden = means({"forbid": ["allocator_settings"]})
    found = choice(builders.scene(plan), builders.story(gap, builders.attempt(2, plan)), forbidden)
    assert found.remedy is not None
    why = {one.rung: one.why for one in found.remedy.passed_over}
    assert why["better_attention"] == "attention sdpa failed in attempt 1"


def test_a_rung_the_job_forbids_is_passed_over() -> None:
    found = choice(builders.scene(), using=means({"forbid": ["shrink_buckets"]}))
    assert taken(found) == ("allocator_settings", ["shrink_buckets"])
    assert found.remedy is not None
    assert found.remedy.passed_over[0].why == "the job forbids it"


def test_a_rung_that_changes_the_result_needs_its_name_under_allow() -> None:
    rungs = builders.outlook().rungs
    risky = {**rungs, "shrink_buckets": BUT(rungs["shrink_buckets"], result=Result.CHANGED)}
    found = choice(builders.scene(), using=BUT(means(), rungs=risky))
    assert found.remedy is not None
    assert found.remedy.passed_over[0].why == (
        "it changes what is learned; the job may allow it with `allow: [shrink_buckets]`"
    )
    allowed = BUT(means({"allow": ["shrink_buckets"]}), rungs=risky)
    assert taken(choice(builders.scene(), using=allowed)) == ("shrink_buckets", [])


def test_a_rung_needs_a_knob_that_the_framework_has() -> None:
    where = builders.around(knobs=builders.around().knobs - {"allgather_bucket"})
    found = choice(builders.scene(where=where))
    assert found.remedy is not None
    assert found.remedy.passed_over[0].why == "the framework has no knob for allgather_bucket"


def test_a_rung_into_a_conflict_of_settings_is_passed_over() -> None:
    where = builders.around(versions={"bitsandbytes": "0.42"})
    plan = builders.plan(method="lora", zero_stage=3, **SMALL)
    using = means({"forbid": ["smaller_micro_batch", "allocator_settings", "activation_offload"]})
    scene = builders.scene(plan.but(activation_checkpointing=True), where=where)
    found = choice(scene, using=using)
    assert taken(found)[0] == "offload_optimizer"
    assert found.remedy is not None
    why = {one.rung: one.why for one in found.remedy.passed_over}
    assert "bitsandbytes 0.43" in why["four_bit"]


def test_a_plan_that_failed_on_its_own_account_is_not_tried_again() -> None:
    plan = builders.plan(**SMALL)
    scene = builders.scene(plan, where=builders.around(device="cpu"))
    smaller = plan.but(micro_batch=4, accumulation=2, eval_micro_batch=4)
    story = builders.story(builders.attempt(1, smaller, Failure.HANG), builders.attempt(2, plan))
    found = choice(scene, story)
    assert taken(found)[0] == "activation_checkpointing"
    assert found.remedy is not None
    assert found.remedy.passed_over[-1].why == "attempt 1 ran this plan and ended with hang"


def test_a_rung_under_which_the_training_did_not_even_begin_is_gone() -> None:
    plan = builders.plan(method="lora", activation_checkpointing=True, **SMALL)
    quantized = plan.but(quantization="nf4")
    change = Change("quantization", "none", "nf4")
    taken_rung = builders.remedy("four_bit", changes=(change,))
    broke = builders.attempt(2, quantized, Failure.MISSING_DEPENDENCY, taken=taken_rung)
    assert broken_settings(broke) == {"quantization": "nf4"}


def test_a_plan_that_was_only_interrupted_may_be_tried_again() -> None:
    plan = builders.plan(**SMALL)
    scene = builders.scene(plan, where=builders.around(device="cpu"))
    smaller = plan.but(micro_batch=4, accumulation=2, eval_micro_batch=4)
    story = builders.story(
        builders.attempt(1, smaller, Failure.NONE, ended_by_us="stop"), builders.attempt(2, plan)
    )
    assert taken(choice(scene, story))[0] == "smaller_micro_batch"


NO_MORE = {
    "forbid": [
        "allocator_settings", "smaller_micro_batch", "activation_checkpointing", "zero_up",
    ]
}  # fmt: skip
OFFLOADS = {"offload_optimizer", "offload_param"}


@pytest.mark.parametrize(
    ("failure", "setting", "rung"),
    [
        (Failure.OFFLOAD_DEVICE, "offload_optimizer", "offload_optimizer"),
        (Failure.HOST_OOM, "offload_optimizer", "offload_optimizer"),
        (Failure.OP_BUILD, "offload_optimizer", "offload_optimizer"),
        (Failure.OFFLOAD_DEVICE, "offload_param", "offload_param"),
    ],
)
def test_an_offload_that_failed_is_not_turned_on_again(
    failure: Failure, setting: str, rung: str
) -> None:
    plan = builders.plan(zero_stage=3, **SMALL)
    without = plan.but(gather_on_save=False)  # another plan, so that only the setting can matter
    story = builders.story(
        builders.attempt(1, plan.but(**{setting: True}), failure), builders.attempt(2, without)
    )
    forbidden = {"forbid": [*NO_MORE["forbid"], *OFFLOADS - {rung}]}
    found = choice(builders.scene(without), story, means(forbidden))
    assert found.plan is None
    why = {one.rung: one.why for one in found.passed_over}
    assert why[rung] == f"{setting} failed in attempt 1"


def test_four_bits_that_contradicted_the_loader_are_not_tried_again() -> None:
    plan = builders.plan(method="lora", **SMALL)
    bad = plan.but(quantization="nf4", micro_batch=4, accumulation=2)
    story = builders.story(
        builders.attempt(1, bad, Failure.QUANTIZATION_CONFLICT), builders.attempt(2, plan)
    )
    found = choice(builders.scene(plan), story, means(NO_MORE))
    assert taken(found)[0] == "offload_optimizer"
    assert found.remedy is not None
    assert {one.rung: one.why for one in found.remedy.passed_over}["four_bit"] == (
        "quantization nf4 failed in attempt 1"
    )


def test_a_carry_that_is_impossible_or_needs_consent_is_passed_over() -> None:
    plan = builders.plan(method="lora", activation_checkpointing=True, **SMALL)
    using = means({"forbid": ["allocator_settings", "smaller_micro_batch", "activation_offload"]})
    kind, consent = CarryKind.STAGED_WITHOUT_MOMENTS, "reset_optimizer_state"
    lossy = Carry(kind, "moments are lost", needs_consent=consent)
    never = Carry(CarryKind.IMPOSSIBLE, "shards of another world")

    def carry_to(wanted: Plan, _: Rung) -> Carry:
        if wanted.quantization == "nf4":
            return never
        return lossy if wanted.zero_stage == 3 else KEPT

    found = choice(builders.scene(plan), using=BUT(using, carry_to=carry_to))
    assert taken(found)[0] == "offload_optimizer"
    assert found.remedy is not None
    why = {one.rung: one.why for one in found.remedy.passed_over}
    assert why["four_bit"] == "shards of another world"
    assert why["zero_up"] == (
        "moments are lost; the job may allow it with `allow: [reset_optimizer_state]`"
    )


def test_a_cause_that_had_its_share_is_given_up_with_the_count() -> None:
    many = [builders.attempt(number) for number in range(1, 14)]
    found = choice(builders.scene(), builders.story(*many))
    assert (found.plan, found.remedy) == (None, None)
    assert found.why_not == "`device_oom` ended 13 attempts without progress; the limit is 12"
    many[-1] = builders.attempt(13, reached=5)
    assert choice(builders.scene(), builders.story(*many)).plan is not None


def test_a_neighbour_has_no_ceiling_but_waiting() -> None:
    cotenant = Failure.DEVICE_OOM_COTENANT
    scene = builders.scene(why=builders.diagnosis(cotenant))
    place, rule = builders.shipped().rule_for(scene)
    again = builders.remedy("wait_for_neighbour", rule=place, answers=rule.matches, spend=False)
    many = [builders.attempt(n, failure=cotenant, taken=again) for n in range(1, 150)]
    assert taken(choice(scene, builders.story(*many)))[0] == "wait_for_neighbour"


def attempts(failure: Failure, rule: Rule, count: int) -> list[Attempt]:
    """Return an attempt that failed and `count` retries that failed again."""
    again = builders.remedy("another_port", rule=7, answers=rule.matches, spend=False)
    first = builders.attempt(1, failure=failure)
    rest = [builders.attempt(n + 2, failure=failure, taken=again) for n in range(count)]
    return [first, *rest]


def test_a_rule_that_had_its_share_is_given_up_with_the_count() -> None:
    scene = builders.scene(why=builders.diagnosis(Failure.RENDEZVOUS_PORT))
    place, rule = builders.shipped().rule_for(scene)
    for count in range(3):
        found = choice(scene, builders.story(*attempts(Failure.RENDEZVOUS_PORT, rule, count)))
        assert found.plan == scene.plan
    found = choice(scene, builders.story(*attempts(Failure.RENDEZVOUS_PORT, rule, 3)))
    assert found.plan is None
    assert found.why_not == (
        f"`another_port` of rule {place} (`{rule.when}`) was used 3 times without progress"
    )


def test_a_policy_that_gains_a_rule_meanwhile_counts_on() -> None:
    scene = builders.scene(why=builders.diagnosis(Failure.RENDEZVOUS_PORT))
    old, attempts = builders.shipped(), [builders.attempt(1, failure=Failure.RENDEZVOUS_PORT)]
    first = {"when": "rendezvous_port", "and": ["in_save"], "try": [], "spend": "no", "why": "x"}
    new = old.model_copy(update={"rules": [Rule.model_validate(first), *old.rules]})
    for policy in (old, old, new):
        found = choice(scene, builders.story(*attempts), means(policy=policy))
        launch = builders.launch(len(attempts) + 1, remedy=found.remedy)
        written = decode(json.loads(json.dumps(encode(Decided(launch), 0.0))))
        assert isinstance(written, Decided)
        assert isinstance(written.step, Launch)
        again = builders.attempt(len(attempts) + 1, failure=Failure.RENDEZVOUS_PORT)
        attempts.append(dataclasses.replace(again, launch=written.step))
    assert [a.launch.remedy.rung for a in attempts if a.launch.remedy] == ["another_port"] * 3
    place, _ = new.rule_for(scene)
    assert choice(scene, builders.story(*attempts), means(policy=new)).why_not == (
        f"`another_port` of rule {place} (`rendezvous_port`) was used 3 times without progress"
    )


def test_a_failure_without_a_remedy_is_given_up_with_the_rules_reason() -> None:
    scene = builders.scene(why=builders.diagnosis(Failure.CONFIG_ERROR))
    found = choice(scene)
    assert found.plan is None
    assert found.why_not.startswith("The training refused its configuration")


def test_a_phase_chooses_its_own_rungs() -> None:
    at_3 = builders.plan(zero_stage=3)
    in_eval = builders.scene(at_3, builders.diagnosis(phase=Phase.EVAL))
    in_save = builders.scene(at_3, builders.diagnosis(phase=Phase.SAVE))
    assert taken(choice(in_eval))[0] == "eval_micro_batch"
    assert taken(choice(in_save))[0] == "save_without_gather"


def test_an_unchanged_retry_may_repeat_a_plan_that_failed() -> None:
    rule = Rule.model_validate(
        {"when": "anything", "try": ["retry_unchanged"], "spend": "no", "at_most": 1, "why": "x"}
    )
    policy = builders.shipped().model_copy(update={"rules": [rule]})
    found = choice(builders.scene(), using=means(policy=policy))
    assert found.plan == builders.plan()
    assert found.remedy is not None
    assert found.remedy.changes == ()

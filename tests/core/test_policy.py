"""A policy is loaded whole or refused with line and nearest name; shipped ones answer all."""

import dataclasses
from pathlib import Path

import pytest

from autotune.cli.wiring import all_rungs
from autotune.core.evidence import Diagnosis, Reason
from autotune.core.facts import FACTS
from autotune.core.failure import Failure, Phase, Role, Trait
from autotune.core.fault import Fault, InputError
from autotune.core.plan import Plan
from autotune.core.policy import ANYTHING, Policy
from autotune.core.rung import Result
from autotune.world.policy_file import digest, find_policy, load_policy
from tests import builders

SHIPPED = ("default", "same_result")
every_shipped = pytest.mark.parametrize("name", SHIPPED)

SMALL = """\
name: small
summary: One answer.
limits:
  same_cause: 3
  stop_grace: 10m
  rank_grace: 30s
  term_grace: 10s
  release: 60s
  cuda_context: 600MiB
  silence_start: 30m
  silence_step: 10m
  silence_aside: 30m
  silence_factor: 10
  stack_pause: 10s
  stall_looks: 5
  diverged_steps: 50
  loss_departs: 0.0001
  loss_departs_16bit: 0.02
  unproven: 30m
  mean_failure: 24h
rules:
  - when: device_oom
    and: [on_gpu]
    try: [smaller_micro_batch]
    spend: yes
    why: Smaller fits.
  - when: anything
    try: []
    spend: no
    why: No answer.
"""


def load(folder: Path, text: str) -> Policy:
    path = folder / "small.yaml"
    path.write_text(text)
    return load_policy(path, all_rungs())


def faults(folder: Path, text: str) -> list[Fault]:
    with pytest.raises(InputError) as refused:
        load(folder, text)
    assert refused.value.exit_code == 2
    return list(refused.value.faults)


def one_fault(folder: Path, old: str, new: str) -> Fault:
    """Return the only fault of the small policy with one thing in it changed."""
    assert SMALL.count(old) == 1
    (fault,) = faults(folder, SMALL.replace(old, new))
    return fault


def line(text: str) -> str:
    """Return where the line that holds `text` stands in the small policy."""
    place = next(n for n, one in enumerate(SMALL.splitlines(), 1) if text in one)
    return f"small.yaml:{place}"


@every_shipped
def test_a_shipped_policy_loads_strictly_under_its_own_name(name: str) -> None:
    policy = builders.shipped(name)
    assert policy.name == name
    assert policy.summary


@every_shipped
@pytest.mark.parametrize("failure", Failure)
def test_a_shipped_policy_has_an_answer_of_its_own_for_every_failure(
    name: str, failure: Failure
) -> None:
    policy = builders.shipped(name)
    plans = [builders.plan(), builders.plan(zero_stage=3, offload_optimizer=True)]
    for plan in plans:
        for phase in (None, *Phase):
            why = builders.diagnosis(failure, phase=phase)
            place, rule = policy.rule_for(builders.scene(plan, why))
            assert policy.rules[place - 1] == rule
            assert rule.when == failure.value
            assert len(rule.why.split()) > 5


@every_shipped
def test_a_shipped_policy_names_every_rung_it_knows_once_in_a_rule(name: str) -> None:
    for rule in builders.shipped(name).rules:
        assert len(set(rule.try_)) == len(rule.try_)


def test_same_result_tries_nothing_that_is_not_the_same() -> None:
    rungs = all_rungs()
    tried = {name for rule in builders.shipped("same_result").rules for name in rule.try_}
    assert {rungs[name].result for name in tried} == {Result.SAME}


def test_same_result_loses_nothing_but_what_changes_the_result() -> None:
    default, same = builders.shipped(), builders.shipped("same_result")
    rungs = all_rungs()
    assert same.limits == default.limits
    assert [rule.when for rule in same.rules] == [rule.when for rule in default.rules]
    for ours, theirs in zip(same.rules, default.rules, strict=True):
        assert ours.try_ == [n for n in theirs.try_ if rungs[n].result is Result.SAME]


def test_the_default_ladder_stands_in_the_order_the_project_was_asked_for() -> None:
    _, rule = builders.shipped().rule_for(builders.scene())
    ladder = [
        "shrink_buckets", "allocator_settings", "better_attention", "chunked_loss",
        "smaller_micro_batch", "activation_checkpointing", "activation_offload", "four_bit",
        "zero_up", "eight_bit_optimizer", "paged_optimizer", "shorten_sequence",
        "lower_lora_rank", "offload_optimizer", "offload_param",
    ]  # fmt: skip
    assert rule.try_ == ladder


@pytest.mark.parametrize(
    ("phase", "first", "untouched"),
    [
        (Phase.EVAL, "eval_micro_batch", "smaller_micro_batch"),
        (Phase.SAVE, "save_without_gather", "smaller_micro_batch"),
        (Phase.LOAD, "shrink_buckets", "smaller_micro_batch"),
        (Phase.OPTIMIZER_CREATION, "shrink_buckets", "activation_checkpointing"),
    ],
)
def test_a_phase_that_is_not_the_training_step_leaves_the_batch_alone(
    phase: Phase, first: str, untouched: str
) -> None:
    why = builders.diagnosis(phase=phase)
    _, rule = builders.shipped().rule_for(builders.scene(why=why))
    assert rule.try_[0] == first
    assert untouched not in rule.try_


def test_what_is_not_our_failure_spends_nothing() -> None:
    for failure in (Failure.DEVICE_OOM_COTENANT, Failure.RENDEZVOUS_PORT, Failure.PREEMPTED):
        _, rule = builders.shipped().rule_for(builders.scene(why=builders.diagnosis(failure)))
        assert rule.spend == "no"
        assert rule.pause > 0


def test_a_policy_of_our_own_is_read_as_it_stands(tmp_path: Path) -> None:
    policy = load(tmp_path, SMALL)
    assert policy.limits.stop_grace == 600
    assert policy.limits.cuda_context == 600 * 2**20
    on_gpu, on_cpu = builders.around(), builders.around(device="cpu")
    assert policy.rule_for(builders.scene(where=on_gpu))[0] == 1
    assert policy.rule_for(builders.scene(where=on_cpu))[0] == 2


def test_two_contents_have_two_digests(tmp_path: Path) -> None:
    one = load(tmp_path, SMALL)
    other = load(tmp_path, SMALL.replace("Smaller fits.", "Smaller may fit."))
    assert digest(one) == digest(load(tmp_path, SMALL))
    assert digest(one) != digest(other)


@pytest.mark.parametrize(
    ("old", "new", "what", "hint"),
    [
        ("when: device_oom", "when: device_omm", "`device_omm` is not a failure", "`device_oom`"),
        ("[smaller_micro_batch]", "[smaller_microbatch]", "`smaller_microbatch` is not a rung",
         "`smaller_micro_batch`"),
        ("[on_gpu]", "[on_gpus]", "`on_gpus` is not a fact", "`on_gpu`"),
        ("  same_cause: 3", "  same_cuase: 3", "same_cuase", ""),
        ("summary: One", "sumary: One", "`sumary` is not a key", "`summary`"),
        ("why: Smaller fits.", "wy: Smaller fits.", "wy", "`why`"),
        ("spend: yes", "spend: perhaps", "spend", ""),
        ("term_grace: 10s", "term_grace: soon", "is not a duration", ""),
        ("cuda_context: 600MiB", "cuda_context: much", "is not a size", ""),
        ("same_cause: 3", "same_cause: 0", "same_cause", ""),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_with_its_line_and_the_nearest_name(
    tmp_path: Path, old: str, new: str, what: str, hint: str
) -> None:
    found = faults(tmp_path, SMALL.replace(old, new))
    fault = next(one for one in found if what in one.what)
    assert fault.where.endswith(line(old))
    assert hint in fault.hint


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    text = SMALL.replace("[smaller_micro_batch]", "[smaller, four_bits, zero_up]")
    found = faults(tmp_path, text.replace("[on_gpu]", "[on_gup]"))
    assert [fault.what.split("`")[1] for fault in found] == ["on_gup", "smaller", "four_bits"]


def test_a_retry_without_an_end_is_refused(tmp_path: Path) -> None:
    fault = one_fault(tmp_path, "[smaller_micro_batch]", "[retry_unchanged]")
    assert fault.what == "`retry_unchanged` changes nothing, so this rule could repeat for ever"
    assert fault.where.endswith(line("when: device_oom"))
    assert "at_most" in fault.hint
    bounded = "[retry_unchanged]\n    at_most: 2"
    assert load(tmp_path, SMALL.replace("[smaller_micro_batch]", bounded)).rules[0].at_most == 2


def test_the_last_rule_answers_anything_and_no_other_does(tmp_path: Path) -> None:
    without = SMALL[: SMALL.index("  - when: anything")]
    (fault,) = faults(tmp_path, without)
    assert "last rule" in fault.what
    assert fault.where.endswith(line("rules:"))
    early = SMALL.replace("when: device_oom", "when: anything")
    (fault,) = faults(tmp_path, early)
    assert "must be the last one and ask for no facts" in fault.what


DERIVED = "name: mine\nsummary: Less.\nextends: default\nwithout: [four_bit]\n"


def test_a_policy_can_be_another_one_without_some_rungs(tmp_path: Path) -> None:
    policy = load(tmp_path, DERIVED.replace("four_bit", "zero_up"))
    assert policy.name == "mine"
    assert not [rule for rule in policy.rules if "zero_up" in rule.try_]


@pytest.mark.parametrize(
    ("old", "new", "what", "place"),
    [
        ("four_bit", "four_bits", "`four_bits` is not a rung", 4),
        ("extends: default", "extends: defualt", "`defualt` is not a policy", None),
        ("extends: default", "extends: same_result", "is itself derived", 3),
        ("summary:", "sumary:", "`sumary` is not a key", 2),
    ],
)
def test_a_derived_policy_is_as_strict(
    tmp_path: Path, old: str, new: str, what: str, place: int | None
) -> None:
    found = faults(tmp_path, DERIVED.replace(old, new))
    fault = next(one for one in found if what in one.what)
    assert place is None or fault.where.endswith(f"small.yaml:{place}")


def test_a_policy_is_found_by_name_or_beside_the_job(tmp_path: Path) -> None:
    assert find_policy("default", tmp_path).name == "default.yaml"
    assert find_policy("./mine.yaml", tmp_path) == tmp_path / "mine.yaml"
    with pytest.raises(InputError) as refused:
        find_policy("signatures", tmp_path)
    assert "`default`" in refused.value.faults[0].hint


def resting_on(signature: str) -> Diagnosis:
    """Return a diagnosis that rests on one line."""
    return builders.diagnosis(evidence=(Reason(signature, Role.ROOT, 1, "words"),))


TOLD: dict[str, Diagnosis] = {
    "op_missing": resting_on("offload_op_missing"),
    "native_crash": resting_on("native_crash"),
    "access_refused": resting_on("hub_refused"),
    "toolkit_missing": resting_on("toolkit_missing"),
}
TRUE_OF: dict[str, tuple[Plan, Phase | None, str]] = {
    **{name: (builders.plan(), None, "cuda") for name in TOLD},
    "in_fp16": (builders.plan(dtype="fp16"), None, "cuda"),
    "in_evaluation": (builders.plan(), Phase.EVAL, "cuda"),
    "in_save": (builders.plan(), Phase.SAVE, "cuda"),
    "in_load": (builders.plan(), Phase.LOAD, "cuda"),
    "in_optimizer_creation": (builders.plan(), Phase.OPTIMIZER_CREATION, "cuda"),
    "in_resume": (builders.plan(), Phase.RESUME, "cuda"),
    "in_optimizer_step": (builders.plan(), Phase.STEP, "cuda"),
    "offloading": (builders.plan(offload_optimizer=True), None, "cuda"),
    "quantized": (builders.plan(method="lora", quantization="nf4"), None, "cuda"),
    "on_gpu": (builders.plan(), None, "cuda"),
    "on_cpu": (builders.plan(), None, "cpu"),
}


@pytest.mark.parametrize("fact", FACTS)
def test_every_fact_is_true_somewhere_and_false_elsewhere(fact: str) -> None:
    holds = {
        name: FACTS[fact](
            builders.scene(
                plan,
                TOLD.get(name, builders.diagnosis(phase=phase)),
                builders.around(device=device),
            )
        )
        for name, (plan, phase, device) in TRUE_OF.items()
    }
    for trait in Trait:
        told = builders.diagnosis(traits=(trait,))
        shown = FACTS[fact](builders.scene(why=told))
        holds[trait.value] = holds.get(trait.value, False) or shown
    holds["beside_neighbour"] = FACTS[fact](
        dataclasses.replace(builders.scene(), beside_neighbour=True)
    )
    assert holds[fact]
    assert not all(holds.values())


@pytest.mark.parametrize(
    ("figures", "exceeds"),
    [
        ({"requested": 90, "capacity": 80}, True),
        ({"requested": 30, "capacity": 80, "limit": 24}, True),
        ({"requested": 20, "capacity": 80, "limit": 24}, False),
        ({"requested": 90}, False),
        ({"capacity": 80}, False),
    ],
)
def test_figures_alone_show_a_request_that_exceeds_the_device(
    figures: dict[str, float], exceeds: bool
) -> None:
    why = builders.diagnosis(figures=builders.figures(**figures))
    assert FACTS["request_exceeds_device"](builders.scene(why=why)) is exceeds


def test_anything_is_not_a_failure() -> None:
    assert ANYTHING not in {failure.value for failure in Failure}

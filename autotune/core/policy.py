"""A policy says, as data, which rungs answer which failure and when enough is enough."""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from autotune.core.evidence import Diagnosis
from autotune.core.facts import FACTS
from autotune.core.failure import Failure
from autotune.core.fault import Fault, nearest
from autotune.core.rung import Rung, Scene
from autotune.core.units import parse_bytes, parse_seconds

ANYTHING = "anything"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Seconds = Annotated[float, BeforeValidator(parse_seconds)]


class Thresholds(_Strict):
    """Every number this policy uses, with its unit; messages print the one they used."""

    same_cause: int = Field(ge=1, description="attempts ended by one failure without progress")
    stop_grace: Seconds = Field(description="for a save at the next step boundary when stopping")
    rank_grace: Seconds = Field(description="for the other ranks to end after the first has died")
    term_grace: Seconds = Field(description="between SIGTERM and SIGKILL")
    release: Seconds = Field(description="longest wait for the memory of a dead attempt")
    cuda_context: Bytes = Field(description="taken outside the allocator's cap on each GPU")
    silence_start: Seconds = Field(description="explained before the first step, without work")
    silence_step: Seconds = Field(description="explained between two steps, at least")
    silence_aside: Seconds = Field(description="explained in evaluation, saving and at the end")
    silence_factor: int = Field(ge=2, description="times the longest silence so far is explained")
    stack_pause: Seconds = Field(description="between two looks at the stacks of a silent training")
    stall_looks: int = Field(ge=0, description="times a silence that moves gets twice as long")
    diverged_steps: int = Field(ge=2, description="steps in a row without a finite loss")
    # These came later: a policy that was written before them goes on as it is.
    rescue_grace: Seconds = Field(
        default=60.0,
        description="without another byte while a refused training's last step is saved",
    )
    loss_departs: float = Field(
        default=1e-5, gt=0, description="share of a loss that a resume in fp32 may move"
    )
    loss_departs_16bit: float = Field(default=1e-3, gt=0, description="the same in bf16 and fp16")
    neighbour_patience: Seconds = Field(
        default=3600.0,
        description="for a neighbour who was there before, where the job's need is not known",
    )
    unproven: Seconds = Field(
        default=1800.0, description="in which a plan that does not hold shows it"
    )
    mean_failure: Seconds = Field(
        default=86400.0, description="between two failures of a plan that holds"
    )


class Rule(_Strict):
    """One answer: for this failure, under these facts, try these rungs in this order."""

    when: str
    and_: list[str] = Field(default=[], alias="and")
    try_: list[str] = Field(alias="try", description="empty: stop, and say why")
    spend: Literal["yes", "no"] = Field(description="whether the attempt counts against the limit")
    at_most: int | None = Field(
        default=None, ge=1, description="times each rung is taken in a row without progress"
    )
    pause: Seconds = Field(default=0.0, description="before the next attempt")
    backoff: Literal["yes", "no"] = Field(
        default="no", description="whether the pause doubles with each time without progress"
    )
    why: str
    advice: str = Field(default="", description="one thing a person can do when nothing is left")

    @property
    def matches(self) -> str:
        """What it answers, in words; no two rules that can be reached say the same.

        It stays as it is where rules come before it and where its rungs or limits are edited.
        """
        return " and ".join([self.when, *sorted(set(self.and_))])


Choose = Literal["predicted", "in_order"]


class Policy(_Strict):
    """An ordered list of rules, first match wins, the last one for anything."""

    name: str
    summary: str
    choose: Choose = Field(
        default="predicted",
        description="of rungs against lack of device memory: by prediction, or strictly in order",
    )
    limits: Thresholds
    rules: list[Rule]

    def rule_for(self, scene: Scene) -> tuple[int, Rule]:
        """Return the first rule that matches and its place, counted from 1."""
        for place, rule in enumerate(self.rules, 1):
            if _matches(rule, scene.diagnosis) and all(FACTS[fact](scene) for fact in rule.and_):
                return place, rule
        raise AssertionError("a loaded policy ends with a rule for anything")


class Derived(_Strict):
    """A policy that is another one without some rungs, or with another way to choose."""

    name: str
    summary: str
    extends: str
    without: list[str] = []
    choose: Choose | None = None

    def of(self, base: Policy) -> Policy:
        """Return `base` under this name, its rules trying everything but what is left out."""
        rules = [
            rule.model_copy(update={"try_": [n for n in rule.try_ if n not in self.without]})
            for rule in base.rules
        ]
        return Policy.model_construct(
            name=self.name,
            summary=self.summary,
            choose=self.choose or base.choose,
            limits=base.limits,
            rules=rules,
        )


def _matches(rule: Rule, diagnosis: Diagnosis) -> bool:
    return rule.when in (ANYTHING, diagnosis.failure.value)


def faults_of(policy: Policy, rungs: dict[str, Rung], where: Callable[..., str]) -> list[Fault]:
    """Return what is wrong with a policy beyond its shape: unknown names and missing answers.

    `where` gives the file and line of a place named by its keys.
    """
    faults = []
    failures = {failure.value for failure in Failure}
    for place, rule in enumerate(policy.rules, 1):
        keys = ("rules", place - 1)
        at = where(*keys)
        if rule.when not in failures | {ANYTHING}:
            hint = nearest(rule.when, failures | {ANYTHING})
            faults.append(Fault(f"`{rule.when}` is not a failure autotune knows", at, hint))
        faults += [
            Fault(
                f"`{fact}` is not a fact a rule can ask about",
                where(*keys, "and", index),
                nearest(fact, FACTS),
            )
            for index, fact in enumerate(rule.and_)
            if fact not in FACTS
        ]
        faults += [
            Fault(f"`{name}` is not a rung", where(*keys, "try", index), nearest(name, rungs))
            for index, name in enumerate(rule.try_)
            if name not in rungs
        ]
        if rule.when == ANYTHING and (rule.and_ or place != len(policy.rules)):
            text = "the rule for `anything` must be the last one and ask for no facts"
            faults.append(Fault(text, at, "move it to the end, or name a failure"))
        unbounded = [n for n in rule.try_ if n in rungs and rungs[n].changes_nothing]
        if unbounded and rule.at_most is None:
            text = f"`{unbounded[0]}` changes nothing, so this rule could repeat for ever"
            faults.append(Fault(text, at, "give the rule `at_most: N`"))
    if not policy.rules or policy.rules[-1].when != ANYTHING:
        text = "the last rule must be for `anything`, so that no failure goes unanswered"
        faults.append(Fault(text, where("rules"), "end the list with `when: anything`"))
    return faults

"""Where nothing allowed fits, the least that would have to be allowed is named."""

from typing import Any

from autotune.core.allowing import Allowing, worth_allowing
from autotune.core.decide import first_allowing, next_step
from autotune.core.history import Story
from autotune.core.plan import Plan
from autotune.core.planner import Prospect
from autotune.core.record import GiveUp
from autotune.core.rung import Result
from tests.builders import plan
from tests.core.foretold import foretold
from tests.core.test_leap import outlook
from tests.core.test_outlined import prospect

EIGHT, PAGED, SHORT = "eight_bit_optimizer", "paged_optimizer", "shorten_sequence"
ASKS = (EIGHT, PAGED, SHORT)


def one(*rungs: str, fits: float = 0.95, time: float = 1.0, **more: Any) -> Prospect:
    return prospect(1000, rungs, plan(), fits, time, result=Result.CHANGED, **more)


def names(*found: Prospect) -> tuple[str, ...]:
    made = worth_allowing(found, ASKS)
    return made.names if made else ()


def test_as_little_as_does_is_asked_for_however_much_faster_more_would_be() -> None:
    both = one(EIGHT, SHORT, time=0.5)
    assert names(both, one("smaller_micro_batch", PAGED, time=2.0)) == (PAGED,)


def test_of_as_many_those_come_first_that_the_ladder_takes_first() -> None:
    assert names(one(SHORT, time=0.5), one(EIGHT, time=1.2)) == (EIGHT,)


def test_of_one_name_the_faster_plan_is_told() -> None:
    slow, fast = one(EIGHT, "offload_param", time=1.6), one("smaller_micro_batch", EIGHT, time=1.1)
    assert worth_allowing((slow, fast), ASKS) == Allowing((EIGHT,), fast)


def test_nothing_is_named_that_would_not_fit_or_not_be_launched() -> None:
    assert names(one(EIGHT, fits=0.5), one(PAGED, refused=True)) == ()
    assert names() == ()


def moments_fill_it(of: Plan) -> float:
    """Forty GiB, and half of them in 8 bits."""
    return 40.0 if of.optimizer == "adamw" else 20.0


def test_who_gives_up_says_what_to_allow_and_what_comes_of_it() -> None:
    step = next_step(Story(), outlook(foretold(24, moments_fill_it)))
    assert isinstance(step, GiveUp)
    assert step.cure.startswith("put `allow: [eight_bit_optimizer]` into the job: 20.00 GiB pred")
    assert "it changes what is learned; or allow more memory per GPU" in step.cure


def test_what_the_job_forbids_or_allows_already_is_not_asked_for() -> None:
    look = outlook(foretold(24, moments_fill_it), {"forbid": [EIGHT]})
    found = first_allowing(look)
    assert found is not None
    assert found.names == (PAGED,)
    assert first_allowing(outlook(foretold(24, moments_fill_it), {"allow": [EIGHT]})) is None


def test_where_nothing_helps_the_advice_is_the_rules_own() -> None:
    step = next_step(Story(), outlook(foretold(24, lambda _: 60.0)))
    assert isinstance(step, GiveUp)
    assert step.cure.startswith("allow more memory per GPU")

"""Sums up the outcomes of earlier runs: what to expect of a prediction before it is tried.

No outcome is trusted far. Each counts little against the trust that the formulas deserve, none
counts for more than a bounded error, attempts of one plan count once, and the newest push out the
oldest; what the present run measures itself is to outweigh all of it. A prior may choose what is
tried first; it proves nothing, and is no reason to give up.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autotune.core.memory.workload import Subject, Workload
from autotune.core.outcome import Outcome, digest_of, log_ratio
from autotune.core.plan import Plan

MOST_OF_A_PLAN = 3  # outcomes kept of one plan of one model
MOST_OF_A_KIND = 20
MOST = 500

PULL = 4.0  # outcomes "as predicted" that are added to those seen
LARGEST = math.log(1.5)  # the most that one outcome can say, either way
TAILS = 2.0  # an outcome further from the median than this many deviations is moved there
LEAST_OPEN = 0.2  # a share of the variance
LEAST_SD = 0.03  # a prior is never surer; one measurement of the run itself is far surer than this


@dataclass(frozen=True)
class Kind:
    """Jobs whose predictions err alike."""

    family: str
    method: str  # "full", "lora" or "qlora"
    device: str
    forecast_method: str
    autotune: str  # its version: other formulas err otherwise


@dataclass(frozen=True)
class Prior:
    """What outcomes say of log(needed / predicted) of the tensors of one kind of job."""

    bias_mean: float
    bias_sd: float
    count: int  # different plans of models that it rests on; 0: nothing is known

    def open_share(self, spread: float, of_the_job: float) -> float:
        """Return how much of what all plans of a job have in common is still unknown, 0 to 1.

        `spread` is that of the job's forecasts, `of_the_job` the share of their variance that
        its plans have in common. Never below `LEAST_OPEN`, so that a run can unlearn it.
        """
        if not self.count or spread <= 0:
            return 1.0
        left = (self.bias_sd / spread) ** 2 - (1 - of_the_job)
        return max(LEAST_OPEN, min(1.0, left / of_the_job))


@dataclass(frozen=True)
class Known:
    """What a plan of this very model showed on this very device, in the middle of its outcomes.

    That it died there once is not told: if that was a mistake, it would never be tried again.
    """

    peak_bytes: int | None = None
    step_seconds: float | None = None


def method_of(plan: Plan) -> str:
    """Return "full", "lora" or "qlora"."""
    return "qlora" if plan.quantization != "none" else plan.method


def kind_of(outcome: Outcome) -> Kind:
    """Return the kind of job that an outcome speaks of."""
    return Kind(
        outcome.sizes.family,
        method_of(outcome.plan),
        outcome.device,
        outcome.forecast_method,
        outcome.versions.get("autotune", ""),
    )


def pruned(outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """Return the outcomes worth keeping, in their order: the newest, which stand last."""
    kept: list[Outcome] = []
    of_plan: dict[object, int] = {}
    of_kind: dict[Kind, int] = {}
    for outcome in reversed(outcomes):
        same, kind = _same(outcome), kind_of(outcome)
        if of_plan.get(same, 0) < MOST_OF_A_PLAN and of_kind.get(kind, 0) < MOST_OF_A_KIND:
            of_plan[same] = of_plan.get(same, 0) + 1
            of_kind[kind] = of_kind.get(kind, 0) + 1
            kept.append(outcome)
    return tuple(reversed(kept[:MOST]))


def prior_from(outcomes: Sequence[Outcome], kind: Kind, spread: float) -> Prior:
    """Return what is to be expected of a prediction of this kind.

    `spread` is the standard deviation that the formulas themselves claim; without outcomes it is
    the prior's. The mean is a winsorised one, shrunk towards 0 by `PULL` outcomes as predicted.
    """
    by_plan: dict[object, list[float]] = {}
    for outcome in pruned(outcomes):
        # Dying on a device smaller than the prediction is what was predicted.
        told = outcome.ended == "stable" or log_ratio(outcome) > 0
        if told and kind_of(outcome) == kind:
            ratio = max(-LARGEST, min(LARGEST, log_ratio(outcome)))
            by_plan.setdefault(_same(outcome), []).append(ratio)
    ratios = [statistics.median(found) for found in by_plan.values()]
    if not ratios:
        return Prior(0.0, max(spread, LEAST_SD), 0)
    held = _winsorised(ratios)
    count = len(held)
    mean = sum(held) / (count + PULL)
    around = sum((ratio - mean) ** 2 for ratio in held)
    sd = math.sqrt((around + PULL * (spread**2 + mean**2)) / (count + PULL))
    return Prior(mean, max(sd, LEAST_SD), count)


def known_of(
    outcomes: Iterable[Outcome], subject: Subject, device_name: str
) -> Mapping[Plan, Known]:
    """Return what plans of this very model showed, by plan; for those that really ran.

    The sequence, the adapters and the device are the same too. Look a plan up by `as_kept(plan)`.
    """
    digest = digest_of(subject.shape)
    found: dict[Plan, list[Outcome]] = {}
    for one in outcomes:
        work = Workload(subject, one.plan)
        rank = work.lora_rank if one.plan.method == "lora" else 0
        if (one.shape, one.sequence, one.lora_rank) == (digest, work.sequence, rank) and (
            one.device,
            one.device_name,
        ) == (subject.device, device_name or subject.device):
            found.setdefault(one.plan, []).append(one)
    return {plan: _known(ones) for plan, ones in found.items()}


def _known(ones: Sequence[Outcome]) -> Known:
    # Middles, so that one odd night among three does not decide.
    peaks = [one.measured_bytes for one in ones if one.measured_bytes is not None]
    steps = [one.step_seconds for one in ones if one.step_seconds is not None]
    return Known(
        statistics.median_high(peaks) if peaks else None,
        statistics.median_high(steps) if steps else None,
    )


def _same(outcome: Outcome) -> object:
    return (
        outcome.shape, outcome.plan, outcome.sequence, outcome.lora_rank, outcome.device,
        outcome.device_name, outcome.ended,
    )  # fmt: skip


def _winsorised(ratios: Sequence[float]) -> list[float]:
    middle = statistics.median(ratios)
    # 1.4826: the median distance of a normal distribution times this is its deviation.
    scale = max(1.4826 * statistics.median(abs(one - middle) for one in ratios), LEAST_SD)
    return [max(middle - TAILS * scale, min(middle + TAILS * scale, one)) for one in ratios]

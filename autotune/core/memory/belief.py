"""What measured attempts taught about the error of forecasts, and what follows for other plans.

The logarithm of truth / forecast, over the part of a peak that is tensors, is taken as Student-t
distributed with the forecast's own `spread` as scale. Of its variance a share is common to all
plans of a job, a share to plans alike in everything but size, and a share is the plan's own
(`_kinship`). Measured attempts condition it as a Gaussian process would; their surprise widens or
narrows the scale as a Student-t process would (Shah, Wilson and Ghahramani, 2014).
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from autotune.core.memory.conditioning import hazard, inverted
from autotune.core.memory.expected import WIDEST, Expected, kept
from autotune.core.memory.forecast import Forecast, Moment
from autotune.core.memory.probe import Probe
from autotune.core.plan import Plan

OF_THE_JOB, OF_THE_KIND = 0.6, 0.3  # shares of the variance; what is left is the plan's own
UNLIKE = 0.5  # what remains of the second for each setting that differs
DEGREES = 4  # of freedom, as in student.py
FLOOR = 0.003  # a measured peak comes back within this: steps differ by some allocator blocks

# Settings that change what is allocated; the others only how much of it.
_kind = attrgetter(
    "method", "quantization", "dtype", "activation_checkpointing", "zero_stage",
    "offload_optimizer", "offload_param", "attention", "loss", "activation_offload", "optimizer",
)  # fmt: skip


@dataclass(frozen=True)
class Sighting:
    """One attempt's word on the logarithm of truth / forecast of its plan."""

    plan: Plan
    spread: float  # the forecast's
    value: float
    variance: float  # of `value` itself, beside the forecast's spread


@dataclass(frozen=True)
class Belief:
    """Knowledge of the error of forecasts; the empty one trusts every forecast's own spread.

    Bytes are absolute, `bias` a logarithm, the others shares.
    """

    bias: float = 0.0  # mean error of the job's forecasts, from runs before this one
    open_share: float = 1.0  # of the job's share of the variance: what those runs left unknown
    outside_error: int | None = None  # measured minus forecast `outside`; None: not measured
    fragmentation: float = 0.0  # reserved minus allocated, over allocated, at an out-of-memory
    sightings: tuple[Sighting, ...] = ()
    at_least: Mapping[Plan, int] = field(default_factory=dict)  # bytes that did not suffice
    _inverse: tuple[tuple[float, ...], ...] = ()  # of the sightings' covariance
    _weights: tuple[float, ...] = ()
    _surprise: float = 1.0  # squared factor on every scale


def expected(belief: Belief, plan: Plan, forecast: Forecast) -> Expected:
    """Return what is expected of `plan`'s peak after everything measured."""
    fixed, tensors = _divided(belief, plan, forecast)
    spread = _spread(belief, forecast, tensors)
    cousins = [_covariance(belief, plan, spread, one.plan, one.spread) for one in belief.sightings]
    mean = belief.bias + sum(k * w for k, w in zip(cousins, belief._weights, strict=True))
    variance = _covariance(belief, plan, spread, plan, spread)
    for row, k in zip(belief._inverse, cousins, strict=True):
        variance -= k * sum(a * b for a, b in zip(row, cousins, strict=True))
    scale = math.sqrt(max(variance, 0.0) * belief._surprise + FLOOR**2)
    return Expected(fixed, tensors, kept(mean), scale, belief.at_least.get(plan, 0))


def centre(belief: Belief, plan: Plan, forecast: Forecast) -> int:
    """Return the median of the plan's peak, in bytes."""
    return expected(belief, plan, forecast).quantile(0.5)


def interval(belief: Belief, plan: Plan, forecast: Forecast) -> tuple[int, int]:
    """Return the 90 % interval of the plan's peak, in bytes."""
    one = expected(belief, plan, forecast)
    return one.quantile(0.05), one.quantile(0.95)


def p_fit(belief: Belief, plan: Plan, forecast: Forecast, capacity: int) -> float:
    """Return the probability that the plan's peak is at most `capacity` bytes."""
    return expected(belief, plan, forecast).within(capacity)


def after_probes(
    belief: Belief,
    plan: Plan,
    forecast: Forecast,
    probes: Iterable[Probe],
    sequence: int | None = None,
) -> Belief:
    """Return `belief` with the moments an attempt of `plan` completed.

    The process before the model tells `outside`. Of the rest the highest peak counts against the
    highest forecast of the same moments: the two share with the plan's own peak what is allocated
    by then, so their errors are taken as correlated by the ratio of the two forecasts. A moment
    that was the peak itself leaves only `FLOOR`; loading alone says little of the activations.
    A pass over fewer rows than the micro-batch, or over rows shorter than `sequence` tokens, is
    not what the forecast is of, and left out.
    """
    seen = [one for one in probes if one.peak_bytes > 0 and _whole(one, plan, sequence)]
    belief = _after_base(belief, forecast, seen)
    highest: dict[Moment, float] = {}
    for one in seen:
        predicted = forecast.moments.get(one.moment)
        if one.moment is not Moment.BASE and predicted is not None and predicted.peak > 0:
            size = one.peak_bytes - (_outside(belief, forecast) if _with_process(one) else 0)
            highest[one.moment] = max(highest.get(one.moment, 0), size)
    if not highest or max(highest.values()) <= 0:
        return belief
    foretold = max(forecast.moments[moment].peak for moment in highest)
    whole = max(one.peak for one in forecast.moments.values())
    share = min(1.0, foretold / max(whole, 1))
    off = math.log(max(highest.values()) / foretold) - belief.bias
    _, tensors = _divided(belief, plan, forecast)
    spread = _spread(belief, forecast, tensors)
    doubt = (spread / share) ** 2 * (1 - share**2) + FLOOR**2
    return _seen(belief, Sighting(plan, spread, belief.bias + off / share, doubt))


def after_oom(belief: Belief, plan: Plan, forecast: Forecast, at_least_bytes: int) -> Belief:
    """Return `belief` after `plan` asked for more than `at_least_bytes`, peak as in a forecast.

    The bound itself stays with the plan. What it says of others is the mean and variance of the
    normal distribution cut off below it, taken in as the measurement that would have led there.
    """
    least = max(at_least_bytes, belief.at_least.get(plan, 0))
    one = expected(belief, plan, forecast)
    belief = dataclasses.replace(belief, at_least={**belief.at_least, plan: least})
    room = at_least_bytes - one.fixed
    if room <= 0:
        return belief
    cut = (kept(math.log(room / one.tensors)) - one.mean) / one.scale
    lift = hazard(cut)
    left = 1.0 - lift * (lift - cut)  # of the variance
    if left > 1 - 1e-6:  # a shortage that was expected
        return belief
    left = max(left, 1e-6)
    before = one.scale**2
    doubt = before * left / (1 - left)
    value = one.mean + one.scale * lift / (1 - left)
    _, tensors = _divided(belief, plan, forecast)
    spread = _spread(belief, forecast, tensors)
    return _seen(belief, Sighting(plan, spread, kept(value), doubt + FLOOR**2))


def after_peak(belief: Belief, plan: Plan, forecast: Forecast, peak_bytes: int) -> Belief:
    """Return `belief` after `plan` ran with this peak, meant as a forecast's `peak` is."""
    fixed, tensors = _divided(belief, plan, forecast)
    value = kept(math.log(max(peak_bytes - fixed, 1.0) / tensors))
    others = {one: least for one, least in belief.at_least.items() if one != plan}
    belief = dataclasses.replace(belief, at_least=others)
    sighting = Sighting(plan, _spread(belief, forecast, tensors), value, FLOOR**2)
    return _seen(belief, sighting)


def after_fragmentation(belief: Belief, plan: Plan, lost: int, allocated: int) -> Belief:
    """Return `belief` after `lost` bytes were reserved beside `allocated` ones when memory ended.

    It concerns plans without expandable segments, which exist against exactly this.
    """
    if lost <= 0 or allocated <= 0 or grows(plan):
        return belief
    return dataclasses.replace(
        belief, fragmentation=min(1.0, max(belief.fragmentation, lost / allocated))
    )


def grows(plan: Plan) -> bool:
    """Return whether the plan's allocator grows its segments instead of leaving gaps."""
    return dict(plan.allocator).get("expandable_segments", "").lower() == "true"


def _after_base(belief: Belief, forecast: Forecast, probes: list[Probe]) -> Belief:
    """Where the process is measured with its tensors: what it takes without any."""
    held = [one.held_bytes for one in probes if one.moment is Moment.BASE and _with_process(one)]
    if not held or max(held) <= 0:
        return belief
    at_base = forecast.moments.get(Moment.BASE)
    predicted = forecast.outside + (at_base.held if at_base else 0)
    return dataclasses.replace(belief, outside_error=max(held) - predicted)


def _whole(probe: Probe, plan: Plan, sequence: int | None) -> bool:
    if probe.rows is not None and probe.rows < plan.micro_batch:
        return False
    return not sequence or probe.sequence is None or probe.sequence >= sequence


def _with_process(probe: Probe) -> bool:
    """Whether the figure is of the whole process: without an allocator that reserves."""
    return probe.reserved_bytes is None


def _outside(belief: Belief, forecast: Forecast) -> float:
    return max(0.0, float(forecast.outside + (belief.outside_error or 0)))


def _divided(belief: Belief, plan: Plan, forecast: Forecast) -> tuple[float, float]:
    """Return the bytes taken as they are, and those whose error is a factor."""
    tensors = max(1.0, float(forecast.peak - forecast.outside - forecast.overhead))
    overhead = float(forecast.overhead)
    if not grows(plan):
        overhead = max(overhead, belief.fragmentation * tensors)
    return _outside(belief, forecast) + overhead, tensors


def _spread(belief: Belief, forecast: Forecast, tensors: float) -> float:
    """Over the tensors alone: while `outside` is not measured, its error is in there too."""
    unknown = tensors + (forecast.outside if belief.outside_error is None else 0)
    return min(max(forecast.spread, FLOOR) * unknown / tensors, WIDEST)


def _kinship(belief: Belief, one: Plan, other: Plan) -> float:
    if one is other:
        return OF_THE_JOB * belief.open_share + 1 - OF_THE_JOB
    unlike = sum(a != b for a, b in zip(_kind(one), _kind(other), strict=True))
    shared = OF_THE_JOB * belief.open_share + OF_THE_KIND * UNLIKE**unlike
    return float(shared + (1 - OF_THE_JOB - OF_THE_KIND if one == other else 0.0))


def _covariance(belief: Belief, one: Plan, a: float, other: Plan, b: float) -> float:
    return a * b * _kinship(belief, one, other)


def _seen(belief: Belief, sighting: Sighting) -> Belief:
    """Return `belief` with one more sighting, solved anew."""
    sightings = (*belief.sightings, sighting)
    matrix = [
        [
            _covariance(belief, one.plan, one.spread, two.plan, two.spread)
            + (one.variance if i == j else 0.0)
            for j, two in enumerate(sightings)
        ]
        for i, one in enumerate(sightings)
    ]
    inverse = inverted(matrix)
    off = [one.value - belief.bias for one in sightings]
    weights = tuple(sum(a * b for a, b in zip(row, off, strict=True)) for row in inverse)
    distance = max(0.0, sum(a * b for a, b in zip(weights, off, strict=True)))
    surprise = (DEGREES + distance) / (DEGREES + len(sightings))
    return dataclasses.replace(
        belief, sightings=sightings, _inverse=inverse, _weights=weights, _surprise=surprise
    )

"""Chooses among the plans that the ladder's rungs make: the cheapest that is likely to fit."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from autotune.core.candidates import WORST, Candidate
from autotune.core.memory.belief import Belief, expected
from autotune.core.memory.forecast import Forecast
from autotune.core.plan import Plan
from autotune.core.rung import Result
from autotune.core.units import show_bytes, show_share

LIKELY = 0.9  # a plan that fits with this probability is taken for fitting
# One below this for not fitting. Smaller than the error of a start for nothing would ask for: to
# give up wrongly has no bound, and one launch has.
IMPOSSIBLE = 0.001
OPEN = (0.02, 0.98)  # between these a closer look at a plan may change the choice
LOOKS = 4  # plans worth a closer look at once
FREE = 0.01  # differences in step time below this are not known


@dataclass(frozen=True)
class Prospect:
    """A candidate plan and what is expected of it."""

    plan: Plan
    rungs: tuple[str, ...]  # taken one after the other from the start; empty: the start itself
    result: Result  # the worst of its rungs
    forecast: Forecast
    low: int  # 90 % interval of the peak, bytes, after what was learned
    high: int
    p_fit: float
    step_time_factor: float  # predicted seconds per optimizer step over those of the start
    why: str = ""  # one sentence: why chosen, or why not
    refused: bool = False  # it is not launched, whatever `p_fit`; `why` says so
    least: int = 0  # what the peak stays below with a probability of `IMPOSSIBLE`


@dataclass(frozen=True)
class Proof:
    """Why no allowed plan can run, in numbers."""

    smallest: Prospect
    least: int  # bytes it needs at the very least
    capacity: int
    parts: Mapping[str, int]  # where the bytes of its predicted peak go
    sentence: str


@dataclass(frozen=True)
class Pick:
    """The place of the chosen prospect, or why there is none."""

    index: int | None
    why: str
    proof: Proof | None = None


def prospects(
    candidates: Iterable[Candidate],
    forecast_of: Callable[[Plan], Forecast],
    belief: Belief,
    capacity: int,
    time_of: Callable[[Plan], float],
    host_room: int | None = None,
) -> list[Prospect]:
    """Return what is expected of each candidate, in their order.

    `capacity` and `host_room` are bytes for one rank, of the device and of the host; None: not
    known. `time_of` gives seconds per optimizer step in any unit that is the same for all.
    """
    beaten = [
        forecast_of(plan).peak for plan, least in belief.at_least.items() if least >= capacity
    ]
    made = []
    reference = 0.0
    for one in candidates:
        forecast = forecast_of(one.plan)
        time = time_of(one.plan)
        reference = reference or time
        peak = expected(belief, one.plan, forecast)
        fits = peak.within(capacity)
        why = _unfit(forecast, fits, beaten, capacity, host_room)
        made.append(
            Prospect(
                plan=one.plan,
                rungs=one.rungs,
                result=one.result,
                forecast=forecast,
                low=peak.quantile(0.05),
                high=peak.quantile(0.95),
                p_fit=fits,
                step_time_factor=time / reference if reference > 0 else 1.0,
                why=why,
                refused=bool(why),
                least=peak.quantile(IMPOSSIBLE),
            )
        )
    return made


def pick(found: Sequence[Prospect], capacity: int, threshold: float = LIKELY) -> Pick:
    """Return the cheapest prospect of the best class that fits with at least `threshold`.

    Where none is so likely, the likeliest that is not out of the question; where all are, none,
    with the proof.
    """
    open_ones = [i for i, one in enumerate(found) if not one.refused]
    likely = [i for i in open_ones if found[i].p_fit >= threshold]
    if likely:
        best = min(likely, key=lambda i: _cost(found[i], i))
        return Pick(best, _why_chosen(found[best], capacity))
    possible = [i for i in open_ones if found[i].p_fit >= IMPOSSIBLE]
    if possible:
        best = max(possible, key=lambda i: (found[i].p_fit, -found[i].forecast.peak, -i))
        return Pick(
            best,
            f"no plan fits with a probability of {threshold:.0%}; this is the likeliest, with"
            f" {show_share(found[best].p_fit)}, and running it once is the only way to know",
        )
    if not found:
        return Pick(None, "there is no plan to choose from")
    proof = _proof(found, capacity)
    return Pick(None, proof.sentence, proof)


def near_limit(found: Sequence[Prospect], capacity: int, threshold: float = LIKELY) -> list[int]:
    """Return the few places whose plans a more exact forecast would decide about, cheapest first.

    Those that cost no more than what is picked now, and are neither certain to fit nor not to.
    """
    chosen = pick(found, capacity, threshold).index
    most = _cost(found[chosen], chosen) if chosen is not None else None
    certain = chosen is not None and found[chosen].p_fit >= threshold
    close = [
        i
        for i, one in enumerate(found)
        if not one.refused
        and OPEN[0] <= one.p_fit <= OPEN[1]
        and (most is None or not certain or _cost(one, i) <= most)
    ]
    return sorted(close, key=lambda i: _cost(found[i], i))[:LOOKS]


def _cost(one: Prospect, place: int) -> tuple[int, float, int, int]:
    """Class, then step time, then the number of changes, then the ladder's order."""
    return (
        WORST.index(one.result),
        round(one.step_time_factor / FREE),
        len(one.rungs),
        place,
    )


def _unfit(
    forecast: Forecast,
    fits: float,
    beaten: Sequence[int],
    capacity: int,
    host_room: int | None,
) -> str:
    if host_room is not None and forecast.host > host_room:
        return (
            f"it needs {show_bytes(forecast.host)} of the host's memory per rank, and"
            f" {show_bytes(host_room)} are there"
        )
    if beaten and fits < 0.5 and forecast.peak >= min(beaten):
        return (
            f"it asks for {show_bytes(forecast.peak)}, no less than a plan that really ran out of"
            f" {show_bytes(capacity)}"
        )
    return ""


def _why_chosen(one: Prospect, capacity: int) -> str:
    what = "nothing needs to change" if not one.rungs else "the cheapest plan"
    if one.result is not Result.SAME:
        what = f"no plan with the same result fits; the cheapest {one.result.value} one"
    fits = show_share(one.p_fit)
    return f"{what}: {show_expected(one)} of {show_bytes(capacity)}, fits with {fits}"


def show_expected(one: Prospect) -> str:
    """Return the predicted peak with its interval, or that alone where measurements moved it."""
    low, high = show_bytes(one.low), show_bytes(one.high)
    if one.low <= one.forecast.peak <= one.high:
        return f"{show_bytes(one.forecast.peak)} predicted ({low} to {high})"
    return f"after what was measured {low} to {high}"


def _proof(found: Sequence[Prospect], capacity: int) -> Proof:
    """What the plan that asks for least would take, and why those that could fit are refused."""
    smallest = min(found, key=lambda one: one.least)
    refused = [one for one in found if one.refused and one.p_fit >= IMPOSSIBLE]
    if smallest in refused:
        sentence = f"{_smallest_of(found)} cannot run: {smallest.why}"
    else:
        sentence = (
            f"each rank has {show_bytes(capacity)}, and {_smallest_of(found)} needs at least"
            f" {show_bytes(smallest.least)}"
        )
        if refused:
            sentence += f"; one that might fit cannot run: {refused[0].why}"
    sentence += _where(smallest.forecast)
    return Proof(smallest, smallest.least, capacity, smallest.forecast.parts, sentence)


def _smallest_of(found: Sequence[Prospect]) -> str:
    return "the only plan" if len(found) == 1 else f"the smallest of {len(found)} plans"


def _where(forecast: Forecast) -> str:
    """Say where the bytes go: the largest parts, and the rest in one figure."""
    parts = sorted(forecast.parts.items(), key=lambda part: -part[1])[:3]
    words = [f"{name.replace('_', ' ')} {show_bytes(size)}" for name, size in parts if size]
    rest = forecast.peak - sum(size for _, size in parts)
    if not words:
        return ""
    words += [f"all else {show_bytes(rest)}"] if rest > 0 else []
    moment = forecast.peak_at.value.replace("_", " ")
    return f". Of its {show_bytes(forecast.peak)} predicted for the {moment}: {', '.join(words)}"

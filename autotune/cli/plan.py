"""Shows what the planner sees of a job: the choice, what it buys and costs, and the runners-up."""

import json
import shutil
import sys
import tempfile
import textwrap
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from autotune.cli.continuing import saved_as
from autotune.cli.parts import parts_table
from autotune.cli.speech import say_lines
from autotune.cli.wiring import lay_ground
from autotune.core.allowing import Allowing
from autotune.core.decide import first_allowing, first_leap
from autotune.core.history import Story
from autotune.core.outlined import (
    LIKELY,
    Outline,
    Step,
    as_plain,
    doubts_of,
    runners_up,
    smallest,
    steps_of,
)
from autotune.core.outlook import Outlook, Saved
from autotune.core.plan import changes
from autotune.core.planner import Prospect
from autotune.core.sentence import say_plan
from autotune.core.units import show_bytes, show_share
from autotune.foreseeing import Foreseer
from autotune.ground import Ground


class _Notes:
    """Tells people on stderr; nothing runs here that could tell more."""

    def event(self, event: object) -> None:
        """Say nothing: nothing is written to a journal."""

    def progress(self, attempt: int, view: object, bytes_now: int | None) -> None:
        """Say nothing: nothing runs."""

    def note(self, text: str) -> None:
        """Tell one sentence."""
        print(text, file=sys.stderr)


def plan(job: Path, as_json: bool) -> int:
    """Print what the planner would choose for the job; InputError names every fault of it."""
    ground = lay_ground(job, None, uuid.uuid4().hex[:16])
    given = ground.inherited
    if given is not None:
        print(f"note: from step {given.step} of {given.source} on", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="autotune-plan-") as scratch:
        foreseer = Foreseer(ground, Path(scratch), _Notes(), lambda: False)
        foresight = foreseer.foresight()
        if foresight is None:
            print(f"memory cannot be predicted: {foreseer.why_not}", file=sys.stderr)
            print("`autotune run` tries the rungs in the policy's order", file=sys.stderr)
            nothing: dict[str, object] = {"capacity_bytes": None, "chosen": None, "plans": []}
            print(json.dumps(nothing) if as_json else say_plan(ground.start))
            return 0
        outlook = Outlook(
            ground.job,
            ground.policy,
            ground.rungs,
            ground.around,
            ground.start,
            saved=_brought(ground),
            foresight=foresight,
            inherited=ground.inherited,
        )
        outlook = foreseer.look_closer(Story(), outlook)
        leap = first_leap(outlook)
        fits = leap.chosen is not None and leap.chosen.p_fit >= LIKELY
    proof = leap.pick.proof.sentence if leap.pick.proof else ""
    show_plan(
        Outline(
            ground.job.name,
            ground.device,
            leap.capacity,
            ground.start,
            leap.prospects,
            leap.pick.index,
            leap.pick.why,
            foreseer.doubts,
            proof,
            None if fits else first_allowing(outlook),
        ),
        as_json,
    )
    return 0


def _brought(ground: Ground) -> Saved | None:
    """Return the checkpoint of another run as it will lie when this one begins."""
    given = ground.inherited
    return Saved(saved_as(given), given.step, None) if given else None


NARROWEST, WIDEST = 80, 120
RUNNERS_UP = 5
_NARROW = 40  # characters; a column below it is hard to read


def show_plan(outline: Outline, as_json: bool) -> None:
    """Print the outline to stdout, as JSON or for the width of the terminal."""
    if as_json:
        print(json.dumps(as_plain(outline), allow_nan=False))
        if outline.allowing is not None:
            print(_what_you_can_do(outline.allowing), file=sys.stderr)
        return
    width = shutil.get_terminal_size((WIDEST, 40)).columns
    say_lines(as_text(outline, max(NARROWEST, min(WIDEST, width))))


def as_text(outline: Outline, width: int = WIDEST) -> list[str]:
    """Return the outline as lines of at most `width` characters."""
    room = show_bytes(outline.capacity_bytes)
    lines = [f"{outline.job} on the {outline.device}, {room} for each rank", ""]
    lines += list(_as_given(outline, width))
    if outline.choice is not None:
        lines += list(_chosen(outline, outline.choice, width))
    else:
        lines += list(_none_fits(outline, width))
    lines += list(_runners_up(outline, width))
    doubts = doubts_of(outline)
    if doubts:
        lines += ["", "What could not be predicted exactly"]
        lines += [line for doubt in doubts for line in _wrapped(doubt, width, "  - ", "    ")]
    return lines


def _as_given(outline: Outline, width: int) -> Iterator[str]:
    given = outline.given
    if given is None:
        yield from _wrapped("The job as given cannot be run as it is.", width)
    elif given is outline.choice and given.p_fit >= LIKELY:
        yield from _wrapped(f"The job as given fits: {_figures(given)}.", width)
    elif given.p_fit >= LIKELY:
        yield from _wrapped(f"The job as given is likely to fit: {_figures(given)}.", width)
    else:
        why = f"; {given.why}" if given.why else ""
        yield from _wrapped(f"The job as given: {_figures(given)}{why}.", width)


def _chosen(outline: Outline, choice: Prospect, width: int) -> Iterator[str]:
    yield ""
    yield from _wrapped(f"Chosen: {say_plan(choice.plan)}", width, rest="  ")
    if choice is not outline.given:
        cost = f"a step takes {_times(choice.step_time_factor)} that of the job as given"
        figures = f"{_figures(choice)}; {cost}; result: {choice.result.value}"
        yield from _wrapped(figures, width, "  ", "  ")
    yield from _wrapped(outline.why, width, "  ", "  ")
    yield from _allowing(outline, width)
    yield from _parts(choice)
    steps = steps_of(outline, choice)
    if steps:
        yield ""
        yield "What each change saves, and what it costs"
        yield from _steps(steps, width)


def _parts(one: Prospect) -> Iterator[str]:
    yield ""
    moment = one.forecast.peak_at.value.replace("_", " ")
    yield f"Where its {show_bytes(one.forecast.peak)} go, at their highest (in the {moment})"
    yield from (f"  {line}" for line in parts_table(one.forecast.parts))


def _none_fits(outline: Outline, width: int) -> Iterator[str]:
    yield ""
    count = len(outline.prospects)
    plans = "the one plan there is does" if count == 1 else f"of {count} plans none does"
    yield from _wrapped(f"Nothing fits: {plans}.", width)
    yield from _wrapped(outline.proof or outline.why, width)
    yield from _allowing(outline, width)
    least = smallest(outline)
    if least is not None:
        yield ""
        yield from _wrapped(f"The smallest: {say_plan(least.plan)}", width, rest="  ")
        yield from _wrapped(_figures(least), width, "  ", "  ")
        yield from _parts(least)


def _allowing(outline: Outline, width: int) -> Iterator[str]:
    if outline.allowing is not None:
        yield ""
        yield from _wrapped(_what_you_can_do(outline.allowing), width)


def _what_you_can_do(allowing: Allowing) -> str:
    return f"What you can do: {allowing.sentence}"


def _steps(steps: Sequence[Step], width: int) -> Iterator[str]:
    for cells, one in zip(_aligned([_step_row(one) for one in steps]), steps, strict=True):
        what = ", ".join(str(change) for change in changes(one.before, one.after))
        yield from _beside(f"  {cells}  ", what, width)


def _step_row(step: Step) -> tuple[str, ...]:
    counted = step.times > 1 and " + " not in step.rung
    return (f"{step.rung} ×{step.times}" if counted else step.rung, _saved(step), _cost(step))


def _saved(step: Step) -> str:
    if step.saved_bytes is None:
        return "?"
    sign = "−" if step.saved_bytes > 0 else "+"
    return f"{sign}{show_bytes(abs(step.saved_bytes))}" if step.saved_bytes else "nothing"


def _cost(step: Step) -> str:
    return "step ?" if step.time_factor is None else f"step {_times(step.time_factor)}"


def _runners_up(outline: Outline, width: int) -> Iterator[str]:
    found = runners_up(outline, RUNNERS_UP)
    if not found:
        return
    count = len(outline.prospects)
    likely = sum(one.p_fit >= LIKELY and not one.refused for one in outline.prospects)
    yield ""
    yield f"Others, of {count} plans in all; {likely or 'none'} likely to fit"
    rows = [("predicted", "90 % between", "fits", "step", "result")]
    rows += [_row(one) for _, one in found]
    for place, cells in enumerate(_aligned(rows)):
        one = found[place - 1][1]
        yield from _beside(f"  {cells}  ", _rungs(one) if place else "changes", width)
        if place and one.why:
            yield from _wrapped(one.why, width, "      ", "      ")


def _row(one: Prospect) -> tuple[str, str, str, str, str]:
    peak, share = show_bytes(one.forecast.peak), show_share(one.p_fit)
    return (peak, _between(one), share, _times(one.step_time_factor), one.result.value)


def _rungs(one: Prospect) -> str:
    counted = {name: one.rungs.count(name) for name in one.rungs}
    words = [name if count == 1 else f"{name} ×{count}" for name, count in counted.items()]
    return ", ".join(words) or "none (the job as given)"


def _figures(one: Prospect) -> str:
    peak, share = show_bytes(one.forecast.peak), show_share(one.p_fit)
    return f"{peak} predicted ({_between(one)}), fits with {share}"


def _between(one: Prospect) -> str:
    low, high = show_bytes(one.low), show_bytes(one.high)
    same = low.rpartition(" ")[2] == high.rpartition(" ")[2]
    return f"{low.rpartition(' ')[0] if same else low} to {high}"


def _times(factor: float) -> str:
    return f"×{factor:.2f}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)) for row in rows
    ]


def _beside(start: str, text: str, width: int) -> list[str]:
    """Return `text` right of `start`, or below it where it would be squeezed."""
    if len(text) <= width - len(start) or width - len(start) >= _NARROW:
        return _wrapped(text, width, start, " " * len(start))
    return [start.rstrip(), *_wrapped(text, width, "      ", "      ")]


def _wrapped(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    ) or [first.rstrip()]

"""Proves from the record that a run with restarts trained what one without them would have."""

from dataclasses import dataclass
from typing import Any

from autotune.core.evidence import Evidence
from autotune.core.history import Attempt, Story
from autotune.core.plan import changes
from autotune.core.resumed import Continued
from autotune.core.trail import Told, Trail, show_digest

RATE_DEPARTS = 1e-6  # share of a learning rate that the printing of numbers explains


@dataclass(frozen=True)
class Span:
    """Consecutive optimizer steps of one attempt."""

    attempt: int
    first: int
    last: int

    @property
    def steps(self) -> list[int]:
        """The first and the last, as they are written down."""
        return [self.first, self.last]


@dataclass(frozen=True)
class Faith:
    """What the record shows of a run, and what it does not."""

    counts: tuple[Span, ...]  # the steps that made the weights, in order
    again: tuple[Span, ...]  # steps that were trained again after it, by the attempt that lost them
    digest: str | None  # of all steps that count; None where one is not known
    breaches: tuple[str, ...]  # what is not as it should be
    gaps: tuple[str, ...]  # what nobody knows

    @property
    def faithful(self) -> bool | None:
        """Whether everything is as in an undisturbed run; None where that is not known."""
        if self.breaches:
            return False
        return None if self.gaps else True


def examine(story: Story) -> Faith:
    """Return what the attempts told adds up to."""
    counts, again = lineage(story)
    by_number = {one.number: one for one in story.attempts}
    before = _inherited_steps(story, counts)
    breaches = [*_broken_batches(story), *_broken_lines(counts, before)]
    gaps = [f"steps 1 to {before} were trained by another run"] if before else []
    digest: int | None = 0
    for span in counts:
        found = _digest_of_span(by_number[span.attempt].evidence, span)
        if found is None:
            gaps.append(f"the samples of steps {span.first} to {span.last} are not all known")
        digest = None if digest is None or found is None else digest + found
    for attempt in story.attempts:
        if attempt.launch.checkpoint_step:
            told = _of_resume(attempt, any(one.attempt == attempt.number for one in counts))
            breaches += told[0]
            gaps += told[1]
    for both in twice(story):
        if both.same_samples is False:
            breaches.append(f"step {both.step} was trained again on other samples")
    shown = None if digest is None or not counts else show_digest(digest)
    return Faith(counts, again, shown, tuple(breaches), tuple(gaps))


def lineage(story: Story) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """Return the stretches of steps that count, in order, and those that were trained again."""
    counts: list[Span] = []
    again: list[Span] = []
    for attempt in story.attempts:
        start = attempt.launch.checkpoint_step
        again += [
            Span(one.attempt, max(one.first, start + 1), one.last)
            for one in counts
            if one.last > start
        ]
        counts = [
            Span(one.attempt, one.first, min(one.last, start))
            for one in counts
            if one.first <= start
        ]
        reached = attempt.evidence.step if attempt.evidence else None
        if reached is not None and reached > start:
            counts.append(Span(attempt.number, start + 1, reached))
    return tuple(counts), tuple(again)


@dataclass(frozen=True)
class Twice:
    """One optimizer step as two attempts trained it."""

    step: int
    before: int  # attempt
    after: int
    same_samples: bool | None
    departs: float | None  # share of the loss


def twice(story: Story) -> tuple[Twice, ...]:
    """Return the steps of which it is known how they went before and after a resume."""
    found: list[Twice] = []
    known: dict[int, tuple[int, Told]] = {}
    for attempt in story.attempts:
        trail = attempt.evidence.trail if attempt.evidence else None
        now = trail.known() if trail else {}
        for step, told in sorted(now.items()):
            if step in known:
                number, before = known[step]
                found.append(Twice(step, number, attempt.number, *_compared(before, told)))
            known[step] = (attempt.number, told)
    return tuple(found)


def _compared(before: Told, after: Told) -> tuple[bool | None, float | None]:
    samples = None
    if before.samples is not None and after.samples is not None:
        samples = before.samples == after.samples
    departs = None
    if before.loss is not None and after.loss is not None:
        departs = departure(before.loss, after.loss)
    return samples, departs


def departure(before: float, after: float) -> float:
    """Return how far a loss is from what it was, as a share of it, or of 1 where it is smaller."""
    return abs(after - before) / max(1.0, abs(before))


def as_plain(story: Story) -> dict[str, Any]:
    """Return the proof as it is written into proof.json."""
    faith, pairs = examine(story), twice(story)
    spans = {one.attempt: one for one in faith.counts}
    return {
        "faithful": faith.faithful,
        "breaches": list(faith.breaches),
        "unknown": list(faith.gaps),
        "global_batch": story.started.plan.global_batch if story.started else None,
        "samples": faith.digest,
        "attempts": [
            {
                "attempt": attempt.number,
                "counts": spans[attempt.number].steps if attempt.number in spans else None,
                "samples": _shown_digest(attempt, spans.get(attempt.number)),
                "changes": _moved(story, attempt),
                "resume": _resume(attempt),
            }
            for attempt in story.attempts
        ],
        "trained_again": [
            {
                "attempt": span.attempt,
                "steps": span.steps,
                "compared": [one.step for one in pairs if _belongs(one, span)],
                "largest_departure": max(
                    (one.departs for one in pairs if _belongs(one, span) and one.departs), default=0
                ),
            }
            for span in faith.again
        ],
    }


def say_faith(story: Story) -> str:
    """Return one sentence on the whole run."""
    faith = examine(story)
    if faith.breaches:
        return f"not faithful: {'; '.join(faith.breaches)}"
    if faith.gaps:
        return f"as far as is known: {'; '.join(faith.gaps)}"
    resumes = sum(1 for one in story.attempts if one.launch.checkpoint_step)
    lost = sum(one.last - one.first + 1 for one in faith.again)
    return (
        f"every step once, on its own samples, at its own learning rate (samples {faith.digest}; "
        f"resumed {_times(resumes)}, steps trained again: {lost})"
    )


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _belongs(one: Twice, span: Span) -> bool:
    return one.before == span.attempt and span.first <= one.step <= span.last


def _shown_digest(attempt: Attempt, span: Span | None) -> str | None:
    found = _digest_of_span(attempt.evidence, span) if span else None
    return None if found is None else show_digest(found)


def _digest_of_span(evidence: Evidence | None, span: Span) -> int | None:
    trail = evidence.trail if evidence else None
    if trail is None or trail.missing or trail.unknown or trail.first != span.first:
        return None
    return trail.digest_up_to(span.last)


def _inherited_steps(story: Story, counts: tuple[Span, ...]) -> int:
    """Return how many steps another run trained that these go on from."""
    given = story.started.inherited if story.started else None
    goes_on = given is not None and (not counts or counts[0].first == given.step + 1)
    return given.step if given and goes_on else 0


def _broken_lines(counts: tuple[Span, ...], before: int) -> list[str]:
    """Name the steps after the first `before` that no attempt trained."""
    found, expected = [], before + 1
    for span in counts:
        if span.first != expected:
            found.append(f"steps {expected} to {span.first - 1} were trained by no attempt")
        expected = span.last + 1
    return found


def _broken_batches(story: Story) -> list[str]:
    wanted = story.started.plan.global_batch if story.started else None
    found = []
    for attempt in story.attempts:
        trail: Trail | None = attempt.evidence.trail if attempt.evidence else None
        seen: list[int | None] = [attempt.plan.global_batch]
        seen += [attempt.evidence.global_batch] if attempt.evidence else []
        seen += [trail.fewest_rows, trail.most_rows] if trail else []
        other = [one for one in seen if one is not None and one != wanted]
        if wanted is not None and other:
            text = f"attempt {attempt.number} trained {other[0]} rows a step, not {wanted}"
            found.append(text)
    return found


def _of_resume(attempt: Attempt, counts: bool) -> tuple[list[str], list[str]]:
    """Return what was wrong with a resume, and what is not known of it."""
    seen = attempt.evidence.continued if attempt.evidence else None
    if seen is None:
        trained = attempt.evidence is not None and attempt.evidence.started_training
        why = f"attempt {attempt.number} did not say how it went on"
        return [], [why] if trained else []
    wrong = []
    if _wrong_rate(seen):
        wrong.append(
            f"attempt {attempt.number} went on at learning rate {seen.rate:.6g}, where the "
            f"schedule gives {seen.rate_expected:.6g}"
        )
    if counts and _departed(seen):
        wrong.append(
            f"attempt {attempt.number} went on at a loss of {seen.loss:.6g}, where it was "
            f"{seen.saved_loss:.6g} before"
        )
    unknown = []
    if seen.check == "none":
        unknown.append(f"there is no loss from before to hold attempt {attempt.number} to")
    return wrong, unknown


def _wrong_rate(seen: Continued) -> bool:
    if seen.rate is None or seen.rate_expected is None:
        return False
    return abs(seen.rate - seen.rate_expected) > RATE_DEPARTS * max(abs(seen.rate_expected), 1e-12)


def _departed(seen: Continued) -> bool:
    if seen.loss is None or seen.saved_loss is None:
        return False
    if seen.spread is not None:
        return seen.loss > seen.saved_loss + seen.spread
    most = seen.tolerance
    return most is not None and departure(seen.saved_loss, seen.loss) > most


def _resume(attempt: Attempt) -> dict[str, Any] | None:
    seen = attempt.evidence.continued if attempt.evidence else None
    if seen is None:
        return None
    return {
        "step": seen.step,
        "check": seen.check,
        "judged": seen.tolerance is not None or seen.check == "band",
        "loss_before": seen.saved_loss,
        "loss_after": seen.loss,
        "tolerance": seen.tolerance,
        "learning_rate": seen.rate,
        "learning_rate_expected": seen.rate_expected,
    }


def _moved(story: Story, attempt: Attempt) -> list[str]:
    """Return what an attempt changed against the one before it."""
    before = [one.plan for one in story.attempts if one.number < attempt.number]
    start = before[-1:] or ([story.started.plan] if story.started else [attempt.plan])
    return [str(change) for change in changes(start[0], attempt.plan)]

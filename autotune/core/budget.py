"""Counts attempts and asks whether it is enough: a ceiling per cause beside each rule's own."""

from autotune.core.failure import Failure
from autotune.core.history import Attempt, Story
from autotune.core.job import Limits
from autotune.core.policy import ANYTHING, Policy, Rule
from autotune.core.units import show_seconds

MOST_DOUBLINGS = 10  # of a pause; the job's `limits.wait` ends it long before


def attempts_spent(story: Story, limits: Limits) -> str | None:
    """Return why no further rung may be tried, or None."""
    if story.spent >= limits.attempts:
        noun = "attempt is" if story.spent == 1 else "attempts are"
        return f"{story.spent} {noun} spent, and the job allows {limits.attempts}"
    return None


def time_spent(story: Story, limits: Limits) -> str | None:
    """Return why no more attempts may be made, or None; waits have a limit of their own."""
    if story.attempt_seconds >= limits.wall:
        used, allowed = show_seconds(story.attempt_seconds), show_seconds(limits.wall)
        return f"{used} are spent in attempts, and the job allows {allowed}"
    return None


def wait_spent(story: Story, limits: Limits) -> str | None:
    """Return why nothing may be waited for any longer, or None; a rung needs no wait."""
    if story.waited_seconds >= limits.wait:
        used, allowed = show_seconds(story.waited_seconds), show_seconds(limits.wait)
        return f"{used} were spent waiting, and the job allows {allowed}"
    return None


def cause_spent(story: Story, policy: Policy, failure: Failure) -> str | None:
    """Return why this cause has had its share of attempts without progress, or None."""
    ceiling = policy.limits.same_cause
    count = sum(1 for attempt in story.since_progress() if attempt.failure is failure)
    if count > ceiling:
        return f"`{failure.value}` ended {count} attempts without progress; the limit is {ceiling}"
    return None


def times_used(story: Story, rule: Rule, rung: str) -> int:
    """Return how often this rule has taken this rung without progress, wherever it stood then.

    The policy may have gained or lost rules since. Remedies that tell only the place of their rule,
    as all did once, count for each rule that answers the failure of the attempt before them: in a
    run that was upgraded meanwhile a rung may be spent too soon, and never repeats for longer.
    """
    return sum(1 for attempt in story.since_progress() if _took(attempt, rule, rung, story))


def _took(attempt: Attempt, rule: Rule, rung: str, story: Story) -> bool:
    taken = attempt.launch.remedy
    if taken is None or rung not in taken.rungs:
        return False
    if taken.answers:
        return taken.answers == rule.matches
    before = [one.failure for one in story.attempts if one.number < attempt.number]
    failure = before[-1] if before else None
    return failure is not None and rule.when in (ANYTHING, failure.value)


def rung_spent(story: Story, place: int, rule: Rule, rung: str) -> str | None:
    """Return why this rule may not take this rung again without progress, or None."""
    used = times_used(story, rule, rung)
    if rule.at_most is None or used < rule.at_most:
        return None
    times = "once" if used == 1 else f"{used} times"
    return f"`{rung}` of rule {place} (`{rule.when}`) was used {times} without progress"


def pause_before(story: Story, rule: Rule, rung: str) -> float:
    """Return how long to wait before this rung is taken under this rule."""
    if rule.backoff == "no":
        return rule.pause
    return rule.pause * 2.0 ** min(times_used(story, rule, rung), MOST_DOUBLINGS)

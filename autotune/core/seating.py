"""Puts a launch on GPUs that are free of others, or waits for them as long as the job allows."""

import dataclasses

from autotune.core.budget import wait_spent
from autotune.core.failure import Failure
from autotune.core.history import Attempt, Story
from autotune.core.need import needed_to_start
from autotune.core.oom_kind import others_would_do
from autotune.core.outlook import Outlook
from autotune.core.plan import Plan
from autotune.core.record import Foreseen, GiveUp, Launch, Prove, Step, Wait
from autotune.core.seats import Found, Seating, find_seats

PAUSE_SECONDS = 300.0  # of one wait in the journal; it ends as soon as the GPUs can be had
REFUSED_SECONDS = 10.0  # before a lease that was refused when it looked free is tried again
CURE = "ask them, name other GPUs under `devices.use`, or allow more time under `limits.wait`"


def seated(step: Step, story: Story, outlook: Outlook) -> Step:
    """Return the launch or proof with its GPUs, or what comes before it.

    A lease of somebody else is never passed over. Room that is not there is, once the time for
    waiting is spent: the figure may be wrong, and the training says so if it is not.
    """
    seating = outlook.seating
    if seating is None or not isinstance(step, (Launch, Prove)):
        return step
    if isinstance(step, Prove):
        seating = dataclasses.replace(seating, may_move=False)
    foreseen = step.foreseen if isinstance(step, Launch) else None
    found = _found(seating, step.plan, foreseen, story, outlook)
    limits = outlook.job.limits
    enough = wait_spent(story, limits)
    leased = found.leased or story.unseated
    if enough and leased:
        return GiveUp(f"{enough}; {leased}", cure=CURE)
    why = leased or found.short
    if why and not enough:
        left = limits.wait - story.waited_seconds
        at_least = REFUSED_SECONDS if story.unseated else 0.0
        return Wait(min(PAUSE_SECONDS, left), why, at_least=at_least, for_devices=True)
    return dataclasses.replace(step, devices=found.devices)


def can_move(story: Story, outlook: Outlook, plan: Plan) -> bool:
    """Whether a neighbour has been in the way repeatedly, and other GPUs can be had at once."""
    seating = outlook.seating
    if seating is None or not _crowded(story, seating):
        return False
    found = _found(seating, plan, None, story, outlook)
    away = set(found.devices).isdisjoint(_crowded(story, seating))
    return away and not found.leased and not found.short


def _found(
    seating: Seating, plan: Plan, foreseen: Foreseen | None, story: Story, outlook: Outlook
) -> Found:
    needed = needed_to_start(plan, foreseen, story, outlook.job.devices.memory_limit)
    return find_seats(seating, plan, story.devices, needed, _crowded(story, seating))


def _crowded(story: Story, seating: Seating) -> frozenset[int]:
    """Return the GPUs of the newest attempts that a neighbour crowded out repeatedly.

    Once is answered by waiting. Twice in a row on the same GPUs is repeated trouble, and so is a
    whole pause in which the room did not come.
    """
    if not seating.may_move or story.last is None:
        return frozenset()
    times = 0
    for attempt in reversed(story.attempts):
        if not _crowded_out(attempt):
            break
        if attempt.launch.devices != story.devices:
            break
        times += 1
    if not times or (times == 1 and story.room is not False):
        return frozenset()
    diagnosis = story.last.diagnosis
    rank = diagnosis.rank if diagnosis else None
    if rank is not None and 0 <= rank < len(story.devices):
        return frozenset({story.devices[rank]})
    taken = {seat.index for seat in seating.seats if not seat.empty} & set(story.devices)
    return frozenset(taken or story.devices)


def _crowded_out(attempt: Attempt) -> bool:
    if attempt.failure is not Failure.DEVICE_OOM or not attempt.evidence or not attempt.diagnosis:
        return attempt.failure is Failure.DEVICE_OOM_COTENANT
    return others_would_do(attempt.diagnosis.figures, attempt.evidence.memory)

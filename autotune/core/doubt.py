"""Says whether a refusal may be the doing of a neighbour who was there before the attempt began."""

from autotune.core.budget import wait_spent
from autotune.core.failure import Failure
from autotune.core.history import Attempt, Story
from autotune.core.ladder import refused_by_owner
from autotune.core.oom_kind import others_would_do
from autotune.core.outlook import Outlook
from autotune.core.rung import Deed


def beside_neighbour(beaten: Attempt, story: Story, outlook: Outlook) -> bool:
    """Whether to wait for others before the plan is changed.

    Without them the request would have been served, and nothing said before the start how much must
    be free. So it is once without progress, and for `neighbour_patience`: who stays for longer is a
    part of the machine, and a rung is the better answer.
    """
    evidence, diagnosis = beaten.evidence, beaten.diagnosis
    if evidence is None or diagnosis is None or diagnosis.failure is not Failure.DEVICE_OOM:
        return False
    told = outlook.job.devices.memory_limit or beaten.launch.foreseen
    if told or not others_would_do(diagnosis.figures, evidence.memory):
        return False
    before = (one for one in story.since_progress() if one.number < beaten.number)
    if any(one.failure is Failure.DEVICE_OOM for one in before):
        return False
    if story.waited_since_end and story.room:
        return True
    waits = [rung for rung in outlook.rungs.values() if rung.deed is Deed.WAIT_FOR_ROOM]
    unwanted = any(refused_by_owner(rung, outlook.job) for rung in waits)
    if unwanted or wait_spent(story, outlook.job.limits):
        return False
    patience = outlook.policy.limits.neighbour_patience
    return story.waited_seconds - story.waited_before < patience

"""Every plan that the rungs of a policy can make of the one that is, each once."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autotune.core.compatibility import conflicts
from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene, out_of_reach

WORST = (Result.SAME, Result.CLOSE, Result.CHANGED)


@dataclass(frozen=True)
class Candidate:
    """A plan that may be launched next, and how it is reached."""

    plan: Plan
    rungs: tuple[str, ...]  # one after the other from the scene's plan; empty: that plan itself
    result: Result  # the worst of its rungs


Way = tuple[Result, tuple[str, ...]]


def candidates(
    scene: Scene,
    names: Sequence[str],
    rungs: Mapping[str, Rung],
    refused: Callable[[Rung, Plan], str | None],
    forbidden: Callable[[Rung], str | None] = lambda _: None,
    limit: int = 2000,
) -> list[Candidate]:
    """Return what `names` make of the scene's plan, itself first, then by the number of rungs.

    A rung that is `forbidden` is never taken. A plan that is `refused`, or whose settings conflict,
    is no candidate, but others are reached through it: what failed at micro-batch 4 may fit at 2.
    Rungs with a deed or that keep the plan make no other plan and are left out. Where there are
    more than `limit`, those with fewest rungs are kept, and the chain that takes every rung.
    """
    usable = [
        rungs[name]
        for name in dict.fromkeys(names)
        if not rungs[name].keeps_plan
        and rungs[name].deed is None
        and forbidden(rungs[name]) is None
    ]
    ways: dict[Plan, Way] = {scene.plan: (Result.SAME, ())}
    allowed = {scene.plan: True}
    _walk(scene, usable, ways, allowed, refused, limit)
    for rung, plan, way in _deepest(scene, usable):
        if plan not in ways:
            ways[plan] = way
            allowed[plan] = _may(scene, rung, plan, refused)
    return [Candidate(plan, path, result) for plan, (result, path) in ways.items() if allowed[plan]]


def _walk(
    scene: Scene,
    usable: Sequence[Rung],
    ways: dict[Plan, Way],
    allowed: dict[Plan, bool],
    refused: Callable[[Rung, Plan], str | None],
    limit: int,
) -> None:
    """Breadth first; a way of a better class replaces a shorter one, and is walked again."""
    queue = deque([scene.plan])
    while queue:
        plan = queue.popleft()
        result, path = ways[plan]
        here = dataclasses.replace(scene, plan=plan)
        for rung in usable:
            if rung.applies(here) is not None:
                continue
            made = rung.apply(here)
            if out_of_reach(rung, here, made):
                continue
            way = (_worse(result, rung.result), (*path, rung.name))
            known = ways.get(made)
            if known is not None and WORST.index(known[0]) <= WORST.index(way[0]):
                continue
            if known is None:
                if len(ways) >= limit:
                    return
                allowed[made] = _may(scene, rung, made, refused)
            ways[made] = way
            queue.append(made)


def _deepest(scene: Scene, usable: Sequence[Rung]) -> Iterator[tuple[Rung, Plan, Way]]:
    """Yield the chain of plans that takes every rung as often as it applies, in their order.

    Twice over, since one rung may make way for one before it; a bound holds off rungs that undo
    each other.
    """
    here, result = scene, Result.SAME
    path: tuple[str, ...] = ()
    for rung in (*usable, *usable):
        for _ in range(64):
            if rung.applies(here) is not None:
                break
            made = rung.apply(here)
            if out_of_reach(rung, here, made):
                break
            here = dataclasses.replace(here, plan=made)
            result, path = _worse(result, rung.result), (*path, rung.name)
            yield rung, here.plan, (result, path)


def _may(scene: Scene, rung: Rung, plan: Plan, refused: Callable[[Rung, Plan], str | None]) -> bool:
    if conflicts(plan, scene.around.device, scene.around.versions_for(plan)):
        return False
    return refused(rung, plan) is None


def _worse(one: Result, other: Result) -> Result:
    return max(one, other, key=WORST.index)

"""Tells whether what the kernel's log speaks of befell a process or a GPU of ours."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from autotune.core.evidence import KernelEvent
from autotune.core.xid import Blame, blame_of

RANK_TASKS = frozenset({"python", "python3"})


@dataclass(frozen=True)
class Kin:
    """What is known of an attempt's own processes, cgroups and cards."""

    names: Mapping[int, str] = field(default_factory=dict)  # process id to task name, when seen
    ranks: Mapping[int, int] = field(default_factory=dict)  # process id to rank
    cgroup: str = ""  # made for this attempt alone
    cgroups: frozenset[str] = frozenset()  # where ours lived, perhaps beside others; empty: unknown
    bus_ids: frozenset[str] | None = None  # of our cards; None: not known
    same_ids: bool = True  # our process ids are the machine's own: we are in no container


def joined(event: KernelEvent, kin: Kin) -> KernelEvent:
    """Return the event with whether it is ours, and which rank's."""
    ours = _our_card(event, kin) if event.kind == "xid" else _our_process(event, kin)
    return replace(event, ours=ours, rank=_rank(event, kin) if ours else None)


def _our_card(event: KernelEvent, kin: Kin) -> bool | None:
    if kin.bus_ids is None:
        return None
    if event.bus_id not in kin.bus_ids:
        return False
    known = {*kin.names, *kin.ranks}
    foreign = kin.same_ids and event.pid is not None and event.pid not in known
    # A neighbour on our card may crash by its own fault; the card's own faults are everyone's.
    return not (foreign and blame_of(event.code) in (Blame.APPLICATION, Blame.CONSEQUENCE))


def _our_process(event: KernelEvent, kin: Kin) -> bool | None:
    if kin.cgroup and event.cgroup and event.cgroup.endswith(kin.cgroup):
        return True
    if kin.same_ids and event.pid is not None:
        if event.pid in kin.names:
            # An id can be given out again, but hardly to a program of the same name.
            return True if _same_name(kin.names[event.pid], event.task) else None
        if event.pid in kin.ranks:
            return True
    if event.cgroup and kin.cgroups and event.cgroup not in kin.cgroups:
        return False
    if event.cgroup in kin.cgroups - {"/"}:
        return True if event.kind == "fork_refused" else None
    if not event.task:
        return None
    # A process that came and went between two looks leaves only its name.
    known = {*kin.names.values(), *RANK_TASKS}
    return None if any(_same_name(name, event.task) for name in known) else False


def _same_name(one: str, other: str) -> bool:
    """The kernel keeps fifteen letters of a name."""
    return one[:15] == other[:15]


def _rank(event: KernelEvent, kin: Kin) -> int | None:
    return kin.ranks.get(event.pid) if kin.same_ids and event.pid is not None else None

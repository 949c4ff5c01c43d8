"""Watches the machine around one attempt: its kernel's log, its counters, its cards' health."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace

from autotune.core.evidence import Gap, KernelEvent, Machine
from autotune.core.kernel_message import merge, parse_kernel_line
from autotune.core.kin import Kin, joined
from autotune.world.cgroup import ROOT, Cgroup, own_cgroup
from autotune.world.counters import Limits, counts, grown, limits_of, lowest, room
from autotune.world.gpu import Gpus, changed
from autotune.world.kernel_log import KernelLog
from autotune.world.kindred import Kindred, cgroups_are_the_machines, ids_are_the_machines
from autotune.world.xid_events import XidEvents

# What is kept of the kernel's log: our own, and a few of others for the picture.
MOST_OURS = 32
MOST_OF_OTHERS = 8
_LIMITS_EVERY = 60  # looks: a process hardly ever changes its own
MOST_WAITING = 256  # for the end of the attempt, before the least useful are let go


class MachineWatch:
    """Sees what the machine says from the moment this is made until it is asked for all of it."""

    def __init__(
        self, gpus: Gpus | None, cgroup: Cgroup | None, log: KernelLog | None = None
    ) -> None:
        """Read every counter for the first time.

        `gpus` is None for a job that uses none; `cgroup` was made for the attempt alone.
        """
        self.kindred = Kindred(os.getpid())
        self._log = log or KernelLog()
        self._events: list[KernelEvent] = []
        self._gpus = gpus
        self._cards = gpus.health() if gpus else {}
        self._xids = gpus.xid_events() if gpus else XidEvents(None, [])
        self._made = cgroup
        self._same_ids = ids_are_the_machines()
        self._same_cgroups = cgroups_are_the_machines()
        own = own_cgroup()
        # The root of the machine's cgroups is everybody's; a container's root is its own.
        everybody = own is not None and own.name == "/" and self._same_cgroups
        self._own = None if everybody else own
        self._counts = counts(self._own)
        self._room = room()
        self._limits = Limits()
        self._limits_read_of: frozenset[int] = frozenset()
        self._threads = 0
        self._looks = 0
        self._began = time.monotonic()
        self._kills = self._counted_kills()
        self._counted_at: float | None = None
        known = frozenset(card.bus_id for card in self._cards.values())
        # A job without GPUs is met by no Xid; where a card's place is not told, any may be ours.
        self._bus_ids = known if gpus is None or (known and all(known)) else None
        self._whole: tuple[Machine, tuple[Gap, ...]] | None = None

    def sample(self, ranks: Mapping[int, int]) -> None:
        """Look once; `ranks` says which process is which rank."""
        self._looks += 1
        self.kindred.look(ranks)
        self._threads = max(self._threads, self.kindred.threads)
        self._room = lowest(self._room, room())
        if self._looks % _LIMITS_EVERY == 1 or ranks.keys() != self._limits_read_of:
            self._limits_read_of = frozenset(ranks)
            for pid in ranks:
                found = limits_of(pid)
                self._limits = found if found != Limits() else self._limits
        self._count_kills()
        self._read_log(ranks)

    def reading(self, ranks: Mapping[int, int]) -> tuple[Machine, tuple[Gap, ...]]:
        """Look for the last time, at the first call, and return all that was seen."""
        if self._whole is None:
            self._read_log(ranks)
            gap = self._log.gap()
            self._log.close()
            self._xids.close()
            self._whole = self._all(gap, ranks)
        return self._whole

    def _all(self, gap: Gap | None, ranks: Mapping[int, int]) -> tuple[Machine, tuple[Gap, ...]]:
        if not self._looks:
            # The counters' first reading was taken when the attempt was over, or hardly begun.
            return Machine(), (Gap("the machine's counters", "nobody watched the attempt"),)
        self._count_kills()
        own, grew = self._own, grown(self._counts, counts(self._own))
        machine = Machine(
            kernel=self._kept(ranks),
            kernel_read=gap is None,
            oom_kills=grew.oom_kills,
            cgroup_kills=grew.cgroup_kills,
            counted_seconds=self._counted_at,
            cgroup_refusals=grew.cgroup_refusals,
            cgroup_limit_bytes=own.limit_bytes() if own else None,
            memory_bytes=self._room.total,
            available_low_bytes=self._room.available,
            swap_bytes=self._room.swap,
            swap_free_low_bytes=self._room.swap_free,
            stalled_seconds=grew.stalled_seconds,
            shm_bytes=self._room.shm,
            shm_free_low_bytes=self._room.shm_free,
            lock_limit_bytes=self._limits.locked_bytes,
            process_limit=self._limits.processes,
            threads_peak=self._threads or None,
            cards=changed(self._cards, self._gpus.health() if self._gpus else {}),
        )
        return machine, (gap,) if gap else ()

    def _count_kills(self) -> None:
        """Note when a kill is counted; one counted after the last look was the end."""
        kills = self._counted_kills()
        if kills > self._kills:
            self._kills, self._counted_at = kills, round(time.monotonic() - self._began, 1)

    def _counted_kills(self) -> int:
        return sum(group.oom_kills() or 0 for group in (self._made, self._own) if group)

    def _read_log(self, ranks: Mapping[int, int]) -> None:
        found = [(line, parse_kernel_line(line.text)) for line in self._log.read()]
        new = [replace(event, seconds=line.seconds) for line, event in found if event is not None]
        self._events = merge([*self._events, *new])
        known = {(event.bus_id, event.code) for event in self._events if event.kind == "xid"}
        # The kernel's own line says more, and comes first where it may be read.
        self._events += [x for x in self._xids.read() if (x.bus_id, x.code) not in known]
        if len(self._events) > MOST_WAITING:
            self._events = list(self._kept(ranks))

    def _kin(self, ranks: Mapping[int, int]) -> Kin:
        lived = frozenset(self.kindred.cgroups) if self._same_cgroups else frozenset()
        return Kin(
            self.kindred.names, ranks, _name(self._made), lived, self._bus_ids, self._same_ids
        )

    def _kept(self, ranks: Mapping[int, int]) -> tuple[KernelEvent, ...]:
        """The first that may be ours, and the newest of others, in their order.

        Joined as late as can be: a rank may die before it has told us its process id.
        """
        kin = self._kin(ranks)
        told = [joined(event, kin) for event in self._events]
        others = [event for event in told if event.ours is False]
        kept = [event for event in told if event.ours is not False][:MOST_OURS]
        chosen = {id(event) for event in (*kept, *others[-MOST_OF_OTHERS:])}
        return tuple(event for event in told if id(event) in chosen)


def _name(cgroup: Cgroup | None) -> str:
    """How the kernel calls a cgroup of ours, as far as we can see it."""
    if cgroup is None:
        return ""
    path = cgroup.path
    for top in (ROOT / "memory", ROOT):
        if path.is_relative_to(top):
            return f"/{path.relative_to(top)}"
    return f"/{path.name}"

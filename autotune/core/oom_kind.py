"""Tells by its figures whether an out-of-memory is ours, fragmentation, or a neighbour's."""

from autotune.core.evidence import Memory, OomFigures
from autotune.core.failure import Failure
from autotune.core.units import show_bytes

# Named numbers, so that a message and a test can speak of them.
FRAGMENTED_SHARE = 0.05  # of the capacity: unallocated memory below this explains nothing
NEIGHBOUR_SHARE = 0.25  # of the capacity: held by others, above this the card is not ours
NEAR_LIMIT_SHARE = 0.85  # of the limit: a process this large may well have been refused
FAR_FROM_LIMIT_SHARE = 0.6  # of the limit: a process this small was refused by something else
ROOM_SHARE = 0.05  # of the capacity: below this a crowded card is full, whatever was asked for
ROUNDED_SHARE = 0.05  # of a figure: what a message's two decimals and the driver's pages hide
_LARGEST_BELIEVABLE = 4  # times the capacity; some drivers report spilled memory as allocated


def kind_of_oom(figures: OomFigures, memory: Memory) -> tuple[Failure, str]:
    """Return which of the three it is, and the sentence that says why."""
    capacity = figures.capacity_bytes or memory.device_total_bytes
    if capacity is None:
        return Failure.DEVICE_OOM, ""
    others = held_by_others(figures, memory)
    mattered = others is not None and not _our_own_cap(figures, memory)
    if others is not None and mattered and others > NEIGHBOUR_SHARE * capacity:
        return (
            Failure.DEVICE_OOM_COTENANT,
            f"other processes hold {others / capacity:.0%} of the device",
        )
    grown = _grown_meanwhile(figures, memory, others) if mattered else None
    if grown is not None and grown > ROOM_SHARE * capacity:
        return (
            Failure.DEVICE_OOM_COTENANT,
            f"others took {show_bytes(grown)} of the device while it ran, and without that the"
            " request would have been served",
        )
    if _fragmented(figures, capacity):
        return (
            Failure.DEVICE_OOM_FRAGMENTATION,
            "free and reserved but unallocated memory together would have covered the request",
        )
    return Failure.DEVICE_OOM, ""


def _grown_meanwhile(figures: OomFigures, memory: Memory, others: int | None) -> int | None:
    """Return what others have taken since the start, where that is what the request lacked.

    What was not free before a rank of ours held any was theirs; that needs no process ids, and so
    holds in a container. What torch alone holds is not all that is ours, and is not enough.
    """
    total, before = memory.device_total_bytes, memory.device_free_before_bytes
    told = figures.process_bytes is not None or memory.device_others_bytes is not None
    if others is None or total is None or before is None or not told:
        return None
    grown = others - (total - before)
    return grown if _served_with(grown, figures) else None


def others_would_do(figures: OomFigures, memory: Memory) -> bool:
    """Return whether the request would have been served without others, who hold 5 % and more.

    They may have been there before the start. Whose doing the refusal is, figures cannot tell then.
    """
    capacity = figures.capacity_bytes or memory.device_total_bytes
    told = figures.process_bytes is not None or memory.device_others_bytes is not None
    others = held_by_others(figures, memory) if told else None
    if capacity is None or others is None or _our_own_cap(figures, memory):
        return False
    return others > ROOM_SHARE * capacity and _served_with(others, figures)


def _served_with(more: int, figures: OomFigures) -> bool:
    """Return whether the request would have been served with so many bytes more."""
    if figures.requested_bytes is None or figures.free_bytes is None:
        return False
    return figures.requested_bytes - figures.free_bytes <= more


def _our_own_cap(figures: OomFigures, memory: Memory) -> bool:
    """Return whether our cap refused, with room left on the card: then no neighbour is to blame."""
    requested, free = figures.requested_bytes, figures.free_bytes
    if requested is None:
        return False
    capacity = figures.capacity_bytes or 0
    if free is not None and free > max(requested * (1 + ROUNDED_SHARE), ROOM_SHARE * capacity):
        return True
    own = figures.reserved_bytes or figures.allocated_bytes or figures.process_bytes
    limit = figures.limit_bytes or memory.limit_bytes
    return limit is not None and own is not None and own + requested > limit


def held_by_others(figures: OomFigures, memory: Memory) -> int | None:
    """Return the bytes of the device that are not ours, as far as anything tells.

    Where the message tells what this process holds, from what is left over: the processes it
    lists are seldom all of them. Where it tells only what torch holds, what NVML joined to our own
    processes is the better figure, for torch leaves out the context and our other ranks.
    """
    capacity, free = figures.capacity_bytes, figures.free_bytes
    if figures.process_bytes is None and memory.device_others_bytes is not None:
        return memory.device_others_bytes
    own = figures.process_bytes or figures.reserved_bytes or figures.allocated_bytes
    if capacity is not None and free is not None and own is not None and own <= capacity:
        return max(0, capacity - free - own)
    if figures.other_processes_bytes is not None:
        return figures.other_processes_bytes
    return memory.device_others_bytes


def near_limit(data_bytes: int | None, memory: Memory) -> bool | None:
    """Say whether a process of this size was close to its limit; None when nobody knows."""
    if data_bytes is None or not memory.limit_bytes:
        return None
    share = data_bytes / memory.limit_bytes
    if share >= NEAR_LIMIT_SHARE:
        return True
    return False if share < FAR_FROM_LIMIT_SHARE else None


def _fragmented(figures: OomFigures, capacity: int) -> bool:
    requested, free = figures.requested_bytes, figures.free_bytes
    reserved, allocated = figures.reserved_bytes, figures.allocated_bytes
    if requested is None or free is None or reserved is None or allocated is None:
        return False
    if figures.limit_bytes is not None:
        # Under a cap the message still names the whole card's free memory.
        free = max(0, min(free, figures.limit_bytes - reserved))
        capacity = min(capacity, figures.limit_bytes)
    unallocated = reserved - allocated
    if unallocated < 0 or reserved > _LARGEST_BELIEVABLE * capacity:
        return False
    return unallocated >= FRAGMENTED_SHARE * capacity and free + unallocated >= requested

"""How each GPU given to a job is at this moment: its lease, its free memory, and who is on it."""

import contextlib
from pathlib import Path

from autotune.core.seats import Seat
from autotune.core.units import show_bytes
from autotune.world.gpu import Crowd, Gpus
from autotune.world.kindred import ids_are_the_machines
from autotune.world.leases import Leases, Unleasable, user_name

MOST_NAMED = 3


def look(gpus: Gpus, indices: tuple[int, ...], leases: Leases) -> tuple[Seat, ...]:
    """Return the GPUs as they are now; one whose lease cannot be had is leased to nobody."""
    return tuple(_seat(gpus, index, leases) for index in indices)


def _seat(gpus: Gpus, index: int, leases: Leases) -> Seat:
    holder, crowd = "", gpus.crowd(index)
    with contextlib.suppress(Unleasable):
        who = leases.holder(gpus.uuid_of(index))
        holder = str(who) if who is not None else ""
    if crowd is None:
        return Seat(index, holder=holder)
    return Seat(
        index, crowd.free_bytes, crowd.nobody, holder, _say(crowd), total_bytes=crowd.total_bytes
    )


def _say(crowd: Crowd) -> str:
    """Return who holds memory on a GPU; where process ids are not ours to read, that they are."""
    if crowd.nobody:
        return ""
    used = crowd.total_bytes - crowd.free_bytes
    if not crowd.held or not ids_are_the_machines():
        return f"processes that cannot be named from here hold {show_bytes(used)}"
    most = sorted(crowd.held.items(), key=lambda one: -(one[1] or 0))
    named = [_name(pid, held) for pid, held in most[:MOST_NAMED]]
    more = len(most) - len(named)
    return " and ".join(named) + (f" and {more} more are there" if more else "")


def _name(pid: int, held: int | None) -> str:
    size = show_bytes(held) if held is not None else "some of it"
    try:
        user = user_name(Path(f"/proc/{pid}").stat().st_uid)
    except OSError:
        return f"process {pid} holds {size}"
    return f"{user}'s process {pid} holds {size}"

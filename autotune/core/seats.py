"""On which of the GPUs given to it a job starts, and for whom it waits where it cannot."""

from collections.abc import Iterable
from dataclasses import dataclass

from autotune.core.plan import Plan
from autotune.core.units import show_bytes


@dataclass(frozen=True)
class Seat:
    """One GPU that the job may use, as it is now."""

    index: int
    free_bytes: int | None = None  # None: the driver does not say
    empty: bool = True  # nobody else's memory is seen on it
    holder: str = ""  # whose lease it is; "" where nobody else has it
    others: str = ""  # who else holds memory on it
    total_bytes: int | None = None

    def short_of(self, needed: int | None) -> bool:
        """Whether others leave less than is needed; an empty card has all there is to have."""
        return bool(needed and self.free_bytes is not None and self.free_bytes < needed) and (
            not self.empty
        )


@dataclass(frozen=True)
class Seating:
    """Every GPU that the owner gave the job."""

    seats: tuple[Seat, ...]
    may_move: bool  # `devices.use` is auto or a number, and names none


@dataclass(frozen=True)
class Found:
    """The GPUs for one start; what stands against it, in words, or ""."""

    devices: tuple[int, ...]
    leased: str = ""  # somebody else has the lease of one
    short: str = ""  # others leave too little memory on one


def first_devices(
    use: object, seats: tuple[Seat, ...], global_batch: int, began: int | None
) -> tuple[int, ...] | None:
    """Return the GPUs that a job begins with; None where it asks for more than there are.

    auto is every GPU without another's lease or memory, as many as share the global batch equally;
    where none is free, one, to be waited for. A run that has begun keeps its number, `began`.
    """
    given = {seat.index for seat in seats}
    if isinstance(use, list):
        fits = bool(use) and set(use) <= given and len(set(use)) == len(use)
        return tuple(use) if fits else None
    count = use
    if not isinstance(count, int):
        free = sum(1 for seat in seats if not seat.holder and seat.empty)
        equal = (n for n in range(free, 0, -1) if global_batch % n == 0)
        count = min(began, len(seats)) if began else next(equal, 1)
    if not 0 < count <= len(seats):
        return None
    return tuple(sorted(seat.index for seat in _ranked(seats, (), None, ())[:count]))


def find_seats(
    seating: Seating,
    plan: Plan,
    last: tuple[int, ...],
    needed: int | None,
    crowded: Iterable[int] = (),
) -> Found:
    """Return the GPUs to start a plan on; `last` are those of the attempt before.

    Those of `crowded`, where a neighbour got in the way again and again, are left where others
    can be had at once.
    """
    smallest = min((one.total_bytes or 0 for one in seating.seats if one.index in last), default=0)
    usable = [
        seat
        for seat in seating.seats
        if seat.index not in plan.excluded
        # What ran on one card is not moved to a smaller one.
        and (seat.total_bytes is None or seat.total_bytes >= smallest)
    ]
    chosen = [seat for index in last for seat in usable if seat.index == index] if last else usable
    chosen = chosen[: plan.world_size]
    if seating.may_move:
        best = _ranked(usable, last, needed, crowded)[: plan.world_size]
        if {seat.index for seat in best} != {seat.index for seat in chosen}:
            chosen = sorted(best, key=lambda seat: seat.index)
    # Where any GPU will do, each that somebody has is waited for.
    told = usable if seating.may_move else chosen
    leased = [f"GPU {seat.index} is leased to {seat.holder}" for seat in told if seat.holder]
    short = [_say_short(seat, needed or 0) for seat in told if seat.short_of(needed)]
    return Found(
        tuple(seat.index for seat in chosen),
        "; ".join(leased) if any(seat.holder for seat in chosen) else "",
        "; ".join(short) if any(seat.short_of(needed) for seat in chosen) else "",
    )


def _ranked(
    seats: Iterable[Seat], last: tuple[int, ...], needed: int | None, crowded: Iterable[int]
) -> list[Seat]:
    """Return the freest first; among equals those of the attempt before, then by number."""
    avoided = frozenset(crowded)

    def key(seat: Seat) -> tuple[bool, bool, bool, bool, bool, int, int]:
        return (
            bool(seat.holder),
            seat.short_of(needed),
            seat.index in avoided,
            seat.index not in last,
            not seat.empty,
            -((seat.free_bytes or 0) // 2**30),
            seat.index,
        )

    return sorted(seats, key=key)


def _say_short(seat: Seat, needed: int) -> str:
    text = f"GPU {seat.index} has {show_bytes(seat.free_bytes)} free and {show_bytes(needed)} are"
    return f"{text} needed; {seat.others or 'who holds the rest is not known'}"

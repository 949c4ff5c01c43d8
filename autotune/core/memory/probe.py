"""What the trainer measured of one moment of its life."""

from dataclasses import dataclass

from autotune.core.memory.forecast import Moment


@dataclass(frozen=True)
class Probe:
    """One moment of one rank, bytes: VmData on the CPU, the allocator's figures on a GPU.

    `sequence` and `rows` are those of the micro-batch of a forward or backward moment.
    """

    moment: Moment
    peak_bytes: int  # highest since the moment before; on a GPU max allocated
    held_bytes: int  # when it was over; on a GPU allocated
    reserved_bytes: int | None = None  # on a GPU: the highest reserved since the moment before
    rank: int = 0
    rows: int | None = None
    sequence: int | None = None
    seconds: float | None = None

"""What is predicted of one plan: bytes by moment and by part, and what they rest on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Moment(str, Enum):
    """The stretches of a training whose peaks are predicted, and reported by the trainer."""

    BASE = "base"  # the process with its libraries, before the model
    LOAD = "load"
    OPTIMIZER_CREATION = "optimizer_creation"
    RESUME = "resume"
    FORWARD = "first_forward"
    BACKWARD = "first_backward"
    STEP = "first_step"
    SECOND_FORWARD = "second_forward"  # with the optimizer's state there
    SECOND_BACKWARD = "second_backward"
    SECOND_STEP = "second_step"
    EVAL = "eval"
    SAVE = "save"


@dataclass(frozen=True)
class Bytes:
    """One moment: the highest in it, and what is left when it is over."""

    peak: int
    held: int


@dataclass(frozen=True)
class Forecast:
    """The predicted memory of one rank under one plan, in bytes.

    `peak` is what the capacity is compared with: reserved, context and communication on CUDA,
    VmData on the CPU. `tensors` is comparable with the allocator's max allocated.
    """

    peak: int
    tensors: int
    peak_at: Moment
    parts: Mapping[str, int]  # at the peak; they add up to `peak`
    # Tensors only; on the CPU the base lies below `outside` by what libraries take later.
    moments: Mapping[Moment, Bytes] = field(default_factory=dict)
    outside: int = 0  # of `peak`: context and communication, or the process without its tensors
    overhead: int = 0  # of `peak`: reserved beyond what is allocated
    host: int = 0  # of this rank, host memory (on a GPU), pinned included
    pinned: int = 0  # of `host`
    spread: float = 0.0  # standard deviation of the logarithm of peak / truth, as measured
    method: str = "closed form"  # or "trace"
    doubts: tuple[str, ...] = ()  # sentences: what could not be predicted exactly

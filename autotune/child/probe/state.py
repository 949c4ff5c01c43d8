"""Where this rank stands: whether it is one, its number, its phase and its last optimizer step."""

import os
import sys

TYPE_CHECKING = False  # typing itself would be an import the program may never make
if TYPE_CHECKING:
    from typing import Any

folder: "str | None" = None  # of the attempt's probe, where probe.json lies
phase = "load"
step = 0  # optimizer steps completed, as the training counts them
training = False  # between the first step and the last; a rehearsal is not
trainer: "Any" = None  # the transformers.Trainer whose `train` runs, if one does

_armed_pid = 0
_rank: "int | None" = None  # as torch.distributed gave it, which it does once
_held: "dict[str, Any]" = {}


def __getattr__(name: str) -> "Any":
    """`engine`, the DeepSpeedEngine that trains, and `optimizer`, of a bare loop; None without one.

    Held weakly: a program that lets go of its engine gets the memory back.
    """
    if name not in ("engine", "optimizer"):
        raise AttributeError(name)
    return _held[name]() if name in _held else None


def hold(name: str, thing: "Any") -> None:
    """Remember the `engine` or `optimizer` that trains, for as long as the program does."""
    import weakref  # by now torch has imported it

    _held[name] = weakref.ref(thing)


def claim() -> None:
    """This process is a rank from here on; one forked from it is not."""
    global _armed_pid
    _armed_pid = os.getpid()


def armed() -> bool:
    """Whether this very process is a rank: a forked loader worker holds the same memory."""
    return _armed_pid == os.getpid()


def rank() -> int:
    """The number of this rank: as torch.distributed has it, else as the launcher said, else 0."""
    global _rank
    if _rank is not None:
        return _rank
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    try:
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            _rank = int(distributed.get_rank())
            return _rank
        return int(os.environ.get("RANK", "0"))
    except (AttributeError, ValueError):  # torch is half imported, or RANK is no number
        return 0

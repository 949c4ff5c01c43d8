"""What a trace of the user's own model says of one plan."""

from dataclasses import dataclass

from autotune.core.memory.activations import Activations


@dataclass(frozen=True)
class Traced:
    """The activations of one plan, and what the CUDA allocator would reserve above them.

    The overheads are bytes reserved less bytes allocated, each at its highest, of a replay of the
    activations and the passing gradients alone: weights, gradients that stay and optimizer states
    are not in it.
    """

    activations: Activations
    overhead_bytes: int
    overhead_expandable_bytes: int  # with PYTORCH_ALLOC_CONF=expandable_segments:True
    seconds: float  # without starting Python and importing the libraries


@dataclass(frozen=True)
class Untraced:
    """Why there is no trace, as a sentence."""

    why: str

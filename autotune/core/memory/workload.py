"""What decides the memory of one rank: the job's subject, the same for all plans, and a plan."""

from dataclasses import dataclass

from autotune.core.memory.shape import ModelShape
from autotune.core.plan import Device, Plan


@dataclass(frozen=True)
class Tile:
    """The logits that exist at once where a loss is taken in tiles, and made again for its slopes.

    A tile is reserved whole, however small the vocabulary.
    """

    tokens: int
    words: int


@dataclass(frozen=True)
class Subject:
    """What of a job its memory depends on, and no plan changes (except as a plan's field says)."""

    shape: ModelShape
    device: Device
    sequence: int  # tokens of the longest row with its padding; a plan's `sequence` may cut it
    lora_rank: int = 8  # of a plan that does not say another
    lora_targets: tuple[str, ...] = ()  # last parts of module names; empty: all linear layers
    lora_dropout: float = 0.0
    adapter_dtype: str = "plan"  # or "fp32", as peft keeps adapters unless told otherwise
    double_quantization: bool = True
    other_weights_fp32: bool = False  # under 4-bit: prepare_model_for_kbit_training was called
    padded: bool = True  # an attention mask is given
    keeps_outputs: bool = False  # the loop holds the logits through the backward pass
    fp32_logits: bool = True  # the loss is taken over a float32 copy of the logits
    tile: Tile | None = None  # of a chunked loss; None: as the built-in trainer takes it, and Liger
    fresh: bool = False  # the weights are drawn, not read from a folder
    evaluates: bool = False
    host_ranks: int = 1  # ranks on this machine
    threads: int = 1  # of each rank, where they compute on the CPU
    overlap_comm: bool = False
    contiguous_gradients: bool = True
    cuda_context: int = 0  # bytes outside the allocator on each GPU
    base_bytes: int | None = None  # of a rank before the model is loaded; None: the model's guess


@dataclass(frozen=True)
class Workload:
    """One plan of a subject."""

    subject: Subject
    plan: Plan

    @property
    def sequence(self) -> int:
        """Tokens per row, at most."""
        cut = self.plan.sequence
        return min(cut, self.subject.sequence) if cut else self.subject.sequence

    @property
    def lora_rank(self) -> int:
        """Rank of the adapters."""
        return self.plan.lora_rank or self.subject.lora_rank

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch."""
        return self.plan.micro_batch * self.sequence


class Alike:
    """A workload that equals every other of its subject with the same `settings`: a cache's key."""

    def __init__(self, workload: Workload, settings: tuple[object, ...]) -> None:
        self.workload = workload
        self._key = (settings, workload.subject)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alike) and self._key == other._key

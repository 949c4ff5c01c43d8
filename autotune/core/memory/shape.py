"""The shape of a decoder: all that its memory depends on, read from its architecture config."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal


@dataclass(frozen=True)
class Style:
    """How a family computes a block: what autograd keeps of one depends on it."""

    norm: Literal["rms", "rms_plus_one", "layer"] = "rms"
    norms: int = 2  # per block, over the hidden size
    normed_heads: bool = False  # queries and keys are normalised
    fused_attention: bool = False  # one projection makes queries, keys and values
    fused_inner: bool = False  # one projection makes both parts of a gated feed-forward
    activation: Literal["silu", "gelu", "gelu_written_out"] = "silu"
    joined_rotary: bool = False  # the rotated part is joined to one that is not
    capped_scores: bool = False  # attention only written out in full
    capped_logits: bool = False
    dropped_scores: bool = False  # a dropout in the attention, and after it


@dataclass(frozen=True)
class Linear:
    """One kind of linear layer inside the decoder's blocks."""

    name: str  # the last part of the module's name, as LoRA targets name it: "q_proj"
    inputs: int
    outputs: int
    bias: bool = False
    per_layer: int = 1  # of this kind in one block, more than one for experts
    in_layers: int = 0  # blocks that have it; 0: all
    stacked: bool = False  # one tensor for all experts, which neither LoRA nor 4-bit reaches

    @property
    def parameters(self) -> int:
        """Parameters of all of this kind in one block, biases included."""
        return (self.inputs * self.outputs + (self.outputs if self.bias else 0)) * self.per_layer


@dataclass(frozen=True)
class ModelShape:
    """A causal decoder; sizes in elements, bytes nowhere."""

    family: str  # the config's `model_type`
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int  # of the dense feed-forward
    vocab: int
    gated: bool  # the feed-forward multiplies two projections
    tied: bool  # the head is the embedding
    linears: tuple[Linear, ...]
    embedding_parameters: int
    head_parameters: int  # 0 where tied
    other_parameters: int  # norms, and what else is no linear layer of a block
    experts: int = 0
    experts_per_token: int = 0
    expert_inner: int = 0
    shared_inner: int = 0  # of the expert every token goes through
    sparse_layers: int = 0  # blocks with experts
    style: Style = field(default_factory=Style)
    doubts: tuple[str, ...] = ()  # sentences: what the config says that is not modelled

    def __hash__(self) -> int:
        """Of a few fields: hundreds of plans look the same shape up, and equality decides."""
        return hash((self.family, self.layers, self.hidden, self.inner, self.vocab))

    @cached_property
    def linear_parameters(self) -> int:
        """Parameters of all linear layers inside the blocks, biases included."""
        return sum(one.parameters * (one.in_layers or self.layers) for one in self.linears)

    @cached_property
    def block_parameters(self) -> int:
        """Parameters of the linear layers of the largest block."""
        dense = sum(one.parameters for one in self.linears if not one.in_layers)
        some = {one.in_layers for one in self.linears if one.in_layers}
        kinds = (sum(o.parameters for o in self.linears if o.in_layers == n) for n in some)
        return dense + max(kinds, default=0)

    @cached_property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        named = self.embedding_parameters + self.head_parameters + self.other_parameters
        return named + self.linear_parameters

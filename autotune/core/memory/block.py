"""Bytes that autograd keeps of one block of a decoder, and what its backward pass adds to them.

Read off the operations of transformers 5.23 and checked against traces of them; all sizes are bytes
per token, for a micro-batch whose rows have one length.
"""

from dataclasses import dataclass
from functools import lru_cache

from autotune.core.memory.counts import DTYPE_BYTES, adapted
from autotune.core.memory.shape import ModelShape
from autotune.core.memory.workload import Workload

FLOAT = 4


@dataclass(frozen=True)
class Widths:
    """What the account of a block rests on besides the shape."""

    stream: int  # bytes of an element between the blocks, and of what the layers hand on
    trained: bool  # the weights themselves are trained
    adapter: int  # bytes of an element inside the adapters
    rank: int  # of the adapters; 0: there are none
    dropout: bool
    targets: frozenset[str]  # names of the layers with an adapter
    attention: str
    masked: bool
    on_cpu: bool
    sequence: int


@dataclass(frozen=True)
class Block:
    """One block, bytes per token."""

    stored: float  # from the forward pass until the backward pass reaches the block
    feed: float  # of `stored`, what goes when the backward pass has left the feed-forward
    forward: float  # what the forward pass needs for a moment, above what it stores
    working: float  # at work in a forward pass of which nothing is stored
    feed_backward: float  # the feed-forward's backward pass, above what is stored
    scores_backward: float  # the attention's, where it is written out in full
    norm_backward: float  # a norm's


def widths_of(workload: Workload) -> Widths:
    """Return what a block of `workload` computes with."""
    subject, plan = workload.subject, workload.plan
    width = DTYPE_BYTES[plan.dtype]
    lora = plan.method == "lora"
    # Under 4-bit the embedding decides the stream: cast to fp32, all that follows is fp32.
    wide = plan.quantization == "nf4" and subject.other_weights_fp32
    attention = "sdpa" if plan.attention == "given" else plan.attention
    names = _names(subject.shape, subject.lora_targets) if lora else frozenset()
    return Widths(
        stream=FLOAT if wide else width,
        trained=not lora,
        adapter=FLOAT if subject.adapter_dtype == "fp32" else width,
        rank=workload.lora_rank if lora else 0,
        dropout=lora and subject.lora_dropout > 0,
        targets=names,
        attention="eager" if subject.shape.style.capped_scores else attention,
        masked=subject.padded,
        on_cpu=subject.device == "cpu",
        sequence=workload.sequence,
    )


@lru_cache(maxsize=64)
def _names(shape: ModelShape, targets: tuple[str, ...]) -> frozenset[str]:
    return frozenset(one.name for one in adapted(shape, targets))


def block_of(shape: ModelShape, at: Widths, sparse: bool) -> Block:
    """Return the account of a block: of one with experts where `sparse`, else a dense one."""
    attention, scores = _attention(shape, at)
    feed, inner = _feed_forward(shape, at, sparse)
    narrow, wide = _adapters(shape, at, sparse)
    rest = _norms(shape, at) + _norm_output(shape, at) + attention + narrow
    each, stream = at.stream * inner, at.stream * shape.hidden
    adapters = at.adapter * inner if at.rank else 0
    copies = adapters if at.adapter != at.stream or shape.style.fused_inner else 0
    return Block(
        stored=rest + feed + wide,
        feed=feed + wide,
        forward=each + adapters,
        working=_working(shape, at, inner, sparse),
        feed_backward=stream + 2 * each + copies,
        scores_backward=scores,
        norm_backward=norm_backward(shape, at),
    )


def norm_backward(shape: ModelShape, at: Widths) -> float:
    """Bytes per token of a norm's backward pass: five tensors of fp32 where it is written out."""
    if shape.style.norm == "layer":
        return 2 * at.stream * shape.hidden
    return shape.hidden * (5 * FLOAT + (4 * at.stream if at.trained else 0))


def _working(shape: ModelShape, at: Widths, inner: int, sparse: bool) -> float:
    """The stream four times over, and what the feed-forward or the attention makes at once."""
    if shape.style.fused_inner:
        times = 6 if at.rank else 4
    elif shape.gated:
        times = 4 if at.rank else 3
    else:
        times = 4 if shape.style.activation == "gelu_written_out" else 3 if at.rank else 2
    deeper = (at.adapter - at.stream) * inner * (4 if shape.style.fused_inner else 2)
    feed = at.stream * inner * times + (deeper if at.rank else 0)
    if sparse:
        routed = at.stream * shape.experts_per_token
        feed = max(feed, routed * (shape.hidden + max(4 * shape.expert_inner, 3 * shape.hidden)))
        feed += at.stream * shape.hidden if shape.shared_inner else 0
    scores = 0
    if at.attention == "eager":
        scores = (FLOAT + 3 * at.stream) * shape.heads * at.sequence
        scores += 3 * at.stream * shape.heads * shape.head_dim
    return 4 * at.stream * shape.hidden + max(feed, scores)


def _saved(at: Widths, *names: str) -> bool:
    """Whether a layer's input stays: its weight is trained, or an adapter of its dtype reads it."""
    if at.trained:
        return True
    shared = at.adapter == at.stream and not at.dropout
    return shared and any(name in at.targets for name in names)


def _norms(shape: ModelShape, at: Widths) -> float:
    """The inputs of the norms as autograd keeps them, and their statistics."""
    style, width = shape.style, shape.hidden
    if style.norm == "layer":
        # A parallel block reads one input for both; each input is the stream itself.
        inputs = 1 if shape.family in ("phi", "gpt_neox") else style.norms
        dropped = 2 * (at.stream if at.on_cpu else 1) if style.dropped_scores else 0
        return (inputs * at.stream + dropped) * width + 8 * style.norms
    heads = (shape.heads + shape.kv_heads) * shape.head_dim if style.normed_heads else 0
    size = style.norms * width + heads
    # The fp32 copy is kept, and for a trained weight what it multiplies.
    scaled = FLOAT if style.norm == "rms_plus_one" else at.stream
    return (FLOAT + (scaled if at.trained else 0)) * size + FLOAT * style.norms


def _norm_output(shape: ModelShape, at: Widths) -> float:
    """What the norms hand to the projections, where those keep their input."""
    first = ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn")
    second = ("gate_proj", "up_proj", "gate_up_proj", "dense_h_to_4h", "fc1", "c_fc")
    both = _saved(at, *first), _saved(at, *second) and shape.style.norms > 1
    if shape.style.norms == 1:
        both = (any(both) or _saved(at, *second), False)
    return sum(both) * at.stream * shape.hidden


def _attention(shape: ModelShape, at: Widths) -> tuple[float, float]:
    """Bytes kept by the attention, and what its backward pass adds."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    repeats = shape.kv_heads not in (1, shape.heads)
    repeats = repeats and (at.masked or at.attention == "eager")
    keys = query if repeats else key
    value = keys
    if shape.style.fused_attention and not repeats:
        value = query + 2 * key  # a view, and what it views stays whole
    kept: float = at.stream * (query + keys + value)
    if at.attention == "eager":
        scores = shape.heads * at.sequence
        kept += FLOAT * scores + (at.stream * scores if at.stream != FLOAT else 0)
        kept += at.stream * scores if shape.style.capped_scores else 0
        kept += at.stream * query if _saved(at, "o_proj", "dense", "c_proj") else 0
        return kept, float(FLOAT + at.stream) * scores
    if shape.style.dropped_scores and at.on_cpu:
        # No kernel of the CPU drops scores: they are written out in fp32, and dropped once more.
        kept = 3 * FLOAT * query + at.stream * query + 3 * FLOAT * shape.heads * at.sequence
        return kept, 2.0 * FLOAT * shape.heads * at.sequence
    kept += at.stream * query + FLOAT * shape.heads
    if _written_out(shape, at):
        scores = FLOAT * shape.heads * at.sequence
        return kept + 2 * at.stream * (query - key) + scores, 2.0 * scores
    if at.masked and at.attention == "sdpa":
        kept += at.stream * at.sequence  # the mask as a bias, one for each block
    copied = at.on_cpu and shape.style.joined_rotary
    if copied and _saved(at, "o_proj", "dense", "c_proj"):
        kept += at.stream * query
    return kept, 0.0


def _written_out(shape: ModelShape, at: Widths) -> bool:
    """Whether no kernel of CUDA takes it: flash wants 16 bit, the other no grouped queries."""
    grouped = shape.kv_heads != shape.heads and not at.masked
    return not at.on_cpu and at.attention == "sdpa" and at.stream == FLOAT and grouped


def _feed_forward(shape: ModelShape, at: Widths, sparse: bool) -> tuple[float, int]:
    """Bytes kept by the feed-forward, and its width as the backward pass sees it."""
    if not sparse:
        names = ("down_proj", "dense_4h_to_h", "fc2", "c_proj")
        return _inner(shape, at, shape.inner, *names), shape.inner
    each, width = shape.experts_per_token, shape.expert_inner
    routed = at.stream * (3 * width + shape.hidden)
    routed += at.stream * (width + shape.hidden) if at.trained else 0
    kept: float = each * routed + 4 * shape.experts + 24 * each
    if shape.shared_inner:
        kept += _inner(shape, at, shape.shared_inner, "down_proj") + at.stream * shape.hidden
    return kept, max(each * width, shape.shared_inner)


def _inner(shape: ModelShape, at: Widths, width: int, *names: str) -> float:
    written_out = shape.style.activation == "gelu_written_out"
    kept = 3 if shape.gated else 4 if written_out else 1
    return at.stream * width * (kept + (1 if _saved(at, *names) else 0))


def _adapters(shape: ModelShape, at: Widths, sparse: bool) -> tuple[float, float]:
    """What the adapters keep, apart from the feed-forward's second projection, and that one's.

    Each keeps its narrow product, and its input in a dtype of its own or after a dropout.
    """
    first, second = 0.0, 0.0
    for one in shape.linears:
        there = not one.in_layers or (one.in_layers == shape.sparse_layers) == sparse
        if one.name not in at.targets or one.stacked or not there:
            continue
        kept: float = at.rank * at.adapter
        if at.dropout:
            kept += one.inputs * (at.adapter + (at.adapter if at.on_cpu else 1))
        elif at.adapter != at.stream:
            kept += one.inputs * at.adapter
        if one.outputs == shape.hidden and one.inputs in (shape.inner, shape.shared_inner):
            second += kept
        else:
            first += kept
    return first, second

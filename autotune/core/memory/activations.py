"""Bytes that one forward and backward pass hold above weights, gradients and optimizer state."""

from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter

from autotune.core.memory.block import FLOAT, Block, Widths, block_of, norm_backward, widths_of
from autotune.core.memory.counts import adapted, count
from autotune.core.memory.shape import ModelShape
from autotune.core.memory.workload import Alike, Tile, Workload

LOSS_TOKENS = 512  # of a micro-batch whose logits exist at once where the loss is chunked
# What a tile of a loss takes besides where no Triton kernel folds it in place, in tiles of fp32, by
# _forward_tile and _backward_tile of TRL 1.16's chunked_logprob.py: 3.4 and 7.4 were measured.
FOLDED, UNFOLDED = 3.25, 7.25


@dataclass(frozen=True)
class Point:
    """One moment of the backward pass."""

    activations: int  # bytes live then, the logits and what the loss made of them included
    gradients: int  # trainable parameters whose gradient has been made by then


@dataclass(frozen=True)
class Activations:
    """What a pass over one micro-batch needs, in bytes above everything that stays."""

    forward: int  # at the highest point of the forward pass, the loss included
    backward: tuple[Point, ...]  # in the order of time; what lies between is below or between them
    evaluation: int  # at the highest point of an evaluation's forward pass
    loss: int  # of `forward`, what the logits and the loss take
    host: int = 0  # moved to the host by activation offload


@dataclass(frozen=True)
class _Loss:
    forward: int  # at its highest, above the model's own activations
    backward: int  # likewise
    head: int  # while the head's gradient is taken
    ready: int  # parameters whose gradient is there when the backward pass begins


def activations_of(workload: Workload) -> Activations:
    """Return what one pass over a micro-batch of `workload` needs.

    The blocks are those of `block`; the loss is the trainer's own chain over the vocabulary. Under
    activation checkpointing a block keeps its input alone and is made again in the backward pass.
    """
    return _of_pass(Alike(workload, _settings(workload.plan)))


# All of a plan that a pass depends on.
_settings = attrgetter(
    "method", "quantization", "four_bit_compute", "dtype", "micro_batch", "eval_micro_batch",
    "activation_checkpointing", "activation_offload", "attention", "loss", "sequence", "lora_rank",
)  # fmt: skip


@lru_cache(maxsize=512)
def _of_pass(one: Alike) -> Activations:
    workload = one.workload
    plan, shape = workload.plan, workload.subject.shape
    at, tokens = widths_of(workload), workload.tokens
    kinds = _kinds(shape, at)
    stack, host = _stack(workload, at, kinds), 0
    if plan.activation_offload:
        host, stack = stack, 0
    base = _outside_blocks(workload, at, plan.micro_batch, tokens)
    last = _last_norm(shape, at) * tokens
    loss = _loss(workload, at, tokens)
    kept_not = plan.activation_checkpointing or plan.activation_offload
    unpacked = _unpacked(workload, at)
    work = max(kind.working if kept_not else kind.forward for kind, _ in kinds)
    rows = plan.eval_micro_batch * workload.sequence
    chain = _loss(workload, at, rows, learns=False).forward + at.stream * shape.hidden * rows
    working = max(round(kind.working * rows) for kind, _ in kinds)
    return Activations(
        forward=stack + base + max(last + loss.forward, round(work * tokens) + unpacked),
        backward=_points(workload, at, stack, base, last, loss, unpacked),
        evaluation=_outside_blocks(workload, at, plan.eval_micro_batch, rows) + max(chain, working),
        loss=loss.forward,
        host=host,
    )


@lru_cache(maxsize=512)
def _kinds(shape: ModelShape, at: Widths) -> tuple[tuple[Block, int], ...]:
    """The kinds of blocks and how many there are of each."""
    both = (
        (block_of(shape, at, False), shape.layers - shape.sparse_layers),
        (block_of(shape, at, True), shape.sparse_layers),
    )
    return tuple((kind, times) for kind, times in both if times)


def _unpacked(workload: Workload, at: Widths) -> int:
    """The largest 4-bit weight as its layer multiplies it, made for each use."""
    if workload.plan.quantization != "nf4":
        return 0
    width = FLOAT if workload.plan.four_bit_compute == "fp32" else min(at.stream, 2)
    linears = [one for one in workload.subject.shape.linears if not one.stacked]
    return width * max((one.inputs * one.outputs for one in linears), default=0)


def _stack(workload: Workload, at: Widths, kinds: tuple[tuple[Block, int], ...]) -> int:
    shape, tokens = workload.subject.shape, workload.tokens
    if workload.plan.activation_checkpointing:
        return shape.layers * at.stream * shape.hidden * tokens
    return round(sum(kind.stored * times for kind, times in kinds) * tokens)


def _last_norm(shape: ModelShape, at: Widths) -> int:
    if shape.style.norm == "layer":
        return shape.hidden * at.stream * (2 if at.trained else 1)
    return shape.hidden * (FLOAT + (2 * at.stream if at.trained else 0))


def _outside_blocks(workload: Workload, at: Widths, rows: int, tokens: int) -> int:
    """The ids, the labels, the angles of the positions, and the mask."""
    angles = 2 * at.stream * workload.subject.shape.head_dim * workload.sequence
    mask = rows * workload.sequence**2 if workload.subject.padded else 0
    return 32 * tokens + angles + mask


def _loss(workload: Workload, at: Widths, tokens: int, learns: bool = True) -> _Loss:
    """The trainer's chain: logits, their float copy, and the cross entropy's own tensors.

    Forward it holds the logits, the copy and its log-softmax; backward the log-softmax and two
    gradients of the copy, then the gradient of the logits while the head's own is taken.
    """
    subject = workload.subject
    shape, width = subject.shape, at.stream
    head = shape.head_parameters or shape.embedding_parameters
    if workload.plan.loss == "chunked" and subject.tile:
        return _tiled_loss(workload, at, tokens, subject.tile, head if at.trained else 0)
    if workload.plan.loss == "chunked":
        piece = min(tokens, LOSS_TOKENS) * shape.vocab
        slopes = width * (shape.hidden * tokens + (head if at.trained else 0)) if learns else 0
        ready = head if at.trained else 0
        kept = width * shape.hidden * tokens
        # Of a piece its logits and their fp32 copy live at once, then that copy and its slopes in
        # the logits' dtype; fp32 logits are neither copied nor converted.
        live = FLOAT + (width if width != FLOAT else 0)
        return _Loss(slopes + live * piece, kept, kept, ready)
    size = tokens * shape.vocab
    deep = FLOAT if subject.fp32_logits else width
    copy = deep if deep != width else 0
    capped = width if shape.style.capped_logits else 0
    kept = capped + (width if subject.keeps_outputs else 0)
    forward = (width + copy + deep + capped) * size
    backward = (3 * deep + kept) * size
    return _Loss(forward, backward, (width + kept) * size + width * shape.hidden * tokens, 0)


def _tiled_loss(workload: Workload, at: Widths, tokens: int, tile: Tile, head: int) -> _Loss:
    """A loss whose logits are made tile by tile, forward and once more backward.

    It holds a copy of the last hidden states, and backward their gradients and the head's in fp32.
    """
    subject, width = workload.subject, at.stream
    rows = min(tokens, tile.tokens)
    one = width * rows * tile.words
    plain = FLOAT * rows * min(tile.words, subject.shape.vocab) if subject.device == "cpu" else 0
    states = subject.shape.hidden * tokens
    slopes = FLOAT * (states + head)
    return _Loss(
        forward=width * states + one + round(FOLDED * plain),
        backward=width * states + slopes + one + round(UNFOLDED * plain),
        head=width * states,
        ready=0,
    )


def _points(
    workload: Workload, at: Widths, stack: int, base: int, last: int, loss: _Loss, unpacked: int
) -> tuple[Point, ...]:
    """The backward pass: the loss, the head, the last norm, two blocks, and the embedding.

    The blocks between the last and the first lie between those two in both respects. A tied
    weight's gradient of the head waits for that of the embedding and counts as made only then.
    """
    shape, tokens = workload.subject.shape, workload.tokens
    kinds = _kinds(shape, at)
    total = count(workload).trainable
    embedding = shape.embedding_parameters if at.trained else 0
    head = shape.head_parameters if at.trained else 0
    before, waiting = total - embedding, at.stream * embedding if shape.tied else 0
    norm = round(norm_backward(shape, at) * tokens)
    inside, base = stack + base + last + waiting, base + waiting
    kept_not = workload.plan.activation_checkpointing or workload.plan.activation_offload
    points = [
        Point(inside + loss.backward - (0 if loss.ready else waiting), head and loss.ready),
        Point(inside + loss.head, head),
        Point(inside - last + norm, head),
    ]
    of_blocks = shape.block_parameters if at.trained else total // shape.layers
    rank = 0 if at.trained else workload.lora_rank
    feed = _feed_parameters(shape, rank, workload.subject.lora_targets)
    for kind, _ in kinds:
        stored = round(kind.stored * tokens)
        above = stack + base + unpacked + (stored if kept_not else 0)
        points += _block_points(kind, tokens, above, head, feed)
    for kind, _ in kinds:
        points += _block_points(
            kind, tokens, base + unpacked + round(kind.stored * tokens), before - of_blocks, feed
        )
    points.append(Point(base + norm, before))
    ends = at.stream * shape.hidden * tokens
    if waiting:  # the embedding's gradient lies beside the head's, and their sum beside both
        points.append(Point(base + 2 * waiting + ends, before))
    points.append(Point(base - waiting + ends, total))
    return tuple(points)


@lru_cache(maxsize=64)
def _feed_parameters(shape: ModelShape, rank: int, targets: tuple[str, ...]) -> tuple[int, int]:
    """What learns of the feed-forward's second projection, and of all of it, in parameters.

    With a `rank` it is the adapters of `targets`.
    """
    widths = (shape.inner, shape.expert_inner, shape.shared_inner)
    wide = (*widths, *(2 * width for width in widths))
    second = first = 0
    for one in adapted(shape, targets) if rank else shape.linears:
        size = rank * (one.inputs + one.outputs) * one.per_layer if rank else one.parameters
        second += size if one.inputs in widths else 0
        first += size if one.outputs in wide else 0
    return second, second + first


def _block_points(
    kind: Block, tokens: int, above: int, made: int, feed: tuple[int, int]
) -> tuple[Point, Point]:
    """The feed-forward's backward pass, and what follows it with the feed-forward's gradients."""
    rest = round((max(kind.norm_backward, kind.scores_backward) - kind.feed) * tokens)
    return (
        Point(above + round(kind.feed_backward * tokens), made + feed[0]),
        Point(above + rest, made + feed[1]),
    )

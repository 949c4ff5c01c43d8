"""Traces the memory of a training micro-step and of an evaluation pass without any memory of it.

Run in the job's own Python as `python trace.py REQUEST`, where REQUEST is a JSON object or the path
of a file holding one:

    {"model": {"path": ".../folder"} or {"config": {"model_type": "llama", ...}},
     "trust_remote_code": false,
     "device": "cuda",                     whose kernels are meant; nothing runs on it
     "data_limit": 8589934592,             bytes of private memory this process may take
     "cases": [{"dtype": "bf16", "micro_batch": 4, "eval_micro_batch": 4, "sequence": 2048,
                "checkpointing": true, "activation_offload": false,
                "attention": "sdpa", or "eager", "flash_attention_2", "given": the model's own
                "padded": true, "loss": "whole", "fp32_logits": true, "keeps_outputs": false,
                "evaluates": true, "quantization": "none", "four_bit_compute": "dtype",
                "other_weights_fp32": false,
                "lora": null or {"rank": 8, "targets": [], "dropout": 0.0, "fp32": false}}]}

One line of JSON goes to stdout for each case as it is done, everything else to stderr:

    {"case": 0, "ok": true, "forward": n, "backward": [[bytes, parameters], ...], "evaluation": n,
     "loss": n, "overhead": n, "overhead_expandable": n, "seconds": s}
    {"case": 0, "ok": false, "error": "a sentence"}

and a line without "case" where no case could be begun. Bytes are above weights, gradients and
optimizer state. The passes run on "meta" tensors, which have sizes and no storage, over all layers.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import json
import math
import os
import resource
import sys
import time
import weakref
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

IGNORED = -100
LOSS_TOKENS = 512  # of a micro-batch whose logits exist at once where the loss is taken in pieces
DEPTHS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
MOST_LAYERS = 1000
SMALL, MIDDLE, PAGE, BIG_PAGE, GRAIN = 2**20, 10 * 2**20, 2 * 2**20, 20 * 2**20, 512

# The phase, "new", "free" or "gradient", the number of the storage, and bytes or parameters.
Event = tuple[str, str, int, int]


class TraceError(Exception):
    """A sentence that says why nothing could be traced."""


# ---------------------------------------------------------------------------------------- events


class Recording:
    """What was made, let go and learned, in order of time."""

    def __init__(self) -> None:
        self.phase = "load"
        self.events: list[Event] = []
        self.made = 0

    def new(self, size: int) -> int:
        self.made += 1
        self.events.append((self.phase, "new", self.made, size))
        return self.made

    def free(self, number: int) -> None:
        self.events.append((self.phase, "free", number, 0))

    def gradient(self, parameters: int) -> None:
        self.events.append((self.phase, "gradient", 0, parameters))


class Tracker(TorchDispatchMode):  # type: ignore[misc]
    """Writes down every storage that is made; those in `known` are no activations."""

    def __init__(self, book: Recording, known: set[int], grain: int, padded: bool) -> None:
        super().__init__()
        self.book, self.known, self.grain, self.padded = book, known, grain, padded
        self.held: dict[int, Any] = {}
        self.results: dict[Any, Any] = {}

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default and args[0].is_meta:
            # A value that is not there. Where rows are padded the mask is not all ones; where they
            # are not, no positions begin anew within a row.
            return not self.padded if args[0].dtype == torch.bool else 1
        flash = func is aten._scaled_dot_product_flash_attention_backward.default
        inside = self.book.new(inside_flash_backward(*args[1:3])) if flash else 0
        out = self.computed(func, args, kwargs or {})
        for one in tensors_in(out):
            self.see(one)
        if inside:
            self.book.free(inside)
        return out

    def see(self, tensor: Any) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        size = -(-int(storage.nbytes()) // self.grain) * self.grain
        if key not in self.held and key not in self.known and size and tensor.is_meta:
            number = self.book.new(size)
            self.held[key] = weakref.ref(storage, lambda _: self.gone(key, number))

    def gone(self, key: int, number: int) -> None:
        del self.held[key]
        self.book.free(number)

    def computed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result; that of a call like one before is made like that one's, which is faster."""
        try:
            key = func, likeness(args), likeness(kwargs)
            if key in self.results:
                return made_like(self.results[key])
        except TypeError:  # an argument that cannot be compared
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        given = {one.untyped_storage()._cdata for one in tensors_in((args, kwargs))}
        if all(stands_alone(one, given) for one in tensors_in(out)):
            self.results[key] = likeness(out)
        return out


def tensors_in(value: Any) -> list[Any]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [one for part in value for one in tensors_in(part)]
    return []


def stands_alone(tensor: Any, given: set[int]) -> bool:
    """Whether the tensor fills a storage of its own."""
    storage = tensor.untyped_storage()
    whole = storage.nbytes() == tensor.numel() * tensor.element_size()
    return tensor.is_meta and storage._cdata not in given and whole


def likeness(value: Any) -> Any:
    """What the sizes and dtypes of a result can depend on."""
    if isinstance(value, torch.Tensor):
        return torch.Tensor, value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, dict):
        return dict, *((name, likeness(one)) for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return tuple, *map(likeness, value)
    return type(value), value  # 2 and 2.0 are equal and make other dtypes


def made_like(what: Any) -> Any:
    if what[0] is torch.Tensor:
        return torch.empty_strided(what[1], what[2], dtype=what[3], device=what[4])
    return tuple(map(made_like, what[1:])) if what[0] is tuple else what[1]


def inside_flash_backward(query: Any, key: Any) -> int:
    """Bytes the flash kernel takes for itself: float32 sums of the query's gradient, and the
    gradients of keys and values for every head where heads share them (flash_api.cpp, mha_bwd)."""
    batch, heads, tokens, size = query.shape
    rows, wide = -(-tokens // 128) * 128, -(-size // 32) * 32
    sums = batch * heads * rows * (wide + 1) * 4
    spread = 0 if key.shape[1] == heads else 2 * batch * heads * key.shape[2] * size * 2
    return int(sums + spread)


# ------------------------------------------------------------------------------------- allocator


class Allocator:
    """CUDA's caching allocator: sizes are rounded, kept in two pools and split (best fit).

    The numbers are those of c10/cuda/CUDACachingAllocator.cpp: blocks up to 1 MiB come from
    segments of 2 MiB, those below 10 MiB from 20 MiB, larger ones from their size rounded to 2 MiB.
    With `expandable` there is one segment to a pool, which grows by whole pages.
    """

    def __init__(self, expandable: bool) -> None:
        self.expandable = expandable
        self.reserved = self.live = self.most = self.most_live = 0
        self.free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # (size, start)
        self.starts: dict[int, tuple[int, bool]] = {}  # free blocks: start -> size, pool
        self.ends: dict[int, int] = {}  # and end -> start
        self.taken: dict[int, tuple[int, int, bool]] = {}
        self.edge = {True: 0, False: 1 << 60}

    def new(self, number: int, size: int) -> None:
        size = -(-size // GRAIN) * GRAIN
        small = size <= SMALL
        at = bisect_left(self.free[small], (size, -1))
        if at == len(self.free[small]):
            self._grow(small, size)
            at = bisect_left(self.free[small], (size, -1))
        have, start = self.free[small][at]
        self._remove(start)
        if have - size >= GRAIN if small or self.expandable else have - size > SMALL:
            self._add(start + size, have - size, small)
            have = size
        self.taken[number] = (start, have, small)
        self.live += size
        self.most_live = max(self.most_live, self.live)

    def let_go(self, number: int, size: int) -> None:
        start, have, small = self.taken.pop(number)
        self.live -= -(-size // GRAIN) * GRAIN
        self._merge(start, have, small)

    def _merge(self, start: int, size: int, small: bool) -> None:
        if start + size in self.starts:
            size += self._remove(start + size)
        if start in self.ends:
            before = self.ends[start]
            size += self._remove(before)
            start = before
        self._add(start, size, small)

    def _grow(self, small: bool, size: int) -> None:
        page = PAGE if small else BIG_PAGE
        edge = self.edge[small]
        if self.expandable:
            last = self.ends.get(edge)
            lacking = size - (self.starts[last][0] if last is not None else 0)
            more = -(-lacking // page) * page
            self.edge[small] = edge + more
            self._merge(edge, more, small)
        else:
            more = page if small or size < MIDDLE else -(-size // PAGE) * PAGE
            self.edge[small] = edge + more + 1  # segments are never merged
            self._add(edge, more, small)
        self.reserved += more
        self.most = max(self.most, self.reserved)

    def _add(self, start: int, size: int, small: bool) -> None:
        insort(self.free[small], (size, start))
        self.starts[start] = (size, small)
        self.ends[start + size] = start

    def _remove(self, start: int) -> int:
        size, small = self.starts.pop(start)
        del self.ends[start + size]
        self.free[small].pop(bisect_left(self.free[small], (size, start)))
        return size


def overhead(events: list[Event], expandable: bool) -> int:
    """Bytes reserved above those allocated, each at its highest, over two steps in a row."""
    allocator = Allocator(expandable)
    sizes: dict[int, int] = {}
    for _ in range(2):
        for _, kind, number, size in events:
            if kind == "new":
                sizes[number] = size
                allocator.new(number, size)
            elif kind == "free":
                allocator.let_go(number, sizes.pop(number))
        while sizes:
            allocator.let_go(*sizes.popitem())
    return allocator.most - allocator.most_live


# ----------------------------------------------------------------------------------- the answer


def summary(events: list[Event]) -> dict[str, Any]:
    """The peaks of each phase and the upper edge of the backward pass."""
    sizes: dict[int, int] = {}
    live = made = before_head = 0
    peak: dict[str, int] = defaultdict(int)
    edge: list[tuple[int, int]] = []
    for phase, kind, number, size in events:
        if kind == "gradient":
            made += size
        elif kind == "free":
            live -= sizes.pop(number)
        else:
            sizes[number] = size
            live += size
        peak[phase] = max(peak[phase], live)
        if phase == "forward":
            before_head = live
        elif phase == "backward":
            while edge and edge[-1][0] <= live:
                edge.pop()
            if not edge or edge[-1][1] < made:
                edge.append((live, made))
    if not made:
        raise TraceError("nothing of the model learns")
    return {
        "forward": max(peak["forward"], peak["head"]),
        "backward": edge,
        "evaluation": peak["evaluation"],
        "loss": max(0, peak["head"] - before_head),
    }


# ------------------------------------------------------------------------------------- the model


def load_config(request: dict[str, Any]) -> Any:
    """The user's config; raises TraceError where it is missing or says an absurd depth."""
    import transformers

    model = request["model"]
    if model.get("path") is not None:
        if not (Path(model["path"]) / "config.json").is_file():
            raise TraceError(f"{model['path']} holds no config.json")
        config = transformers.AutoConfig.from_pretrained(
            model["path"], trust_remote_code=request["trust_remote_code"], local_files_only=True
        )
    else:
        wanted = dict(model["config"])
        config = transformers.AutoConfig.for_model(wanted.pop("model_type"), **wanted)
    inner = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in DEPTHS:
        layers = getattr(inner, name, None)
        if isinstance(layers, int) and not 1 <= layers <= MOST_LAYERS:
            raise TraceError(
                f"the config says {layers} layers; no more than {MOST_LAYERS} are traced"
            )
    return config


def build(config: Any, request: dict[str, Any], case: dict[str, Any]) -> Any:
    """The user's model without storage, with checkpointing and adapter as the trainer puts them."""
    import transformers

    # What flash_attention_2 keeps is what torch's flash kernel keeps, and needs no package here.
    kinds = {"given": None, "flash_attention_2": "sdpa"}
    model = transformers.AutoModelForCausalLM.from_config(
        config,
        dtype=dtype_of(case["dtype"]),
        attn_implementation=kinds.get(case["attention"], case["attention"]),
        trust_remote_code=request["trust_remote_code"],
    )
    model.config.use_cache = False
    if case["checkpointing"]:
        name = "activation_checkpointing"  # since transformers 5.23
        if not hasattr(model, f"{name}_enable"):
            name = "gradient_checkpointing"
        getattr(model, f"{name}_enable")(**{f"{name}_kwargs": {"use_reentrant": False}})
    head = model.get_output_embeddings()
    if case["quantization"] != "none":
        for parameter in model.parameters():
            parameter.requires_grad_(False)
    adapted = model if case["lora"] is None else with_adapter(model, case)
    if case["quantization"] != "none":
        pack(model, head, case)
    if case["loss"] == "chunked" and type(head) is not torch.nn.Linear:
        raise TraceError(f"a loss in pieces needs a plain head, not {type(head).__name__}")
    return adapted


def dtype_of(name: str) -> Any:
    return getattr(torch, {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[name])


def with_adapter(model: Any, case: dict[str, Any]) -> Any:
    import peft

    lora = case["lora"]
    adapter = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora["rank"],
        lora_dropout=lora["dropout"],
        target_modules=lora["targets"] or "all-linear",
    )
    model = peft.get_peft_model(model, adapter, autocast_adapter_dtype=False)
    # Beside weights on "meta" peft leaves its own in float32, whatever theirs is.
    dtype = dtype_of("fp32" if lora["fp32"] else case["dtype"])
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return model


class Product(torch.autograd.Function):  # type: ignore[misc]
    """A product with 4-bit weights, which are unpacked for it, forward and backward."""

    @staticmethod
    def forward(context: Any, rows: Any, layer: Any) -> Any:
        context.layer = layer
        return torch.nn.functional.linear(rows, layer.as_multiplied(rows.dtype))

    @staticmethod
    def backward(context: Any, slope: Any) -> Any:
        return slope @ context.layer.as_multiplied(slope.dtype), None


class Packed(torch.nn.Linear):  # type: ignore[misc]
    """A linear layer of 4-bit weights."""

    def as_multiplied(self, dtype: Any) -> Any:
        shape = (self.out_features, self.in_features)
        # The scales of 64 weights each, in float32, live while the weights are made.
        scales = torch.empty(math.prod(shape) // 64, dtype=torch.float32)
        weight = torch.empty(shape, dtype=self.unpacked)
        del scales
        return weight.to(dtype)

    def forward(self, rows: Any) -> Any:
        out = Product.apply(rows.to(self.compute), self)
        if self.bias is not None:
            out = out + self.bias.to(out.dtype)
        return out.to(rows.dtype).clone()  # peft copies it, lest it be changed in place


def pack(model: Any, head: Any, case: dict[str, Any]) -> None:
    """Turn the linear layers into 4-bit ones, all but the head."""
    for name, module in model.named_modules():
        if type(module) is not torch.nn.Linear or "lora_" in name or module is head:
            continue
        module.__class__ = Packed
        module.unpacked = module.weight.dtype
        module.compute = (
            torch.float32 if case["four_bit_compute"] == "fp32" else module.weight.dtype
        )
        packed = torch.empty(module.weight.numel() // 2, dtype=torch.uint8)
        module.weight = torch.nn.Parameter(packed, requires_grad=False)
    if case["other_weights_fp32"]:
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point() and "lora_" not in name:
                parameter.data = parameter.data.to(torch.float32)


# --------------------------------------------------------------------------------------- kernels


def attention_of(
    case: dict[str, Any], device: str, query: Any, key: Any, value: Any, attn_mask: Any = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """What torch's attention would keep on `device`.

    On "cuda", of compute capability 8.0 and up, that is (aten/native/transformers/cuda/
    sdp_utils.cpp) flash for 16-bit without a mask and head sizes up to 256; else the
    memory-efficient one, which takes masks and not grouped heads; else plain products, which keep
    the scores of every pair of tokens.
    """
    size, wide = query.shape[-1], query.dtype == torch.float32
    if device == "cpu":
        few = [
            torch.empty(1, one.shape[1], 2, one.shape[3], dtype=one.dtype, device="cpu")
            for one in (query, key, value)
        ]
        if torch._fused_sdp_choice(*few, None, dropout_p, is_causal, enable_gqa=enable_gqa) == 1:
            return aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, dropout_p, is_causal,
                attn_mask=added(attn_mask, query), scale=scale,
            )[0]  # fmt: skip
    elif attn_mask is None and not wide and size <= 256 and size == value.shape[-1]:
        inputs = query, key, value
        if case["attention"] == "flash_attention_2" and case["padded"]:
            inputs = tuple(one.clone() for one in inputs)  # without the padding
        room = -size % 8
        if room:
            inputs = tuple(torch.nn.functional.pad(one, (0, room)) for one in inputs)
        out = aten._scaled_dot_product_flash_attention(*inputs, dropout_p, is_causal, scale=scale)[
            0
        ]
        return out[..., :size] if room else out
    elif not (enable_gqa and key.shape[1] != query.shape[1]) and size % (4 if wide else 8) == 0:
        mask = added(attn_mask, query)
        if mask is not None:
            tokens = mask.shape[-1]
            if tokens % 16:
                mask = torch.nn.functional.pad(mask, (0, -tokens % 16))[..., :tokens]
            mask = mask.expand(*query.shape[:2], query.shape[2], key.shape[2])
        learning = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, mask, learning, dropout_p, is_causal, scale=scale
        )[0]
    return aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]


def added(mask: Any, query: Any) -> Any:
    """The mask that is added to the scores; each layer makes its own of a boolean one."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask, 0.0)


def cuda_dropout(rows: Any, p: float = 0.5, training: bool = True, *_: Any, **__: Any) -> Any:
    """Dropout as a GPU does it: a mask of bytes is kept, not a factor for every element."""
    return torch.native_dropout(rows, p, True)[0] if training and p > 0 else rows


@contextlib.contextmanager
def kernels_of(device: str, case: dict[str, Any]) -> Iterator[None]:
    """Put what `device` keeps in the place of what "meta" tensors would keep."""
    functions, autocast = torch.nn.functional, torch.autocast
    before = functions.scaled_dot_product_attention, functions.dropout
    functions.scaled_dot_product_attention = functools.partial(attention_of, case, device)
    if device == "cuda":
        functions.dropout = cuda_dropout
    # Models turn it off around their angles by the tensor's device, and it does not know "meta".
    torch.autocast = lambda *_, **more: autocast("cpu", enabled=more.get("enabled", True))
    try:
        yield
    finally:
        functions.scaled_dot_product_attention, functions.dropout = before
        torch.autocast = autocast


# -------------------------------------------------------------------------------------- the step


def next_tokens(labels: Any) -> Any:
    return torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:].reshape(-1)


def whole_loss(logits: Any, labels: Any, in_float: bool) -> Any:
    """The trainer's loss: the sum over the labelled tokens, of a float32 copy of the logits."""
    if in_float:
        logits = logits.float()
    return torch.nn.functional.cross_entropy(
        logits.view(-1, logits.size(-1)), next_tokens(labels), reduction="sum"
    )


class LossInPieces(torch.autograd.Function):  # type: ignore[misc]
    """The trainer's loss in pieces: the logits are not kept, gradients are made with the loss."""

    @staticmethod
    def forward(context: Any, learning: bool, targets: Any, *inputs: Any) -> Any:
        wanted = [learning and need for need in context.needs_input_grad[2:]]
        slopes: list[Any] = [
            torch.zeros_like(one) if want else None
            for one, want in zip(inputs, wanted, strict=True)
        ]
        rows, weight, bias = inputs
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        for first in range(0, len(rows), LOSS_TOKENS):
            part = slice(first, first + LOSS_TOKENS)
            logits = torch.nn.functional.linear(rows[part], weight, bias).float()
            total += piece_into_slopes(logits, targets[part])
            slope = logits.to(weight.dtype)
            del logits
            if wanted[0]:
                torch.mm(slope, weight, out=slopes[0][part])
            if wanted[1]:
                slopes[1].addmm_(slope.t(), rows[part])
            if wanted[2]:
                slopes[2] += slope.sum(0)
            del slope
        context.save_for_backward(*slopes)
        return total

    @staticmethod
    def backward(context: Any, scale: Any) -> Any:
        slopes = [None if one is None else one.mul_(scale) for one in context.saved_tensors]
        return None, None, *slopes


def piece_into_slopes(logits: Any, targets: Any) -> Any:
    held = targets != IGNORED
    place = targets.where(held, 0)[:, None]
    logits -= logits.amax(1, keepdim=True)
    chosen = logits.gather(1, place)[:, 0]
    sums = logits.exp_().sum(1)
    logits *= (held / sums)[:, None]
    logits.scatter_add_(1, place, -held.to(logits.dtype)[:, None])
    return ((sums.log() - chosen) * held).sum()


def logits_and_loss(model: Any, case: dict[str, Any], book: Recording, rows: int) -> Any:
    """The loss of `rows` rows, and what outlives it."""
    inputs = {"input_ids": torch.zeros(rows, case["sequence"], dtype=torch.long)}
    labels = torch.zeros_like(inputs["input_ids"])
    if case["padded"] and case["attention"] != "flash_attention_2":
        inputs["attention_mask"] = torch.ones_like(labels)
    if case["loss"] == "chunked":
        model.get_output_embeddings().targets = next_tokens(labels)
        return model(**inputs).logits, None
    outputs = model(**inputs)
    reach_head(book)
    loss = whole_loss(outputs.logits, labels, case["fp32_logits"])
    return loss, outputs if case["keeps_outputs"] else None


def reach_head(book: Recording, *_: Any) -> None:
    if book.phase == "forward":
        book.phase = "head"


def in_pieces(head: Any, rows: Any) -> Any:
    """The head's forward where the loss is taken in pieces: the loss in the logits' place."""
    rows = rows.reshape(-1, rows.size(-1))
    return LossInPieces.apply(torch.is_grad_enabled(), head.targets, rows, head.weight, head.bias)


def run_passes(model: Any, case: dict[str, Any], book: Recording) -> None:
    """One evaluation pass and one micro-step of the trainer."""
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(functools.partial(reach_head, book))
    if case["loss"] == "chunked":
        head.forward = functools.partial(in_pieces, head)

    def learned(parameter: Any) -> None:
        parameter.grad = None  # where it goes is the optimizer's affair
        book.gradient(parameter.numel())

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(learned)
    if case["evaluates"]:
        book.phase = "evaluation"
        model.eval()
        with torch.no_grad():
            logits_and_loss(model, case, book, case["eval_micro_batch"])
    book.phase = "forward"
    model.train()
    loss, kept = logits_and_loss(model, case, book, case["micro_batch"])
    book.phase = "backward"
    (loss * 1.0).backward()
    del loss, kept


def trace(request: dict[str, Any], config: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Trace one case; raises TraceError, and whatever the model's code raises."""
    if case["activation_offload"]:
        raise TraceError("activations that wait in host memory are not traced")
    book = Recording()
    device = request["device"]
    with torch.device("meta"), kernels_of(device, case):
        model = build(config, request, case)
        known = {one.untyped_storage()._cdata for one in (*model.parameters(), *model.buffers())}
        gc.disable()  # what a collection lets go, it lets go at another place each time
        try:
            with Tracker(book, known, GRAIN if device == "cuda" else 1, case["padded"]):
                run_passes(model, case, book)
        finally:
            gc.enable()
    told = summary(book.events)
    told["overhead"] = overhead(book.events, expandable=False)
    told["overhead_expandable"] = overhead(book.events, expandable=True)
    return told


def sentence(error: BaseException) -> dict[str, Any]:
    words = " ".join(str(error).split())[:300]
    kind = "" if isinstance(error, TraceError) else type(error).__name__
    return {"ok": False, "error": ": ".join(filter(None, (kind, words)))}


def answer(request: dict[str, Any], config: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Trace one case; an error is a sentence."""
    began = time.monotonic()
    try:
        told = trace(request, copy.deepcopy(config), case)
    except Exception as error:
        return sentence(error)
    return {"ok": True, **told, "seconds": round(time.monotonic() - began, 3)}


def main() -> int:
    """Answer every case; returns the exit status."""
    # Libraries and the model's own code print; our lines must be alone on stdout.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(words: dict[str, Any]) -> None:
        out.write(json.dumps(words) + "\n")
        out.flush()

    try:
        os.nice(10)
        asked = sys.argv[1]
        request = json.loads(asked if asked.startswith("{") else Path(asked).read_text("utf-8"))
        resource.setrlimit(resource.RLIMIT_DATA, (request["data_limit"],) * 2)
        os.environ["HF_HUB_OFFLINE"] = "1"
        torch.set_num_threads(1)
        config = load_config(request)
    except Exception as error:
        say(sentence(error))
        return 1
    for number, case in enumerate(request["cases"]):
        say({"case": number, **answer(request, config, case)})
        gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Trains a causal language model as TRAIN_JSON says and reports each step, beside no other file.

Started by the DeepSpeed launcher, by torchrun or alone; it imports the standard library and the
training stack only, so a copy of it beside a known-good launch.sh is all that a relaunch needs.
The reading order is the order of a run: settings, reporting, data, limits, model, trainer,
continuity and saving, main.

Training rows are JSON lines of one of three shapes: {"messages": [{"role", "content"}, ...]},
{"prompt", "completion"} or {"text"}. Sample ids in events count the non-blank lines from 0.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import faulthandler
import functools
import gc
import hashlib
import heapq
import importlib.metadata
import itertools
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

SCHEMA = 1
IGNORED = -100  # the label that carries no loss
NULL_ROW = -1  # the sample id of a row that only fills up the last global batch of an epoch
PAD_MULTIPLE = 8
LONGEST_ENCODED = 256  # rows whose tokens are counted to find the longest, or a mean
LONGEST_TOLD = 64  # lengths in a survey
PROBE_SECONDS = 0.002  # between readings of VmData while moments are measured; one takes 0.13 ms
IDS_IN_EVENT = 256
PACKABLE_ATTENTION = ("sdpa", "eager")
COMPLETE_MARK = "autotune-complete.json"
BEGUN_MARK = "autotune-begun.json"  # in a checkpoint of ours from its first file to its last
ASIDE = "set-aside"  # beside the checkpoints: what is never removed and never started from
REFERENCE_ROWS = 8  # whose loss is kept with each checkpoint
BAND_STEPS = 8  # after a resume without such a loss, whose median is held against the steps before
FIRST_SAVE = 3  # optimizer steps of an attempt before its first save: what it costs is learned
PROVEN_STEPS = 3  # optimizer steps, beside a save and an evaluation, that prove a plan
MOST_SHARE = 0.1  # of a run between two saves, and of its time spent on saving for that alone
WATCH_SECONDS = 0.05
# Of a micro-batch, whose logits exist at once where the loss is taken in pieces. Of 128 to 2048
# the smallest that costs no time: a step of the head over 4096 tokens and 32,768 words of width
# 512 on one core took 12.5 s whole (1625 MB), 6.7 s by 512 (224 MB) and 6.5 s by 1024 (358 MB);
# by 512 under torch's own checkpointing it took 13.3 s (369 MB).
LOSS_TOKENS = 512
STACK_SIGNAL = signal.SIGRTMIN + 7  # on which a rank writes where each of its threads stands


class SettingsError(Exception):
    """TRAIN_JSON or the data asks for something this trainer refuses."""


# ------------------------------------------------------------------------------------ settings


def load_settings(path: Path) -> dict[str, Any]:
    """TRAIN_JSON with every path made absolute, so that the folder it lies in can be moved."""
    settings: dict[str, Any] = json.loads(path.read_text())
    if settings.get("schema") != SCHEMA:
        raise SettingsError(
            f"{path}: schema {settings.get('schema')!r}; this trainer reads {SCHEMA}"
        )
    for section, key in (
        ("model", "path"),
        ("model", "tokenizer"),
        ("data", "train"),
        ("data", "eval"),
        ("checkpoints", "dir"),
        ("checkpoints", "resume"),
        ("channel", "events"),
        ("channel", "control"),
    ):
        value = settings[section].get(key)
        if value is not None:
            settings[section][key] = str(path.resolve().parent / value)
    refuse_impossible(settings)
    return settings


def refuse_impossible(settings: dict[str, Any]) -> None:
    """Refuse what would otherwise train something else in silence."""
    batch, method, model = settings["batch"], settings["method"], settings["model"]
    product = batch["micro"] * batch["accumulation"] * batch["world_size"]
    if product != batch["global"]:
        raise SettingsError(
            f"batch: micro {batch['micro']} x accumulation {batch['accumulation']} x world size "
            f"{batch['world_size']} is {product}, not the global batch {batch['global']}"
        )
    if settings["data"].get("packing") and model["attention"] not in PACKABLE_ATTENTION:
        raise SettingsError(
            f"data.packing: attention {model['attention']} was not shown to keep packed samples "
            f"apart; use one of {', '.join(PACKABLE_ATTENTION)}"
        )
    if method["quantization"] != "none" and method["kind"] != "lora":
        raise SettingsError(
            "method.quantization: 4-bit weights cannot be trained in full; use lora"
        )
    if settings.get("loss", "whole") not in ("whole", "chunked"):
        raise SettingsError(f"loss: {settings['loss']!r} is neither whole nor chunked")
    if settings.get("activation_offload") and not settings["activation_checkpointing"]:
        raise SettingsError(
            "activation_offload: moves what activation checkpointing keeps; turn that on too"
        )
    if (model.get("path") is None) == (model.get("config") is None):
        raise SettingsError("model: give exactly one of path and config")


# ----------------------------------------------------------------------------------- reporting


def process_bytes() -> tuple[int | None, int | None]:
    """VmData and VmRSS of this process; None where the kernel does not say."""
    found: dict[str, int] = {}
    try:
        with Path("/proc/self/status").open(encoding="ascii") as status:
            for line in status:
                if line.startswith(("VmData:", "VmRSS:")):
                    name, amount, _ = line.split()
                    found[name] = int(amount) * 1024
    except (OSError, ValueError):  # a reading we do not have is a gap
        pass
    return found.get("VmData:"), found.get("VmRSS:")


class Reporter:
    """Writes this rank's events; a fault in it costs an event and never the training."""

    def __init__(self, folder: Path, rank: int, attempt: int) -> None:
        self.rank = rank
        self.attempt = attempt
        self.phase = "load"
        self.step = 0
        self.lost_events = 0
        self.peak_data_bytes = 0
        self.rehearsing = False
        self.probes = Probes(self)
        self._file: int | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Opened now: when memory has run out it may be too late to open anything.
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._file = os.open(folder / f"rank{rank}.jsonl", flags, 0o600)
        except OSError:
            self.lost_events += 1

    def emit(self, kind: str, **fields: Any) -> None:
        event = {
            "t": time.time(),
            "rank": self.rank,
            "kind": kind,
            "attempt": self.attempt,
            **fields,
        }
        try:
            if self._file is None:
                raise OSError("no event file")
            os.write(self._file, (json.dumps(event, default=str) + "\n").encode())
        except Exception:  # an event is evidence; the training is the work
            self.lost_events += 1

    def enter(self, phase: str) -> None:
        """Name the phase and say so; fine phases inside a step only set `phase`."""
        self.phase = phase
        self.emit("phase", phase=phase, memory=self.memory(), **self._of_rehearsal())

    def memory(self) -> dict[str, int | None]:
        """What this process holds; the allocator's figures are gaps where there is no GPU."""
        data, rss = process_bytes()
        self.peak_data_bytes = max(self.peak_data_bytes, data or 0)
        figures: dict[str, int | None] = {
            "data_bytes": data,
            "rss_bytes": rss,
            "peak_data_bytes": self.peak_data_bytes or None,
            "allocated_bytes": None,
            "reserved_bytes": None,
            "peak_allocated_bytes": None,
            "peak_reserved_bytes": None,
        }
        torch = sys.modules.get("torch")
        if torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized():
            figures["allocated_bytes"] = torch.cuda.memory_allocated()
            figures["reserved_bytes"] = torch.cuda.memory_reserved()
            allocated, reserved = self.probes.highest_on_gpu(torch.cuda)
            figures["peak_allocated_bytes"] = allocated
            figures["peak_reserved_bytes"] = reserved
        return figures

    def watch_peak(self) -> None:
        """Follow VmData from a thread: the kernel keeps no high-water mark of it."""

        def follow() -> None:
            while True:
                self.peak_data_bytes = max(self.peak_data_bytes, self.probes.sample())
                time.sleep(PROBE_SECONDS if self.probes.busy else WATCH_SECONDS)

        # A default stack would itself count 8 MiB against the limit.
        before = threading.stack_size(512 * 1024)
        threading.Thread(target=follow, name="peak-memory", daemon=True).start()
        threading.stack_size(before)

    def failed(self, error: BaseException) -> None:
        """Report what ended this rank, with memory to spare for saying it."""
        lift_memory_limit()
        text = "".join(traceback.format_exception(error))
        self.emit(
            "exception",
            type=f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins."),
            message=str(error)[:4000],
            phase=self.phase,
            step=self.step,
            traceback=text[-8000:],
            memory=self.memory(),
            **self._of_rehearsal(),
        )

    def _of_rehearsal(self) -> dict[str, bool]:
        return {"rehearsal": True} if self.rehearsing else {}


class Probes:
    """Measures the memory of each moment of an attempt, the first time it comes, and reports it.

    A moment begins where the one before it ended, or where `begin` says so. Once two optimizer
    steps are done nothing is measured, but for the first evaluation and the first save.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.busy = True  # sampled finely
        self.highest_data = 0  # VmData since the moment before, as sampled
        self.steps = 0  # optimizer steps applied, while they are still counted
        self._told: set[str] = set()
        self._since = time.monotonic()
        self._shape: tuple[int, int] | None = None  # of the largest micro-batch of this step
        self._gpu = (0, 0)  # highest allocated and reserved before the last reset
        self._border = threading.Lock()

    def sample(self) -> int:
        """VmData now, from the watching thread; what was read in the moment before is not kept."""
        moment = self._since
        data = process_bytes()[0] or 0
        with self._border:
            if moment == self._since:
                self.highest_data = max(self.highest_data, data)
        return data

    def begin(self, moment: str) -> None:
        """Start anew, unless the moment was told of before."""
        if moment not in self._told:
            self.busy = True
            self._restart()

    def over(self, moment: str, shape: tuple[int, int] | None = None) -> None:
        """Report a moment that has just ended; `shape` is rows and tokens of its micro-batch."""
        if moment in self._told:
            if self.busy:  # the moment that comes next must not be told of this one
                self._restart()
            return
        self._told.add(moment)
        peak, held, reserved = self._measured()
        rows, sequence = shape or (None, None)
        self.reporter.emit(
            "probe",
            moment=moment,
            peak_bytes=peak,
            held_bytes=held,
            reserved_bytes=reserved,
            rows=rows,
            sequence=sequence,
            seconds=time.monotonic() - self._since,
            rehearsal=self.reporter.rehearsing,
        )
        self._restart()
        self.busy = self.steps < 2

    def forward_over(self, shape: tuple[int, int]) -> None:
        """The loss of a micro-batch is computed; only the first of a step is a moment."""
        if self.steps < 2 and self._shape is None:
            self.over(("first_forward", "second_forward")[self.steps], shape)
        # What comes until the optimizer step counts as backward: of all micro-batches.
        self._shape = max(self._shape or shape, shape, key=lambda one: one[0] * one[1])

    def backward_over(self) -> None:
        if self.steps < 2:
            self.over(("first_backward", "second_backward")[self.steps], self._shape)

    def step_over(self, applied: bool) -> None:
        """A step that the loss scaler skipped made no optimizer state, and is none."""
        self._shape = None
        if self.steps < 2 and applied:
            moment = ("first_step", "second_step")[self.steps]
            self.steps += 1
            self.over(moment)

    def highest_on_gpu(self, cuda: Any) -> tuple[int, int]:
        """The highest ever allocated and reserved, whatever was reset in between."""
        self._gpu = (
            max(self._gpu[0], cuda.max_memory_allocated()),
            max(self._gpu[1], cuda.max_memory_reserved()),
        )
        return self._gpu

    def _cuda(self) -> Any:
        torch = sys.modules.get("torch")
        usable = torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized()
        return torch.cuda if usable and torch is not None else None

    def _measured(self) -> tuple[int | None, int | None, int | None]:
        cuda = self._cuda()
        if cuda is None:
            data = process_bytes()[0]
            return (None if data is None else max(data, self.highest_data)), data, None
        cuda.synchronize()
        return cuda.max_memory_allocated(), cuda.memory_allocated(), cuda.max_memory_reserved()

    def _restart(self) -> None:
        with self._border:
            self._since = time.monotonic()
            self.highest_data = process_bytes()[0] or 0
        cuda = self._cuda()
        if cuda is not None:
            self.highest_on_gpu(cuda)
            cuda.reset_peak_memory_stats()


def answer_with_stacks(events: Path, rank: int) -> None:
    """On STACK_SIGNAL write the stacks of all threads into the folder a supervisor made for them.

    The handler runs in C, so it also answers from within a collective that never returns.
    """
    path = events.parent / "stacks" / f"rank{rank}.txt"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, f"main thread 0x{threading.main_thread().ident:x}\n".encode())
        faulthandler.register(STACK_SIGNAL, file=descriptor, all_threads=True)
    except OSError:  # no supervisor, or no room: a stack is evidence, the training is the work
        pass


def plain_number(value: float | None) -> float | str | None:
    """A number JSON can hold; float() reads "nan" and "inf" back."""
    return value if value is None or math.isfinite(value) else str(value)


def installed_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in ("torch", "transformers", "peft", "deepspeed", "bitsandbytes"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


# ---------------------------------------------------------------------------------------- data


def check_row(row: Any) -> str | None:
    """The sentence that says what is wrong with a row, or None."""
    if not isinstance(row, dict):
        return "not a JSON object"
    if "messages" in row:
        messages = row["messages"]
        if not isinstance(messages, list) or not messages:
            return '"messages" must be a list with at least one message'
        for message in messages:
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                return 'every message needs a "role"'
            if not isinstance(message.get("content"), str):
                return 'every message needs a "content" string'
        return None
    if "prompt" in row or "completion" in row:
        if not isinstance(row.get("prompt"), str) or not isinstance(row.get("completion"), str):
            return '"prompt" and "completion" must both be strings'
        return None
    if isinstance(row.get("text"), str):
        return None
    return 'expected "messages", "prompt" and "completion", or "text"'


def read_rows(path: Path) -> list[tuple[int, int]]:
    """Where each row lies (byte offset, line number); a bad line is named."""
    rows: list[tuple[int, int]] = []
    offset = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    fault = check_row(json.loads(line))
                except ValueError as error:
                    fault = f"not JSON: {error}"
                if fault:
                    raise SettingsError(f"{path}:{number}: {fault}")
                rows.append((offset, number))
            offset += len(line)
    if not rows:
        raise SettingsError(f"{path}: holds no rows")
    return rows


def spans_of_row(row: dict[str, Any], tokenizer: Any) -> tuple[str, list[tuple[int, int]], bool]:
    """A row's text, the stretches of it that are the model's answer, and whether to add marks.

    Without a chat template a conversation reads "role: content" line by line, and each answer
    ends in the end-of-text token.
    """
    end = tokenizer.eos_token or ""
    if "messages" not in row:
        prompt, answer = row.get("prompt", ""), row.get("completion", row.get("text", ""))
        text = prompt + answer + end
        return text, [(len(prompt), len(text))], True
    if getattr(tokenizer, "chat_template", None):
        return (*spans_of_chat(row["messages"], tokenizer), False)
    text, spans = "", []
    for message in row["messages"]:
        text += f"{message['role']}: "
        start = len(text)
        text += message["content"]
        if message["role"] == "assistant":
            text += end
            spans.append((start, len(text)))
        text += "\n"
    return text, spans, True


def spans_of_chat(messages: list[dict[str, str]], tokenizer: Any) -> tuple[str, list[Any]]:
    """The rendered conversation and where the assistant speaks, found by rendering its prefixes."""

    def render(part: list[dict[str, str]], ask: bool) -> str:
        return str(tokenizer.apply_chat_template(part, tokenize=False, add_generation_prompt=ask))

    text = render(messages, False)
    spans = []
    for at, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = render(messages[:at], True), render(messages[: at + 1], False)
        if not text.startswith(after) or not after.startswith(before):
            raise SettingsError(
                f"the chat template renders message {at + 1} differently once more messages "
                "follow, so its answer cannot be told apart; set data.response_only to false"
            )
        spans.append((len(before), len(after)))
    return text, spans


class Rows:
    """A JSONL file as token ids and labels, encoded row by row when asked for."""

    def __init__(
        self, path: Path, rows: Sequence[tuple[int, int]], tokenizer: Any, data: Any
    ) -> None:
        self.path = path
        self.rows = list(rows)
        self.tokenizer = tokenizer
        self.sequence = int(data["sequence"])
        self.response_only = bool(data["response_only"])
        if not getattr(tokenizer, "is_fast", False):
            raise SettingsError("the tokenizer has no fast version, which tells where tokens lie")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == NULL_ROW:
            return {"sample": NULL_ROW, "ids": [self.pad_id], "labels": [IGNORED]}
        offset, number = self.rows[index]
        with self.path.open("rb") as file:
            file.seek(offset)
            row = json.loads(file.readline())
        try:
            ids, labels = self.encode(row)
        except SettingsError as error:
            raise SettingsError(f"{self.path}:{number}: {error}") from error
        return {"sample": index, "ids": ids[: self.sequence], "labels": labels[: self.sequence]}

    @property
    def pad_id(self) -> int:
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(self.tokenizer, name, None)
            if value is not None:
                return int(value)
        return 0

    def encode(self, row: dict[str, Any]) -> tuple[list[int], list[int]]:
        text, spans, marks = spans_of_row(row, self.tokenizer)
        coded = self.tokenizer(
            text, add_special_tokens=marks, return_offsets_mapping=True, verbose=False
        )
        ids = list(coded["input_ids"])
        if not self.response_only:
            return ids, list(ids)
        labels = [IGNORED] * len(ids)
        for at, (start, stop) in enumerate(coded["offset_mapping"]):
            # A token belongs to the answer if it ends inside it: one that straddles the border
            # carries the answer's first characters.
            if stop > start and any(first < stop <= last for first, last in spans):
                labels[at] = ids[at]
        return ids, labels


class Packed:
    """Rows put end to end while they fit, in the file's order; each keeps positions of its own.

    The packing depends on the file alone, so that a packed row is as fixed as a row: it counts as
    one sample of the global batch, has one id, and is shuffled whole.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.sequence = rows.sequence
        self.pad_id = rows.pad_id
        self.groups: list[list[int]] = []
        self.lengths: list[int] = []  # tokens of each group
        room = 0
        for index in range(len(rows)):
            length = len(rows[index]["ids"])
            if length > room:
                self.groups.append([])
                self.lengths.append(0)
                room = self.sequence
            self.groups[-1].append(index)
            self.lengths[-1] += length
            room -= length

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> dict[str, Any]:
        packed: dict[str, Any] = {"sample": index, "ids": [], "labels": [], "positions": []}
        for member in [NULL_ROW] if index == NULL_ROW else self.groups[index]:
            row = self.rows[member]
            packed["ids"] += row["ids"]
            # The last token of one row must not learn to foretell the first of the next.
            packed["labels"] += [IGNORED, *row["labels"][1:]]
            packed["positions"] += range(len(row["ids"]))
        return packed


class Order:
    """One rank's micro-batches of an epoch.

    Optimizer step k of an epoch takes entries [k*G, (k+1)*G) of the epoch's order whatever
    micro-batch, accumulation and world size make up G, so a resume under another factorisation
    goes on exactly where the last one stopped. Null rows fill up the last global batch.
    """

    def __init__(
        self, count: int, batch: dict[str, int], rank: int, *, shuffle: bool, seed: int
    ) -> None:
        self.count = count
        self.micro = batch["micro"]
        self.accumulation = batch["accumulation"]
        self.world_size = batch["world_size"]
        self.rank = rank
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0

    @property
    def global_batch(self) -> int:
        return self.micro * self.accumulation * self.world_size

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-self.count // self.global_batch)

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def entries(self) -> list[int]:
        order = list(range(self.count))
        if self.shuffle:
            random.Random(f"{self.seed}/{self.epoch}").shuffle(order)  # noqa: S311
        return order + [NULL_ROW] * (self.steps * self.global_batch - self.count)

    def __iter__(self) -> Iterator[list[int]]:
        order = self.entries()
        for first in range(self.rank * self.micro, len(order), self.world_size * self.micro):
            yield order[first : first + self.micro]


def tokens_of_longest(rows: Rows | Packed, count: int) -> dict[int, int]:
    """Tokens of those rows, at least `count`, that are likely the longest; only they are encoded.

    Which are likely is told by the bytes of their lines, a blank line counting as its neighbour's.
    """
    if isinstance(rows, Packed):
        return dict(enumerate(rows.lengths))
    starts = [offset for offset, _ in rows.rows] + [rows.path.stat().st_size]
    size = [after - at for at, after in itertools.pairwise(starts)]
    lengths: dict[int, int] = {}
    for index in heapq.nlargest(max(count, LONGEST_ENCODED), range(len(rows)), size.__getitem__):
        lengths[index] = len(rows[index]["ids"])
        # A row that is cut is as long as any can be.
        count -= lengths[index] >= rows.sequence
        if count <= 0:
            break
    return lengths


class Picked:
    """Some of the rows, as rows of their own."""

    def __init__(self, rows: Rows | Packed, indices: Sequence[int]) -> None:
        self.rows = rows
        self.indices = indices
        self.pad_id = rows.pad_id
        self.sequence = rows.sequence

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index if index == NULL_ROW else self.indices[index]]


class Longest(Order):
    """One step over the longest rows, for a proof."""

    def __init__(self, lengths: Sequence[int], batch: dict[str, int], rank: int) -> None:
        super().__init__(len(lengths), batch, rank, shuffle=False, seed=0)
        ranked = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        self.longest = ranked[: self.global_batch]

    @property
    def steps(self) -> int:
        return 1

    def entries(self) -> list[int]:
        return self.longest + [NULL_ROW] * (self.global_batch - len(self.longest))


def eval_batches(count: int, micro: int, rank: int, world_size: int) -> Iterator[list[int]]:
    """Every rank gets as many evaluation batches as the others, or ZeRO-3 would wait for ever."""
    stride = micro * world_size
    for first in range(0, count, stride):
        indices = range(first + rank * micro, first + (rank + 1) * micro)
        yield [index if index < count else NULL_ROW for index in indices]


def split_rows(rows: list[Any], fraction: float) -> tuple[list[Any], list[Any]]:
    """The tail of the file is held out for evaluation."""
    held = math.ceil(len(rows) * fraction)
    if fraction and held >= len(rows):
        raise SettingsError(f"data.eval_fraction {fraction} leaves no rows to train on")
    return rows[: len(rows) - held], rows[len(rows) - held :]


def padded(longest: int, sequence: int) -> int:
    """The width of a micro-batch whose longest row has so many tokens."""
    # Never beyond the configured length: the model may know no later position.
    return max(longest, min(-(-longest // PAD_MULTIPLE) * PAD_MULTIPLE, sequence))


def collate(rows: Sequence[dict[str, Any]], pad_id: int, sequence: int) -> dict[str, Any]:
    """Rows padded on the right to the longest of them, rounded up to a multiple of eight."""
    import torch

    longest = max(len(row["ids"]) for row in rows)
    width = padded(longest, sequence)
    ids, labels, mask, positions = [], [], [], []
    for row in rows:
        empty = width - len(row["ids"])
        ids.append(row["ids"] + [pad_id] * empty)
        labels.append(row["labels"] + [IGNORED] * empty)
        mask.append([1] * len(row["ids"]) + [0] * empty)
        positions.append([*row.get("positions", ()), *range(empty)])
    batch = {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
        "samples": [row["sample"] for row in rows],
    }
    if "positions" in rows[0]:
        # Positions that begin anew part the samples, the padding being one more; transformers
        # reads them so only where no mask is given and no cache is used.
        return {**batch, "position_ids": torch.tensor(positions)}
    return {**batch, "attention_mask": torch.tensor(mask)}


# -------------------------------------------------------------------------------------- limits


def lift_memory_limit() -> None:
    """Raise the soft limit to the hard one, so that the failure can still be told."""
    try:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    except (OSError, ValueError):  # nothing better can be done while failing
        pass


def build_ops(deepspeed_config: dict[str, Any]) -> None:
    """Load what DeepSpeed would compile later: a compiler inherits the limit and dies of it.

    The shared-memory collective is loaded by the communication start-up itself.
    """
    zero = deepspeed_config.get("zero_optimization", {})
    device = (zero.get("offload_optimizer") or {}).get("device", "none")
    forced = deepspeed_config.get("zero_force_ds_cpu_optimizer", True)
    if "optimizer" not in deepspeed_config and (device == "none" or not forced):
        return
    from deepspeed.accelerator import get_accelerator

    names = ["CPUAdamBuilder"] if device != "none" else ["FusedAdamBuilder"]
    if device == "nvme":
        names.append("AsyncIOBuilder")
    for name in names:
        builder = get_accelerator().create_op_builder(name)
        if builder is not None:
            builder.load(verbose=False)


def set_memory_limit(memory: dict[str, Any]) -> None:
    """From here on the kernel, or the allocator, refuses what lies beyond the limit."""
    limit = memory.get("limit_bytes")
    if limit is None:
        return
    if memory["device"] == "cpu":
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        return
    import torch

    allocator = os.environ.get("PYTORCH_ALLOC_CONF", "") + os.environ.get(
        "PYTORCH_CUDA_ALLOC_CONF", ""
    )
    if "per_process_memory_fraction" not in allocator:
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))


def set_threads(world_size: int) -> None:
    """Share the cores among the ranks, unless the owner has said how many threads each may use."""
    if "OMP_NUM_THREADS" in os.environ:
        return
    import torch

    threads = max(1, len(os.sched_getaffinity(0)) // world_size)
    torch.set_num_threads(threads)
    # Said here too, because accelerate would else choose for us, by cores and not by ranks.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)


# --------------------------------------------------------------------------------------- model


def torch_dtype(name: str) -> Any:
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]


def quantized(settings: dict[str, Any]) -> Any:
    """The 4-bit configuration, or None; storage in the training dtype lets ZeRO-3 shard it."""
    if settings["method"]["quantization"] == "none":
        return None
    import transformers

    dtype_name = settings["model"]["dtype"]
    dtype = torch_dtype(dtype_name)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=settings["method"]["double_quantization"],
        bnb_4bit_compute_dtype=torch_dtype(settings["method"].get("compute", dtype_name)),
        bnb_4bit_quant_storage=dtype,
    )


def fresh_model(settings: dict[str, Any]) -> Any:
    """A model with random weights that depend on the seed alone.

    Built before DeepSpeed's configuration is known to transformers: under zero.Init each rank
    would draw its own part in another order, and the weights would depend on the ZeRO stage.
    """
    import transformers

    wanted = dict(settings["model"]["config"])
    config = transformers.AutoConfig.for_model(wanted.pop("model_type"), **wanted)
    transformers.set_seed(settings["schedule"]["seed"])
    return transformers.AutoModelForCausalLM.from_config(
        config,
        dtype=torch_dtype(settings["model"]["dtype"]),
        attn_implementation=settings["model"]["attention"],
    )


def stored_model(settings: dict[str, Any], fresh: Any = None) -> Any:
    """The model on disk; 4-bit weights exist only by loading, so `fresh` ones take this way too."""
    import transformers

    extra: dict[str, Any] = {}
    config = quantized(settings)
    if config is not None:
        extra = {"quantization_config": config}
        # Under ZeRO-3 transformers refuses to be told the device, and takes the current one.
        if settings["deepspeed"].get("zero_optimization", {}).get("stage") != 3:
            cuda = settings["memory"]["device"] == "cuda"
            place = f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu"
            extra["device_map"] = {"": place}
    loader = transformers.AutoModelForCausalLM
    if fresh is not None:
        loader = type(fresh)
        extra |= {"config": fresh.config, "state_dict": fresh.state_dict()}
    model = loader.from_pretrained(
        settings["model"]["path"],
        dtype=torch_dtype(settings["model"]["dtype"]),
        attn_implementation=settings["model"]["attention"],
        trust_remote_code=settings["model"]["trust_remote_code"],
        local_files_only=True,
        **extra,
    )
    if config is not None:
        settle_quantized(model)
    return model


def settle_quantized(model: Any) -> None:
    """Let go of the file the weights came from, and keep the 4-bit ones as they are."""
    for parameter in model.parameters():
        if not hasattr(parameter, "quant_state"):
            # A view into the mapped file: one such norm would hold all of it in memory.
            parameter.data = parameter.data.clone()
    for module in model.modules():
        if hasattr(module, "compute_type_is_set"):
            # Older bitsandbytes would else take the input's precision at the first forward pass.
            module.compute_type_is_set = True
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On some processors bitsandbytes repacks them at the first evaluation for a kernel of
            # inference that lets no gradient through: training would go wrong in silence, and
            # ZeRO-3, which shards them as they are, could not save.
            module.support_avx512bf16_for_cpu = False


def finish_model(settings: dict[str, Any], model: Any) -> Any:
    """Activation checkpointing and the adapter, put on the loaded weights."""
    method = settings["method"]
    model.config.use_cache = False
    if settings["activation_checkpointing"]:
        if hasattr(model, "activation_checkpointing_enable"):  # the name since transformers 5.23
            model.activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": False}
            )
        else:
            model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
    if settings.get("activation_offload", False):
        offload_activations(model, pin=bool(settings["data"].get("pin_memory", False)))
    if method["kind"] != "lora":
        return model
    import peft
    import transformers

    transformers.set_seed(settings["schedule"]["seed"])
    adapter = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=method["lora_rank"],
        lora_alpha=method["lora_alpha"],
        lora_dropout=method["lora_dropout"],
        target_modules=method["lora_targets"],
    )
    # DeepSpeed keeps the float32 masters; a second float32 copy here would only cost memory.
    return peft.get_peft_model(model, adapter, autocast_adapter_dtype=False)


def offload_activations(model: Any, pin: bool) -> None:
    """Let the inputs that checkpointed blocks keep for the backward pass wait in host memory.

    Around each block and not around the model: there the head's weights and the gradients of a
    loss in pieces would be carried out and back too.
    """
    import torch

    for module in model.modules():
        checkpoint = getattr(module, "_gradient_checkpointing_func", None)
        if checkpoint is not None:

            def moved(*given: Any, inner: Any = checkpoint, **more: Any) -> Any:
                with torch.autograd.graph.save_on_cpu(pin_memory=pin):
                    return inner(*given, **more)

            moved.to_host = True  # type: ignore[attr-defined]
            module._gradient_checkpointing_func = moved
    if not offloads_activations(model):
        raise SettingsError(
            f"activation_offload: {type(model).__name__} has no checkpointed block of the kind "
            "that can be moved; leave it off"
        )


def load_tokenizer(settings: dict[str, Any]) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(
        settings["model"]["tokenizer"],
        trust_remote_code=settings["model"]["trust_remote_code"],
        local_files_only=True,
    )


# ------------------------------------------------------------------------------------- trainer


def next_tokens(labels: Any) -> Any:
    """The label that each position foretells, flat; the last position of a row foretells none."""
    import torch

    # Shifting the labels and not the logits spares a copy of the largest tensor of the step.
    return torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:].reshape(-1)


def token_loss(logits: Any, labels: Any) -> Any:
    """The summed loss of the labelled tokens; each position predicts the next token."""
    import torch

    return torch.nn.functional.cross_entropy(
        logits.float().view(-1, logits.size(-1)),
        next_tokens(labels).to(logits.device),
        ignore_index=IGNORED,
        reduction="sum",
    )


class ChunkedLoss:
    """The same loss without the logits of a whole micro-batch: the head takes it piece by piece.

    It stands in for the head's forward, where DeepSpeed's hooks have gathered the head's weights,
    and hands the loss on in the place of the logits. A model that works on its logits after the
    head would train something else, and is refused at the first step.
    """

    def __init__(self, model: Any) -> None:
        import torch

        head = model.get_output_embeddings()
        if type(head) is not torch.nn.Linear:
            raise SettingsError(
                f"loss: chunked needs a plain linear head, and {type(model).__name__} has "
                f"{type(head).__name__}; use loss: whole"
            )
        self.head = head
        self.logits = head.forward
        self.targets: Any = None
        self.taken: Any = None
        self.proven = False
        head.forward = self.forward

    def forward(self, hidden: Any) -> Any:
        import torch

        if self.targets is None:
            return self.logits(hidden)
        self.taken = loss_in_pieces().apply(
            torch.is_grad_enabled(),
            self.targets.to(hidden.device),
            hidden.reshape(-1, hidden.size(-1)),
            self.head.weight,
            self.head.bias,
        )
        return self.taken

    def of(self, model: Any, inputs: dict[str, Any], labels: Any) -> Any:
        """The summed loss of the labelled tokens, as `token_loss` gives it."""
        self.targets = next_tokens(labels)
        try:
            came = model(**inputs).logits
            self.proven = self.proven or self.came_through(came)
        finally:
            self.targets = self.taken = None
        return came

    def came_through(self, came: Any) -> bool:
        """Whether the loss is proven to reach us as the head gave it; SettingsError if changed."""
        import torch

        lost = bool(came.isnan().all())
        if self.taken is None or not (lost or torch.equal(came, self.taken)):
            raise SettingsError(
                "loss: chunked takes the loss in the head, and this model changes its logits "
                "behind it (by a scale or a cap); use loss: whole"
            )
        # A loss that is lost proves nothing; neither does one of rows without a label.
        return bool(came.isfinite() & (came != 0))


@functools.cache
def loss_in_pieces() -> Any:
    """The autograd function of `ChunkedLoss`; a class made here, as torch is imported late."""
    import torch

    class LossInPieces(torch.autograd.Function):  # type: ignore[misc]
        """Takes the gradients along with the loss: the logits of a piece are never made twice."""

        @staticmethod
        def forward(
            context: Any, learning: bool, targets: Any, hidden: Any, weight: Any, bias: Any
        ) -> Any:
            wanted = [learning and need for need in context.needs_input_grad[2:]]
            slopes: list[Any] = [
                torch.zeros_like(one) if want else None
                for one, want in zip((hidden, weight, bias), wanted, strict=True)
            ]
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            for first in range(0, len(hidden), LOSS_TOKENS):
                part = slice(first, first + LOSS_TOKENS)
                logits = torch.nn.functional.linear(hidden[part], weight, bias).float()
                total += losses_into_slopes(logits, targets[part])
                slope = logits.to(weight.dtype)
                del logits
                if wanted[0]:
                    torch.mm(slope, weight, out=slopes[0][part])
                if wanted[1]:
                    slopes[1].addmm_(slope.t(), hidden[part])
                if wanted[2]:
                    slopes[2] += slope.sum(0)
                del slope  # or it would lie beside the logits of the next piece
            context.save_for_backward(*slopes)
            return total

        @staticmethod
        @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
        def backward(context: Any, scale: Any) -> Any:
            # In place: a second copy of the head's gradient is as large as the head.
            slopes = [None if one is None else one.mul_(scale) for one in context.saved_tensors]
            return None, None, *slopes

    return LossInPieces


def losses_into_slopes(logits: Any, targets: Any) -> Any:
    """The summed loss of a piece; its `logits` become what the loss changes by with each of them.

    In place, since each copy would be tokens x vocabulary of float32. `logits` is [tokens,
    vocabulary], `targets` [tokens].
    """
    held = targets != IGNORED
    place = targets.where(held, 0)[:, None]
    logits -= logits.amax(1, keepdim=True)
    chosen = logits.gather(1, place)[:, 0]
    sums = logits.exp_().sum(1)
    logits *= (held / sums)[:, None]
    logits.scatter_add_(1, place, -held.to(logits.dtype)[:, None])
    return ((sums.log() - chosen) * held).sum()


def group_settings(optimizer: Any) -> list[dict[str, Any]]:
    names = ("weight_decay", "betas", "eps")
    return [
        {name: group[name] for name in names if name in group} for group in optimizer.param_groups
    ]


class Supervised:
    """What our trainer does differently from transformers.Trainer, which stands behind it.

    Mixed in by `build_trainer`, because the training stack is imported only after the limits of
    this process are known.
    """

    def prepare_ours(self, settings: dict[str, Any], reporter: Reporter, order: Order) -> None:
        self.settings = settings
        self.reporter = reporter
        self.order = order
        self.resuming = settings["checkpoints"].get("resume") is not None
        self.wanted_groups: list[dict[str, Any]] = []
        self.step_samples: list[int] = []
        self.step_loss: Any = None
        self.step_tokens = 0
        self.step_longest = 0
        self.step_shape = (0, 0)
        self.last_eval_loss: float | None = None
        self.reference = Reference(self.train_dataset)  # type: ignore[attr-defined]
        self.continuity = Continuity(settings)
        total = self.args.max_steps  # type: ignore[attr-defined]
        self.cadence = Cadence(settings, total, self.continuity.mark)
        in_pieces = settings.get("loss", "whole") == "chunked"
        self.chunked = ChunkedLoss(self.model) if in_pieces else None  # type: ignore[attr-defined]

    # -- data

    def get_train_dataloader(self: Any) -> Any:
        """Our own order, never handed to accelerate, which would share it out a second time."""
        import torch

        rows = self.train_dataset
        loader = torch.utils.data.DataLoader(
            rows,
            batch_sampler=self.order,
            # A worker that is not forked is sent this by name.
            collate_fn=functools.partial(collate, pad_id=rows.pad_id, sequence=rows.sequence),
            num_workers=int(self.settings["data"].get("workers", 0)),
            pin_memory=bool(self.settings["data"].get("pin_memory", False)),
        )
        self.loader = loader
        loader.set_epoch = self.order.set_epoch
        return loader

    def _get_num_items_in_batch(self: Any, batch_samples: list[Any], device: Any) -> Any:
        """The labelled tokens of the whole global batch; 1 where there is none to divide by."""
        import torch

        count = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batch_samples)
        total = torch.tensor(float(count), device=device, dtype=torch.float64)
        torch.distributed.all_reduce(total)
        self.step_tokens = int(total.item())
        return max(self.step_tokens, 1)

    # -- one step

    def training_step(self: Any, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        self.step_samples += inputs.pop("samples")
        self.step_longest = max(self.step_longest, inputs["input_ids"].shape[1])
        self.step_shape = tuple(inputs["input_ids"].shape)
        self.reporter.phase = "forward"
        loss = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
        self.reporter.phase = "train"
        self.step_loss = loss.double() if self.step_loss is None else self.step_loss + loss.double()
        return loss

    def compute_loss(
        self: Any,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Token losses over the tokens of the global batch; DeepSpeed averages over the ranks."""
        labels = inputs.pop("labels")
        loss = self.summed_loss(model, inputs, labels)
        loss = loss * (self.args.world_size / (num_items_in_batch or 1))
        self.reporter.probes.forward_over(self.step_shape)
        self.reporter.phase = "backward"
        return (loss, {}) if return_outputs else loss

    def summed_loss(self: Any, model: Any, inputs: Any, labels: Any) -> Any:
        if self.chunked is not None:
            return self.chunked.of(model, inputs, labels)
        return token_loss(model(**inputs).logits, labels)

    # -- optimizer and resume

    def create_scheduler(self: Any, num_training_steps: int, optimizer: Any = None) -> Any:
        scheduler = super().create_scheduler(num_training_steps, optimizer)  # type: ignore[misc]
        if optimizer is None:  # the engine stands, and a checkpoint has not been loaded yet
            engine = self.accelerator.deepspeed_engine_wrapped.engine
            self.reporter.probes.over("optimizer_creation")
            watch_engine_step(engine, self.reporter)
            self.wanted_groups = group_settings(self.optimizer)
            if self.settings.get("rehearse") and self.settings["mode"] == "train":
                rehearse(self, engine)
            if self.resuming:
                self.reporter.enter("resume")
        return scheduler

    def _prepare_for_training(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.reporter.probes.over("load")
        self.reporter.enter("optimizer_creation")
        prepared = super()._prepare_for_training(*args, **kwargs)  # type: ignore[misc]
        if self.resuming:
            self.reporter.probes.over("resume")
            # A stage-3 universal load puts group 0's weight decay on every group.
            for group, wanted in zip(self.optimizer.param_groups, self.wanted_groups, strict=True):
                group.update(wanted)
            restore_learning_rate(self.optimizer, self.lr_scheduler)
        self.reporter.step = self.state.global_step
        self.reporter.emit("settings", **settings_in_force(self, prepared[0]))
        self.reference.untouched = Rotary(self.model)
        if self.resuming:
            self.continuity.after_resume(self)
        needs_evaluation = self.eval_dataset is not None and not self.settings.get("rehearse")
        self.cadence.begin(self.state.global_step, needs_evaluation)
        self.reporter.enter("train")
        return prepared

    # -- evaluation and saving

    def evaluate(self: Any, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        self.reporter.enter("eval")
        self.reporter.probes.begin("eval")
        rows = self.eval_dataset if self.eval_dataset is not None else self.train_dataset
        loss = evaluation_loss(self, rows)
        self.reporter.probes.over("eval")
        self.last_eval_loss = loss
        self.cadence.evaluated = True
        self.reporter.emit("eval", step=self.state.global_step, loss=plain_number(loss))
        self.reporter.enter("train")
        metrics = {"eval_loss": loss}
        # Else the end of an epoch would find the evaluation still asked for, and repeat it.
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        import torch

        began, step = time.monotonic(), self.state.global_step
        first, output = self.args.process_index == 0, Path(self.args.output_dir)
        self.reporter.enter("save")
        self.reporter.phase = "eval"  # an end in here is no end of a save
        reference = self.reference.loss(self)
        if reference["loss"] is not None and not math.isfinite(reference["loss"]):
            reference["loss"] = None  # nothing to hold a resume to
        self.reporter.phase = "save"
        self.reporter.probes.begin("save")
        folder = output / f"checkpoint-{step}"
        refuse_without_room(output, self.cadence.bytes, self.args)
        replaced = make_way(folder) if first else None
        torch.distributed.barrier()
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        sync_tree(folder)  # on every rank, for each may be on a machine of its own
        torch.distributed.barrier()
        self.reporter.probes.over("save")
        self.cadence.saved(step, time.monotonic() - began)
        if first:
            self.cadence.bytes = bytes_in(folder)
            mark = {"seconds": self.cadence.cost, "bytes": self.cadence.bytes}
            mark_complete(folder, step, self.settings, {**mark, "reference": reference})
            self.reporter.emit(
                "checkpoint", step=step, path=str(folder), reference=reference, **mark
            )
            if replaced is not None:
                shutil.rmtree(replaced, ignore_errors=True)
            keep_newest(output, step, self.settings["checkpoints"]["keep"])
        self.reporter.enter("train")


def restore_learning_rate(optimizer: Any, scheduler: Any) -> None:
    """The rate the schedule gives at this step, whatever the loaded optimizer carried."""
    rules = getattr(scheduler, "lr_lambdas", None)
    if rules is None:
        return
    rates = [
        base * rule(scheduler.last_epoch)
        for base, rule in zip(scheduler.base_lrs, rules, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def watch_engine_step(engine: Any, reporter: Reporter) -> None:
    """Tell the optimizer step from the backward pass, which accelerate runs in one call."""
    original: Callable[..., Any] = engine.step

    def step(*args: Any, **kwargs: Any) -> Any:
        reporter.probes.backward_over()
        reporter.phase = "step"
        done = original(*args, **kwargs)
        reporter.probes.step_over(engine.was_step_applied())
        return done

    engine.step = step


def evaluation_loss(trainer: Any, rows: Rows | Packed | Picked) -> float:
    """The mean loss over every labelled token of the rows, the same whatever the batch size."""
    micro = trainer.settings["batch"]["eval_micro"]
    if trainer.settings["mode"] == "prove" and trainer.eval_dataset is None:
        indices: list[int] = [index for index in trainer.order.entries() if index != NULL_ROW]
    else:
        indices = list(range(len(rows)))
    total, tokens = summed_over(trainer, rows, indices, micro)
    return total / max(tokens, 1.0)


def summed_over(
    trainer: Any, rows: Rows | Packed | Picked, indices: Sequence[int], micro: int
) -> tuple[float, float]:
    """The summed loss and the labelled tokens of some rows, over all ranks, without gradients."""
    import torch

    args, model = trainer.args, trainer.model_wrapped
    sums = torch.zeros(2, dtype=torch.float64, device=args.device)
    model.eval()
    with torch.no_grad():
        for batch in eval_batches(len(indices), micro, args.process_index, args.world_size):
            picked = [rows[indices[at] if at != NULL_ROW else NULL_ROW] for at in batch]
            inputs = collate(picked, rows.pad_id, rows.sequence)
            inputs.pop("samples")
            inputs = trainer._prepare_inputs(inputs)
            labels = inputs.pop("labels")
            sums[0] += trainer.summed_loss(model, inputs, labels).double()
            sums[1] += (labels[:, 1:] != IGNORED).sum()
    model.train()
    torch.distributed.all_reduce(sums)
    return float(sums[0]), float(sums[1])


# ------------------------------------------------------------------------------- continuity


class Discontinuity(Exception):
    """A resumed training does not go on as the one before it ended."""


def fingerprint(samples: Sequence[int]) -> int:
    """A number of 64 bits for some samples in any order; null rows count for nothing.

    Those of disjoint parts add up modulo 2**64 to that of the whole, so the one of a global batch
    depends on neither micro-batch nor world size.
    """
    hashes = (
        hashlib.blake2b(str(one).encode(), digest_size=8).digest()
        for one in samples
        if one != NULL_ROW
    )
    return sum(int.from_bytes(one, "big") for one in hashes) % 2**64


def in_limbs(number: int) -> list[float]:
    """64 bits as four numbers that a reduction in float64 adds up without an error."""
    return [float(number >> shift & 0xFFFF) for shift in (0, 16, 32, 48)]


def from_limbs(limbs: Sequence[float]) -> int:
    return sum(int(limb) << 16 * place for place, limb in enumerate(limbs)) % 2**64


class Reference:
    """A few fixed rows, whose loss is the same under every plan that keeps the weights."""

    def __init__(self, rows: Rows | Packed) -> None:
        count = min(REFERENCE_ROWS, len(rows))
        self.rows = rows
        self.indices = [at * len(rows) // count for at in range(count)]
        self.untouched: Rotary | None = None  # the model's, before its first step

    def loss(self, trainer: Any) -> dict[str, Any]:
        """Their mean loss in evaluation, and what tells these rows from others."""
        micro = min(trainer.settings["batch"]["micro"], len(self.indices))
        before = Rotary(trainer.model)
        if self.untouched is not None:
            self.untouched.put_back()
        total, tokens = summed_over(trainer, self.rows, self.indices, micro)
        before.put_back()
        return {"loss": total / tokens if tokens else None, "rows": self.digest}

    @functools.cached_property
    def digest(self) -> str:
        encoded = [(self.rows[at]["ids"], self.rows[at]["labels"]) for at in self.indices]
        return hashlib.blake2b(json.dumps(encoded).encode(), digest_size=8).hexdigest()


def read_mark(settings: dict[str, Any]) -> dict[str, Any]:
    """What the last file of the checkpoint says that is started from; {} where it says nothing."""
    resume = settings["checkpoints"].get("resume")
    try:
        mark = json.loads((Path(resume) / COMPLETE_MARK).read_text()) if resume else None
    except (OSError, ValueError):
        mark = None
    return mark if isinstance(mark, dict) else {}


class Continuity:
    """Holds a resumed training against the one before it: weights, samples, losses, rate.

    TRAIN_JSON says under `continuity` what to hold it against; each part may be missing:
    `tolerance`, the largest share of a loss that rounding explains (null where the plan changes
    more than rounding: then both losses are only told); `replay`, rows of [step, loss, fingerprint]
    for steps that were trained before, each value null where it need not be the same; `band`,
    {"median", "spread"} of the losses before, for a checkpoint without a reference loss.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        told = settings.get("continuity") or {}
        self.mark = read_mark(settings)
        self.tolerance: float | None = told.get("tolerance")
        self.replay = {step: (loss, samples) for step, loss, samples in told.get("replay") or ()}
        self.band: dict[str, float] | None = told.get("band")
        self.losses: list[float] = []

    @property
    def doubting(self) -> bool:
        """Whether a check is not over, so that nothing is saved yet which may be gone on from."""
        return bool(self.replay) or self.band is not None

    def after_resume(self, trainer: Any) -> None:
        """Compare the weights as loaded with those that were saved, by the reference loss."""
        trainer.reporter.phase = "resume"  # whatever was done on the way here
        kept = self.mark.get("reference") or {}
        before: float | None = kept.get("loss")
        now = trainer.reference.loss(trainer)
        comparable = before is not None and kept.get("rows") == now["rows"]
        if comparable or trainer.settings["mode"] != "train":
            self.band = None
        if self.replay and draws_masks(trainer.model):
            # Another factorisation draws other masks of dropout; the samples are still the same.
            self.replay = {step: (None, samples) for step, (_, samples) in self.replay.items()}
        told = {
            "step": trainer.state.global_step,
            "lr": trainer.optimizer.param_groups[0]["lr"],
            "lr_expected": rate_expected(trainer),
            "check": "reference" if comparable else "none" if self.band is None else "band",
            "loss": plain_number(now["loss"]),
            "saved_loss": before if comparable else None,
            "tolerance": self.tolerance,
        }
        if trainer.args.process_index == 0:
            trainer.reporter.emit("continuity", **told)
        if before is not None and comparable and self.departs(now["loss"], before):
            raise Discontinuity(
                f"the checkpoint of step {told['step']} does not go on as it ended: the loss of "
                f"its reference rows was {before:.6f} when it was saved and is {now['loss']:.6f} "
                f"now, more than {self.tolerance:.1e} of it apart"
            )

    def after_step(self, trainer: Any, step: int, loss: float, samples: int) -> None:
        """Compare a step with the same one before, or the first steps with those before."""
        before, known = self.replay.get(step, (None, None))
        self.replay = {later: told for later, told in self.replay.items() if later > step}
        if known is not None and known != f"{samples:016x}":
            raise Discontinuity(
                f"step {step} does not go on as it ended: it is trained again on other samples"
            )
        if before is not None and self.departs(loss, before):
            raise Discontinuity(
                f"step {step} does not go on as it ended: its loss was {before:.6f} before the "
                f"resume and is {loss:.6f} now, more than {self.tolerance:.1e} of it apart"
            )
        if self.band is not None:
            self.losses.append(loss)
            if len(self.losses) == BAND_STEPS:
                self.judge_by_band(trainer, self.band)

    def judge_by_band(self, trainer: Any, band: dict[str, float]) -> None:
        """The weaker check: a median of steps on other samples, against their usual scatter."""
        now, most = statistics.median(self.losses), band["median"] + band["spread"]
        self.band = None
        if trainer.args.process_index == 0:
            trainer.reporter.emit(
                "continuity", check="band", loss=plain_number(now), saved_loss=band["median"],
                spread=band["spread"], step=trainer.state.global_step,
            )  # fmt: skip
        if not now <= most:
            raise Discontinuity(
                f"the training does not go on as it ended: the median loss of the {BAND_STEPS} "
                f"steps since the resume is {now:.4f}; before it was {band['median']:.4f}, and "
                f"what scatters lies below {most:.4f}"
            )

    def departs(self, now: float, before: float) -> bool:
        """Whether a loss is further from another than rounding takes it."""
        # A loss that has come down to nothing is still made of logits that are rounded.
        return self.tolerance is not None and not abs(now - before) <= self.tolerance * max(
            1.0, abs(before)
        )


def draws_masks(model: Any) -> bool:
    """Whether training draws random masks, by modules or by what the configuration says."""
    modules = any(
        getattr(one, "p", 0) for one in model.modules() if "Dropout" in type(one).__name__
    )
    values = vars(model.config).items()
    said = any(
        isinstance(value, float) and value > 0 for name, value in values if "drop" in name.lower()
    )
    return modules or said


def rate_expected(trainer: Any) -> float | None:
    """The learning rate that the schedule gives by the steps counted, whatever was loaded of it."""
    scheduler = trainer.lr_scheduler
    rules = getattr(scheduler, "lr_lambdas", None)
    if rules is None:
        return None
    # The schedule does not move at a step that a loss scaler has skipped.
    skipped = int(getattr(trainer.model_wrapped, "skipped_steps", 0) or 0)
    return float(scheduler.base_lrs[0] * rules[0](trainer.state.global_step - skipped))


# ------------------------------------------------------------------------------------ saving


def seconds_between_saves(cost: float, mean: float | None, whole: float) -> float:
    """How long to train between two saves, in seconds.

    `cost` is what one save takes, `mean` the time between two failures, `whole` the time of the
    run. sqrt(2 x cost x mean) loses least to saving and to failures together (J. W. Young, "A first
    order approximation to the optimum checkpoint interval", Communications of the ACM 17(9), 1974;
    J. T. Daly, Future Generation Computer Systems 22(3), 2006, has the terms beyond it). It is
    never more than a tenth of the run, as long as saving so often takes less than a tenth of it.
    """
    often = max(whole * MOST_SHARE, cost / MOST_SHARE)
    return often if mean is None else min(math.sqrt(2 * cost * mean), often)


class Cadence:
    """Says when the next checkpoint is due: every N steps for the owner's N, else by cost and risk.

    TRAIN_JSON gives under `checkpoints.risk` the mean time between failures in seconds, while the
    plan is unproven and from then on; without it a tenth of the run lies between two saves.
    """

    def __init__(self, settings: dict[str, Any], total: int, mark: dict[str, Any]) -> None:
        self.every: int | None = settings["checkpoints"]["every"]
        self.risk: dict[str, float] = settings["checkpoints"].get("risk") or {}
        self.total = total
        self.cost: float | None = mark.get("seconds")  # of the newest save, seconds
        self.bytes: int | None = mark.get("bytes")
        self.saves = 0
        self.evaluated = True
        self.first = self.newest = 0  # optimizer steps: before this attempt, and at the last save
        self.began = self.last = time.monotonic()

    def begin(self, step: int, needs_evaluation: bool) -> None:
        """The first optimizer step comes now."""
        self.first = self.newest = step
        self.evaluated = not needs_evaluation
        self.began = self.last = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether to save after this optimizer step; asked on rank 0, which decides for all."""
        if self.every is not None:
            return step - step % self.every > self.newest  # or it was due and had to wait
        done, now = step - self.first, time.monotonic()
        if self.saves == 0:
            return done >= min(FIRST_SAVE, math.ceil(self.total * MOST_SHARE))
        pace = (now - self.began) / done
        wait = seconds_between_saves(self.cost or 0.0, self.mean(done), pace * self.total)
        return now - self.last + pace / 2 >= wait  # at the step that comes nearest

    def mean(self, done: int) -> float | None:
        """Seconds between two failures, as far as anybody knows."""
        proven = done >= PROVEN_STEPS and self.saves > 0 and self.evaluated
        return self.risk.get("proven" if proven else "unproven")

    def saved(self, step: int, seconds: float) -> None:
        self.newest, self.cost, self.last = step, seconds, time.monotonic()
        self.saves += 1


def refuse_without_room(output: Path, needed: int | None, args: Any) -> None:
    """Fail on every rank before a save that would fill the disk; what was saved before stays."""
    import torch

    free = shutil.disk_usage(output).free if output.is_dir() else None
    lacks = args.process_index == 0 and None not in (needed, free) and (free or 0) < (needed or 0)
    shared = torch.tensor([float(lacks)], device=args.device)
    torch.distributed.all_reduce(shared)
    if float(shared[0]) > 0:
        raise OSError(
            errno.ENOSPC,
            f"a checkpoint takes {(needed or 0) / 2**30:.2f} GiB and {(free or 0) / 2**30:.2f} GiB "
            f"are free where checkpoints go ({output}); those saved before are kept: make room, or "
            "lower checkpoints.keep",
        )


def step_of_name(folder: Path) -> int | None:
    """N of a folder of its own that is named checkpoint-N."""
    match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
    return int(match[1]) if match and folder.is_dir() and not folder.is_symlink() else None


def make_way(folder: Path) -> Path | None:
    """Make the folder of a new checkpoint; what lies there is kept aside, unless a save broke off.

    Returns the place of a whole one of ours, to be removed when the new one is whole as well: for
    shards of another world size must not be taken for this one's.
    """
    ours, replaced = False, None
    if folder.is_symlink() or folder.exists():
        ours = not folder.is_symlink() and (folder / COMPLETE_MARK).exists()
        if not ours and not folder.is_symlink() and (folder / BEGUN_MARK).exists():
            shutil.rmtree(folder)
        else:
            replaced = unused(
                folder.parent / ASIDE / f"{folder.name}-{'replaced' if ours else 'found'}"
            )
            replaced.parent.mkdir(exist_ok=True)
            folder.rename(replaced)
    folder.mkdir(parents=True)
    (folder / BEGUN_MARK).write_text("{}")
    return replaced if ours else None


def unused(place: Path) -> Path:
    """This place, or the first free one of its name and a number."""
    names = (
        f"{place.name}-{number}" if number > 1 else place.name for number in itertools.count(1)
    )
    return next(
        one for one in map(place.with_name, names) if not one.exists() and not one.is_symlink()
    )


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def mark_complete(
    folder: Path, step: int, settings: dict[str, Any], more: dict[str, Any] | None = None
) -> None:
    """The last file of a checkpoint: where it stands, every rank had finished writing."""
    stage = settings["deepspeed"].get("zero_optimization", {}).get("stage", 0)
    mark = {
        "step": step,
        "attempt": settings["channel"]["attempt"],
        "world_size": settings["batch"]["world_size"],
        "zero_stage": stage,
        **(more or {}),
    }
    draft = folder / (COMPLETE_MARK + ".draft")
    draft.write_text(json.dumps(mark))
    sync(draft)
    draft.replace(folder / COMPLETE_MARK)
    sync(folder)  # older checkpoints are removed next
    (folder / BEGUN_MARK).unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Put all of a checkpoint on disk, files before the folders that name them.

    A power cut leaves what was not, and a mark that came through would vouch for empty shards.
    """
    for place, _, names in os.walk(folder, topdown=False):
        for path in (Path(place, name) for name in names):
            if not path.is_symlink():
                sync(path)
        sync(Path(place))
    sync(folder.parent)


def sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return  # another rank has renamed its draft, or removed it
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot do it for a folder
            raise
    finally:
        os.close(descriptor)


def keep_newest(folder: Path, step: int, keep: int) -> None:
    """Remove what is older than the `keep` newest checkpoints up to `step`, which is now whole.

    Nothing above `step` is counted: it is not of this line, and may be damaged. Only folders with
    our mark go. The Trainer's own rotation runs before the new checkpoint is known to be whole, and
    goes by modification times, which a copied folder does not keep.
    """
    found = (step_of_name(mark.parent) for mark in folder.glob("checkpoint-*/" + COMPLETE_MARK))
    steps = sorted(one for one in found if one is not None and one <= step)
    for old in steps[: -max(keep, 1)]:
        shutil.rmtree(folder / f"checkpoint-{old}", ignore_errors=True)


# --------------------------------------------------------------------------------- in force


def settings_in_force(trainer: Any, engine: Any) -> dict[str, Any]:
    """What is really in force, read from the engine, the optimizer and the model."""
    optimizer, model = engine.optimizer, trainer.model
    parameters = list(model.parameters())
    sizes = [getattr(one, "ds_numel", one.numel()) for one in parameters]
    prefetch = getattr(getattr(optimizer, "parameter_offload", None), "prefetch_bucket_sz", None)
    if prefetch is None and engine.zero_optimization_stage() == 3:
        prefetch = engine.zero_prefetch_bucket_size()
    return {
        "micro_batch": engine.train_micro_batch_size_per_gpu(),
        "accumulation": engine.gradient_accumulation_steps(),
        "global_batch": engine.train_batch_size(),
        "world_size": trainer.args.world_size,
        "zero_stage": engine.zero_optimization_stage(),
        "offload_optimizer": offload_device(engine.zero_offload_optimizer()),
        "offload_param": offload_device(engine.zero_offload_param()),
        "quantization": "nf4" if any(hasattr(one, "quant_state") for one in parameters) else "none",
        "activation_checkpointing": checkpoints_activations(model),
        "activation_offload": offloads_activations(model),
        "loss": "whole" if trainer.chunked is None else "chunked",
        "sequence": trainer.train_dataset.sequence,
        "lora_rank": rank_of_adapter(model),
        "dtype": str(next(engine.module.parameters()).dtype).removeprefix("torch."),
        "attention": getattr(model.config, "_attn_implementation", None),
        "four_bit_compute": four_bit_compute(model),
        "loader_workers": trainer.loader.num_workers,
        "pin_memory": trainer.loader.pin_memory,
        "offload_pins": [
            bool(getattr(part, "pin_memory", False))
            for part in (engine.zero_offload_optimizer(), engine.zero_offload_param())
        ],
        "blocking_launches": os.environ.get("CUDA_LAUNCH_BLOCKING") == "1",
        "reduce_bucket_elements": plain_int(getattr(optimizer, "reduce_bucket_size", None)),
        "allgather_bucket_elements": plain_int(getattr(optimizer, "allgather_bucket_size", None)),
        "prefetch_bucket_elements": plain_int(prefetch),
        "eval_micro_batch": trainer.settings["batch"]["eval_micro"],
        "gather_on_save": bool(engine.zero_gather_16bit_weights_on_model_save()),
        "total_steps": trainer.args.max_steps,
        "optimizer": optimizer_in_force(optimizer),
        "param_groups": groups_in_force(optimizer),
        "soft_limit_bytes": soft_limit_bytes(),
        "allocator": {
            name: os.environ.get(name) for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
        },
        "parameters": sum(sizes),
        "trainable_parameters": sum(
            size for size, one in zip(sizes, parameters, strict=True) if one.requires_grad
        ),
    }


def optimizer_in_force(optimizer: Any) -> str:
    """The class that steps, and what bitsandbytes makes of its state."""
    inner = getattr(optimizer, "optimizer", optimizer)
    bits = getattr(getattr(inner, "args", None), "optim_bits", None)
    words = [type(inner).__name__, f"{bits}-bit" if bits else ""]
    return " ".join([*words, "paged" if getattr(inner, "is_paged", False) else ""]).strip()


def rank_of_adapter(model: Any) -> int | None:
    """The rank of the adapters; None where there is none."""
    return next((int(one.r) for one in getattr(model, "peft_config", {}).values()), None)


def offloads_activations(model: Any) -> bool:
    functions = (getattr(one, "_gradient_checkpointing_func", None) for one in model.modules())
    return any(getattr(one, "to_host", False) for one in functions)


def checkpoints_activations(model: Any) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def four_bit_compute(model: Any) -> str | None:
    """What the 4-bit layers multiply in, as the first of them says; None where there is none."""
    for module in model.modules():
        if hasattr(module, "compute_dtype"):  # peft wraps such a layer and shows its weight
            return str(module.compute_dtype).removeprefix("torch.")
    return None


def groups_in_force(optimizer: Any) -> list[dict[str, Any]]:
    names = ("weight_decay", "betas", "eps", "lr")
    return [{name: group.get(name) for name in names} for group in optimizer.param_groups]


def offload_device(config: Any) -> str:
    device = getattr(config, "device", None)
    return str(getattr(device, "value", device) or "none")


def plain_int(value: Any) -> int | None:
    return None if value is None else int(value)


def soft_limit_bytes() -> int | None:
    soft = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return None if soft == resource.RLIM_INFINITY else soft


class Control:
    """The supervisor's control file; one that cannot be read is no command."""

    def __init__(self, path: str | None) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._stop = False

    def asks_to_stop(self) -> bool:
        if self.path is None:
            return False
        try:
            state = os.stat(self.path)  # noqa: PTH116
            seen = (state.st_mtime_ns, state.st_ino, state.st_size)
            if seen != self._seen:
                command = json.loads(Path(self.path).read_text())
                self._stop = isinstance(command, dict) and command.get("command") == "stop"
                self._seen = seen
        except (OSError, ValueError):
            return False
        return self._stop


class StepWatch:
    """Reports each optimizer step and looks for the supervisor's word at its end."""

    def prepare_ours(self, trainer: Any, control: Control) -> None:
        self.trainer = trainer
        self.control_file = control
        self.started = 0.0
        self.stopped_at: int | None = None
        self.last_loss: float | None = None
        self.samples = 0  # the fingerprint of those of the newest step, of all ranks
        self.rows = 0

    def on_train_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        # On resume the checkpoint's own figures would win over what this plan says.
        state.save_steps = args.save_steps
        state.eval_steps = args.eval_steps
        state.logging_steps = args.logging_steps
        state.train_batch_size = args.per_device_train_batch_size

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.monotonic()
        self.trainer.step_samples = []
        self.trainer.step_loss = None
        self.trainer.step_longest = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        import torch

        trainer, step = self.trainer, state.global_step
        first, saving = args.process_index == 0, args.save_strategy != "no"
        asked = first and self.control_file.asks_to_stop()
        due = first and saving and trainer.cadence.due(step) and not trainer.continuity.doubting
        shared = torch.tensor(
            [
                float(trainer.step_loss), float(asked), float(due),
                float(len(trainer.step_samples)), *in_limbs(fingerprint(trainer.step_samples)),
            ],
            dtype=torch.float64,
            device=args.device,
        )  # fmt: skip
        torch.distributed.all_reduce(shared)
        told = shared.tolist()
        self.last_loss = told[0] / args.world_size
        self.rows, self.samples = int(told[3]), from_limbs(told[4:])
        trainer.reporter.step = step
        self.report(args, state)
        # Before anything of it is saved: what does not go on as it ended is not gone on from.
        trainer.continuity.after_step(trainer, step, self.last_loss, self.samples)
        if told[2] > 0:
            control.should_save = True
        if told[1] > 0 and step < state.max_steps:
            self.stopped_at = step
            control.should_training_stop = True
            control.should_save = saving
            control.should_evaluate = False

    def report(self, args: Any, state: Any) -> None:
        trainer, seconds = self.trainer, time.monotonic() - self.started
        ids: Any = trainer.step_samples
        if len(ids) > IDS_IN_EVENT:
            ids = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
        rate, norm = trainer._get_learning_rate(), trainer.model_wrapped.get_global_grad_norm()
        trainer.reporter.emit(
            "step",
            step=state.global_step,
            total=state.max_steps,
            epoch=state.epoch,
            loss=plain_number(self.last_loss),
            lr=rate,
            grad_norm=plain_number(None if norm is None else float(norm)),
            seconds=seconds,
            tokens=trainer.step_tokens,
            samples=ids,
            batch_rows=self.rows,
            batch_fingerprint=f"{self.samples:016x}",
            memory=trainer.reporter.memory(),
            max_length=trainer.step_longest,
            skipped_steps=getattr(trainer.model_wrapped, "skipped_steps", None),
        )
        if args.process_index == 0:
            print(
                f"step {state.global_step}/{state.max_steps} loss {self.last_loss:.6f} "
                f"lr {rate:.3e} {seconds:.2f} s",
                flush=True,
            )


# ----------------------------------------------------------------------------------- rehearsal


def rehearse(trainer: Any, engine: Any) -> None:
    """Take two steps and an evaluation on the longest rows, and leave everything as it was.

    What does not fit fails here, in the first minute. The checkpoint of a resume is loaded only
    afterwards, so that the state to go back to is always that of the beginning: no moments, no
    steps, the weights as they were read. The weights never move, since gradients, learning rate
    and weight decay are zero; all else is small enough to be kept, and put back.
    """
    reporter, began = trainer.reporter, time.monotonic()
    hindrance = cannot_rehearse(engine)
    if hindrance is not None:
        reporter.emit("rehearsal", skipped=hindrance)
        return
    before = AsItWas(trainer, engine)
    reporter.rehearsing = True
    reporter.enter("train")
    trainer.model_wrapped = engine  # as the Trainer itself is about to say
    longest = rehearse_steps(trainer, engine)
    if trainer.eval_dataset is not None:
        rehearse_evaluation(trainer)
    before.put_back()
    reporter.emit("rehearsal", longest=longest, seconds=time.monotonic() - began)
    reporter.rehearsing = False
    reporter.phase = "optimizer_creation"


def inner_optimizers(engine: Any) -> list[Any]:
    """The optimizers below ZeRO: one, or two where a part of the state is offloaded."""
    zero = engine.optimizer
    found = (getattr(zero, "optimizer", zero), getattr(zero, "backup_optimizer", None))
    return [one for one in found if one is not None]


def cannot_rehearse(engine: Any) -> str | None:
    """Why the beginning could not be gone back to, or None."""
    for optimizer in inner_optimizers(engine):
        if optimizer.state:
            return "the optimizer has state before its first step"
        if getattr(optimizer, "is_paged", False):
            return "bitsandbytes never gives back the pages of a paged optimizer"
    return None


def longest_rows(rows: Rows | Packed, count: int) -> Picked:
    """The `count` longest rows, over again where there are fewer."""
    lengths = tokens_of_longest(rows, count)
    ranked = sorted(lengths, key=lambda index: -lengths[index])
    return Picked(rows, [ranked[at % len(ranked)] for at in range(count)])


def rehearse_steps(trainer: Any, engine: Any) -> int:
    """Two optimizer steps, the second beside the optimizer's state; the tokens of a row in them."""
    batch = trainer.settings["batch"]
    # Every rank and pass takes the longest rows there are: any of them may meet them.
    picked = longest_rows(trainer.train_dataset, batch["micro"])
    passes = min(batch["accumulation"], 2)  # the second adds to the gradients of the first
    trainer.current_gradient_accumulation_steps = batch["accumulation"]
    width = 0
    for _ in range(2):
        for at in range(passes):
            trainer.accelerator.gradient_state._set_sync_gradients(at == passes - 1)
            rows = [picked[index] for index in range(len(picked))]
            inputs = collate(rows, picked.pad_id, picked.sequence)
            width = inputs["input_ids"].shape[1]
            # Divided by endlessly many tokens the loss and all gradients are zero.
            trainer.training_step(engine, inputs, num_items_in_batch=math.inf)
    return width


def rehearse_evaluation(trainer: Any) -> None:
    """One micro-batch of the longest evaluation rows on every rank."""
    trainer.reporter.phase = "eval"
    trainer.reporter.probes.begin("eval")
    count = trainer.settings["batch"]["eval_micro"] * trainer.args.world_size
    evaluation_loss(trainer, longest_rows(trainer.eval_dataset, count))
    trainer.reporter.probes.over("eval")
    trainer.reporter.phase = "train"


class AsItWas:
    """What two steps without effect on the weights change in an engine that never stepped."""

    OF_ENGINE = (
        "micro_steps", "global_steps", "global_samples", "skipped_steps", "losses",
        "_global_grad_norm", "_step_applied", "_is_gradient_accumulation_boundary",
    )  # fmt: skip
    OF_OPTIMIZER = ("_global_grad_norm", "overflow", "_hp_optimizer_states_linked")

    def __init__(self, trainer: Any, engine: Any) -> None:
        self.trainer, self.engine, self.zero = trainer, engine, engine.optimizer
        self.optimizers = inner_optimizers(engine)
        # Gradients that are not finite times a rate of zero would still be no number.
        self.hooks = [one.register_step_pre_hook(zero_gradients) for one in self.optimizers]
        self.groups = [
            (group, {name: group[name] for name in ("lr", "weight_decay") if name in group})
            for one in self.optimizers
            for group in one.param_groups
        ]
        for group, kept in self.groups:
            group.update(dict.fromkeys(kept, 0.0))
        self.scheduler, engine.lr_scheduler = engine.lr_scheduler, None
        self.monitoring, engine.monitor.enabled = engine.monitor.enabled, False
        self.kept = [
            (owner, {name: value for name, value in vars(owner).items() if name in names})
            for owner, names in self._counters()
        ]
        self.rotary = Rotary(engine.module)
        self.randoms = random_states()

    def _counters(self) -> Iterator[tuple[Any, Sequence[str]]]:
        yield self.engine, self.OF_ENGINE
        yield self.zero, self.OF_OPTIMIZER
        for optimizer in self.optimizers:
            yield optimizer, ("initialized",)  # of bitsandbytes: its state was moved to the device
        for whole in (getattr(self.zero, "loss_scaler", None), self.engine.tput_timer):
            if whole is not None:
                yield whole, list(vars(whole))
        yield self.trainer.accelerator.gradient_state, ("sync_gradients",)

    def put_back(self) -> None:
        self.zero.zero_grad()
        for hook in self.hooks:
            hook.remove()
        for group, kept in self.groups:
            group.update(kept)
        for optimizer in self.optimizers:
            forget_steps(optimizer)
        for parameter in self.engine.module.parameters():
            parameter.grad = None
            linked = getattr(parameter, "_hp_mapping", None)
            if linked is not None:
                linked.optim_fragment = None  # a view of moments that are gone
        self.engine.lr_scheduler = self.scheduler
        self.engine.monitor.enabled = self.monitoring
        for owner, values in self.kept:
            for name, value in values.items():
                setattr(owner, name, value)
        self.rotary.put_back()
        set_random_states(self.randoms)
        give_back_memory()


class Rotary:
    """What the rotary embeddings of a model keep in mind, as some stretch with the longest row."""

    def __init__(self, model: Any) -> None:
        self.kept = [
            (module, stretched(module), dict(module._buffers)) for module in model.modules()
        ]

    def put_back(self) -> None:
        for module, values, buffers in self.kept:
            for name in stretched(module).keys() - values.keys():
                delattr(module, name)
            vars(module).update(values)
            module._buffers.update(buffers)


def stretched(module: Any) -> dict[str, Any]:
    """What a rotary embedding of transformers remembers of lengths, by kind of layer or for all."""
    ends = ("max_seq_len_cached", "attention_scaling")
    return {name: value for name, value in vars(module).items() if name.endswith(ends)}


def zero_gradients(optimizer: Any, *_: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.zero_()


def forget_steps(optimizer: Any) -> None:
    """Empty the optimizer's state, also what DeepSpeed's CPU Adam counts outside of Python."""
    optimizer.state.clear()
    if hasattr(optimizer, "ds_opt_adam"):
        given = optimizer.defaults
        optimizer.ds_opt_adam.destroy_adam(optimizer.opt_id)
        optimizer.ds_opt_adam.create_adam(
            optimizer.opt_id,
            given["lr"],
            *given["betas"],
            given["eps"],
            given["weight_decay"],
            optimizer.adam_w_mode,
            False,
        )


def random_states() -> tuple[Any, Any, Any, Any]:
    import numpy
    import torch

    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return random.getstate(), numpy.random.get_state(), torch.get_rng_state(), cuda


def set_random_states(states: tuple[Any, Any, Any, Any]) -> None:
    import numpy
    import torch

    plain, of_numpy, of_torch, cuda = states
    random.setstate(plain)
    numpy.random.set_state(of_numpy)
    torch.set_rng_state(of_torch)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda)


def give_back_freed_tensors() -> None:
    """Let glibc hand each freed tensor back to the kernel, as the limit on VmData supposes.

    Of itself it keeps what was freed, up to 32 MiB a tensor, in a heap that grows with the largest
    tensor freed so far (mallopt(3), M_MMAP_THRESHOLD): a fifth of a small training's peak.
    In return small steps fault their pages in again and again (tests/bench/RESULTS.md has both).
    Set to its own first value the threshold stays there.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(-3, 128 * 1024)


def give_back_memory() -> None:
    """Hand freed memory back, so that later figures are those of a start without rehearsal."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc keeps what was freed below the top of its heap
        trim(0)


# -------------------------------------------------------------------------------------- survey


def survey(settings: dict[str, Any]) -> dict[str, Any]:
    """How many rows and steps there are and how long the longest, without model and trainer."""
    rows, held = load_rows(settings, load_tokenizer(settings))
    order = Order(len(rows), settings["batch"], 0, shuffle=False, seed=0)
    return {
        "rows": len(rows),
        "steps": total_steps(settings, order.steps),
        "longest": widths_of_longest(rows),
        "eval_rows": 0 if held is None else len(held),
        "eval_longest": [] if held is None else widths_of_longest(held),
        "tokens_mean": mean_tokens(rows),
    }


def widths_of_longest(rows: Rows | Packed) -> list[int]:
    """Tokens of the longest rows with the padding that each alone would get, longest first."""
    lengths = heapq.nlargest(LONGEST_TOLD, tokens_of_longest(rows, LONGEST_TOLD).values())
    return [padded(length, rows.sequence) for length in lengths]


def mean_tokens(rows: Rows | Packed) -> float:
    """The mean length of rows spread evenly over the file, after the cut and without padding."""
    if isinstance(rows, Packed):
        return sum(rows.lengths) / len(rows.lengths)
    sample = range(0, len(rows), -(-len(rows) // LONGEST_ENCODED))
    return sum(len(rows[index]["ids"]) for index in sample) / len(sample)


# ---------------------------------------------------------------------------------------- main


def total_steps(settings: dict[str, Any], per_epoch: int) -> int:
    schedule = settings["schedule"]
    if schedule.get("max_steps") is not None:
        return int(schedule["max_steps"])
    # Rounded first: 0.1 x 30 is a little more than 3 in floating point.
    return math.ceil(round(float(schedule["epochs"]) * per_epoch, 6))


def step_of_checkpoint(settings: dict[str, Any]) -> int:
    resume = settings["checkpoints"].get("resume")
    if resume is None:
        return 0
    return int(json.loads((Path(resume) / "trainer_state.json").read_text())["global_step"])


def training_arguments(settings: dict[str, Any], output: str, steps: int, evaluate: bool) -> Any:
    import transformers

    schedule, batch = settings["schedule"], settings["batch"]
    saving = settings["mode"] == "train"
    return transformers.TrainingArguments(
        output_dir=output,
        max_steps=steps,
        per_device_train_batch_size=batch["micro"],
        per_device_eval_batch_size=batch["eval_micro"],
        gradient_accumulation_steps=batch["accumulation"],
        learning_rate=schedule["learning_rate"],
        lr_scheduler_type=schedule["scheduler"],
        warmup_steps=schedule["warmup_steps"],
        weight_decay=schedule["weight_decay"],
        adam_beta1=schedule["adam_betas"][0],
        adam_beta2=schedule["adam_betas"][1],
        adam_epsilon=schedule["adam_epsilon"],
        max_grad_norm=schedule["max_grad_norm"],
        optim=schedule["optimizer"],
        seed=schedule["seed"],
        bf16=settings["model"]["dtype"] == "bf16",
        fp16=settings["model"]["dtype"] == "fp16",
        use_cpu=settings["memory"]["device"] == "cpu",
        deepspeed=settings["deepspeed"],
        save_strategy="steps" if saving else "no",
        save_steps=steps,  # those before the last are asked for by `Cadence`
        save_total_limit=None,  # `keep_newest` does it, after the new checkpoint is whole
        eval_strategy="steps" if evaluate and saving else "no",
        eval_steps=schedule.get("eval_every") or steps,
        ignore_data_skip=not saving,
        logging_strategy="no",
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        auto_find_batch_size=False,
    )


def load_rows(settings: dict[str, Any], tokenizer: Any) -> tuple[Rows | Packed, Rows | None]:
    data = settings["data"]
    train_path = Path(data["train"])
    train, held = read_rows(train_path), []
    if data.get("eval") is not None:
        eval_path = Path(data["eval"])
        held = read_rows(eval_path)
    else:
        eval_path = train_path
        train, held = split_rows(train, data.get("eval_fraction") or 0.0)
    rows = Rows(train_path, train, tokenizer, data)
    held_rows = Rows(eval_path, held, tokenizer, data) if held else None
    return Packed(rows) if data.get("packing") else rows, held_rows


def choose_order(settings: dict[str, Any], rows: Rows | Packed, rank: int) -> Order:
    if settings["mode"] == "prove":
        found = tokens_of_longest(rows, settings["batch"]["global"])
        lengths = [found.get(index, 0) for index in range(len(rows))]
        return Longest(lengths, settings["batch"], rank)
    data = settings["data"]
    return Order(len(rows), settings["batch"], rank, shuffle=data["shuffle"], seed=data["seed"])


def build_trainer(
    settings: dict[str, Any], output: str, reporter: Reporter, rank: int
) -> tuple[Any, Any]:
    """The trainer and the watch on its steps, ready for `train`."""
    import transformers

    fresh = fresh_model(settings) if settings["model"].get("config") is not None else None
    tokenizer = load_tokenizer(settings)
    rows, held = load_rows(settings, tokenizer)
    order = choose_order(settings, rows, rank)
    steps = total_steps(settings, order.steps)
    if settings["mode"] == "prove":
        steps = step_of_checkpoint(settings) + 1
    arguments = training_arguments(settings, output, steps, held is not None)
    if fresh is None:
        model = stored_model(settings)
    elif settings["method"]["quantization"] != "none":
        model = stored_model(settings, fresh)
    else:
        model = fresh
    model = finish_model(settings, model)
    trainer = type("FineTuner", (Supervised, transformers.Trainer), {})(
        model=model, args=arguments, train_dataset=rows, eval_dataset=held
    )
    trainer.prepare_ours(settings, reporter, order)
    watch = type("Watch", (StepWatch, transformers.TrainerCallback), {})()
    watch.prepare_ours(trainer, Control(settings["channel"].get("control")))
    trainer.add_callback(watch)
    # Plain lines come from the watch; the Trainer's own dictionaries would only repeat them.
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer, watch


def train(settings: dict[str, Any], reporter: Reporter, rank: int) -> None:
    output = settings["checkpoints"]["dir"]
    trainer, watch = build_trainer(settings, output, reporter, rank)
    total: int = trainer.args.max_steps
    resume = settings["checkpoints"].get("resume")
    reporter.step = step_of_checkpoint(settings)
    if reporter.step < total:  # a Trainer resumed at its last step would take one more
        trainer.train(resume_from_checkpoint=resume)
    reporter.enter("finish")
    if watch.stopped_at is not None:
        reporter.emit("stopped", step=watch.stopped_at)
        return
    reporter.emit("finished", step=reporter.step, total=total)


def prove(settings: dict[str, Any], reporter: Reporter, rank: int) -> None:
    """One step on the longest rows and one evaluation from the checkpoint, and nothing kept."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer, watch = build_trainer(settings, scratch, reporter, rank)
        trainer.train(resume_from_checkpoint=settings["checkpoints"].get("resume"))
        trainer.evaluate()
    reporter.enter("finish")
    reporter.emit(
        "proven",
        step=reporter.step,
        loss=plain_number(watch.last_loss),
        eval_loss=plain_number(trainer.last_eval_loss),
        memory=reporter.memory(),
    )


def place_in_world(local_rank: int | None) -> tuple[int, int]:
    """Rank and world size; alone, the variables a launcher would have set are made up."""
    if local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(local_rank))
    if "WORLD_SIZE" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        os.environ.update(alone, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def run(settings: dict[str, Any], reporter: Reporter, rank: int, world_size: int) -> None:
    if world_size != settings["batch"]["world_size"]:
        raise SettingsError(
            f"started with {world_size} ranks; the plan is for {settings['batch']['world_size']}"
        )
    cpu = settings["memory"]["device"] == "cpu"
    if cpu:
        give_back_freed_tensors()
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import torch

    set_threads(world_size if cpu else 1)
    if not cpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed("gloo" if cpu else "nccl", auto_mpi_discovery=False, verbose=False)
    build_ops(settings["deepspeed"])
    reporter.probes.over("base")
    reporter.enter("load")
    set_memory_limit(settings["memory"])
    reporter.watch_peak()
    if settings["mode"] == "prove":
        prove(settings, reporter, rank)
    else:
        train(settings, reporter, rank)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", type=Path, metavar="TRAIN_JSON")
    parser.add_argument("--survey", action="store_true", help="tell of the rows and end")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=None)
    given = parser.parse_args(arguments)
    # Nothing here may reach a model hub; what is not on disk is missing.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # transformers imports pyarrow where it finds it, whose own pool takes 1 GiB at once.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if given.survey:
        print(json.dumps(survey(load_settings(given.settings))), flush=True)
        return 0
    rank, world_size = place_in_world(given.local_rank)
    settings = load_settings(given.settings)
    channel = settings["channel"]
    reporter = Reporter(Path(channel["events"]), rank, channel["attempt"])
    answer_with_stacks(Path(channel["events"]), rank)
    reporter.emit("start", pid=os.getpid(), versions=installed_versions())
    try:
        run(settings, reporter, rank, world_size)
    except BaseException as error:
        reporter.failed(error)
        raise
    import torch

    torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    try:
        code = main()
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Taking the interpreter down takes seconds, and with the communication threads alive now and
    # then ends in an abort after the last checkpoint; everything is written, so leave without it.
    os._exit(code)

"""`autotune outcomes`: what earlier runs taught on this machine, and a way to forget it."""

import json
import sys

from autotune.core.codec import to_plain
from autotune.core.fault import CannotRecord, Fault
from autotune.core.outcome import Outcome, Sizes
from autotune.core.plan import Plan
from autotune.core.prior import method_of
from autotune.core.units import show_bytes
from autotune.world.outcome_store import OutcomeStore


def outcomes(as_json: bool, forget: bool) -> int:
    """Print every outcome, oldest first, or delete them all."""
    store = OutcomeStore()
    if forget:
        return _forget(store)
    held = store.read()
    if held.note:
        print(f"note: {held.note}", file=sys.stderr)
    if as_json:
        print(json.dumps([to_plain(one) for one in held.outcomes], allow_nan=False))
    elif held.outcomes:
        print("\n".join(as_table(held.outcomes)))
    if held.skipped:
        print(f"note: {_lines(held.skipped)} could not be read", file=sys.stderr)
    count = len(held.outcomes)
    kept = f"{count} outcome{'' if count == 1 else 's'}" if count else "no outcomes"
    print(f"{kept} in {store.path}", file=sys.stderr)
    return 0


def _forget(store: OutcomeStore) -> int:
    held = store.read()
    fault = store.forget()
    if fault:
        hint = "delete the file yourself; it holds nothing else"
        raise CannotRecord(Fault(fault, str(store.path), hint))
    print(f"forgot {len(held.outcomes)} of {store.path}", file=sys.stderr)
    return 0


def as_table(found: tuple[Outcome, ...]) -> list[str]:
    """Return the outcomes as lines of a table."""
    rows: list[tuple[str, ...]] = [("day", "model", "on", "plan", "predicted", "needed", "s/step")]
    rows += [_row(one) for one in found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _row(one: Outcome) -> tuple[str, ...]:
    needed = show_bytes(one.measured_bytes)
    if one.ended == "device_oom":
        needed = f"> {show_bytes(one.bound_bytes)}, died"
    seconds = "" if one.step_seconds is None else f"{one.step_seconds:.2g}"
    where = f"{one.device_name} {one.capacity_gib:g} GiB"
    predicted = show_bytes(one.predicted_bytes)
    plan = f"{short_plan(one.plan)}, {one.sequence} tokens"
    return (one.day, in_words(one.sizes), where, plan, predicted, needed, seconds)


def in_words(sizes: Sizes) -> str:
    """Return a model as people name one: its family and how large it is."""
    count = sizes.parameters
    large = f"{count / 1e9:.3g}B" if count >= 1e9 else f"{count / 1e6:.3g}M"
    experts = f", {sizes.experts} experts" if sizes.experts else ""
    return f"{sizes.family} {large}{experts}"


def short_plan(plan: Plan) -> str:
    """Return what matters most of a plan in a few words."""
    words = [
        f"{method_of(plan)} {plan.dtype}",
        f"{plan.micro_batch}×{plan.accumulation}×{plan.world_size}",
        f"ZeRO {plan.zero_stage}",
    ]
    words += ["ckpt"] if plan.activation_checkpointing else []
    words += ["chunked loss"] if plan.loss == "chunked" else []
    words += [plan.optimizer] if plan.optimizer != "adamw" else []
    offloads = ("offload_optimizer", "offload_param", "activation_offload")
    words += [name.replace("_", " ") for name in offloads if getattr(plan, name)]
    return ", ".join(words)


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"

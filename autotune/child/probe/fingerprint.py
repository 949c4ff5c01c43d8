"""Names the rows of a micro-batch by a sum that neither padding nor factorisation changes.

Each row is hashed over its tokens in order, padding left out; a step's fingerprint is the sum of
its rows' hashes modulo 2**64, so that the sums of all micro-batches and ranks add up to that of the
global batch. Tensors do the work where they are: int64 arithmetic wraps, on a GPU as on the host,
and nothing is read back from a GPU before the step is over.
"""

from __future__ import annotations

import sys
from typing import Any

IGNORED = -100
# Odd multipliers of SplitMix64 (Steele, Lea and Flood, 2014), as signed 64-bit numbers.
STEP = 0x9E3779B97F4A7C15 - 2**64
MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
MIX_2 = 0x94D049BB133111EB - 2**64


def of_rows(inputs: Any) -> tuple[Any, Any, int, int] | None:
    """The sum of hashes, the tokens, the rows and the width; None where there are no token rows."""
    if not hasattr(inputs, "get"):
        return None
    ids = inputs.get("input_ids")
    if getattr(ids, "ndim", 0) != 2 or ids.dtype.is_floating_point:
        return None
    torch = sys.modules["torch"]
    with torch.no_grad():
        ids, held = ids.long(), present(ids, inputs)
        if ids.device.type == "cpu":
            ids, held = as_arrays(ids, held)
        held = ids * 0 + 1 if held is None else held * 1
        place = held.cumsum(1)  # of each token among those of its row, from 1 on
        mixed = mix(mix(ids + 1) + place * STEP) * held
        hashes = mix(mixed.sum(1) + held.sum(1) * MIX_1)
        prints, tokens = hashes.sum(), held.sum()
    rows, width = ids.shape
    if isinstance(hashes, torch.Tensor):
        return prints, tokens, int(rows), int(width)
    # numpy warns where the sum of two of its numbers wraps; Python's do not wrap.
    return int(prints), int(tokens), int(rows), int(width)


def as_arrays(ids: Any, held: Any) -> tuple[Any, Any]:
    """The same memory as arrays, whose arithmetic is the same and costs half as much a call."""
    try:
        return ids.numpy(), None if held is None else held.numpy()
    except RuntimeError:  # torch was built for another numpy, or the tensor is no plain one
        return ids, held


def present(ids: Any, inputs: Any) -> Any:
    """Where a token stands and no padding; None, without a mask: everywhere."""
    mask = inputs.get("attention_mask")
    return mask != 0 if getattr(mask, "shape", None) == ids.shape else None


def mix(value: Any) -> Any:
    """SplitMix64's finisher, with the sign carried along by the shifts: any bijection will do."""
    value = (value ^ (value >> 30)) * MIX_1
    value = (value ^ (value >> 27)) * MIX_2
    return value ^ (value >> 31)


def shown(total: int) -> str:
    """The sum as 16 hexadecimal digits; as a number it would not fit into every reader of JSON."""
    return f"{total % 2**64:016x}"

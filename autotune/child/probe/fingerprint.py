"""Names the rows of a micro-batch by a sum that neither padding nor factorisation changes.

Each row is hashed over its tokens in order, padding left out; a step's fingerprint is the sum of
its rows' hashes modulo 2**64, so that the sums of all micro-batches and ranks add up to that of the
global batch. Tensors do the work where they are: int64 arithmetic wraps, on a GPU as on the host,
and nothing is read back before the step is over.
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
        ids = ids.long()
        held = present(ids, inputs)
        place = held.cumsum(1)  # of each token among those of its row, from 1 on
        mixed = mix(mix(ids + 1) + place * STEP) * held
        hashes = mix(mixed.sum(1) + held.sum(1) * MIX_1)
    return hashes.sum(), held.sum(), int(ids.shape[0]), int(ids.shape[1])


def present(ids: Any, inputs: Any) -> Any:
    """1 where a token stands and 0 in the padding; without a mask every token counts as one."""
    mask = inputs.get("attention_mask")
    if getattr(mask, "shape", None) == ids.shape:
        return (mask != 0).long()
    return ids.new_ones(ids.shape)


def mix(value: Any) -> Any:
    """SplitMix64's finisher, with the sign carried along by the shifts: any bijection will do."""
    value = (value ^ (value >> 30)) * MIX_1
    value = (value ^ (value >> 27)) * MIX_2
    return value ^ (value >> 31)


def shown(total: int) -> str:
    """The sum as 16 hexadecimal digits; as a number it would not fit into every reader of JSON."""
    return f"{total % 2**64:016x}"

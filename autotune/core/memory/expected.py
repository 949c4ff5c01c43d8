"""The distribution of one plan's peak, and what it says of a capacity."""

import math
from dataclasses import dataclass

from autotune.core.memory import student

WIDEST = 5.0  # logarithms are kept within this, so that nothing overflows


@dataclass(frozen=True)
class Expected:
    """The distribution of one plan's peak: `fixed` + `tensors` * exp(mean + scale * t), bytes."""

    fixed: float
    tensors: float
    mean: float
    scale: float
    at_least: int  # known not to suffice; 0: nothing known

    def within(self, capacity: float) -> float:
        """Return the probability that the peak is at most `capacity` bytes."""
        if self.at_least and capacity <= self.at_least:
            return 0.0
        above = 1.0 - self._below(capacity)
        if not self.at_least:
            return 1.0 - above
        open_tail = 1.0 - self._below(self.at_least)
        if open_tail < 1e-12:
            return 0.0
        return min(1.0, max(0.0, 1.0 - above / open_tail))

    def quantile(self, p: float) -> int:
        """Return the bytes that the peak stays below with probability `p`."""
        least = self._below(self.at_least) if self.at_least else 0.0
        at = self.mean + self.scale * student.quantile(least + p * (1.0 - least))
        return max(int(self.fixed + self.tensors * math.exp(kept(at))), self.at_least)

    def _below(self, size: float) -> float:
        room = size - self.fixed
        if room <= 0:
            return 0.0
        return student.below((math.log(room / self.tensors) - self.mean) / self.scale)


def kept(value: float) -> float:
    """Return a logarithm within what is computed with."""
    return min(max(value, -WIDEST), WIDEST)

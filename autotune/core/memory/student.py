"""Student's t with four degrees of freedom, in closed form: a bell with the tails of forecasts."""

import math
from functools import lru_cache


def below(t: float) -> float:
    """Return the probability of a value of at most `t`, in units of the scale.

    Four degrees of freedom: the scale of an error is known from some five kinds of measured jobs
    (cards, loops, model families), and the predictive distribution of the next value after n
    normal ones is Student's t with n - 1 degrees of freedom and the sample's own deviation as
    its scale. Closed form: Shaw, "Sampling Student's T distribution", 2006, section 2.
    """
    if t == 0:
        return 0.5
    root = math.hypot(1.0, t / 2)
    sine = t / 2 / root
    # 1/2 + (3 s - s³) / 4, written so that a far lower tail does not cancel to nothing.
    if t < 0:
        rest = 1.0 / (root * root * (1.0 - sine))  # 1 + s, without the difference
        return rest * rest * (2.0 - sine) / 4
    return 1.0 - below(-t)


@lru_cache(maxsize=64)
def quantile(p: float) -> float:
    """Return the value below which lies the probability `p`, 0 < p < 1. Shaw, as above."""
    p = min(max(p, 1e-15), 1 - 1e-15)
    root = math.sqrt(min(1.0, 4 * p * (1 - p)))
    size = 2 * math.sqrt(max(0.0, math.cos(math.acos(root) / 3) / root - 1))
    return math.copysign(size, p - 0.5)

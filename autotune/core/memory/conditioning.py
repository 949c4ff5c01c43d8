"""The arithmetic of conditioning one normal quantity on another, on plain numbers."""

import math
from collections.abc import Sequence


def inverted(matrix: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    """Return the inverse of a positive definite matrix, by Gauss and Jordan."""
    size = len(matrix)
    rows = [[*row] + [float(i == j) for j in range(size)] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = max(range(i, size), key=lambda at: abs(rows[at][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in range(size):
            if j != i:
                factor = rows[j][i]
                rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    return tuple(tuple(row[size:]) for row in rows)


def hazard(cut: float) -> float:
    """Return the standard normal's density over what lies above `cut`."""
    if cut > 20:  # the fraction's first terms: erfc is nothing out there
        return cut + 1 / cut
    above = math.erfc(cut / math.sqrt(2)) / 2
    return math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi) / above

"""Keeps the grid's results as lines of a file, and renders them as a table for RESULTS.md."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.grid_cells import MIB, Cell

HEAD = (
    "cell", "limit", "as given", "predicted", "blind ladder", "HF auto_find_batch_size",
    "best of the plans",
)  # fmt: skip


class Results:
    """What was measured so far; of two lines about the same, the later one counts."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a torn last line is left out."""
        self._path = path
        self._held: dict[tuple[str, str, str], dict[str, Any]] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                self._keep(json.loads(line))
            except (ValueError, KeyError):
                continue

    def add(self, result: dict[str, Any]) -> None:
        """Keep one more, on disk at once."""
        self._keep(result)
        with self._path.open("a") as file:
            file.write(json.dumps(result) + "\n")

    def of(self, cell: str, way: str, plan: str = "") -> dict[str, Any] | None:
        """Return one result, or None."""
        return self._held.get((cell, way, plan))

    def plans(self, cell: str) -> dict[str, dict[str, Any]]:
        """Return the measured plans of a cell."""
        return {p: one for (c, way, p), one in self._held.items() if (c, way) == (cell, "plan")}

    def peaks(self, cell: str) -> dict[str, int]:
        """Return the measured peaks of a cell's plans, in bytes."""
        found = self.plans(cell).items()
        return {plan: one.get("peak_bytes") or 0 for plan, one in found if one.get("finished")}

    def _keep(self, result: dict[str, Any]) -> None:
        self._held[result["cell"], result["way"], result.get("plan", "")] = result


def table(cells: Sequence[Cell], results: Results) -> list[str]:
    """Return the table, one row for each cell that was measured, and what it sums up to.

    Of each way: attempts until the training was stable, seconds to its first step that stayed,
    samples per second as a share of the fastest measured plan that fits.
    """
    rows = [_row(cell, results) for cell in cells if results.plans(cell.name)]
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), "", *_sums(cells, results)]


def best_of(cell: Cell, results: Results) -> tuple[str, float] | None:
    """Return the fastest plan that fits the limit, and its samples per second."""
    peaks = results.peaks(cell.name)
    try:
        limit = cell.limit_bytes(peaks)
    except KeyError:
        return None
    fitting = [
        (one.get("samples_per_second") or 0.0, plan)
        for plan, one in results.plans(cell.name).items()
        if 0 < peaks.get(plan, 0) <= limit
    ]
    return (max(fitting)[1], max(fitting)[0]) if fitting else None


def _row(cell: Cell, results: Results) -> tuple[str, ...]:
    peaks = results.peaks(cell.name)
    try:
        limit = cell.limit_bytes(peaks)
    except KeyError:
        return (cell.name, "?", *[""] * (len(HEAD) - 2))
    best = best_of(cell, results)
    given = peaks.get(cell.plans[0])
    fits = "" if given is None or given > limit else ", fits"
    ways = [_way(results.of(cell.name, way), best) for way in ("predicted", "as_given", "hf")]
    return (
        cell.name,
        f"{limit // MIB} MiB",
        "not measured" if given is None else f"{given // MIB} MiB{fits}",
        *ways,
        f"{best[0]}: {best[1]:.2f}/s" if best else "none fits",
    )


def _way(one: dict[str, Any] | None, best: tuple[str, float] | None) -> str:
    if one is None or not one.get("attempts"):
        return "not run"
    tried = f"{one['attempts']} attempt{'' if one['attempts'] == 1 else 's'}"
    if not one.get("finished"):
        why = f" ({one['died'].split(':', 1)[-1].strip()[:40]})" if one.get("died") else ""
        return f"gave up after {tried}, {one['seconds']:.0f} s{why}"
    words = f"{tried}, {one['first_step_seconds']:.0f} s"
    share = _share(one, best)
    return f"{words}, {share:.0%}" if share is not None else words


def _share(one: dict[str, Any], best: tuple[str, float] | None) -> float | None:
    rate = one.get("samples_per_second")
    return rate / best[1] if best and best[1] and rate else None


def _sums(cells: Sequence[Cell], results: Results) -> list[str]:
    lines = []
    for way, name in (("predicted", "predicted"), ("as_given", "blind ladder"), ("hf", "HF")):
        possible = [(c, results.of(c.name, way)) for c in cells if best_of(c, results)]
        run = [(cell, one) for cell, one in possible if one is not None and one.get("attempts")]
        stable = [(cell, one) for cell, one in run if one.get("finished")]
        if not run:
            continue
        shares = [s for cell, one in stable if (s := _share(one, best_of(cell, results)))]
        first = sum(one["attempts"] == 1 for _, one in stable)
        line = f"- {name}: stable in {len(stable)} of {len(run)} cells that some plan fits"
        if stable:
            tries = sum(one["attempts"] for _, one in stable) / len(stable)
            seconds = sum(one["first_step_seconds"] or 0 for _, one in stable) / len(stable)
            line += f", {first} at the first attempt; on average {tries:.1f} attempts"
            line += f" and {seconds:.0f} s to the first stable step"
        if shares:
            line += f", {sum(shares) / len(shares):.0%} of the best plan's speed"
        lines.append(line)
    return lines

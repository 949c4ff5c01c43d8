"""Scores the diagnosis of real logs against what careful readers called them.

`python -m tests.bench.score_corpus [FILE…]` reads JSON lines with `text`, `label` and, where known,
`exit_code`, `rank`, `device` (figures in GiB, the request in MiB) and `why`; an item whose `why`
says `[contested]`, or which says `"contested": true`, is counted apart. Each text is explained as a
bare log, exactly as `autotune explain` would.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.core.explain import explain_lines
from autotune.core.signature import Signatures
from autotune.world.signature_file import load_signatures

CORPUS = Path(__file__).parents[3] / "shared" / "corpus" / "failures.jsonl"
FEW = 5  # samples: below this the score of a class says little
GIB, MIB = 2**30, 2**20
# The corpus's names of figures, ours, and the unit they are written in.
FIGURES = (
    ("requested_mib", "requested_bytes", MIB), ("capacity_gib", "capacity_bytes", GIB),
    ("free_gib", "free_bytes", GIB), ("allocated_gib", "allocated_bytes", GIB),
    ("reserved_gib", "reserved_bytes", GIB), ("this_process_gib", "process_bytes", GIB),
)  # fmt: skip
CLOSE_ENOUGH = 0.01  # relative: the figures are rounded in the messages themselves


@dataclass(frozen=True)
class Verdict:
    """One log: what it is called by a reader and by us."""

    id: str
    label: str
    found: str
    contested: bool
    rank: tuple[int | None, int | None]  # the reader's and ours
    figures: tuple[int, int]  # stated by the reader, and of these equal in ours
    why: str


@dataclass
class Score:
    """All verdicts of a corpus."""

    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def counted(self) -> list[Verdict]:
        """Those that no careful reader labels otherwise."""
        return [v for v in self.verdicts if not v.contested]

    def accuracy(self) -> float:
        """Return the share of counted logs with the right name."""
        return sum(v.label == v.found for v in self.counted) / max(1, len(self.counted))

    def f1(self) -> dict[str, float]:
        """Return the F1 of each class that a reader used."""
        return {label: self._f1(label) for label in sorted({v.label for v in self.counted})}

    def macro_f1(self) -> float:
        """Return the mean F1 over the classes."""
        scores = self.f1().values()
        return sum(scores) / max(1, len(scores))

    def ranks(self) -> tuple[int, int]:
        """Return in how many logs a reader names the rank, and in how many we name the same."""
        named = [v.rank for v in self.counted if v.rank[0] is not None]
        return len(named), sum(theirs == ours for theirs, ours in named)

    def false_alarms(self) -> list[Verdict]:
        """Return the healthy logs in which we see a failure."""
        return [v for v in self.counted if v.label == "none" != v.found]

    def _f1(self, label: str) -> float:
        right = sum(v.label == v.found == label for v in self.counted)
        wrong = sum((v.label == label) != (v.found == label) for v in self.counted)
        return 2 * right / (2 * right + wrong)


def score(items: Iterable[Mapping[str, Any]], signatures: Signatures) -> Score:
    """Explain every item and compare."""
    return Score([_verdict(item, signatures) for item in items])


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Return the items of JSON-lines files."""
    return [json.loads(line) for p in paths for line in p.read_text("utf-8").splitlines() if line]


def _verdict(item: Mapping[str, Any], signatures: Signatures) -> Verdict:
    lines = str(item["text"]).encode("utf-8", "surrogateescape").split(b"\n")
    diagnosis = explain_lines(lines, signatures, item.get("exit_code")).diagnosis
    stated = item.get("device") or {}
    pairs = [
        (stated[name] * unit, getattr(diagnosis.figures, ours))
        for name, ours, unit in FIGURES
        if stated.get(name) is not None
    ]
    return Verdict(
        id=str(item["id"]),
        label=str(item["label"]),
        found=diagnosis.failure.value,
        contested=bool(item.get("contested")) or "[contested]" in str(item.get("why")),
        rank=(item.get("rank"), diagnosis.rank),
        figures=(len(pairs), sum(_close(theirs, ours) for theirs, ours in pairs)),
        why=diagnosis.why,
    )


def _close(theirs: float, ours: int | None) -> bool:
    # A message rounds to two decimals, so small figures may differ by more than a share.
    return ours is not None and abs(ours - theirs) <= max(CLOSE_ENOUGH * theirs, 0.006 * GIB)


def report(result: Score) -> list[str]:
    """Return the tables that people read."""
    counted = result.counted
    named, same = result.ranks()
    stated = sum(v.figures[0] for v in counted)
    lines = [
        f"{len(counted)} logs and {len(result.verdicts) - len(counted)} contested ones",
        f"accuracy {result.accuracy():.3f}, macro-F1 {result.macro_f1():.3f}, "
        f"false alarms on healthy logs {len(result.false_alarms())}",
        f"rank right in {same} of {named}, "
        f"figures right {sum(v.figures[1] for v in counted)} of {stated}",
        "",
        *per_class(result),
        "",
        *confusion(counted),
        "",
        "wrong:",
    ]
    for verdict in result.verdicts:
        if verdict.label != verdict.found:
            apart = " (contested)" if verdict.contested else ""
            lines.append(
                f"  {verdict.id}: {verdict.label}, found {verdict.found}{apart}: "
                f"{verdict.why[:120]}"
            )
    return lines


def per_class(result: Score) -> list[str]:
    """Return a table of every class: samples, precision, recall, F1."""
    lines = [f"{'class':<26}{'logs':>5}{'precision':>11}{'recall':>8}{'F1':>7}"]
    for label, f1 in result.f1().items():
        logs = [v for v in result.counted if v.label == label]
        said = sum(v.found == label for v in result.counted)
        right = sum(v.found == label for v in logs)
        few = "  few" if len(logs) < FEW else ""
        precision = f"{right / said:.2f}" if said else "-"
        lines.append(
            f"{label:<26}{len(logs):>5}{precision:>11}{right / len(logs):>8.2f}{f1:>7.2f}{few}"
        )
    return lines


def confusion(counted: list[Verdict]) -> list[str]:
    """Return the matrix, a row a label; what was called right stands on the diagonal."""
    pairs = Counter((v.label, v.found) for v in counted)
    names = sorted({name for pair in pairs for name in pair})
    lines = ["confusion (rows: the reader, columns: autotune, by number)"]
    lines += ["    " + "".join(f"{n:>4}" for n in range(1, len(names) + 1))]
    for number, row in enumerate(names, 1):
        cells = "".join(f"{pairs[row, column] or '.':>4}" for column in names)
        lines.append(f"{number:>4}{cells}  {row}")
    return lines


def main() -> int:
    """Score the files that are named, or the corpus beside the project."""
    paths = [Path(name) for name in sys.argv[1:]] or [CORPUS]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        print(f"skipped: there is no corpus at {missing[0]}")
        return 0
    print("\n".join(report(score(read(paths), load_signatures()))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Fuzzes the parsers of what others wrote for as many minutes of a core as are asked for.

    python -m tests.bench.fuzz OUT [--minutes M] [--seed S] [TARGET ...]

The mutations are those of tests/test_fuzz.py, only more of them.
What brings a parser down goes to OUT/TARGET-N.bin, with its traceback beside it.
"""

import argparse
import random
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz_targets import Target, mutations, survives, targets


def fuzz(name: str, target: Target, seconds: float, seed: int, out: Path) -> tuple[int, int]:
    """Return how many inputs were read, and how many of them brought the parser down."""
    until, tried, faults = time.process_time() + seconds, 0, 0
    seen: set[str] = set()
    chance = random.Random(seed)
    while time.process_time() < until:
        for content in mutations(target, chance.randrange(2**32), 50):
            tried += 1
            try:
                survives(target, content)
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{type(error).__name__} at {last.filename}:{last.lineno}"
                if place not in seen:
                    seen.add(place)
                    faults += 1
                    (out / f"{name}-{faults}.bin").write_bytes(content)
                    (out / f"{name}-{faults}.txt").write_text(traceback.format_exc())
                    print(f"{name}: {place}", file=sys.stderr, flush=True)
    return tried, faults


def main() -> None:
    """Fuzz the named targets, or all, one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for name in asked.names or [*targets()]:
        found = fuzz(name, targets()[name], 60 * asked.minutes, asked.seed, asked.out)
        print(f"{name}: {found[0]} inputs, {found[1]} different faults", flush=True)


if __name__ == "__main__":
    main()

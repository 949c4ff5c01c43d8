"""Fuzzes the parsers of what others wrote for as many minutes of a core as are asked for.

    python -m tests.bench.fuzz OUT [--minutes M] [--seed S] [TARGET ...]

Where atheris is installed its libFuzzer keeps the inputs that reach new code of autotune and goes
on from them; elsewhere the inputs are the mutations of tests/test_fuzz.py, only more of them.
What brings a parser down, or takes it longer than a second, goes to OUT/TARGET-N.bin with its
traceback beside it.
"""

import argparse
import importlib.util
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType

SLOW = 1.0  # seconds of a core for one input, instrumented
HANGS = 60  # seconds after which libFuzzer ends the whole process


class Reading:
    """Reads inputs with one target, and keeps one example of each different fault."""

    def __init__(self, name: str, targets: ModuleType, out: Path) -> None:
        """Keep the examples below `out`."""
        self._name, self._targets, self._out = name, targets, out
        self.target = targets.targets()[name]
        self._seen: set[str] = set()
        targets.survives(self.target, self.target.seeds[0])  # what is loaded once is not counted

    def read(self, content: bytes) -> None:
        """Let the target read `content`; a fault is kept and the fuzzing goes on."""
        began = time.process_time()
        try:
            self._targets.survives(self.target, content)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} at {last.filename}:{last.lineno}"
            self._keep(place, content, traceback.format_exc())
        took = time.process_time() - began
        if took > SLOW:
            self._keep(f"longer than {2 ** int(math.log2(took))} s", content, f"{took:.1f} s")

    def _keep(self, place: str, content: bytes, told: str) -> None:
        if place in self._seen:
            return
        self._seen.add(place)
        kept = self._out / f"{self._name}-{len(self._seen)}"
        kept.with_suffix(".bin").write_bytes(content)
        kept.with_suffix(".txt").write_text(f"{place}\n{told}")
        print(f"{self._name}: {place}", file=sys.stderr, flush=True)


def guided(name: str, seconds: float, seed: int, out: Path) -> None:
    """Let libFuzzer choose the inputs; it ends this process."""
    import atheris

    with atheris.instrument_imports(include=["autotune"]):
        from tests import fuzz_targets
    reading = Reading(name, fuzz_targets, out)
    corpus = out / f"{name}-corpus"
    corpus.mkdir(exist_ok=True)
    for number, content in enumerate(reading.target.seeds):
        (corpus / f"seed-{number}").write_bytes(content)
    words = out / f"{name}.dict"
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in reading.target.words)
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    longest = max(4096, 2 * max(map(len, reading.target.seeds)))
    until = time.process_time() + seconds

    def one(content: bytes) -> None:
        reading.read(content)
        if time.process_time() > until:
            os.kill(os.getpid(), signal.SIGUSR1)  # libFuzzer's own way to an orderly end

    given = [f"-seed={seed}", f"-dict={words}", f"-max_len={longest}", f"-timeout={HANGS}"]
    given += [f"-artifact_prefix={out / name}-", "-print_final_stats=1", "-verbosity=1"]
    atheris.Setup([sys.argv[0], *given, str(corpus)], one)
    atheris.Fuzz()


def seeded(name: str, seconds: float, seed: int, out: Path) -> int:
    """Draw the inputs from `seed` alone, and return how many were read."""
    from tests import fuzz_targets

    reading = Reading(name, fuzz_targets, out)
    until, tried, chance = time.process_time() + seconds, 0, random.Random(seed)
    while time.process_time() < until:
        for content in fuzz_targets.mutations(reading.target, chance.randrange(2**32), 50):
            tried += 1
            reading.read(content)
    return tried


def guided_apart(name: str, asked: argparse.Namespace) -> str:
    """Fuzz one target in a process of its own, and say what libFuzzer told."""
    command = [sys.executable, "-m", "tests.bench.fuzz", str(asked.out), name, "--here"]
    command += ["--minutes", str(asked.minutes), "--seed", str(asked.seed)]
    log = asked.out / f"{name}.log"
    with log.open("wb") as told:
        ended = subprocess.run(command, stdout=told, stderr=subprocess.STDOUT, check=False)
    text = log.read_text(errors="replace")
    covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", text) or [("?", "?", "?")]
    inputs = re.findall(r"number_of_executed_units: (\d+)", text) or ["?"]
    told = "guided by coverage: {} inputs, {} edges and {} features covered, {} inputs kept"
    ending = f", libFuzzer ended with {ended.returncode}" if ended.returncode else ""
    return told.format(inputs[-1], *covered[-1]) + ending


def main() -> None:
    """Fuzz the named targets, or all, one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--here", action="store_true", help="in this process, which it ends")
    asked = parser.parse_intermixed_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.here:
        guided(asked.names[0], 60 * asked.minutes, asked.seed, asked.out)
    from tests.fuzz_targets import targets

    for name in asked.names or [*targets()]:
        if importlib.util.find_spec("atheris"):
            told = guided_apart(name, asked)
        else:
            told = f"seeded mutations: {seeded(name, 60 * asked.minutes, asked.seed, asked.out)}"
        faults = len([*asked.out.glob(f"{name}-*.txt")])
        print(f"{name}: {told}, {faults} different faults", flush=True)


if __name__ == "__main__":
    main()

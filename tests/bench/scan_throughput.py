"""Measures how fast an output is read, in how much memory, and how soon after a death it is named.

Run it with `python -m tests.bench.scan_throughput [--gib N]`; it asserts nothing, and a figure of
one machine says little about another. The ratio of each kind to quiet lines is taken in one run.
"""

import argparse
import itertools
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from autotune.core.diagnosis import diagnose
from autotune.core.evidence import Evidence, Memory
from autotune.core.scan import Scanner
from autotune.world.channel import AttemptChannel
from autotune.world.line_splitter import BlockSplitter
from autotune.world.signature_file import load_signatures

MIB = 2**20
CHUNK = 256 * 1024
SOURCES = Path(__file__).parents[2] / "autotune"
CONFIG = {
    "train_batch_size": 32,
    "train_micro_batch_size_per_gpu": 4,
    "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
    "fp16": {"enabled": False, "loss_scale": 0},
    "steps_per_print": 10,
}


def quiet(n: int) -> str:
    """A logger's line without a word of interest."""
    return f"2031-01-01 12:00:{n % 60:02} - INFO - shard {n} of 512 read, 1024 samples in 0.5 s\n"


def bar(n: int) -> str:
    """One state of a progress bar."""
    return f" {n % 100:3}%|███   | {n}/1000000 [01:02<1:02:03,  1.23it/s]"


def losses_and_bars(n: int) -> str:
    """What a long healthy training prints: a loss, and ten states of a bar in one line."""
    loss = f"{{'loss': 2.{n % 1000}, 'grad_norm': 1.2, 'learning_rate': 4.9e-05, 'epoch': 0.1}}\n"
    return loss + "\r".join(bar(n * 10 + k) for k in range(10)) + "\n"


def config(n: int) -> str:
    """DeepSpeed's printed configuration."""
    keys = "".join(f"[INFO] [config.py:1001:print]   {k} ...... {v}\n" for k, v in CONFIG.items())
    return keys + json.dumps(CONFIG, indent=4) + "\n"


def coloured(n: int) -> str:
    """Ray's coloured prefix."""
    return f"\x1b[36m(WorkerDict pid={n % 8})\x1b[0m sample {n} of many, \x1b[32mfine\x1b[0m\n"


def deepspeed(n: int) -> str:
    """DeepSpeed's own step lines."""
    return f"[INFO] [logging.py:96:log_dist] [Rank 0] step={n}, skipped=0, lr=[1e-05]\n"


def traceback(n: int) -> str:
    """The worst: every line belongs to a traceback."""
    frames = f'  File "/x/y.py", line {n % 999}, in forward\n    return self.inner(x, y)\n' * 6
    return f"Traceback (most recent call last):\n{frames}RuntimeError: CUDA out of memory.\n"


def candidate(n: int) -> str:
    """The worst: every line matches."""
    return f"ValueError: step {n} failed and was tried again\n"


def source_lines() -> Iterator[bytes]:
    """Python source, of which logs may quote much."""
    lines = [p.read_bytes() for p in sorted(SOURCES.rglob("*.py"))]
    return itertools.cycle(lines)


def made(kind: Callable[[int], str]) -> Iterator[bytes]:
    """The lines of one kind, for ever."""
    return (kind(n).encode() for n in itertools.count())


def gathered(lines: Iterator[bytes], size: int) -> bytes:
    """At least `size` bytes of them."""
    pieces, done = [], 0
    while done < size:
        pieces.append(next(lines))
        done += len(pieces[-1])
    return b"".join(pieces)


def read(scanner: Scanner, text: bytes) -> float:
    """Feed the text as a file is read, and return the seconds of processor time."""
    splitter = BlockSplitter(scanner.read)
    began = time.process_time()
    for at in range(0, len(text), CHUNK):
        splitter.feed(text[at : at + CHUNK])
    splitter.flush()
    return time.process_time() - began


def throughput() -> None:
    """Print MB/s of each kind on one core, the best of three, and its ratio to quiet lines."""
    signatures = load_signatures()
    kinds: dict[str, tuple[Iterator[bytes], int]] = {
        "quiet lines": (made(quiet), 16),
        "losses and bars": (made(losses_and_bars), 16),
        "bars, one state a line": (made(lambda n: bar(n) + "\n"), 16),
        "DeepSpeed config": (made(config), 16),
        "DeepSpeed steps": (made(deepspeed), 16),
        "source code": (source_lines(), 16),
        "coloured prefixes": (made(coloured), 16),
        "worst: tracebacks": (made(traceback), 1),
        "worst: every line matches": (made(candidate), 1),
    }
    first = None
    for name, (lines, mib) in kinds.items():
        text = gathered(lines, mib * MIB)
        speed = len(text) / 1e6 / min(read(Scanner(signatures), text) for _ in range(3))
        first = first or speed
        print(f"{name:28} {speed:8.1f} MB/s  {speed / first:5.2f} of quiet")


def memory(gib: float) -> None:
    """Print how much the high-water mark grows while N GiB pass through."""
    scanner = Scanner(load_signatures())
    splitter = BlockSplitter(scanner.read)
    rounds = [gathered(made(k), MIB) for k in (quiet, losses_and_bars, config, deepspeed, coloured)]
    rounds += [bytes(MIB), b"x" * MIB, bytes(range(256)) * 4096]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, done = time.monotonic(), 0
    for text in itertools.cycle(rounds):
        splitter.feed(text)
        done += len(text)
        if done >= gib * 2**30:
            break
    splitter.flush()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    seconds = time.monotonic() - began
    print(f"{done / 2**30:.1f} GiB in {seconds:.0f} s: {done / 1e6 / seconds:.0f} MB/s, "
          f"high-water mark grew by {grown / 1024:.1f} MiB, {scanner.lines} lines")  # fmt: skip


def latency() -> None:
    """Print how long a death at the end of a 100 MB log that was already read takes to be named."""
    signatures = load_signatures()
    death = traceback(1).encode()
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "output.log"
        log.write_bytes(gathered(made(losses_and_bars), 100_000_000))
        for _ in range(5):
            channel = AttemptChannel(Path(folder), signatures, 2**31)
            for _ in range(40):
                channel.poll()
            with log.open("ab") as stream:
                stream.write(death)
            began = time.perf_counter()
            channel.close()
            evidence = Evidence(1, exit_code=1, signs=channel.signs(), memory=Memory(device="cuda"))
            diagnosis = diagnose(evidence)
            taken.append(time.perf_counter() - began)
    shown = ", ".join(f"{seconds * 1000:.2f}" for seconds in sorted(taken))
    print(f"death to diagnosis ({diagnosis.failure.value}): {shown} ms, "
          f"median {statistics.median(taken) * 1000:.2f} ms")  # fmt: skip


def main() -> None:
    """Measure all three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0, help="how much passes through, in GiB")
    wanted = parser.parse_args()
    throughput()
    latency()
    memory(wanted.gib)


if __name__ == "__main__":
    main()

"""The parsers that read what others wrote, each as one function of bytes, with texts to begin from.

A target may refuse its input with an AutotuneError, which is a sentence; anything else it raises is
a fault of ours. tests/test_fuzz.py draws a few hundred mutations of each, tests/bench/fuzz.py as
many as time allows.
"""

import json
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from autotune.cli.wiring import all_rungs
from autotune.core.explain import explain_scanned
from autotune.core.fault import AutotuneError
from autotune.core.history import fold
from autotune.core.job import Job
from autotune.core.record import AttemptEnded, AttemptStarted, Decided, Event, RunStarted, encode
from autotune.core.scan import Scanner
from autotune.core.signature import Signatures
from autotune.core.view import View
from autotune.frameworks.ds_doctor import examine, examine_text
from autotune.frameworks.ds_remark import HF_TRAINER, PLAIN
from autotune.frameworks.ds_text import parse
from autotune.frameworks.finetune_parts import FinetuneSettings
from autotune.world.event_file import parse_event
from autotune.world.journal import read_journal
from autotune.world.line_splitter import BlockSplitter
from autotune.world.policy_file import load_policy
from autotune.world.signature_file import load_signatures
from autotune.world.yaml_files import read_document, validate
from tests import builders
from tests.core.signature_samples import SAMPLES

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Target:
    """One parser, and what its mutations begin from."""

    reads: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()  # what the format is made of


@cache
def scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="autotune-fuzz-"))


@cache
def signatures() -> Signatures:
    return load_signatures()


def laid(name: str, content: bytes) -> Path:
    path = scratch() / name
    path.write_bytes(content)
    return path


def read_job(content: bytes) -> None:
    document = read_document(laid("job.yaml", content))
    validate(Job, document)
    validate(FinetuneSettings, document, "settings")


def read_policy(content: bytes) -> None:
    load_policy(laid("policy.yaml", content), all_rungs())


def read_the_journal(content: bytes) -> None:
    fold(iter(read_journal(laid("journal.jsonl", content))))


def read_events(content: bytes) -> None:
    view = View()
    for line in content.split(b"\n"):
        event = parse_event(line, 0)
        if event is not None:
            view.see({**event.fields, "kind": event.kind, "rank": event.rank})


def read_deepspeed(content: bytes) -> None:
    parsed = parse(content.decode("utf-8", "replace"))
    for use in (PLAIN, HF_TRAINER):
        examine_text(parsed, use)
        examine(parsed.value, use)


def read_log(content: bytes) -> None:
    scanner = Scanner(signatures(), appended=True)
    splitter = BlockSplitter(scanner.read)
    splitter.feed(content)
    splitter.flush()
    explain_scanned(scanner, None, None)


YAML_WORDS = (
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!python/object ",
    b"? ",
    b"- ",
    b"|\n",
    b"\t",
    b"1e999",
    b"~",
)
JSON_WORDS = (b"[" * 40, b'{"', b'":', b"null", b"1e999", b"NaN", b"-", b'"\\ud800"', b"\n")
EVENTS = (
    {"kind": "start", "rank": 0, "t": 1.0, "pid": 77},
    {"kind": "settings", "rank": 0, "t": 1.0, "total_steps": 9, "global_batch": 8},
    {"kind": "step", "rank": 0, "t": 2.0, "step": 3, "loss": 1.5, "seconds": 0.1, "tokens": 64},
    {"kind": "probe", "rank": 0, "t": 2.0, "moment": "step", "peak_bytes": 9, "held_bytes": 8},
    {"kind": "checkpoint", "rank": 0, "t": 3.0, "step": 3, "world_size": 2},
    {"kind": "holds", "rank": 0, "t": 3.0, "step": 3, "why": None},
    {"kind": "exception", "rank": 0, "t": 3.0, "type": "X", "message": "m", "memory": {"a": 1}},
)


def lines_of(*values: object) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def journal() -> bytes:
    """A run of two attempts, as its journal holds it."""
    failed = AttemptEnded(1, builders.evidence(checkpoint_step=4), builders.diagnosis())
    told: list[Event] = [
        RunStarted("r", "a-job", "id", builders.plan(), "cuda"),
        Decided(builders.launch(1)),
        AttemptStarted(1, 7, 1.0, "boot"),
        failed,
        Decided(builders.launch(2)),
    ]
    return lines_of(*(encode(event, 1.0) for event in told))


def logs() -> tuple[bytes, ...]:
    """A line for each signature, each as the last of a traceback."""
    head = 'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\n    f()\n'
    lines = (line for found, near in SAMPLES.values() for line in (*found, *near))
    return tuple(f"step 1\n{head}{line}\n".encode() for line in lines)


@cache
def targets() -> dict[str, Target]:
    quickstart = (ROOT / "configs" / "quickstart.yaml").read_bytes()
    policies = [path.read_bytes() for path in sorted((ROOT / "policies").glob("*_result.yaml"))]
    policies.append((ROOT / "policies" / "default.yaml").read_bytes())
    deepspeed = {
        "train_batch_size": "auto", "bf16": {"enabled": True}, "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
    }  # fmt: skip
    return {
        "job": Target(read_job, (quickstart,), YAML_WORDS),
        "policy": Target(read_policy, tuple(policies), YAML_WORDS),
        "journal": Target(read_the_journal, (journal(),), JSON_WORDS),
        "events": Target(read_events, (lines_of(*EVENTS),), JSON_WORDS),
        "deepspeed": Target(
            read_deepspeed, (json.dumps(deepspeed, indent=1).encode(),), JSON_WORDS
        ),
        "log": Target(
            read_log, logs(), (b"\r", b"[rank1]: ", b"Traceback (most recent call last):\n")
        ),
    }


def survives(target: Target, content: bytes) -> None:
    """Let the target read; only a sentence of ours may come back."""
    try:
        target.reads(content)
    except AutotuneError as error:
        if not all(fault.what for fault in error.faults):
            raise AssertionError("it was refused without a sentence") from error


def mutations(target: Target, seed: int, count: int) -> Iterator[bytes]:
    """Yield what a few cuts, copies, words and flipped bytes make of the seeds."""
    chance = random.Random(seed)
    for _ in range(count):
        content = bytearray(chance.choice(target.seeds))
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(content) + 1)
            to = min(len(content), at + chance.randrange(1, 40))
            kind = chance.randrange(5)
            if kind == 0:
                del content[at:to]
            elif kind == 1:
                content[at:at] = content[at:to] * chance.choice((1, 2, 50))
            elif kind == 2 and target.words:
                content[at:at] = chance.choice(target.words)
            elif kind == 3:
                content[at:to] = chance.randbytes(to - at)
            else:
                del content[at:]
        yield bytes(content)

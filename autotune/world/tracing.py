"""Traces the memory of plans in a throwaway process, in the training's Python."""

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.core.memory.activations import Activations, Point
from autotune.core.memory.traced import Traced, Untraced
from autotune.core.memory.workload import Subject, Workload
from autotune.world.files import make_folder
from autotune.world.process import MARK, Survivors, end_all

LISTEN_SECONDS = 0.2
MOST_SAID = 8 * 2**20  # bytes of answers
DATA_LIMIT = 8 * 2**30  # bytes; a trace takes less than one GiB of it
MOST_BYTES = 2**60  # no honest answer is larger
UNREADABLE = Untraced("the tracer's answer could not be read")


@dataclass(frozen=True)
class Tracer:
    """How to start a trace."""

    python: str
    program: Path
    folder: Path  # made for it and removed after it, with what the model's own code writes there
    env: Mapping[str, str]
    mark: str  # names this process among all, so that one a dead supervisor left can be ended
    longest_seconds: float


def request_for(
    subject: Subject, workloads: Sequence[Workload], model: Mapping[str, object], trust: bool
) -> dict[str, object]:
    """Return what the tracer is asked; `model` holds `path` or `config`."""
    return {
        "model": dict(model),
        "trust_remote_code": trust,
        "device": subject.device,
        "data_limit": DATA_LIMIT,
        "cases": [_case(one) for one in workloads],
    }


def trace(
    tracer: Tracer, request: Mapping[str, object], stop_asked: Callable[[], bool]
) -> list[Traced | Untraced]:
    """Return one answer for each case of the request; never raises for what the tracer does."""
    cases = request["cases"]
    assert isinstance(cases, list)
    try:
        said, why = _run(tracer, request, stop_asked)
    except OSError as error:  # no room for its few files, or for one more process
        said, why = "", f"the tracer could not be started ({error.strerror or error})"
    answers: dict[int, Traced | Untraced] = {}
    for line in said.splitlines():
        number, answer = _read(line)
        if number is None and isinstance(answer, Untraced):
            why = why if answer is UNREADABLE and why else answer.why
        elif number is not None:
            answers[number] = answer
    missing = Untraced(why or "the tracer gave no answer")
    return [answers.get(number, missing) for number in range(len(cases))]


def _case(workload: Workload) -> dict[str, object]:
    subject, plan = workload.subject, workload.plan
    lora = {
        "rank": workload.lora_rank,
        "targets": list(subject.lora_targets),
        "dropout": subject.lora_dropout,
        "fp32": subject.adapter_dtype == "fp32",
    }
    return {
        "dtype": plan.dtype,
        "micro_batch": plan.micro_batch,
        "eval_micro_batch": plan.eval_micro_batch,
        "sequence": workload.sequence,
        "checkpointing": plan.activation_checkpointing,
        "activation_offload": plan.activation_offload,
        "attention": plan.attention,
        "padded": subject.padded,
        "loss": plan.loss,
        "fp32_logits": subject.fp32_logits,
        "keeps_outputs": subject.keeps_outputs,
        "evaluates": subject.evaluates,
        "quantization": plan.quantization,
        "four_bit_compute": plan.four_bit_compute,
        "other_weights_fp32": subject.other_weights_fp32,
        "lora": lora if plan.method == "lora" else None,
    }


def _run(
    tracer: Tracer, request: Mapping[str, object], stop_asked: Callable[[], bool]
) -> tuple[str, str]:
    """Return what the tracer said, and why no more came."""
    env = {
        **tracer.env,
        MARK: tracer.mark,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",  # nothing runs on a device, and no context is made there
    }
    with _own_folder(tracer.folder) as folder:
        asked = folder / "request.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        running = subprocess.Popen(
            [tracer.python, str(tracer.program), str(asked)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            env=env, cwd=folder, start_new_session=True,
        )  # fmt: skip
        try:
            return _listen(running, tracer, stop_asked)
        finally:
            # The model's own code may have left children, or closed its output and gone on.
            end_all(Survivors(tracer.mark), term_grace=1)
            if running.poll() is None:
                running.kill()
            running.wait()
            assert running.stdout is not None
            running.stdout.close()


@contextlib.contextmanager
def _own_folder(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)  # of a supervisor that was killed while it traced
    make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _listen(
    running: "subprocess.Popen[bytes]", tracer: Tracer, stop_asked: Callable[[], bool]
) -> tuple[str, str]:
    assert running.stdout is not None
    pipe = running.stdout.fileno()
    os.set_blocking(pipe, False)
    said = bytearray()
    why = ""
    until = time.monotonic() + tracer.longest_seconds
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while not why:
            if selector.select(LISTEN_SECONDS):
                some = os.read(pipe, 65536)
                if not some:
                    break
                said += some
            if len(said) > MOST_SAID:
                why = "the tracer was ended: it said too much"
            elif stop_asked():
                why = "the tracer was ended: a stop was asked for"
            elif time.monotonic() > until:
                why = f"the tracer was ended: it took more than {tracer.longest_seconds:g} s"
    if not why:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = running.wait(timeout=5)
            if code < 0:
                why = f"the tracer was ended by signal {-code}"
            elif code:
                why = f"the tracer ended with status {code} and no answer"
    return said[:MOST_SAID].decode("utf-8", errors="replace"), why


def _read(line: str) -> tuple[int | None, Traced | Untraced]:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None, UNREADABLE
    if not isinstance(told, dict):
        return None, UNREADABLE
    number = told.get("case")
    if not (type(number) is int and number >= 0):
        number = None
    if told.get("ok") is not True:
        return number, Untraced(str(told.get("error", UNREADABLE.why))[:400])
    try:
        return number, _traced(told)
    except (KeyError, TypeError, ValueError):
        return number, UNREADABLE


def _traced(told: Mapping[str, object]) -> Traced:
    backward = told["backward"]
    if not isinstance(backward, list):
        raise TypeError("backward")
    activations = Activations(
        forward=_count(told["forward"]),
        backward=tuple(Point(_count(live), _count(made)) for live, made in backward),
        evaluation=_count(told["evaluation"]),
        loss=_count(told["loss"]),
    )
    seconds = told["seconds"]
    if not isinstance(seconds, (int, float)):
        raise TypeError("seconds")
    return Traced(
        activations, _count(told["overhead"]), _count(told["overhead_expandable"]), float(seconds)
    )  # fmt: skip


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MOST_BYTES:
        raise ValueError(value)
    return value

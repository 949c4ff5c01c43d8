"""What one attempt taught of memory and speed, as it is kept for the runs that come after."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from autotune.core.codec import to_plain
from autotune.core.evidence import Diagnosis, Evidence
from autotune.core.failure import Failure, Phase, Trait
from autotune.core.memory.forecast import Forecast
from autotune.core.memory.shape import ModelShape
from autotune.core.memory.workload import Subject, Workload
from autotune.core.plan import Device, Plan

SCHEMA = 1
VERSIONS = ("autotune", "torch", "deepspeed", "transformers")
SURE = 0.5  # a diagnosis below it teaches nothing
FURTHEST = 4.0  # measured over predicted, or the inverse: beyond it something else went wrong

_MOST = 2**50  # bytes, elements or counts: no real figure of a rank is beyond it
_MOST_SECONDS = 1e6
_LONGEST_WORD = 100
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_DIGEST = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Sizes:
    """A model in words for people: no name and no path, only how large it is."""

    family: str  # the config's `model_type`
    layers: int
    hidden: int
    vocab: int
    parameters: int
    experts: int = 0


@dataclass(frozen=True)
class Outcome:
    """One attempt that ran to stability, or that died because its device was too small.

    Bytes are of the fullest rank: VmData on the CPU, reserved with context on a GPU.
    """

    day: str  # 2026-11-21
    shape: str  # digest of the model's shape
    sizes: Sizes
    plan: Plan
    sequence: int  # tokens per row, at most
    lora_rank: int  # 0: no adapters
    device: Device
    device_name: str  # as the driver says it; "cpu" for the CPU accelerator
    capacity_gib: float  # to two digits: the class of the capacity, not a fingerprint of it
    predicted_bytes: int
    predicted_outside_bytes: int  # of these, what is no tensor: process, context, reserve
    outside_bytes: int  # the same of what was needed, measured where it could be
    spread: float  # of the prediction: standard deviation of the logarithm
    forecast_method: str
    ended: Literal["stable", "device_oom"]
    measured_bytes: int | None = None  # of an attempt that ran to stability
    bound_bytes: int | None = None  # of one that died: it needed more than this
    step_seconds: float | None = None  # median of its optimizer steps
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    schema: int = SCHEMA


def digest_of(shape: ModelShape) -> str:
    """Return 16 hex digits that are the same for every model of this shape."""
    plain = to_plain(dataclasses.replace(shape, doubts=()))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def outcome_of(
    subject: Subject,
    plan: Plan,
    forecast: Forecast,
    evidence: Evidence,
    diagnosis: Diagnosis,
    *,
    day: str,
    capacity_bytes: int | None,
    available_bytes: int | None = None,
    outside_bytes: int | None = None,
    device_name: str = "",
    rehearsed: bool = False,
    step_seconds: float | None = None,
    versions: Mapping[str, str] | None = None,
) -> Outcome | None:
    """Return what an ended attempt teaches, or None where it teaches nothing of memory.

    It does when it saw its longest batch and went on (it finished, or was `rehearsed` and
    trained), and when its own demand met the end of the device: of the capacity, or of what was
    `available_bytes` of it. `outside_bytes` is what was measured of the process without tensors.
    `forecast` is the prediction before anything was learned, or a bias would be counted twice.
    """
    measured = bound = None
    if _died_of_its_size(diagnosis):
        bound = available_bytes or capacity_bytes
    elif evidence.finished or (rehearsed and evidence.started_training):
        measured = evidence.memory.peak_bytes
    if capacity_bytes is None or (measured is None and bound is None):
        return None
    shape, work = subject.shape, Workload(subject, plan)
    made = Outcome(
        day=day,
        shape=digest_of(shape),
        sizes=Sizes(
            shape.family, shape.layers, shape.hidden, shape.vocab, shape.parameters, shape.experts
        ),
        plan=as_kept(plan),
        sequence=work.sequence,
        lora_rank=work.lora_rank if plan.method == "lora" else 0,
        device=subject.device,
        device_name=device_name or subject.device,
        capacity_gib=float(f"{capacity_bytes / 2**30:.2g}"),
        predicted_bytes=forecast.peak,
        predicted_outside_bytes=forecast.outside + forecast.overhead,
        outside_bytes=(forecast.outside if outside_bytes is None else outside_bytes)
        + forecast.overhead,
        spread=forecast.spread,
        forecast_method=forecast.method,
        ended="stable" if measured is not None else "device_oom",
        measured_bytes=measured,
        bound_bytes=bound,
        step_seconds=step_seconds,
        versions={name: (versions or {}).get(name) or "" for name in VERSIONS},
    )
    return made if keeps(made) is None else None


def as_kept(plan: Plan) -> Plan:
    """Return a plan as outcomes hold it: without text of the owner's environment, or cards."""
    return plan.but(allocator=(), excluded=())


def _died_of_its_size(diagnosis: Diagnosis) -> bool:
    if diagnosis.failure is not Failure.DEVICE_OOM or diagnosis.confidence < SURE:
        return False
    # An evaluation, a save or a leak says nothing of what training needs.
    aside = diagnosis.phase in (Phase.EVAL, Phase.SAVE)
    return not aside and Trait.LEAKING not in diagnosis.traits


def keeps(outcome: Outcome) -> str | None:
    """Return None for an outcome worth keeping, else the sentence why it is not."""
    if outcome.schema != SCHEMA:
        return f"it has schema {outcome.schema}; this autotune keeps {SCHEMA}"
    if not _DAY.fullmatch(outcome.day) or not _DIGEST.fullmatch(outcome.shape):
        return "its day or the digest of its model is not one"
    words = [outcome.sizes.family, outcome.device_name, outcome.forecast_method]
    words += [*outcome.versions, *outcome.versions.values()]
    if any(len(word) > _LONGEST_WORD or not word.isprintable() for word in words):
        return "a word in it is too long or cannot be printed"
    if not set(outcome.versions) <= set(VERSIONS) or outcome.plan != as_kept(outcome.plan):
        return "it holds what no outcome holds"
    return _counts_fault(outcome) or _bytes_fault(outcome)


def _counts_fault(outcome: Outcome) -> str | None:
    plan, sizes = outcome.plan, outcome.sizes
    least_one = [plan.world_size, plan.micro_batch, plan.accumulation, plan.eval_micro_batch]
    least_one += [outcome.sequence, sizes.layers, sizes.hidden, sizes.vocab, sizes.parameters]
    counts = [outcome.lora_rank, sizes.experts]
    counts += [value for value in vars(plan).values() if isinstance(value, int)]
    if min(least_one) < 1 or min(counts) < 0 or max(*least_one, *counts) > _MOST:
        return "a count in it is none that a training can have"
    seconds = outcome.step_seconds
    # NaN fails every comparison, so what is allowed is said, not what is refused.
    if seconds is not None and not 0 < seconds < _MOST_SECONDS:
        return "its seconds per step are none that a training can have"
    return None


def _bytes_fault(outcome: Outcome) -> str | None:
    stable = outcome.ended == "stable"
    told = outcome.measured_bytes if stable else outcome.bound_bytes
    other = outcome.bound_bytes if stable else outcome.measured_bytes
    if told is None or other is not None:
        return "it does not say what its end shows"
    outside, foretold = outcome.outside_bytes, outcome.predicted_outside_bytes
    if not 0 <= foretold < outcome.predicted_bytes <= _MOST or not 0 <= outside < told <= _MOST:
        return "its bytes are none that a device can have"
    if not 0 <= outcome.spread <= 1 or not 0 < outcome.capacity_gib <= _MOST / 2**30:
        return "its spread or its capacity is none that a prediction can have"
    # What died below its prediction needed more than the device had, however little that is.
    far = log_ratio(outcome) if not stable else abs(log_ratio(outcome))
    if far > math.log(FURTHEST):
        return "it is so far from its prediction that something else must have happened"
    return None


def log_ratio(outcome: Outcome) -> float:
    """Return the logarithm of the tensors needed over those predicted; above 0: too few.

    Of an attempt that died, of the least it needed.
    """
    told = outcome.measured_bytes or outcome.bound_bytes or outcome.predicted_bytes
    predicted = outcome.predicted_bytes - outcome.predicted_outside_bytes
    return math.log((told - outcome.outside_bytes) / predicted)

"""Nouns with defaults, so that a test says only what it is about."""

from functools import cache
from pathlib import Path
from typing import Any

from autotune.cli.wiring import all_rungs
from autotune.core.carry import Carry, CarryKind
from autotune.core.evidence import Diagnosis, Evidence, Memory, OomFigures, RankException, Sign
from autotune.core.failure import Failure, Role
from autotune.core.history import Attempt, Story
from autotune.core.job import Job
from autotune.core.outlook import Outlook
from autotune.core.plan import KNOBS, Plan
from autotune.core.policy import Policy
from autotune.core.record import Launch, Remedy
from autotune.core.rung import Scene, Surroundings
from autotune.world.policy_file import find_policy, load_policy

GIB = 2**30
A_SHORTAGE = (
    "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)


def evidence(**changes: Any) -> Evidence:
    """Return what was seen of an attempt that exited with 1."""
    return Evidence(**{"attempt": 1, "exit_code": 1, **changes})


def sign(failure: Failure, line: int = 10, role: Role = Role.ROOT, **changes: Any) -> Sign:
    """Return a sign of `failure` found in one line."""
    given = {"signature": f"a_{failure.value}", "text": f"words of {failure.value}", **changes}
    return Sign(failure=failure, role=role, line=line, **given)


def exception(kind: str = "RuntimeError", rank: int = 0, **changes: Any) -> RankException:
    """Return an exception that ended a rank."""
    return RankException(**{"rank": rank, "type": kind, "message": "", **changes})


def cpu_memory(limit: int = 2 * GIB, **changes: Any) -> Memory:
    """Return the memory of a job on the CPU accelerator under a limit."""
    return Memory(device="cpu", limit_bytes=limit, **changes)


def figures(**gib: float) -> OomFigures:
    """Return figures given in GiB, named without `_bytes`."""
    return OomFigures(**{f"{name}_bytes": int(size * GIB) for name, size in gib.items()})


def plan(**changes: Any) -> Plan:
    """Return the plan of two ranks that train all weights in bf16 at ZeRO stage 2."""
    given: dict[str, Any] = {
        "world_size": 2, "micro_batch": 8, "accumulation": 1, "eval_micro_batch": 8,
        "method": "full", "quantization": "none", "dtype": "bf16",
        "activation_checkpointing": False, "zero_stage": 2, "offload_optimizer": False,
        "offload_param": False, "reduce_bucket": 500_000_000, "allgather_bucket": 500_000_000,
        "gather_on_save": True, "attention": "sdpa", "sequence": 64,
    }  # fmt: skip
    return Plan(**given | changes)


def diagnosis(failure: Failure = Failure.DEVICE_OOM, **changes: Any) -> Diagnosis:
    """Return a diagnosis we are sure of."""
    return Diagnosis(**{"failure": failure, "confidence": 1.0, "why": "it was seen", **changes})


def around(**changes: Any) -> Surroundings:
    """Return a GPU under the built-in trainer, which has every knob and evaluates."""
    given: dict[str, Any] = {"device": "cuda", "knobs": KNOBS, "has_evaluation": True}
    return Surroundings(**given | changes)


def scene(
    of: Plan | None = None, why: Diagnosis | None = None, where: Surroundings | None = None
) -> Scene:
    """Return a plan that ran out of device memory on a GPU."""
    return Scene(of or plan(), why or diagnosis(), where or around())


def job(**changes: Any) -> Job:
    """Return a job of the built-in trainer, as its file would be read."""
    given: dict[str, Any] = {
        "name": "a-job",
        "framework": "finetune",
        "settings": {
            "model": "model",
            "method": "full",
            "data": {"train": "rows.jsonl", "sequence": 64},
            "epochs": 1,
            "learning_rate": 1e-4,
        },
        "batch": {"global": 16, "micro": 8},
    }
    return Job.model_validate(given | changes)


@cache
@cache
def shipped(name: str = "default") -> Policy:
    """Return a policy of those that come with autotune."""
    return load_policy(find_policy(name, Path()), all_rungs())


def outlook(**changes: Any) -> Outlook:
    """Return what a decision rests on: the default policy, every rung, nothing saved."""
    given: dict[str, Any] = {
        "job": job(), "policy": shipped(), "rungs": all_rungs(), "around": around(),
        "start": plan(), "saved": None,
    }  # fmt: skip
    return Outlook(**given | changes)


def remedy(rung: str = "smaller_micro_batch", **changes: Any) -> Remedy:
    """Return a rung that was taken on our account by the policy's first rule."""
    given: dict[str, Any] = {"changes": (), "rule": 1, "why": "it was chosen", "spend": True}
    return Remedy(**{"rung": rung, **given, **changes})


def launch(number: int = 1, of: Plan | None = None, **changes: Any) -> Launch:
    """Return the decision to start a plan afresh."""
    given: dict[str, Any] = {
        "carry": Carry(CarryKind.FRESH, "nothing was saved"), "checkpoint": None,
        "checkpoint_step": 0, "remedy": None, "why": "the job's own settings",
    }  # fmt: skip
    return Launch(attempt=number, plan=of or plan(), **given | changes)


def attempt(
    number: int = 1,
    of: Plan | None = None,
    failure: Failure = Failure.DEVICE_OOM,
    reached: int | None = 0,
    taken: Remedy | None = None,
    **seen: Any,
) -> Attempt:
    """Return an attempt that ended with `failure`, its newest checkpoint at step `reached`."""
    return Attempt(
        launch(number, of, remedy=taken),
        evidence=evidence(attempt=number, checkpoint_step=reached, **{"seconds": 60.0, **seen}),
        diagnosis=diagnosis(failure),
    )


def story(*attempts: Attempt, **changes: Any) -> Story:
    """Return a run whose attempts are over."""
    return Story(attempts=attempts, **changes)

"""Leaves a broken GPU out and shares the global batch among the ranks that remain."""

from autotune.core.plan import Plan, largest_split
from autotune.core.rung import Result, Rung, Scene


def _broken(scene: Scene) -> tuple[int, ...]:
    """Return the GPUs in use that do not answer, else the one of the rank that failed."""
    used = tuple(gpu for gpu in scene.around.gpus if gpu not in scene.plan.excluded)
    used = used[: scene.plan.world_size]
    silent = tuple(gpu for gpu in used if gpu in scene.around.broken_gpus)
    rank = scene.diagnosis.rank
    return silent or (used[rank : rank + 1] if rank is not None else ())


def _ranks(scene: Scene) -> int:
    """Return the most ranks that share the global batch equally on the GPUs that remain."""
    gone = {*scene.plan.excluded, *_broken(scene)}
    left = [gpu for gpu in scene.around.gpus if gpu not in gone]
    most = min(len(left), scene.plan.world_size)
    return next((n for n in range(most, 0, -1) if scene.plan.global_batch % n == 0), 0)


def _applies(scene: Scene) -> str | None:
    if scene.around.device != "cuda":
        return "the job trains on the CPU"
    if scene.plan.world_size == 1 and _ranks(scene) == 0:
        return "the job has only this one GPU"
    if not _broken(scene):
        return "nothing that was seen tells which GPU is the broken one"
    return None if _ranks(scene) else "no GPU would be left"


def _apply(scene: Scene) -> Plan:
    plan, ranks = scene.plan, _ranks(scene)
    per_rank = plan.global_batch // ranks
    micro = largest_split(per_rank, plan.micro_batch)
    return plan.but(
        excluded=tuple(sorted({*plan.excluded, *_broken(scene)})),
        world_size=ranks,
        micro_batch=micro,
        accumulation=per_rank // micro,
        eval_micro_batch=min(plan.eval_micro_batch, micro),
    )


RUNG = Rung(
    name="exclude_device",
    summary="the broken GPU left out, the global batch kept",
    result=Result.SAME,
    knobs=frozenset({"excluded", "world_size", "micro_batch", "accumulation", "eval_micro_batch"}),
    applies=_applies,
    apply=_apply,
)

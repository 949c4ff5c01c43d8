"""What of a job decides its memory, whatever the plan, as predictions take it."""

from collections.abc import Mapping

from autotune.core.memory.shape import ModelShape
from autotune.core.memory.survey import Surveyed
from autotune.core.memory.workload import Subject
from autotune.core.plan import Device
from autotune.frameworks import ds_config
from autotune.frameworks.framework import Trained


def subject_of(
    trained: Trained,
    shape: ModelShape,
    surveyed: Surveyed | None,
    device: Device,
    ranks: int,
    *,
    cuda_context: int,
    packs: bool = False,
    fresh: bool = False,
    evaluates: bool = False,
    deepspeed: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    cores: int = 1,
    nodes: int = 1,
) -> Subject:
    """Return the subject; without a survey every row is taken to be as long as it may be.

    `fresh` says that the model is drawn and not read. `ranks` are those of all `nodes` machines;
    `cores` are this one's, which its ranks share unless `env` says how many threads each has. The
    sequence of `trained` must be known.
    """
    if trained.sequence is None:
        raise AssertionError("without the length of a row nothing is predicted")
    longest = surveyed.longest[0] if surveyed and surveyed.longest else trained.sequence
    return Subject(
        shape=shape,
        device=device,
        sequence=min(longest, trained.sequence),
        lora_rank=trained.lora_rank,
        lora_targets=trained.lora_targets,
        lora_dropout=trained.lora_dropout,
        padded=not packs,
        tile=trained.tile,
        fresh=fresh,
        evaluates=evaluates,
        host_ranks=ranks // nodes,
        threads=_threads(env or {}, cores // max(ranks // nodes, 1)),
        overlap_comm=ds_config.flag(dict(deepspeed or {}), "overlap_comm"),
        cuda_context=cuda_context,
    )


def _threads(env: Mapping[str, str], share: int) -> int:
    said = env.get("OMP_NUM_THREADS", "")
    return max(1, int(said) if said.isdecimal() else share)

"""What of a job of the built-in trainer decides its memory, whatever the plan."""

from autotune.core.job import Job
from autotune.core.memory.shape import ModelShape
from autotune.core.memory.survey import Surveyed
from autotune.core.memory.workload import Subject
from autotune.core.plan import Device
from autotune.frameworks import ds_config
from autotune.frameworks.finetune import settings_of
from autotune.frameworks.framework import Looked


def subject_of(
    job: Job,
    looked: Looked,
    shape: ModelShape,
    surveyed: Surveyed | None,
    device: Device,
    ranks: int,
    cuda_context: int,
    cores: int = 1,
) -> Subject:
    """Return the subject; without a survey every row is taken to be as long as it may be.

    `cores` are this machine's, which the ranks share unless the job says how many threads each has.
    """
    settings = settings_of(job)
    config = dict(looked.deepspeed)
    longest = surveyed.longest[0] if surveyed and surveyed.longest else settings.data.sequence
    targets = settings.lora.targets
    return Subject(
        shape=shape,
        device=device,
        sequence=min(longest, settings.data.sequence),
        lora_rank=settings.lora.rank,
        lora_targets=() if isinstance(targets, str) else tuple(targets),
        lora_dropout=settings.lora.dropout,
        padded=not settings.data.packing,
        fresh=isinstance(settings.model, dict),
        evaluates=settings.data.eval is not None or settings.data.eval_fraction > 0,
        host_ranks=ranks,
        threads=_threads(job, cores // max(ranks, 1)),
        overlap_comm=ds_config.flag(config, "overlap_comm"),
        cuda_context=cuda_context,
    )


def _threads(job: Job, share: int) -> int:
    said = job.env.get("OMP_NUM_THREADS", "")
    return max(1, int(said) if said.isdecimal() else share)

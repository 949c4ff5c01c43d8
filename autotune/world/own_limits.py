"""The limits of our own process, which a training that we start inherits."""

import os
import resource

from autotune.core.doctor.facts import Limits


def own_limits() -> Limits:
    """Return the soft limits that may hurt; None where there is none."""
    return Limits(
        memlock_bytes=_soft(resource.RLIMIT_MEMLOCK),
        files=_soft(resource.RLIMIT_NOFILE),
        files_hard=_known(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        processes=_soft(resource.RLIMIT_NPROC),
        data_bytes=_soft(resource.RLIMIT_DATA),
        space_bytes=_soft(resource.RLIMIT_AS),
        file_bytes=_soft(resource.RLIMIT_FSIZE),
        root=os.geteuid() == 0,
    )


def _soft(which: int) -> int | None:
    return _known(resource.getrlimit(which)[0])


def _known(limit: int) -> int | None:
    return None if limit == resource.RLIM_INFINITY else limit

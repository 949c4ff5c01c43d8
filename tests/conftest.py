"""What every test session is given: compiled extensions kept per user, and patient properties."""

import importlib.metadata
import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import settings

from autotune.world import ops_cache, shared_memory

# A busy machine makes a property slow without making it wrong.
settings.register_profile("patient", deadline=None, max_examples=40)
settings.load_profile("patient")

# A shell ignores SIGINT for what it starts with `&`, and so would every supervisor started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def compiled_ops(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Let real trainings share one folder of compiled extensions, warm from the last session.

    The session builds in a folder of its own, as a run does: a build that is killed leaves a lock
    behind, and in the kept folder every later session would wait for it in silence.
    """
    real = {"train", "slow", "gpu"}
    if not any(mark.name in real for item in request.session.items for mark in item.iter_markers()):
        yield
        return
    versions = {}
    for package in ("torch", "deepspeed"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield
            return
    began = time.time()
    cache, ops = ops_cache.cache_folder(versions, sys.executable), tmp_path_factory.mktemp("ops")
    ops_cache.warm(ops, cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(ops))
        yield
    ops_cache.keep(ops, cache)
    sweep_shared_memory(began)


def sweep_shared_memory(since: float) -> None:
    """Remove the 66 MiB that each rank of a training started without autotune leaves behind."""
    for segment in shared_memory.FOLDER.glob(f"deepspeed_allreduce_buffer_{os.getuid()}_*"):
        if segment.stat().st_mtime >= since:
            segment.unlink(missing_ok=True)

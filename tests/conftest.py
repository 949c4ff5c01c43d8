"""What every test session is given: compiled extensions kept per user, and patient properties."""

import importlib.metadata
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from autotune.world import ops_cache, shared_memory

# A busy machine makes a property slow without making it wrong.
settings.register_profile("patient", deadline=None, max_examples=40)
settings.load_profile("patient")

# A shell ignores SIGINT for what it starts with `&`, and so would every supervisor started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


REAL = {"train", "slow", "gpu"}
LEFT_SINCE = pytest.StashKey[float]()
BY_MODULE = pytest.StashKey[dict[str, list[pytest.Item]]]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remember what shared memory is older than this session."""
    session.config.stash[LEFT_SINCE] = time.time()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of real trainings: the longest last would leave a worker idle."""
    real = {i.path for i in items if any(mark.name in REAL - {"slow"} for mark in i.iter_markers())}
    items.sort(key=lambda item: item.path not in real)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove the 66 MiB that each rank of a training started without autotune leaves behind.

    Only after the last of several workers: a name that is gone is one a living rank cannot open.
    """
    if hasattr(session.config, "workerinput"):
        return
    for segment in shared_memory.FOLDER.glob(f"deepspeed_allreduce_buffer_{os.getuid()}_*"):
        if segment.stat().st_mtime >= session.config.stash[LEFT_SINCE]:
            segment.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def compiled_ops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of compiled extensions that real trainings of this session share.

    The session builds in a folder of its own, as a run does: a build that is killed leaves a lock
    behind, and in the kept folder every later session would wait for it in silence.
    """
    return tmp_path_factory.mktemp("ops")


def _items_of(request: pytest.FixtureRequest) -> list[pytest.Item]:
    """Return the chosen tests of a module."""
    session = request.session
    if BY_MODULE not in session.stash:
        found: dict[str, list[pytest.Item]] = {}
        for item in session.items:
            found.setdefault(item.nodeid.split("::")[0], []).append(item)
        session.stash[BY_MODULE] = found
    return session.stash[BY_MODULE][request.node.nodeid]


@pytest.fixture(scope="module", autouse=True)
def _warm_ops(request: pytest.FixtureRequest, compiled_ops: Path) -> Iterator[None]:
    """Let real trainings find what was compiled before, in this session or an earlier one."""
    if not any(mark.name in REAL for item in _items_of(request) for mark in item.iter_markers()):
        yield
        return
    try:
        versions = {name: importlib.metadata.version(name) for name in ("torch", "deepspeed")}
    except importlib.metadata.PackageNotFoundError:
        yield
        return
    cache = ops_cache.cache_folder(versions, sys.executable)
    ops_cache.warm(compiled_ops, cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(compiled_ops))
        # As in a run: another ninja than this environment's would build everything anew.
        patch.setenv(
            "PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        )
        yield
    ops_cache.keep(compiled_ops, cache)

"""What every test session is given: compiled extensions kept per user, and patient properties."""

import fcntl
import gc
import importlib.metadata
import os
import signal
import subprocess
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


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Look for no garbage while thousands of tests are collected, nor among them afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


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


# What every training on the CPU loads, as DeepSpeed itself builds it.
BUILD = "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder as B; B().load()"
BUILT = "deepspeed_shm_comm"


def _build_once(cache: Path, of_all_workers: Path) -> None:
    """Compile what every training needs while the other workers wait, who would compile it too.

    The compiler takes all cores for a minute; the lock of a killed worker ends with it.
    """
    with (of_all_workers / "ops.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if any(cache.glob(f"{BUILT}/*.so")):
            return
        built = of_all_workers / "ops-built-once"
        env = {"TORCH_EXTENSIONS_DIR": str(built), "DS_ACCELERATOR": "cpu"}
        # Without a compiler each training says so itself.
        subprocess.run([sys.executable, "-c", BUILD], env=os.environ | env, capture_output=True)
        ops_cache.keep(built, cache)


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
    with pytest.MonkeyPatch.context() as patch:
        # As in a run: another ninja than this environment's would build everything anew.
        patch.setenv(
            "PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        )
        _build_once(cache, compiled_ops.parents[hasattr(request.config, "workerinput")])
        ops_cache.warm(compiled_ops, cache)
        patch.setenv("TORCH_EXTENSIONS_DIR", str(compiled_ops))
        yield
    ops_cache.keep(compiled_ops, cache)

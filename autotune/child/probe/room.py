"""Makes room in a rank that was refused memory, before anything is done about it that needs some.

What tells of a refusal, and what saves the last step, needs a little memory itself, and a kernel
that refuses the training refuses them too. So what is needed to raise the soft limit is made in
good time, and a little is kept back and let go of first.
"""

from __future__ import annotations

from errno import ENOMEM

from . import moments, settings

TYPE_CHECKING = False  # typing itself would be an import the program may never make
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# What torch, oneDNN, CUDA's libraries, C++ and the kernel say where an allocation was refused; an
# exception of a type of its own says so without words. A thread needs room for its stack. The words
# of oneDNN and of threads prove nothing alone, and need not: a rank held for nothing is released as
# soon as its state is saved.
WORDS = (
    "out of memory", "out_of_memory", "outofmemory", "memoryerror", "memoryallocation",
    "status_alloc_failed", "cublas_status_not_initialized", "bad_alloc", "bad allocation",
    "can't allocate memory", "cannot allocate ", "not enough memory", "unable to allocate",
    "failed to allocate", "tried to allocate", "oom when allocating", "allocation failed",
    "allocation of ", "alloc of ", "memory cannot be allocated", "failed to map segment",
    "unable to mmap", "out of shared memory", "unable to open shared memory", "mallochost",
    "insufficient host", "insufficient_host", "memory_slowpath", "memoryslowpath",
    "could not create a primitive", "could not execute a primitive",
    "could not create a memory object", "can't start new thread", "unable to allocate necessary",
    "pthread_create failed", "resource temporarily unavailable",
)  # fmt: skip
# Kept back in blocks that the C library and Python hand out again without asking the kernel.
BLOCKS = ((8, 64 * 1024), (500, 480))

_spare: list[bytes] = []
_change: Any = None  # sets a limit and returns the one before, in one call
_kind = 0
_most: tuple[int, int] | None = None
_before: int | None = None  # the soft limit that was lifted for a refusal


def listen() -> None:
    """Make ready once something trains, where anybody wants to act on a refusal."""
    if settings.get("rescue") is not None or settings.get("snapshot_bytes"):
        for moment in ("armed", "trainer_made", "engine_made", "steps_begin"):
            moments.on(moment, prepare)


def prepare(**_: Any) -> None:
    """Import and make what `lift` needs, once; raises OSError or ValueError."""
    global _change, _kind, _most
    if _change is not None:
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    _kind, _most, _change = resource.RLIMIT_DATA, (hard, hard), resource.prlimit
    _spare.extend(bytes(size) for count, size in BLOCKS for _ in range(count))


def make(error: BaseException) -> None:
    """If `error` says that memory was refused, lift the soft limit; never raises."""
    global _before
    if _change is None:
        return
    _spare.clear()
    before = lift()
    try:
        if not is_refusal(error):
            put_back(before)
        elif before is not None and before != _most:
            _before = before[0]
    except MemoryError:  # there is too little even to find out: then this is one
        pass


def limit_before() -> int | None:
    """The soft limit, in bytes, under which memory was refused; None where there was none."""
    return _before


def lift() -> tuple[int, int] | None:
    """Raise the soft limit to the hard one; what it was, None where that cannot be done."""
    try:
        prepare()
        before: tuple[int, int] = _change(0, _kind, _most)
    except Exception:  # then it is tried with what there is
        return None
    return before


def put_back(before: tuple[int, int] | None) -> None:
    """Set the limit that `lift` returned."""
    if before is not None:
        _change(0, _kind, before)


def with_room(make_it: Callable[[], Any]) -> Any:
    """What `make_it` returns; where it is refused memory, once more with the limit lifted."""
    try:
        return make_it()
    except Exception as error:
        if not is_refusal(error):
            raise
    before = lift()
    try:
        return make_it()
    finally:
        put_back(before)


def is_refusal(error: BaseException) -> bool:
    """Whether this exception, or one it was raised from, says that memory was refused."""
    seen: list[BaseException] = []
    chain: BaseException | None = error
    while chain is not None and not any(chain is one for one in seen):
        seen.append(chain)
        # The number of a refusal is told in any language, its words are not.
        if type(chain).__name__.endswith("MemoryError") or getattr(chain, "errno", None) == ENOMEM:
            return True
        said = str(chain).lower()
        if any(word in said for word in WORDS):
            return True
        chain = chain.__cause__ or chain.__context__
    return False

"""Looks at a log often for as long as it grows fast, so that its bound holds between two polls."""

import threading
from pathlib import Path

from autotune.world.disk_bound import DiskBound
from autotune.world.files import size_of

LOOK_SECONDS = 0.05  # a disk that takes 2 GiB a second takes 100 MiB between two looks
CALM_LOOKS = 20
FAST_SHARE = 16  # of the limit, between two polls or within CALM_LOOKS


class FloodGuard:
    """Keeps one bound from a thread of its own, which lives no longer than the flood.

    The loop that polls reads, samples and asks drivers, and a flood does not wait for any of it.
    """

    def __init__(self, path: Path, bound: DiskBound) -> None:
        """Guard the file of `bound`; no thread is started yet."""
        self._path = path
        self._bound = bound
        self._fast_bytes = bound.limit_bytes // FAST_SHARE
        self._size = 0
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    @property
    def looking(self) -> bool:
        """Whether the file is looked at often now."""
        return self._thread is not None and self._thread.is_alive()

    def see(self, size: int) -> None:
        """Hold the file of `size` bytes to its bound, and begin to look often where it floods."""
        self._bound.enforce(size)
        grown, self._size = size - self._size, size
        if grown > self._fast_bytes and not self.looking and not self._over.is_set():
            self._thread = threading.Thread(target=self._look, name="log bound", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Look no more; return when the thread is gone."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _look(self) -> None:
        looks, before = 0, 0
        while not self._over.wait(LOOK_SECONDS):
            try:
                size = size_of(self._path)
            except OSError:
                return
            self._bound.enforce(size)
            looks += 1
            if looks % CALM_LOOKS == 0:
                if size - before <= self._fast_bytes or self._bound.gap is not None:
                    return
                before = size

"""The one place that reads clocks and sleeps."""

import time


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""
        return time.monotonic()

    def now(self) -> float:
        """Return wall-clock seconds since the epoch, for people only."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Return after about `seconds`."""
        time.sleep(seconds)

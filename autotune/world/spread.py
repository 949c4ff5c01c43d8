"""One attempt on several machines: the ranks we started, and those that other nodes did for us."""

from autotune.core.record import AttemptStarted
from autotune.edges import Exit
from autotune.world.nodes import Members, Order
from autotune.world.process import RunningAttempt


class SpreadAttempt:
    """Ends as soon as the ranks of any node do, unless they ended well."""

    def __init__(self, here: RunningAttempt, members: Members, order: Order) -> None:
        """Hold what runs here beside the order by which the others started theirs."""
        self._here = here
        self._members = members
        self._order = order
        self.fell = ""  # which other node ended it, and how
        self.left: tuple[str, ...] = ()  # nodes that did not say that all is gone there

    @property
    def identity(self) -> AttemptStarted:
        """What names the launcher on this machine."""
        return self._here.identity

    def poll(self) -> Exit | None:
        """Return how the first launcher ended that did not end well, or the last that did."""
        here, there = self._here.poll(), self._members.ended(self._order)
        if here is not None and here.code != 0:
            return here
        if there is not None and there[0].code != 0:
            self.fell = there[1]
            return there[0]
        return here if here is not None and there is not None else None

    def alive(self) -> tuple[int, ...]:
        """Return the process ids on this machine that still run."""
        return self._here.alive()

    def end(self, term_grace: float, hurry: bool = False) -> bool:
        """End the ranks of every node and return whether none is left."""
        order = self._members.end(term_grace, hurry)
        gone = self._here.end(term_grace, hurry)
        self.left = self._members.left(order)
        return gone and not self.left

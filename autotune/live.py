"""One started attempt: its processes, what it says, what it holds, and how it is spoken to."""

import contextlib

from autotune.core.evidence import Gap, Rescued
from autotune.core.in_force import ignored
from autotune.core.plan import Plan
from autotune.core.rhythm import Work
from autotune.core.signature import Signatures
from autotune.core.stack import Stack, with_waiting
from autotune.edges import Clock
from autotune.rescue import Rescuer
from autotune.world.cgroup import Cgroup
from autotune.world.channel import AttemptChannel
from autotune.world.gpu import Gpus
from autotune.world.host import MemorySampler
from autotune.world.nodes import Members
from autotune.world.process import RunningAttempt, process_alive
from autotune.world.run_folder import RunFolder
from autotune.world.shared_memory import sweep
from autotune.world.spread import SpreadAttempt
from autotune.world.stacks import StackTaker
from autotune.world.work import work_of

RELEASE_POLL_SECONDS = 0.5


class LiveAttempt:
    """An attempt and everything needed to watch it; `running` is None for a recovered one."""

    def __init__(
        self,
        attempt: int,
        running: RunningAttempt | SpreadAttempt | None,
        channel: AttemptChannel,
        sampler: MemorySampler,
        folder: RunFolder,
        gpus: Gpus,
        cgroup: Cgroup | Gap | None,
        clock: Clock,
        release_seconds: float,
        shared_prefix: str,
        stacks: StackTaker,
        signatures: Signatures,
        plan: Plan,
        rescuer: Rescuer,
        knobs: frozenset[str],
        exit_tells: bool,
        members: Members | None = None,
    ) -> None:
        """Hold the parts together; with `members` some of the ranks run on other nodes."""
        self._ranks_here = plan.world_size // members.terms.nodes if members else None
        self.attempt = attempt
        self.channel = channel
        self.sampler = sampler
        self._running = running
        self._folder = folder
        self._gpus = gpus
        self._cgroup = cgroup
        self._clock = clock
        self._release_seconds = release_seconds
        self._shared_prefix = shared_prefix
        self._stacks = stacks
        self._signatures = signatures
        self._plan = plan
        self._knobs = knobs
        self.exit_tells = exit_tells
        self.rescuer = rescuer

    @property
    def child(self) -> RunningAttempt | SpreadAttempt:
        """The processes of an attempt that we started."""
        if self._running is None:
            raise AssertionError("a recovered attempt has no launcher of ours")
        return self._running

    def rank_died(self) -> bool:
        """Return whether a rank is gone that did not say it was done."""
        view = self.channel.view
        if view.exceptions:
            return True
        return any(
            rank not in view.ended and not process_alive(pid) for rank, pid in self._here().items()
        )

    def ranks_live(self) -> bool:
        """Return whether a rank still runs that has not said it was done."""
        ended = self.channel.view.ended
        return any(process_alive(pid) for rank, pid in self._here().items() if rank not in ended)

    def work(self) -> Work:
        """Return what its processes can be seen doing."""
        return work_of(self.child.alive(), self.sampler.latest_bytes)

    def take_stacks(self) -> tuple[Stack, ...]:
        """Return what every rank is doing, with what its stack says it waits for."""
        taken = self._stacks.take(self._here(), self.child.alive())
        return tuple(with_waiting(stack, self._signatures) for stack in taken)

    def ask_save(self, by: str) -> None:
        """Tell the ranks to save at the next step boundary and end."""
        self._folder.tell_ranks_to_stop(by)

    def ignored(self) -> tuple[str, ...]:
        """Return which settings of the plan the ranks say are not in force."""
        return ignored(self._plan, self.channel.view.settings, self._knobs)

    def tell_end(self) -> None:
        """Tell the ranks that what comes next is no wish to save."""
        with contextlib.suppress(OSError):  # a full disk: then they take until SIGKILL
            self._folder.tell_ranks_of_end()

    def rescue(self) -> bool:
        """Save the last step of ranks that hold their exit; return whether they still hold."""
        return self.rescuer.attend(self.channel.view, self.rank_died())

    def rescued(self) -> Rescued | None:
        """Return how that ended; None where no rank was refused memory."""
        return self.rescuer.told(self.channel.view)

    def settle(self) -> tuple[Gap, ...]:
        """Return once the memory of the dead attempt is back, or say that it is not.

        Memory of the host is back when its processes are gone; a GPU's driver takes a moment more.
        """
        sweep(self._shared_prefix)
        gaps = [*self._stacks.gaps(), *self._sweep_cgroup(), *self._of_other_nodes()]
        pids = tuple(self._here().values())
        deadline = self._clock.monotonic() + self._release_seconds
        while self._gpus.use(pids)[0]:
            if self._clock.monotonic() >= deadline:
                gaps.append(Gap("gpu release", "memory of the dead attempt is still held"))
                break
            self._clock.sleep(RELEASE_POLL_SECONDS)
        return tuple(gaps)

    def _here(self) -> dict[int, int]:
        """Return the processes of the ranks on this machine; what others count is theirs."""
        return self.channel.view.ranks_below(self._ranks_here)

    def _of_other_nodes(self) -> tuple[Gap, ...]:
        if not isinstance(self._running, SpreadAttempt):
            return ()
        told = (self._running.fell, *self._running.left)
        return tuple(Gap("other nodes", one) for one in told if one)

    def _sweep_cgroup(self) -> tuple[Gap, ...]:
        if isinstance(self._cgroup, Gap):
            return (self._cgroup,)
        if self._cgroup is not None:
            self.sampler.sample_last()
            self._cgroup.remove()
        return ()

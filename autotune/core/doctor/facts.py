"""What was found on a machine, as plain facts; None is a reading that could not be taken."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Card:
    """One GPU as NVML tells of it."""

    index: int
    name: str
    capability: tuple[int, int] | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    uncorrected_errors: int | None = None  # since the driver was loaded
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    slowed_by: tuple[str, ...] = ()
    mig: bool | None = None
    exclusive: bool | None = None  # one process at a time may use it
    answers: bool = True


@dataclass(frozen=True)
class Gpus:
    """The driver and the cards behind it."""

    on_the_bus: int | None = None  # NVIDIA display controllers that PCI shows
    module: str | None = None  # version of the driver in the kernel
    nvml: str | None = None  # version of the driver that NVML speaks for
    cuda: tuple[int, int] | None = None  # newest CUDA that the driver knows
    why_none: str = ""  # why NVML could not be asked
    hidden: bool = False  # by the owner's own word
    cards: tuple[Card, ...] = ()


@dataclass(frozen=True)
class Part:
    """What one part of the look into the job's Python came to."""

    error: str | None = None  # a sentence where it failed, hung or died
    told: dict[str, object] = field(default_factory=dict)

    def text(self, key: str) -> str | None:
        """Return a text that was told under `key`."""
        found = self.told.get(key)
        return found if isinstance(found, str) and found else None

    def flag(self, key: str) -> bool | None:
        """Return a truth value that was told under `key`."""
        found = self.told.get(key)
        return found if isinstance(found, bool) else None

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the texts that were told under `key`."""
        found = self.told.get(key)
        return (
            tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()
        )

    def mapping(self, key: str) -> dict[str, object]:
        """Return the mapping that was told under `key`."""
        found = self.told.get(key)
        return {str(k): v for k, v in found.items()} if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Stack:
    """The job's Python, looked at in a process of its own; a missing part was not asked."""

    python: str
    why_not: str = ""  # why it does not start
    parts: dict[str, Part] = field(default_factory=dict)

    def part(self, name: str) -> Part | None:
        """Return a part that was asked and answered."""
        found = self.parts.get(name)
        return found if found is not None and found.error is None else None


@dataclass(frozen=True)
class BuildLock:
    """A lock file of somebody's build of an extension."""

    path: str
    age_seconds: float
    ours: bool  # in a folder where autotune clears them by itself


@dataclass(frozen=True)
class Builds:
    """Compiled extensions and their locks, for this user."""

    locks: tuple[BuildLock, ...] = ()
    compilers: int = 0  # compilers that run now
    kept: tuple[str, ...] = ()  # ops that a run of autotune has built already


@dataclass(frozen=True)
class Segment:
    """A piece of shared memory that DeepSpeed's CPU collectives have made."""

    name: str
    size_bytes: int
    mine: bool
    mapped: bool | None  # a process uses it; None: it could not be seen


@dataclass(frozen=True)
class Memory:
    """Memory of the host: shared, locked, swapped and promised."""

    total_bytes: int | None = None
    available_bytes: int | None = None
    swap_bytes: int | None = None
    swap_free_bytes: int | None = None
    shm_bytes: int | None = None
    shm_free_bytes: int | None = None
    segments: tuple[Segment, ...] = ()
    overcommit: int | None = None  # vm.overcommit_memory
    commit_limit_bytes: int | None = None
    committed_bytes: int | None = None


@dataclass(frozen=True)
class Limits:
    """Soft limits of our process, which the training inherits; None: no limit."""

    memlock_bytes: int | None = None
    files: int | None = None
    files_hard: int | None = None
    processes: int | None = None
    data_bytes: int | None = None
    space_bytes: int | None = None  # RLIMIT_AS
    file_bytes: int | None = None
    root: bool = False


@dataclass(frozen=True)
class Groups:
    """The control groups that we live in and may make."""

    version: str = ""  # "1", "2", "hybrid" or nothing
    limit_bytes: int | None = None
    can_make: bool = False
    why_not: str = ""


@dataclass(frozen=True)
class Service:
    """What systemd and killers in user space will do to a long run."""

    systemd: bool = False
    unit: str = ""  # that we live in
    oom_policy: str | None = None
    managed_oom: str | None = None
    lingers: bool | None = None
    killers: tuple[str, ...] = ()  # programs that kill for memory before the kernel does


@dataclass(frozen=True)
class Disk:
    """The file system that a run's folder lies on."""

    path: str
    kind: str | None = None
    free_bytes: int | None = None
    free_files: int | None = None
    writable: bool | None = None
    bytes_per_second: float | None = None  # written and synced
    sync_seconds: float | None = None  # of the slowest small synced write
    skew_seconds: float | None = None  # its clock against ours
    why_not: str = ""  # why it was not measured


@dataclass(frozen=True)
class Clock:
    """Whether time can be trusted."""

    synchronised: bool | None = None
    jumped_seconds: float | None = None  # while we looked
    asleep_seconds: float | None = None  # since the boot
    year: int | None = None


@dataclass(frozen=True)
class Network:
    """What ranks need to find each other on this machine."""

    loopback: bool | None = None  # a connection to 127.0.0.1 comes about
    ephemeral: tuple[int, int] | None = None  # the range that ports are drawn from
    taken: tuple[int, ...] = ()  # well-known rendezvous ports somebody listens on
    name: str = ""
    resolves: bool | None = None  # our own name, None: nobody answered in time
    name_servers_late: bool = False
    hub: str | None = None  # why a hub cannot be reached; "" where it can; None: not asked


@dataclass(frozen=True)
class Needs:
    """What a job asks of the machine; empty: no job was named."""

    named: bool = False
    device: str = ""  # cpu | cuda | nothing
    ranks: int | None = None
    quantized: bool = False
    eight_bit: bool = False
    ops: tuple[str, ...] = ()  # of DeepSpeed's, that its configuration loads
    pinned: bool = False
    host_memory_limit: bool = False
    memory_limit_bytes: int | None = None
    checkpoint_bytes: int | None = None  # of all that are kept and one in the making


@dataclass(frozen=True)
class Facts:
    """All that was found."""

    gpus: Gpus = Gpus()
    stack: Stack = Stack("")
    builds: Builds = Builds()
    memory: Memory = Memory()
    limits: Limits = Limits()
    groups: Groups = Groups()
    service: Service = Service()
    disk: Disk = Disk("")
    clock: Clock = Clock()
    network: Network = Network()
    needs: Needs = Needs()
    unread: dict[str, str] = field(default_factory=dict)  # what could not be looked at, and why

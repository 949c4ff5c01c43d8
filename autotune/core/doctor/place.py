"""Judges where a run lives: its disk, its clock, and how its ranks find each other."""

from collections.abc import Iterator

from autotune.core.doctor.facts import Clock, Disk, Facts, Network
from autotune.core.doctor.finding import Finding, notice, ok, problem
from autotune.core.units import show_bytes, show_seconds

SHARED_KINDS = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "9p",
    "fuse.sshfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
)
_LITTLE = 2 * 2**30
_SLOW = 50e6  # bytes a second; a checkpoint of 16 bytes a weight then takes 320 s for a billion
_SYNC = 0.25  # seconds; each record of the journal is synced before anything is done
_FEW_FILES = 10_000
_SKEW = 2.0
_JUMP = 0.5
_FEW_PORTS = 1000
_LONGEST_MINUTES = 10


def judge(facts: Facts) -> Iterator[Finding]:
    """Yield what is to be said of disk, clock and network."""
    yield from _disk(facts.disk, facts.needs.checkpoint_bytes)
    yield from _clock(facts.clock)
    yield from _network(facts.network)


def _disk(disk: Disk, needed: int | None) -> Iterator[Finding]:
    if disk.writable is False:
        yield problem(
            "disk.writable", f"{disk.path} cannot be written to ({disk.why_not})",
            "no run can begin there", "choose another place with --run-dir, or mend it",
        )  # fmt: skip
        return
    yield from _room(disk, needed)
    if disk.kind == "tmpfs":
        yield notice(
            "disk.kind", f"{disk.path} lies in memory (tmpfs)",
            "checkpoints take host memory, and a boot takes them", "choose a disk with --run-dir",
        )  # fmt: skip
    elif disk.kind in SHARED_KINDS:
        yield notice(
            "disk.kind", f"{disk.path} lies on {disk.kind}, shared with other machines",
            "the log's bound may not be kept, and a server that hangs holds the run up",
            "keep runs on a local disk where there is one",
        )  # fmt: skip
    elif disk.kind == "overlay":
        yield notice(
            "disk.kind", f"{disk.path} lies in a container's own layer",
            "the run and its checkpoints go with the container", "mount a volume for it",
        )  # fmt: skip
    yield from _speed(disk, needed)


def _room(disk: Disk, needed: int | None) -> Iterator[Finding]:
    if disk.free_bytes is None:
        return
    text = f"{show_bytes(disk.free_bytes)} are free below {disk.path}"
    if needed is not None and disk.free_bytes < needed:
        yield problem(
            "disk.room", f"{text}, and the job's checkpoints need about {show_bytes(needed)}",
            "the job is refused", "free space, keep fewer, or choose another --run-dir",
        )  # fmt: skip
    elif disk.free_bytes < _LITTLE:
        yield notice("disk.room", text, "a checkpoint may not fit, and a save that fails costs its "
                     "steps", "free space, or choose another --run-dir")  # fmt: skip
    else:
        yield ok("disk.room", text)
    if disk.free_files is not None and disk.free_files < _FEW_FILES:
        yield notice("disk.files", f"{disk.free_files} files more can be made below {disk.path}",
                     "saves fail with space left", "remove small files")  # fmt: skip


def _speed(disk: Disk, needed: int | None) -> Iterator[Finding]:
    if disk.bytes_per_second is None:
        yield notice("disk.speed", f"the disk's speed could not be measured ({disk.why_not})",
                     "what a save takes is not known", "see whether the disk hangs")  # fmt: skip
        return
    text = f"{disk.bytes_per_second / 1e6:.0f} MB a second are written and synced"
    if disk.bytes_per_second < _SLOW:
        size = needed if needed is not None else 16 * 10**9
        what = "what the job keeps" if needed is not None else "a billion weights with AdamW"
        takes = show_seconds(size / disk.bytes_per_second)
        yield notice("disk.speed", text, f"saving {what} takes {takes} of training time",
                     "choose a faster disk with --run-dir, or `checkpoints.every`")  # fmt: skip
    else:
        yield ok("disk.speed", text)
    if disk.sync_seconds is not None and disk.sync_seconds > _SYNC:
        yield notice("disk.sync", f"a small write took up to {disk.sync_seconds:.2f} s to be safe",
                     "each line of the journal waits that long", "choose another disk")  # fmt: skip
    if disk.skew_seconds is not None and abs(disk.skew_seconds) > _SKEW:
        yield notice("disk.skew", f"its server's clock is {disk.skew_seconds:+.0f} s off ours",
                     "compiled extensions are built anew, or wrongly not",
                     "let both be set by NTP")  # fmt: skip


def _clock(clock: Clock) -> Iterator[Finding]:
    if clock.year is not None and clock.year < 2024:
        yield problem("clock.year", f"the clock says it is {clock.year}",
                      "certificates are refused, and files look older than their sources",
                      "set the clock, and let NTP keep it")  # fmt: skip
    elif clock.jumped_seconds is not None and abs(clock.jumped_seconds) > _JUMP:
        yield notice("clock.jumps", f"the clock jumped by {clock.jumped_seconds:+.1f} s just now",
                     "times in journal and logs do not add up; limits hold, they count otherwise",
                     "see what sets it: two time services fight, or a virtual machine was stopped",
                     )  # fmt: skip
    elif clock.synchronised is False:
        yield notice("clock.ntp", "nobody sets the clock (NTP is not synchronised)",
                     "logs of several machines cannot be laid side by side",
                     "timedatectl set-ntp true; a container shows its host's clock")  # fmt: skip
    elif clock.synchronised:
        yield ok("clock.ntp", "the clock is synchronised")
    if clock.asleep_seconds is not None and clock.asleep_seconds > 60 * _LONGEST_MINUTES:
        yield notice("clock.sleep", f"the machine slept for {show_seconds(clock.asleep_seconds)} "
                     "since it booted", "a night may pass without a step",
                     "systemctl mask sleep.target suspend.target")  # fmt: skip


def _network(network: Network) -> Iterator[Finding]:
    if network.loopback is False:
        yield problem("ports.loopback", "no connection to 127.0.0.1 comes about",
                      "the ranks of a job never find each other",
                      "bring the loopback device up (`ip link set lo up`), or mend the firewall",
                      ("ports",))  # fmt: skip
        return
    if network.ephemeral is not None:
        low, high = network.ephemeral
        if high - low < _FEW_PORTS:
            yield notice("ports.range", f"ports are drawn from {low} to {high} only",
                         "a start may find none free", "widen net.ipv4.ip_local_port_range",
                         )  # fmt: skip
        elif network.loopback:
            yield ok("ports.range", f"ports for the ranks are drawn from {low} to {high}")
    if network.taken:
        shown = ", ".join(map(str, network.taken))
        yield notice("ports.taken", f"somebody listens on {shown}",
                     "a script that uses it cannot start; `autotune run` draws a free port",
                     "give them another MASTER_PORT")  # fmt: skip
    if network.resolves is False or network.name_servers_late:
        how = "is not resolved" if network.resolves is False else "is resolved after seconds only"
        yield notice("ports.name", f"this machine's own name, {network.name}, {how}",
                     "gloo and other libraries that ask for it fail or start late",
                     f"put `127.0.1.1 {network.name}` into /etc/hosts")  # fmt: skip
    if network.hub is not None:
        if network.hub:
            yield notice("hub.reachable", f"the model hub cannot be reached: {network.hub}",
                         "a job that downloads fails; the built-in trainer downloads nothing",
                         "download beforehand, or set a proxy")  # fmt: skip
        else:
            yield ok("hub.reachable", "the model hub can be reached")

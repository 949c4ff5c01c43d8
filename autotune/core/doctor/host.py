"""Judges the host: shared memory, limits, control groups, and who kills for memory."""

import shlex
from collections.abc import Iterator

from autotune.core.doctor.facts import Facts, Groups, Memory, Service
from autotune.core.doctor.finding import Finding, notice, ok, problem
from autotune.core.units import show_bytes

SHARED_MEMORY = "/dev/shm/"  # noqa: S108 - its name, for people
SEGMENT_BYTES = 66 * 2**20  # of a rank on the CPU accelerator; measured
_NCCL_BYTES = 64 * 2**20  # what NCCL and data loaders want of /dev/shm at the least
_FEW_FILES = 4096  # a loader with workers, shards and sockets of 8 ranks reaches a thousand
_FEW_PROCESSES = 2048  # each rank starts threads for each core
_FEW_LOCKED = 64 * 2**20
_LOW_SHARE = 0.1


def judge(facts: Facts) -> Iterator[Finding]:
    """Yield what is to be said of the host."""
    yield from _shared(facts)
    yield from _memory(facts.memory)
    yield from _limits(facts)
    yield from _groups(facts)
    yield from _service(facts.service)
    yield from _locks(facts)


def _shared(facts: Facts) -> Iterator[Finding]:
    memory, needs = facts.memory, facts.needs
    if memory.shm_free_bytes is not None:
        on_cpu = (needs.device or ("cuda" if facts.gpus.cards else "cpu")) == "cpu"
        wanted = SEGMENT_BYTES * (needs.ranks or 2) if on_cpu else _NCCL_BYTES
        free = show_bytes(memory.shm_free_bytes)
        if memory.shm_free_bytes < wanted:
            yield problem(
                "shm.room",
                f"{free} of /dev/shm are free, and the ranks need {show_bytes(wanted)}",
                "the training dies of a bus error, or never starts",
                "remount it larger (docker: --shm-size), or remove what is left in it",
            )
        else:
            yield ok("shm.room", f"{free} of /dev/shm are free")
    stale = [one for one in memory.segments if one.mapped is False]
    mine = [one for one in stale if one.mine]
    if mine:
        held = show_bytes(sum(one.size_bytes for one in mine))
        yield notice(
            "shm.stale", f"{len(mine)} segments of dead trainings of yours hold {held} of /dev/shm",
            "memory of the machine until it boots",
            f"rm {_names([SHARED_MEMORY + one.name for one in mine])}",
        )  # fmt: skip
    others = [one for one in memory.segments if not one.mine]
    if others:
        held = show_bytes(sum(one.size_bytes for one in others))
        yield notice(
            "shm.others", f"trainings of other users hold {held} of /dev/shm",
            "it is theirs while they run, and nobody's after that", "ask them",
        )  # fmt: skip


def _memory(memory: Memory) -> Iterator[Finding]:
    total, available = memory.total_bytes, memory.available_bytes
    if total and available is not None:
        text = f"{show_bytes(available)} of {show_bytes(total)} of memory are available"
        if available < _LOW_SHARE * total:
            yield notice("memory.room", text, "the kernel may kill the training for it",
                         "wait, or give the job a `host_memory_limit` below it")  # fmt: skip
        else:
            yield ok("memory.room", text)
    if memory.swap_bytes == 0:
        yield ok("memory.swap", "no swap: memory that runs out kills at once, and nothing crawls")
    elif memory.swap_bytes and memory.swap_free_bytes is not None:
        used = memory.swap_bytes - memory.swap_free_bytes
        if used > 0.5 * memory.swap_bytes:
            held, whole = show_bytes(used), show_bytes(memory.swap_bytes)
            yield notice(
                "memory.swap", f"{held} of {whole} of swap are in use",
                "steps that touch swapped memory take a hundred times longer",
                "find out who holds it (`smem`, `top`), or set `host_memory_limit`",
            )  # fmt: skip
        else:
            yield ok("memory.swap", f"{show_bytes(memory.swap_bytes)} of swap, little of it in use")
    if memory.overcommit == 2:
        limit, given = memory.commit_limit_bytes, memory.committed_bytes
        left = None if limit is None or given is None else limit - given
        yield notice(
            "memory.overcommit",
            f"the kernel promises no more memory than it has: {show_bytes(left)} are left of that",
            "CUDA and torch reserve far more than they use, and are refused with memory free",
            "sysctl vm.overcommit_memory=0, or raise vm.overcommit_ratio",
        )


def _limits(facts: Facts) -> Iterator[Finding]:
    limits, needs = facts.limits, facts.needs
    hint = "raise it in /etc/security/limits.conf, or in the unit "
    found = False
    if limits.memlock_bytes is not None and limits.memlock_bytes < _FEW_LOCKED and not limits.root:
        found = True
        yield notice(
            "limits.memlock", f"only {show_bytes(limits.memlock_bytes)} may be locked into memory",
            "pinned memory of offload and of InfiniBand is refused" if needs.pinned or not
            needs.named else "nothing for this job, which pins no memory",
            hint + "(LimitMEMLOCK=infinity)",
        )  # fmt: skip
    if limits.files is not None and limits.files < _FEW_FILES:
        found = True
        more = f"ulimit -n {limits.files_hard}, or " if limits.files_hard else "ulimit -n, or "
        yield notice(
            "limits.files", f"a process may open {limits.files} files",
            "loaders with many workers and large ZeRO saves die of 'Too many open files'",
            more + hint + "(LimitNOFILE=)",
        )  # fmt: skip
    if limits.processes is not None and limits.processes < _FEW_PROCESSES and not limits.root:
        found = True
        yield notice(
            "limits.processes", f"you may have {limits.processes} processes and threads",
            "thread pools and loader workers are refused at random moments",
            hint + "(LimitNPROC=)",
        )  # fmt: skip
    for name, size in (("data", limits.data_bytes), ("space", limits.space_bytes)):
        if size is not None:
            found = True
            yield from _cap(name, size, needs.memory_limit_bytes)
    if limits.file_bytes is not None:
        found = True
        yield problem(
            "limits.file_size", f"no file may be larger than {show_bytes(limits.file_bytes)}",
            "a checkpoint that is larger ends the training", "ulimit -f unlimited",
        )  # fmt: skip
    if not found:
        yield ok("limits.all", "limits of locked memory, files, processes and data are wide")


def _cap(name: str, size: int, wanted: int | None) -> Iterator[Finding]:
    option = {"data": "d", "space": "v"}[name]
    text = f"a process may hold {show_bytes(size)} of {'data' if name == 'data' else 'addresses'}"
    cost = "autotune sees it as `memory_limit`, and torch is refused above it"
    if name == "space":
        cost = "torch and CUDA map far more than they use, and are refused at their start"
    if wanted is not None and wanted > size:
        text += f", and the job's memory_limit is {show_bytes(wanted)}"
    judge_as = problem if name == "space" else notice
    yield judge_as(f"limits.{name}", text, cost, f"ulimit -{option} unlimited")


def _groups(facts: Facts) -> Iterator[Finding]:
    groups: Groups = facts.groups
    wanted = facts.needs.host_memory_limit
    if not groups.version:
        text = "no memory control group can be seen"
    else:
        text = f"control groups of version {groups.version}"
    if groups.limit_bytes is not None:
        text += f"; ours may hold {show_bytes(groups.limit_bytes)} in all"
    if groups.can_make:
        yield ok("cgroup.delegation", text + "; one can be made for each attempt")
    else:
        yield notice(
            "cgroup.delegation", f"{text}; none can be made for an attempt ({groups.why_not})",
            "`host_memory_limit` is not enforced" + ("" if wanted else ", should a job name it"),
            "run it as a service, or under `systemd-run --user --scope -p Delegate=yes`",
        )  # fmt: skip


def _service(service: Service) -> Iterator[Finding]:
    for killer in service.killers:
        kept = service.managed_oom in ("auto", "none", None) and killer == "systemd-oomd"
        told = "; it does not watch our unit" if kept and service.managed_oom else ""
        yield notice(
            "oomd.killer", f"{killer} runs{told}",
            "it kills whole groups before memory is gone; the attempt ends as a bare kill",
            "exempt the unit (ManagedOOMPreference=avoid), or leave it more room",
        )  # fmt: skip
    if not service.systemd:
        yield ok("systemd.absent", "systemd does not run here: nothing restarts a run after a boot")
        return
    where = service.unit or "no unit that can be told"
    if service.oom_policy in ("stop", "kill") and service.unit.endswith(".service"):
        yield problem(
            "systemd.oom_policy", f"we live in {where}, whose OOMPolicy is {service.oom_policy}",
            "a rank that is killed for memory takes the supervisor along",
            "set OOMPolicy=continue in the unit",
        )  # fmt: skip
    elif service.unit.startswith("session-") and service.lingers is False:
        yield notice(
            "systemd.session", f"we live in {where}, a login, and you do not linger",
            "what runs in it or as a user service may be ended when you log out",
            "loginctl enable-linger",
        )  # fmt: skip
    else:
        yield ok("systemd.unit", f"systemd runs; we live in {where}")


def _locks(facts: Facts) -> Iterator[Finding]:
    stale = [one for one in facts.builds.locks if not facts.builds.compilers]
    ours = [one for one in stale if one.ours]
    theirs = [one for one in stale if not one.ours]
    if theirs:
        oldest = max(one.age_seconds for one in theirs)
        yield notice(
            "builds.locks",
            f"{len(theirs)} build locks lie in torch's cache of extensions with no compiler alive, "
            f"the oldest for {oldest / 60:.0f} minutes",
            "a training started without autotune waits for them for ever, in silence",
            f"rm {_names([one.path for one in theirs])}",
        )
    if ours:
        yield ok(
            "builds.ours", f"{len(ours)} locks of dead builds in our folders; a start clears them"
        )
    if not stale:
        yield ok("builds.locks", "no build of an extension is locked by the dead")


def _names(paths: list[str], most: int = 6) -> str:
    """Return paths as a shell reads them, and a sign that there are more."""
    return shlex.join(paths[:most]) + (" …" if len(paths) > most else "")

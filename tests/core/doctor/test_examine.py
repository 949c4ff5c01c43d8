"""Every finding of the doctor follows from plain facts, the worst first."""

from dataclasses import replace
from typing import Any

import pytest

from autotune.core.doctor.examine import as_plain, as_text, examine, is_fit, verdict
from autotune.core.doctor.facts import (
    BuildLock,
    Builds,
    Card,
    Clock,
    Disk,
    Facts,
    Gpus,
    Groups,
    Limits,
    Memory,
    Needs,
    Network,
    Part,
    Segment,
    Service,
    Stack,
)
from autotune.core.doctor.finding import Finding, Severity

GIB = 2**30
CARD = Card(0, "H100", (9, 0), 80 * GIB, 79 * GIB, 0, False, False)
TORCH = Part(told={"version": "2.9", "cuda": "12.8", "architectures": ["sm_80", "sm_90"],
                   "cuda_works": True})  # fmt: skip
PARTS = {
    "python": Part(told={"version": "3.12"}),
    "torch": TORCH,
    "build": Part(told={"compiler": "/usr/bin/c++", "headers": True, "compiles": True,
                        "ninja": "1.11", "nvcc": "12.8", "headers_for": "python3.12"}),
    "deepspeed": Part(told={"version": "0.19", "ops": {"fused_adam": True,
                            "deepspeed_shm_comm": True}, "installed": []}),
    "bitsandbytes": Part(told={"version": "0.50", "backend": "cuda"}),
}  # fmt: skip
ON_GPU = Facts(
    gpus=Gpus(1, "580.1", "580.1", (13, 0), "", False, (CARD,)),
    stack=Stack("python", "", PARTS),
    memory=Memory(64 * GIB, 60 * GIB, 0, 0, 32 * GIB, 32 * GIB, (), 0, 64 * GIB, GIB),
    limits=Limits(None, 65536, 65536, None),
    groups=Groups("2", None, True),
    service=Service(True, "autotune@x.service", "continue"),
    disk=Disk("/runs", "ext4", 500 * GIB, 10**6, True, 1e9, 0.01, 0.0),
    clock=Clock(True, 0.0, 0.0, 2026),
    network=Network(True, (32768, 60999), (), "node1", True),
)
CPU_TORCH = Part(told={"version": "2.13+cpu", "cuda": None})
ON_CPU = replace(
    ON_GPU,
    gpus=Gpus(0, why_none="no NVIDIA driver is installed"),
    stack=Stack("python", "", {**PARTS, "torch": CPU_TORCH,
                "bitsandbytes": Part(told={"version": "0.50", "backend": "cpu"})}),
)  # fmt: skip
SEGMENT = "deepspeed_allreduce_buffer_0_127.0.0.1_40000_0"


def with_part(facts: Facts, name: str, part: Part | None) -> Facts:
    parts = {key: held for key, held in facts.stack.parts.items() if key != name}
    if part is not None:
        parts[name] = part
    return replace(facts, stack=replace(facts.stack, parts=parts))


def told(facts: Facts, part: str, **more: object) -> Facts:
    held = facts.stack.parts[part]
    return with_part(facts, part, Part(told={**held.told, **more}))


def card(**more: Any) -> Facts:
    return replace(ON_GPU, gpus=replace(ON_GPU.gpus, cards=(replace(CARD, **more),)))


def gpus(**more: Any) -> Facts:
    return replace(ON_GPU, gpus=replace(ON_GPU.gpus, **more))


def part_of(area: str, facts: Facts = ON_GPU, **more: Any) -> Facts:
    return replace(facts, **{area: replace(getattr(facts, area), **more)})


def needs(facts: Facts, **more: Any) -> Facts:
    return replace(facts, needs=Needs(named=True, **more))


BROKEN = Part(error="ImportError: libcudart.so.12")
ABSENT = Part(error="ModuleNotFoundError", told={"missing": True})

PROBLEMS: dict[str, tuple[Facts, str]] = {
    "the driver was upgraded under the kernel": (gpus(nvml="590.2"), "driver.versions"),
    "a card is there and the driver is mute": (
        gpus(nvml=None, cuda=None, cards=(), why_none="NVML did not answer within 20 s"),
        "driver.mute",
    ),
    "a job names GPUs where there are none": (needs(ON_CPU, device="cuda"), "driver.none"),
    "a card fell off the bus": (card(answers=False), "cards.mute"),
    "a card has no spare rows": (card(remap_failed=True), "cards.memory"),
    "a card is cut into pieces": (card(mig=True), "cards.mig"),
    "the job's Python does not start": (
        replace(ON_GPU, stack=Stack("/no/python", "No such file")), "python.starts",
    ),
    "torch breaks": (with_part(ON_GPU, "torch", BROKEN), "torch.loads"),
    "torch is missing": (with_part(ON_GPU, "torch", ABSENT), "torch.loads"),
    "torch is older than the card": (card(capability=(10, 0)), "torch.kernels"),
    "torch is too new for the driver": (
        replace(told(ON_GPU, "torch", cuda="13.0", cuda_works=False,
                     cuda_why="RuntimeError: The NVIDIA driver on your system is too old"),
                gpus=replace(ON_GPU.gpus, cuda=(12, 4))),
        "torch.driver",
    ),
    "torch knows no CUDA beside a GPU": (with_part(ON_GPU, "torch", CPU_TORCH), "torch.build"),
    "deepspeed is missing": (with_part(ON_CPU, "deepspeed", ABSENT), "deepspeed.loads"),
    "an op cannot be built": (
        told(ON_CPU, "deepspeed", ops={"deepspeed_shm_comm": False},
             why={"deepspeed_shm_comm": "no libnuma"}),
        "deepspeed.deepspeed_shm_comm",
    ),
    "no compiler for an op that is needed": (told(ON_CPU, "build", compiler=None),
                                             "build.compiler"),
    "no headers for it": (told(ON_CPU, "build", headers=False), "build.compiler"),
    "a compiler that fails": (told(ON_CPU, "build", compiles=False), "build.compiler"),
    "no ninja for it": (told(ON_CPU, "build", ninja=None), "build.ninja"),
    "4-bit without bitsandbytes": (
        needs(with_part(ON_GPU, "bitsandbytes", ABSENT), quantized=True), "bitsandbytes.loads",
    ),
    "4-bit with its library for the CPU": (
        needs(told(ON_GPU, "bitsandbytes", backend="cpu"), quantized=True),
        "bitsandbytes.backend",
    ),
    "/dev/shm of a container": (part_of("memory", ON_CPU, shm_free_bytes=64 * 2**20), "shm.room"),
    "addresses are limited": (part_of("limits", space_bytes=8 * GIB), "limits.space"),
    "files are limited in size": (part_of("limits", file_bytes=GIB), "limits.file_size"),
    "a rank's death ends the unit": (
        part_of("service", unit="ssh.service", oom_policy="stop"), "systemd.oom_policy",
    ),
    "a disk that is read-only": (
        part_of("disk", writable=False, why_not="Read-only file system"), "disk.writable",
    ),
    "a disk too small for the job": (needs(ON_GPU, checkpoint_bytes=2**41), "disk.room"),
    "a clock in the past": (part_of("clock", year=1970), "clock.year"),
    "no loopback": (part_of("network", loopback=False), "ports.loopback"),
}  # fmt: skip

NOTICES: dict[str, tuple[Facts, str]] = {
    "a card that PCI shows is missing": (gpus(on_the_bus=2), "driver.missing"),
    "rows wait to be replaced": (card(remap_pending=True), "cards.memory"),
    "memory errors": (card(uncorrected_errors=3), "cards.memory"),
    "a hot card": (card(slowed_by=("heat",)), "cards.slowed"),
    "a neighbour on the card": (card(free_bytes=10 * GIB), "cards.taken"),
    "a toolkit newer than the driver's": (gpus(cuda=(12, 4)), "torch.driver"),
    "no nvcc and no op that needs it": (told(ON_GPU, "build", nvcc=None), "build.nvcc"),
    "nvcc of another CUDA": (told(ON_GPU, "build", nvcc="11.8"), "build.nvcc"),
    "no compiler, and nothing to compile": (told(ON_GPU, "build", compiler=None),
                                            "build.compiler"),
    "a compiler that hangs": (with_part(ON_GPU, "build", Part(error="late")), "build.compiler"),
    "no bitsandbytes, and no need": (with_part(ON_GPU, "bitsandbytes", ABSENT),
                                     "bitsandbytes.loads"),
    "bitsandbytes without a library": (told(ON_GPU, "bitsandbytes", backend="none"),
                                       "bitsandbytes.backend"),
    "segments of the dead": (
        part_of("memory", segments=(Segment(SEGMENT, 66 * 2**20, True, False),)), "shm.stale",
    ),
    "segments of others": (
        part_of("memory", segments=(Segment(SEGMENT, 66 * 2**20, False, None),)), "shm.others",
    ),
    "little memory": (part_of("memory", available_bytes=GIB), "memory.room"),
    "a full swap": (part_of("memory", swap_bytes=8 * GIB, swap_free_bytes=GIB), "memory.swap"),
    "strict overcommit": (part_of("memory", overcommit=2), "memory.overcommit"),
    "little may be locked": (part_of("limits", memlock_bytes=65536), "limits.memlock"),
    "few files": (part_of("limits", files=1024), "limits.files"),
    "few processes": (part_of("limits", processes=512), "limits.processes"),
    "a limit of data": (part_of("limits", data_bytes=GIB), "limits.data"),
    "no cgroup of our own": (
        part_of("groups", can_make=False, why_not="not delegated"), "cgroup.delegation",
    ),
    "a killer in user space": (part_of("service", killers=("earlyoom",)), "oomd.killer"),
    "a login that does not linger": (
        part_of("service", unit="session-3.scope", oom_policy=None, lingers=False),
        "systemd.session",
    ),
    "a lock of the dead": (
        replace(ON_GPU, builds=Builds((BuildLock("/c/op/lock", 900.0, False),))), "builds.locks",
    ),
    "a run in memory": (part_of("disk", kind="tmpfs"), "disk.kind"),
    "a run on NFS": (part_of("disk", kind="nfs4"), "disk.kind"),
    "a run in a container's layer": (part_of("disk", kind="overlay"), "disk.kind"),
    "little room": (part_of("disk", free_bytes=GIB), "disk.room"),
    "few files left": (part_of("disk", free_files=10), "disk.files"),
    "a slow disk": (part_of("disk", bytes_per_second=5e6), "disk.speed"),
    "a disk that hangs": (part_of("disk", bytes_per_second=None, why_not="late"), "disk.speed"),
    "slow syncs": (part_of("disk", sync_seconds=1.5), "disk.sync"),
    "a server of another time": (part_of("disk", skew_seconds=-90.0), "disk.skew"),
    "a clock nobody sets": (part_of("clock", synchronised=False), "clock.ntp"),
    "a clock that jumps": (part_of("clock", jumped_seconds=-3.0), "clock.jumps"),
    "a laptop": (part_of("clock", asleep_seconds=9000.0), "clock.sleep"),
    "few ports": (part_of("network", ephemeral=(50000, 50100)), "ports.range"),
    "a rendezvous port in use": (part_of("network", taken=(29500,)), "ports.taken"),
    "a name without an address": (part_of("network", resolves=False), "ports.name"),
    "a name that comes late": (
        part_of("network", resolves=None, name_servers_late=True), "ports.name",
    ),
    "a hub out of reach": (part_of("network", hub="timed out"), "hub.reachable"),
    "a reader of ours that broke": (replace(ON_GPU, unread={"memory": "ValueError"}),
                                    "memory.unread"),
}  # fmt: skip


def named(facts: Facts, name: str) -> list[Finding]:
    return [one for one in examine(facts) if one.name == name]


@pytest.mark.parametrize("facts", [ON_GPU, ON_CPU], ids=["gpu", "cpu"])
def test_a_machine_without_fault_is_fit_and_nothing_is_to_be_done(facts: Facts) -> None:
    assert [one for one in examine(facts) if one.severity is not Severity.OK] == []
    assert is_fit(examine(facts))
    assert verdict(examine(facts)) == "fit: nothing stops a training (0 things to know)"


@pytest.mark.parametrize("case", PROBLEMS)
def test_what_stops_a_training_is_a_problem_with_its_cost_and_cure(case: str) -> None:
    facts, name = PROBLEMS[case]
    (found,) = named(facts, name)
    assert found.severity is Severity.PROBLEM
    assert found.what
    assert found.cost
    assert found.do
    assert not is_fit(examine(facts))
    assert examine(facts)[0].severity is Severity.PROBLEM


@pytest.mark.parametrize("case", NOTICES)
def test_what_only_costs_something_is_a_notice_and_the_machine_stays_fit(case: str) -> None:
    facts, name = NOTICES[case]
    (found,) = named(facts, name)
    assert found.severity is Severity.NOTICE
    assert found.what
    assert found.cost
    assert found.do
    assert is_fit(examine(facts))


def test_a_problem_that_hides_others_comes_before_those_that_hide_nothing() -> None:
    facts = part_of("disk", with_part(ON_GPU, "torch", BROKEN), writable=False)
    found = [one for one in examine(facts) if one.severity is Severity.PROBLEM]
    assert [one.name for one in found] == ["torch.loads", "disk.writable"]
    plain = as_plain(examine(facts))
    assert plain["hidden"] == {"deepspeed": "torch.loads", "bitsandbytes": "torch.loads"}
    assert verdict(examine(facts)).endswith("cannot be told yet: bitsandbytes, deepspeed")


def test_nothing_known_is_no_fault_and_no_praise_of_what_was_not_read() -> None:
    found = examine(Facts())
    assert is_fit(found)
    praised = {one.area for one in found if one.severity is Severity.OK}
    assert praised <= {"driver", "limits", "builds", "systemd", "oomd"}


def test_an_op_that_a_run_has_built_needs_no_compiler() -> None:
    kept = Builds(kept=("deepspeed_shm_comm",))
    bare = replace(told(ON_CPU, "build", compiler=None, ninja=None), builds=kept)
    assert is_fit(examine(bare))


def test_ops_that_the_jobs_configuration_loads_are_asked_for() -> None:
    facts = needs(told(ON_GPU, "deepspeed", ops={"async_io": False}), ops=("async_io",))
    assert [one.name for one in examine(facts) if one.severity is Severity.PROBLEM] == [
        "deepspeed.async_io"
    ]


def test_locks_are_of_no_account_while_a_compiler_runs() -> None:
    lock = BuildLock("/c/op/lock", 900.0, False)
    busy = replace(ON_GPU, builds=Builds((lock,), compilers=1))
    assert named(busy, "builds.locks")[0].severity is Severity.OK


def test_a_segment_in_use_or_of_unknown_use_is_not_called_stale() -> None:
    for mapped in (True, None):
        facts = part_of("memory", segments=(Segment(SEGMENT, 1, True, mapped),))
        assert named(facts, "shm.stale") == []


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((8, 6), ["sm_80"], True),  # the same major version
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_80", "compute_80"], True),  # PTX is compiled for what is newer
        ((9, 0), ["sm_90a"], True),
        ((12, 0), ["sm_120"], True),
        ((10, 3), ["sm_100a"], False),  # code for one architecture alone
        ((9, 4), ["gfx942"], True),  # another maker's names say nothing here
    ],
)
def test_kernels_run_where_cuda_says_they_do(
    capability: tuple[int, int], built: list[str], runs: bool
) -> None:
    facts = told(card(capability=capability), "torch", architectures=built)
    assert (named(facts, "torch.kernels") == []) is runs


def test_the_json_has_the_keys_that_are_promised() -> None:
    plain = as_plain(examine(ON_GPU))
    assert set(plain) == {"schema", "fit", "problems", "notices", "findings", "hidden"}
    findings = plain["findings"]
    assert isinstance(findings, list)
    assert {key for one in findings for key in one} == {
        "name", "area", "severity", "what", "cost", "do", "hides",
    }  # fmt: skip


def test_people_read_no_line_wider_than_their_terminal_but_for_what_they_copy() -> None:
    facts = replace(
        PROBLEMS["no headers for it"][0], memory=PROBLEMS["/dev/shm of a container"][0].memory
    )
    lines = as_text(examine(facts), 80)
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("problem")
    assert lines[-1]

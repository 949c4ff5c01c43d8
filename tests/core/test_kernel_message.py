"""What the kernel's log says is read in the wordings of its versions, and joined to our own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.evidence import KernelEvent
from autotune.core.kernel_message import merge, normal_bus_id, parse_kernel_line
from autotune.core.kin import Kin, joined

CHOICE = (
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
    "oom_memcg=/slurm/job_7,task_memcg=/slurm/job_7/step_0,task=pt_data, worker,pid=812,uid=1000"
)
KILLED = (
    "Memory cgroup out of memory: Killed process 812 (pt_data, worker) total-vm:4096kB, "
    "anon-rss:1024kB, file-rss:512kB, shmem-rss:0kB, UID:1000 pgtables:164kB oom_score_adj:0"
)
OURS = Kin(
    names={812: "pt_data, worker", 813: "python"},
    ranks={813: 1},
    cgroups=frozenset({"/slurm/job_7/step_0"}),
    bus_ids=frozenset({"0000:3b:00"}),
)


def event(line: str) -> KernelEvent:
    found = parse_kernel_line(line)
    assert found is not None, line
    return found


def test_a_kill_of_two_lines_is_one_event_with_all_they_say() -> None:
    (kill,) = merge([event(CHOICE), event(KILLED)])
    assert (kill.pid, kill.task, kill.constraint) == (812, "pt_data, worker", "memcg")
    assert kill.cgroup == "/slurm/job_7/step_0"
    assert (kill.resident_bytes, kill.virtual_bytes) == (1536 * 1024, 4096 * 1024)


@pytest.mark.parametrize(
    ("line", "constraint"),
    [
        ("Out of memory: Killed process 9 (python) total-vm:8kB, anon-rss:4kB", "none"),
        (
            "Out of memory (oom_kill_allocating_task): Killed process 9 (python) total-vm:8kB",
            "none",
        ),
        ("Out of memory: Kill process 9 (python) score 901 or sacrifice child", "none"),
        (
            "Memory cgroup out of memory: Kill process 9 (python) score 1 or sacrifice child",
            "memcg",
        ),
        ("Killed process 9 (python) total-vm:8kB, anon-rss:4kB, file-rss:0kB", ""),
    ],
)
def test_every_wording_of_a_kill_gives_its_victim(line: str, constraint: str) -> None:
    kill = event(line)
    assert (kill.kind, kill.pid, kill.task) == ("oom_kill", 9, "python")
    assert kill.constraint == constraint


@pytest.mark.parametrize(
    ("line", "bus_id", "code", "pid"),
    [
        ("NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off",
         "0000:3b:00", 79, None),
        ("NVRM: Xid (PCI:0000:3B:00): 31, pid=813, name=python, Ch 00000008, intr 00000000",
         "0000:3b:00", 31, 813),
        ("NVRM: Xid (PCI:0000:3b:00 GPU-I:05): 94, pid=1, name=x, Contained", "0000:3b:00", 94, 1),
        ("NVRM: Xid (0000:03:00): 13, Graphics Exception", "0000:03:00", 13, None),
        ("NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.", "0000:3b:00", 79, None),
    ],
)  # fmt: skip
def test_an_xid_gives_its_card_its_code_and_its_process(
    line: str, bus_id: str, code: int, pid: int | None
) -> None:
    xid = event(line)
    assert (xid.kind, xid.bus_id, xid.code, xid.pid) == ("xid", bus_id, code, pid)


@pytest.mark.parametrize(
    ("line", "kind", "pid"),
    [
        ("python[813]: segfault at 0 ip 00007f1 sp 00007ffd error 4 in libtorch.so[7f+1]",
         "trap", 813),
        ("traps: python[813] trap invalid opcode ip:7f sp:7f error:0 in a.so[7f+1]", "trap", 813),
        ("traps: python[813] general protection fault ip:7f sp:7f error:0", "trap", 813),
        ("INFO: task python:813 blocked for more than 120 seconds.", "hung_task", 813),
        ("Memory failure: 0x1a: Killing python:813 due to hardware memory corruption",
         "memory_failure", 813),
        ("cgroup: fork rejected by pids controller in /docker/1f", "fork_refused", None),
    ],
)  # fmt: skip
def test_other_ends_of_processes_are_known(line: str, kind: str, pid: int | None) -> None:
    found = event(line)
    assert (found.kind, found.pid) == (kind, pid)


@pytest.mark.parametrize(
    "line",
    [
        "python invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
        "[  18434]     0 18434    15795    14907   167936        0             0 python",
        "oom_reaper: reaped process 812 (python), now anon-rss:0kB",
        "systemd[1]: Killed process supervision",
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.54.15",
        "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30",
        "",
    ],
)
def test_lines_that_only_resemble_them_are_passed_over(line: str) -> None:
    assert parse_kernel_line(line) is None


@given(st.text(max_size=2000))
def test_no_line_stops_the_reader(text: str) -> None:
    parse_kernel_line(text)
    found = parse_kernel_line(f"Killed process {text}Xid (segfault at")
    assert found is None or len(found.text) <= 300


def test_a_process_we_saw_is_ours_and_its_rank_is_known() -> None:
    assert joined(event(KILLED), OURS).ours is True
    kill = joined(event("Out of memory: Killed process 813 (python) total-vm:8kB"), OURS)
    assert (kill.ours, kill.rank) == (True, 1)


def test_a_neighbours_kill_is_not_ours_though_it_is_a_python_too() -> None:
    line = CHOICE.replace("/slurm/job_7/step_0,", "/slurm/job_9/step_0,")
    theirs = event(line.replace("pid=812", "pid=900").replace("pt_data, worker", "python"))
    assert joined(theirs, OURS).ours is False
    stranger = event("Out of memory: Killed process 900 (firefox) total-vm:8kB")
    assert joined(stranger, OURS).ours is False


def test_a_process_that_came_and_went_between_two_looks_may_be_ours() -> None:
    unseen = event(CHOICE.replace("pid=812", "pid=900"))
    assert joined(unseen, OURS).ours is None


def test_an_id_given_out_again_to_another_program_is_not_taken_for_ours() -> None:
    again = event("Out of memory: Killed process 813 (firefox) total-vm:8kB")
    assert joined(again, OURS).ours is None


def test_a_rank_that_died_before_we_looked_at_it_is_ours_by_what_it_told_us() -> None:
    kill = event("Out of memory: Killed process 77 (torchrun) total-vm:8kB")
    assert joined(kill, Kin(ranks={77: 3})).ours is True
    assert joined(kill, Kin(ranks={77: 3}, same_ids=False)).ours is False


def test_in_a_container_ids_prove_nothing_and_only_names_are_left() -> None:
    inside = Kin(names={813: "python"}, ranks={813: 1}, same_ids=False)
    kill = joined(event("Out of memory: Killed process 813 (python) total-vm:8kB"), inside)
    assert (kill.ours, kill.rank) == (None, None)
    other = joined(event("Out of memory: Killed process 813 (firefox) total-vm:8kB"), inside)
    assert other.ours is False


def test_what_died_in_the_cgroup_made_for_the_attempt_is_ours_even_in_a_container() -> None:
    made = Kin(cgroup="/autotune-1-001", same_ids=False)
    line = CHOICE.replace("/slurm/job_7/step_0,", "/docker/1f/autotune-1-001,")
    assert joined(event(line), made).ours is True


def test_a_fork_refused_is_joined_by_its_cgroup_alone() -> None:
    refused = event("cgroup: fork rejected by pids controller in /slurm/job_7/step_0")
    assert joined(refused, OURS).ours is True
    elsewhere = event("cgroup: fork rejected by pids controller in /docker/1f")
    assert joined(elsewhere, OURS).ours is False
    assert joined(elsewhere, Kin(same_ids=False)).ours is None


def test_an_xid_is_ours_by_the_card_and_a_neighbours_fault_on_it_is_not() -> None:
    lost = event("NVRM: Xid (PCI:0000:3b:00): 79, pid=7, name=x, GPU has fallen off the bus")
    other = event("NVRM: Xid (PCI:0000:af:00): 79, pid=813, name=python, fallen")
    fault = event("NVRM: Xid (PCI:0000:3b:00): 31, pid=7, name=x, Ch 8")
    own = event("NVRM: Xid (PCI:0000:3b:00): 31, pid=813, name=python, Ch 8")
    assert [joined(xid, OURS).ours for xid in (lost, other, fault, own)] == [
        True, False, False, True,
    ]  # fmt: skip
    assert joined(own, OURS).rank == 1
    assert joined(lost, Kin()).ours is None


def test_a_place_on_the_bus_is_written_one_way() -> None:
    assert normal_bus_id("00000000:3B:00.0") == normal_bus_id("PCI:0000:3b:00") == "0000:3b:00"
    assert normal_bus_id("") == ""

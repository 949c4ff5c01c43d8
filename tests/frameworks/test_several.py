"""Several machines in a user's command: what it says of them, and what a job must say too."""

import shlex
from typing import Any

import pytest

from autotune.core.job import Launcher
from autotune.frameworks.command_line import Call, split
from autotune.frameworks.several import Spread, as_job, node_faults, spread_of
from tests import builders

FACTORY = "llamafactory-cli train train.yaml"


def call_of(line: str) -> Call:
    found = split(shlex.split(line))
    assert isinstance(found, Call)
    return found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 MASTER_PORT=29501 {FACTORY}",
         Spread(2, 0, "10.0.0.1", 29501)),
        (FACTORY, Spread()),
        ("torchrun --nnodes 2 --node_rank 1 --master_addr n0 --master_port 29501 t.py",
         Spread(2, 1, "n0", 29501)),
        ("torchrun --nnodes=4 --rdzv_backend c10d --rdzv_endpoint n0:29502 t.py",
         Spread(4, None, "n0", 29502)),
        ("NNODES=2 torchrun --nproc_per_node 2 t.py", Spread()),
        ("accelerate launch --num_machines 2 --machine_rank 0 --main_process_ip n0 t.py",
         Spread(2, 0, "n0", None)),
        ("python t.py", Spread()),
    ],
)  # fmt: skip
def test_the_nodes_are_read_where_the_launcher_reads_them(line: str, said: Spread) -> None:
    call = call_of(line)
    assert spread_of(call, dict(call.env)) == said


def faults(line: str, framework: str = "llamafactory", **launcher: Any) -> list[str]:
    job = builders.job(framework=framework, settings={"command": shlex.split(line)}, batch=None)
    job = job.model_copy(update={"launcher": Launcher.model_validate(launcher)})
    found = node_faults(job, shlex.split(line), "job.yaml:3")
    return [f"{one.what}; {one.hint}" for one in found]


def test_a_command_of_several_nodes_asks_the_job_to_say_so_in_words_to_copy() -> None:
    (said,) = faults(f"NNODES=2 NODE_RANK=0 MASTER_ADDR=n0 {FACTORY}")
    assert "2 nodes, and the job on 1" in said
    assert "`launcher: {nodes: 2, address: n0}`" in said
    assert faults(f"NNODES=2 NODE_RANK=0 MASTER_ADDR=n0 {FACTORY}", nodes=2, address="n0") == []
    assert faults(FACTORY, nodes=2) == []


def test_the_command_of_another_node_is_told_to_join() -> None:
    (said,) = faults(f"NNODES=2 NODE_RANK=1 MASTER_ADDR=n0 {FACTORY}", nodes=2, address="n0")
    assert "that of node 1" in said
    assert "autotune join RUN" in said


def test_two_meeting_places_are_a_fault() -> None:
    (said,) = faults(f"NNODES=2 MASTER_ADDR=n0 {FACTORY}", nodes=2, address="n7")
    assert "meet at n0 by the command, and the job says n7" in said


@pytest.mark.parametrize(
    ("line", "framework", "who"),
    [
        ("trl sft --config c.yaml", "trl", "trl"),
        ("accelerate launch t.py", "hf", "accelerate"),
        ("swift sft --model m", "ms_swift", "ms_swift"),
        ("python t.py", "command", "command"),
    ],
)
def test_what_starts_its_ranks_in_another_way_is_refused_on_several_nodes(
    line: str, framework: str, who: str
) -> None:
    (said,) = faults(line, framework, nodes=2)
    assert f"started with {who}" in said


def test_the_key_of_a_job_says_what_the_command_did() -> None:
    assert as_job(Spread(2, 0, "n0", 29501)) == "launcher: {nodes: 2, address: n0, port: 29501}"
    Launcher.model_validate({"nodes": 2, "address": "n0", "port": 29501})


@pytest.mark.parametrize("address", ["a b", "-x", "$(id)", "n0;ls", "", "ü"])
def test_an_address_is_never_an_option_or_a_command(address: str) -> None:
    with pytest.raises(ValueError, match="host name"):
        Launcher.model_validate({"nodes": 2, "address": address})

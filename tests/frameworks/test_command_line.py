"""Command lines of trainings, as people type them, taken apart and put together again."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.fault import Fault
from autotune.frameworks.command_line import Call, split
from autotune.frameworks.launch_options import ACCELERATE, TORCHRUN

LINES = {
    "python train.py --lr 1": ("python", "train.py", None, None),
    "python3 -u -m pkg.train -x": ("python", "pkg.train", None, None),
    "./train.py --lr 1": ("python", "./train.py", None, None),
    "torchrun --nproc_per_node=4 --nnodes 2 a/run_clm.py --x": ("torchrun", "a/run_clm.py", 4, 2),
    "python -m torch.distributed.run --nproc-per-node 2 t.py": ("torchrun", "t.py", 2, None),
    "torchrun --nproc_per_node gpu -m pkg.train --lr 1": ("torchrun", "pkg.train", None, None),
    "deepspeed --num_gpus 3 train.py --deepspeed ds.json": ("deepspeed", "train.py", 3, None),
    "deepspeed --include localhost:0,2 train.py": ("deepspeed", "train.py", 2, None),
    "deepspeed --num_gpus=2 --module pkg.t --a 1": ("deepspeed", "pkg.t", 2, None),
    "accelerate launch --num_processes 8 --num_machines 2 t.py": ("accelerate", "t.py", 4, 2),
    "accelerate launch --multi_gpu --gpu_ids 0,1 t.py --x 1": ("accelerate", "t.py", None, None),
    "NNODES=2 NPROC_PER_NODE=8 llamafactory-cli train x.yaml": ("tool", "llamafactory-cli", 8, 2),
    "trl sft --config x.yaml": ("tool", "trl", None, None),
}


def called(line: str) -> Call:
    call = split(shlex.split(line))
    assert isinstance(call, Call), call
    return call


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_understood_and_put_together_as_it_was(line: str) -> None:
    call = called(line)
    assert (call.kind, call.program, call.processes, call.nodes) == LINES[line]
    assert list(call.words()) == shlex.split(line)


def test_devices_are_read_from_wherever_a_launcher_takes_them() -> None:
    assert called("CUDA_VISIBLE_DEVICES=1,3 python t.py").devices == (1, 3)
    assert called("deepspeed -i localhost:0,2 t.py").devices == (0, 2)
    assert called("accelerate launch --gpu_ids 0,1 t.py").devices == (0, 1)
    assert called("CUDA_VISIBLE_DEVICES=GPU-abc python t.py").devices is None


def test_options_of_a_launcher_are_found_by_any_name() -> None:
    call = called("torchrun --master-port=29501 t.py --master_port 3")
    assert call.option("master_port") == "29501"
    assert call.arguments == ("--master_port", "3")
    assert call.name == "t.py"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "names no program"),
        ("A=1", "names no program"),
        ("python", "without a program"),
        ("python -c 'print(1)'", "without a program"),
        ("python -m", "module is missing"),
        ("torchrun --nproc_per_node 2", "no program to start"),
        ("torchrun --nproc_per_node", "value is missing"),
        ("torchrun --nproc_per_nodes 2 t.py", "no option of torchrun"),
        ("torchrun --nnodes 1:4 t.py", "elastic"),
        ("--config x.yaml", "where the program should"),
    ],
)
def test_a_line_that_cannot_be_understood_says_why(line: str, words: str) -> None:
    fault = split(shlex.split(line), "job.yaml:3")
    assert isinstance(fault, Fault)
    assert words in fault.what
    assert fault.where == "job.yaml:3"


@given(
    st.lists(
        st.sampled_from(
            ["python", "-m", "torchrun", "deepspeed", "accelerate", "launch", "t.py", "--include",
             "--nnodes", "2", "--module", "A=1", "--", "-u", "--nproc_per_node=2", "", "trl"]
        )
        | st.text(max_size=4),
        max_size=8,
    )
)  # fmt: skip
def test_no_line_raises_and_what_is_understood_comes_back(words: list[str]) -> None:
    call = split(words)
    if isinstance(call, Call):
        assert list(call.words()) == (words[1:] if words[0] == "env" else words)


@pytest.mark.long  # for the import of both
def test_the_tables_hold_what_the_installed_launchers_take() -> None:
    torch = pytest.importorskip("torch.distributed.run").get_args_parser()
    accelerate = pytest.importorskip("accelerate.commands.launch").launch_command_parser()
    for known, parser in ((TORCHRUN, torch), (ACCELERATE, accelerate)):
        for action in parser._actions:
            for name in action.option_strings:
                if name in ("-h", "--help"):
                    continue
                key = name.lstrip("-").replace("-", "_")
                assert known.takes(key) is (action.nargs != 0), name

"""DeepSpeed's launcher is told which devices, how many ranks and which port, on one machine."""

from autotune.launchers import deepspeed

PROGRAM = ("/opt/finetune.py", "/runs/a/train.json")


def test_ranks_on_the_cpu_are_counted() -> None:
    command = deepspeed.command("/venv/bin/python", PROGRAM, 3, (), 29501)
    assert command == (
        "/venv/bin/python", "-m", "deepspeed.launcher.runner", "--num_gpus", "3",
        "--master_addr", "127.0.0.1", "--master_port", "29501", *PROGRAM,
    )  # fmt: skip


def test_gpus_are_named_one_by_one() -> None:
    command = deepspeed.command("python", PROGRAM, 2, (1, 3), 29501)
    at = command.index("--include")
    assert command[at + 1] == "localhost:1,3"
    assert "--num_gpus" not in command
    assert command[-2:] == PROGRAM


def test_the_cpu_accelerator_is_asked_for_on_the_cpu_alone() -> None:
    assert deepspeed.environment("cpu") == {"DS_ACCELERATOR": "cpu"}
    assert deepspeed.environment("cuda") == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

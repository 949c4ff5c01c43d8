"""Torch's launcher is told how many ranks and which port, and never to restart any."""

from autotune.launchers import torchrun


def test_ranks_meet_at_our_port_and_a_dead_one_is_not_restarted() -> None:
    command = torchrun.command("/venv/bin/python", ("-m", "train", "--x"), 3, (0, 2, 3), 29501)
    assert command == (
        "/venv/bin/python", "-m", "torch.distributed.run", "--nnodes", "1", "--nproc_per_node", "3",
        "--master_addr", "127.0.0.1", "--master_port", "29501", "--max_restarts", "0",
        "-m", "train", "--x",
    )  # fmt: skip

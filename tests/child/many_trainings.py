"""Runs trainings one after another in forks of one process, which has imported the stack once."""

import json
import os
import socket
import sys
from pathlib import Path

from autotune.child import finetune


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def be_rank(rank: int, world_size: int, port: int, path: Path) -> None:
    """Never returns."""
    code = 1
    try:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()})
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        log = os.open(path.parent / "output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = finetune.main([str(path)])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> int:
    import deepspeed  # noqa: F401
    import peft  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    torch.set_num_threads(1)
    failed = 0
    for path in map(Path, sys.argv[1:]):
        world_size, port = json.loads(path.read_text())["batch"]["world_size"], free_port()
        ranks = []
        for rank in range(world_size):
            pid = os.fork()
            if pid == 0:
                be_rank(rank, world_size, port, path)
            ranks.append(pid)
        failed += any(os.waitpid(pid, 0)[1] for pid in ranks)
    return failed


if __name__ == "__main__":
    sys.exit(main())

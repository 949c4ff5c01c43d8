"""Hangs for real: `python hanging.py KIND EVENTS RANK [argument]`, answering with its stacks.

build_lock: torch's own wait for a lock file in TORCH_EXTENSIONS_DIR that nobody will remove;
loader: a data loader whose worker never delivers; download: a request to a server (its port is
the argument) that accepts and never answers; collective: one of two ranks that meet over gloo at
the port and then reduce for ever; still: a sleep in a function of its own; computing: no hang, it
multiplies for ever.
It prints `ready` just before.
"""

import os
import sys
import time
import urllib.request
from pathlib import Path

from autotune.child.finetune import answer_with_stacks


def build_lock() -> None:
    """Build an extension in a folder where a dead build has left its lock."""
    from torch.utils.cpp_extension import load_inline

    folder = Path(os.environ["TORCH_EXTENSIONS_DIR"], "an_op")
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    ready()
    load_inline("an_op", cpp_sources=[""], build_directory=str(folder))


class Stuck:
    """Rows that can be counted and never be read."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        time.sleep(10**6)
        return index


def loader() -> None:
    """Wait for the first batch of a worker that does not deliver."""
    from torch.utils.data import DataLoader

    ready()
    next(iter(DataLoader(Stuck(), num_workers=1)))


def download() -> None:
    """Ask a server that never answers."""
    ready()
    urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[4]}/model.safetensors")


def collective() -> None:
    """Reduce with the other rank, over and over."""
    import torch
    import torch.distributed as dist

    where = f"tcp://127.0.0.1:{sys.argv[4]}"
    dist.init_process_group("gloo", init_method=where, rank=int(sys.argv[3]), world_size=2)
    ready()
    while True:
        dist.all_reduce(torch.ones(1))


def still() -> None:
    """Do nothing for ever."""
    ready()
    time.sleep(10**6)


def computing() -> None:
    """Multiply in one call for ever, as seen from Python."""
    ready()
    while True:
        pow(3, 10**6, 10**6 + 3)


def ready() -> None:
    """Say that it hangs from now on."""
    print("ready", flush=True)


answer_with_stacks(Path(sys.argv[2]), int(sys.argv[3]))
globals()[sys.argv[1]]()

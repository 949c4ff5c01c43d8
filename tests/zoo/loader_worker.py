"""A torch data loader whose worker is killed in the cgroup it enters, or finds /dev/shm full.

The first argument is "killed" with a cgroup as the second, or "full".
"""

import os
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset


class Rows(Dataset[torch.Tensor]):  # type: ignore[misc]
    """Rows that one worker does not survive to read."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return 64

    def __getitem__(self, row: int) -> torch.Tensor:
        """Return a row; one that fills the cgroup first, where that is how we die."""
        if sys.argv[1] == "full":
            return torch.zeros(2**18)
        if row == 8:
            Path(sys.argv[2], "cgroup.procs").write_text(str(os.getpid()))
            held = []
            while True:
                held.append(bytearray(os.urandom(2**20)))
        return torch.zeros(4)


if __name__ == "__main__":
    for batch in DataLoader(Rows(), batch_size=4, num_workers=2):
        print("step", len(batch), flush=True)

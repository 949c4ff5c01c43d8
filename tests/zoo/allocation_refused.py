"""Asks torch for more than the soft RLIMIT_DATA of this process allows."""

import resource
from pathlib import Path

import torch


def forward() -> torch.Tensor:
    return torch.empty(3 * 2**30, dtype=torch.uint8)


used = next(
    int(line.split()[1]) * 1024
    for line in Path("/proc/self/status").read_text().splitlines()
    if line.startswith("VmData")
)
hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
resource.setrlimit(resource.RLIMIT_DATA, (used + 512 * 2**20, hard))
forward()

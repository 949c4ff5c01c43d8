"""Puts itself into the memory cgroup named by its argument and fills it until the kernel kills."""

import os
import sys
from pathlib import Path

Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
print("step 1 loss: 2.31", flush=True)
held = []
while True:
    held.append(bytearray(os.urandom(2**20)))

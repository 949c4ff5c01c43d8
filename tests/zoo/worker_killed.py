"""A rank whose worker fills the memory cgroup named by the argument, and which outlives it."""

import os
import sys
from pathlib import Path

print("ready", flush=True)
worker = os.fork()
if not worker:
    if not sys.stdin.readline():  # until somebody has seen us
        os._exit(0)
    Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
    held = []
    while True:
        held.append(bytearray(os.urandom(2**20)))
_, status = os.waitpid(worker, 0)
raise RuntimeError(f"the worker that prepares batches is gone (status {status})")

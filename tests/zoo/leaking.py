"""Takes a step for every line it is told, and keeps 4 MiB from each of them for ever."""

import sys

held = []
for step, _ in enumerate(sys.stdin, start=1):
    held.append(bytearray(4 * 2**20))
    print(f"step {step}", flush=True)

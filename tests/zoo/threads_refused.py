"""Becomes a lesser user that may have few processes, and starts threads until one is refused."""

import os
import resource
import sys
import threading

sys.stdin.readline()  # until somebody watches
resource.setrlimit(resource.RLIMIT_NPROC, (24, 24))
os.setresuid(64999, 64999, 64999)
told = threading.Event()
try:
    while True:
        threading.Thread(target=told.wait, daemon=True).start()
except RuntimeError:
    print("refused", flush=True)
    sys.stdin.readline()  # until somebody has counted the threads
    raise

"""Is killed without a word, as by a kernel whose record nobody may read."""

import os
import signal

print("loading data", flush=True)
os.kill(os.getpid(), signal.SIGKILL)

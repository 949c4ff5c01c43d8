"""Leaves a grandchild that double-forked, has a session of its own and ignores TERM.

`python grandchild.py FILE`: the grandchild writes its pid to FILE, whole or not at all, and stays
until it is killed; the program itself ends at once.
"""

import os
import signal
import sys
from pathlib import Path

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        target = Path(sys.argv[1])
        spare = target.with_name(target.name + ".new")
        spare.write_text(str(os.getpid()))
        spare.replace(target)
        while True:
            signal.pause()
    os._exit(0)
os.wait()

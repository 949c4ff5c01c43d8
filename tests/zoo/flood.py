"""Prints junk: `python flood.py KIND MEBIBYTES`; KIND: binary, no_newline, ansi or lines."""

import os
import sys

kind, mebibytes = sys.argv[1], int(sys.argv[2])
pieces = {
    "binary": os.urandom(1 << 20),
    "no_newline": b"x" * (1 << 20),
    "ansi": (b"\x1b[31m" + b"\x1b[2K\rprogress" * 7 + b"\x1b[0m")[:64].ljust(64, b".") * (1 << 14),
    "lines": b"step 10, the loss is what it is and the line is of usual length.\n"[-64:]
    * (1 << 14),
}
for _ in range(mebibytes):
    left = memoryview(pieces[kind])
    while left:
        left = left[os.write(1, left) :]

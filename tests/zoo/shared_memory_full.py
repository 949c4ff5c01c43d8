"""Maps a file larger than the file system named by its argument, and writes into every page."""

import mmap
import os
import sys
from pathlib import Path

PAGES = 2048
path = Path(sys.argv[1], "torch_1_2_3")
with path.open("wb+") as file:
    os.ftruncate(file.fileno(), PAGES * mmap.PAGESIZE)  # promises, and takes nothing yet
    with mmap.mmap(file.fileno(), PAGES * mmap.PAGESIZE) as room:
        for page in range(PAGES):
            room[page * mmap.PAGESIZE] = 1

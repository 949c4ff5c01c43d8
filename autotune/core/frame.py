"""Recognises the frames of a traceback, as Python and as a notebook writes them."""

import re

_FRAME = re.compile(r"\s{0,20}File \"[^\"]{1,4000}\", line \d{1,9}")
# "~/x.py in f(a)" and "File ~/x.py:3, in C.f(a)"
_NOTEBOOK_FRAME = re.compile(
    r"(?:File )?([~/.\w][^\s:]{0,300}\.py|<ipython-input-[^>]{1,60}>)(?::(\d{1,7}))?,? in "
    r"(?:[\w<>]{1,80}\.){0,4}([\w<>]{1,80})"
)


def is_frame(text: str) -> bool:
    """Say whether the line is a frame as Python writes it."""
    return bool(_FRAME.match(text))


def frame_of(text: str, notebook: bool) -> str | None:
    """Return a frame as Python writes it, or None where the line is none."""
    if _FRAME.match(text):
        return text
    match = _NOTEBOOK_FRAME.match(text) if notebook else None
    return f'  File "{match[1]}", line {match[2] or 0}, in {match[3]}' if match else None

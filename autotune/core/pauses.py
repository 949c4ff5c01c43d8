"""How long to pause between two looks at what is waited for: ever longer, and never in step."""

import hashlib

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 30.0
JITTER = 1 / 3  # a pause is shorter by up to this share


def pause(looks: int, name: str) -> float:
    """Return the seconds after the look number `looks`, counted from 0.

    They double from look to look. By `name` two that wait for the same look at other moments, and
    one that is started again looks at the same ones.
    """
    whole = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(looks, 10))
    drawn = hashlib.sha256(f"{name} {looks}".encode()).digest()
    return whole * (1 - JITTER * int.from_bytes(drawn[:4], "big") / 2**32)

"""Sizes and durations as people write them, and back."""

import re

_SIZES = {
    "": 1, "b": 1,
    "k": 1000, "kb": 1000, "m": 1000**2, "mb": 1000**2,
    "g": 1000**3, "gb": 1000**3, "t": 1000**4, "tb": 1000**4,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_bytes(text: str | int) -> int:
    """Return bytes for `24GiB`, `1.5 GB` or a plain number; raises ValueError otherwise."""
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise ValueError(f"a size cannot be negative: {text}")
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    if match is None or match[2].lower() not in _SIZES:
        raise ValueError(f"{text!r} is not a size such as 24GiB, 500MB or a number of bytes")
    return int(float(match[1]) * _SIZES[match[2].lower()])


def parse_share(text: str | int | float) -> float:
    """Return 0.05 for `5%` or 0.05; raises ValueError otherwise."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return float(text)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a share such as 5% or 0.05")
    return float(match[1]) / 100


def parse_seconds(text: str | int | float) -> float:
    """Return seconds for `48h`, `30m`, `12h30m` or a plain number; raises ValueError otherwise."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        if text < 0:
            raise ValueError(f"a duration cannot be negative: {text}")
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(text).lower())
    if not parts or not re.fullmatch(r"(\s*\d+(?:\.\d+)?\s*[smhd]?\s*)+", str(text).lower()):
        raise ValueError(f"{text!r} is not a duration such as 48h, 30m or a number of seconds")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def show_bytes(count: int | None) -> str:
    """Return `1.50 GiB`, or `?` for a reading we do not have."""
    if count is None:
        return "?"
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def show_share(share: float) -> str:
    """Return `93%`; what is nearly all or nearly nothing is never rounded to it."""
    if 0 < share < 0.01:
        return "<1%"
    return ">99%" if 0.99 < share < 1 else f"{share:.0%}"


def show_seconds(seconds: float | None) -> str:
    """Return `45 s`, `3 min 20 s` or `2 h 5 min`, or `?` for a reading we do not have."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

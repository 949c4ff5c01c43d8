"""Shows where predicted bytes go, largest part first."""

from collections.abc import Mapping

from autotune.core.units import show_bytes

_BAR = 24  # characters that stand for the whole


def parts_table(parts: Mapping[str, int]) -> list[str]:
    """Return one line for each part: its name, its bytes, its share and a bar."""
    whole = sum(parts.values())
    rows = sorted(((name, size) for name, size in parts.items() if size), key=lambda row: -row[1])
    wide = max((len(name) for name, _ in rows), default=0)
    return [
        f"{name.replace('_', ' '):{wide}}  {show_bytes(size):>11}  {_share(size, whole):>4}  "
        f"{'#' * max(0, round(_BAR * size / whole))}".rstrip()
        for name, size in rows
    ]


def _share(size: int, whole: int) -> str:
    share = 100 * size / whole
    return f"{share:.0f}%" if share >= 1 or share <= 0 else "<1%"

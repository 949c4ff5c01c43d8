"""Keeps the signs of an output that matter, bounded in number however long it is."""

from dataclasses import dataclass, field

from autotune.core.evidence import Sign
from autotune.core.failure import Role

FIRST_KEPT = 3  # of one signature on one rank; the latest is kept as well
MOST_SIGNS = 600
MOST_EARLIER = 20


@dataclass
class _Few:
    first: list[Sign] = field(default_factory=list)
    last: Sign | None = None


class Kept:
    """Signs of the newest run, and the first few of the run before it."""

    def __init__(self) -> None:
        """Begin with none."""
        self._few: dict[tuple[str, int | None], _Few] = {}
        self._alive: dict[str, Sign] = {}
        self._began = 0
        self.earlier: tuple[Sign, ...] = ()  # what ended the run before this one
        self.left_out = 0  # signs beyond MOST_SIGNS

    def keep(self, sign: Sign) -> None:
        """Keep one more sign; of many alike the first few and the last."""
        key = (sign.signature, sign.rank)
        if key not in self._few and len(self._few) >= MOST_SIGNS // (FIRST_KEPT + 1):
            self.left_out += 1
            return
        few = self._few.setdefault(key, _Few())
        if len(few.first) < FIRST_KEPT:
            few.first.append(sign)
        else:
            few.last = sign

    def keep_alive(self, sign: Sign) -> None:
        """Keep the last sign of life: of these nothing else matters."""
        if sign.line >= self._began:
            self._alive[sign.signature] = sign

    def all(self) -> tuple[Sign, ...]:
        """Return the signs of the newest run, in the order of their lines."""
        kept = [s for few in self._few.values() for s in (*few.first, few.last) if s is not None]
        kept += self._alive.values()
        return tuple(sorted(kept, key=lambda sign: (sign.line, sign.signature)))

    def begin_run(self, line: int) -> None:
        """Another run begins at this line: what stands above it is no longer its own."""
        before = [s for s in self.all() if s.line < line and s.role is not Role.CONTEXT]
        after = [s for s in self.all() if s.line >= line]
        self.earlier = tuple(before[:MOST_EARLIER])
        self._began = line
        self._few.clear()
        alive = {name: s for name, s in self._alive.items() if s.line >= line}
        self._alive = alive
        for sign in after:
            if alive.get(sign.signature) is not sign:
                self.keep(sign)

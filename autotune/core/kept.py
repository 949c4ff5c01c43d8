"""Keeps the signs of an output that matter, bounded in number however long it is."""

from dataclasses import dataclass, field

from autotune.core.evidence import Sign
from autotune.core.failure import Role

FIRST_KEPT = 3  # of one signature on one rank; the latest is kept as well
MOST_SIGNS = 600
# Of each signature on each rank up to FIRST_KEPT + 1 are kept. Hundreds of ranks that report the
# same consequence must leave room for the cause, which may be printed after them.
_MOST_KINDS = MOST_SIGNS // (FIRST_KEPT + 1)
_FOR_ROOTS = _MOST_KINDS // 3
MOST_EARLIER = 20


@dataclass
class _Few:
    first: list[Sign] = field(default_factory=list)
    last: Sign | None = None


class Kept:
    """Signs of the newest run, and of the run before it."""

    def __init__(self) -> None:
        """Begin with none."""
        self._few: dict[tuple[str, int | None], _Few] = {}
        self._alive: dict[str, Sign] = {}
        self._began = 0
        self._before: tuple[Sign, ...] = ()  # of the run before the newest
        self.left_out = 0  # signs beyond MOST_SIGNS

    def keep(self, sign: Sign) -> None:
        """Keep one more sign; of many alike the first few and the last."""
        key = (sign.signature, sign.rank)
        most = _MOST_KINDS if sign.role is Role.ROOT else _MOST_KINDS - _FOR_ROOTS
        if key not in self._few and len(self._few) >= most:
            self.left_out += 1
            return
        few = self._few.setdefault(key, _Few())
        if len(few.first) < FIRST_KEPT:
            few.first.append(sign)
        else:
            few.last = sign

    def replace(self, old: Sign, new: Sign) -> None:
        """Put another sign in the place of one that is kept."""
        few = self._few.get((old.signature, old.rank))
        if few is not None:
            few.first = [new if sign == old else sign for sign in few.first]
            few.last = new if few.last == old else few.last

    def keep_alive(self, sign: Sign) -> None:
        """Keep the last sign of life: of these nothing else matters."""
        if sign.line >= self._began:
            self._alive[sign.signature] = sign

    def all(self) -> tuple[Sign, ...]:
        """Return the signs of the newest run that shows anything, in the order of their lines.

        A run of which only the start is seen leaves the word to the run before it.
        """
        own = self._own()
        return own if self._shows(own) else (*self._before, *own)

    @property
    def earlier(self) -> tuple[Sign, ...]:
        """What was seen of the run before the newest, once that shows something itself."""
        if not self._shows(self._own()):
            return ()
        return tuple(s for s in self._before if s.role is not Role.CONTEXT)[:MOST_EARLIER]

    def begin_run(self, line: int) -> None:
        """Another run begins at this line: what stands above it is no longer its own."""
        own, before = self._own(), self.all()
        self._before = tuple(s for s in before if s.line < line)[-MOST_SIGNS:]
        self._began = line
        self._few.clear()
        self._alive = {name: s for name, s in self._alive.items() if s.line >= line}
        for sign in own:
            if sign.line >= line and sign.signature not in self._alive:
                self.keep(sign)

    def _own(self) -> tuple[Sign, ...]:
        kept = [s for few in self._few.values() for s in (*few.first, few.last) if s is not None]
        kept += self._alive.values()
        return tuple(sorted(kept, key=lambda sign: (sign.line, sign.signature)))

    def _shows(self, own: tuple[Sign, ...]) -> bool:
        return bool(self._alive) or any(sign.role is not Role.CONTEXT for sign in own)

"""Reads a training's output many lines at a time and keeps the signs that matter.

Of a healthy log nearly every line is passed over without being looked at: one search over all of
it finds the lines that may tell something, and only these, and those of an open traceback, are
read one by one. Of the steps that a training counts only the last of a stretch is read.
"""

from dataclasses import replace

from autotune.core.evidence import RankException, Sign
from autotune.core.failure import Failure, Role
from autotune.core.kept import Kept
from autotune.core.line import Line, fold, printable, read_line
from autotune.core.oom_message import has_figures, parse_oom
from autotune.core.progress import Progress
from autotune.core.python_traceback import (
    MOST_OPEN,
    Form,
    Traceback,
    Tracebacks,
    is_numbered_source,
    without_leader,
)
from autotune.core.runs import Runs
from autotune.core.sign import (
    FIGURED,
    is_calm,
    nameless,
    names,
    placed,
    raises,
    sign_from,
    sign_of,
    weed,
)
from autotune.core.signature import (
    CHAINED,
    DIRECT_CAUSE,
    IGNORED,
    PROGRESS,
    Found,
    Signatures,
    counts,
)

MOST_CHAIN_LINES = 400
MOST_MESSAGE_LINES = 40
_WINDOW = 4096  # of a stretch, searched from its end for the last report of a step


class Scanner:
    """Turns lines into signs; memory stays the same however long the output."""

    def __init__(self, signatures: Signatures, appended: bool = False) -> None:
        """Start at line 1; in an `appended` log other runs may stand above the newest."""
        self._signatures = signatures
        self._tracebacks = Tracebacks()
        self._progress = Progress(signatures)
        self._kept = Kept()
        self._runs = Runs() if appended else None
        self._last: Traceback | None = None
        self._chained = False
        self._raised: dict[int | None, list[Sign]] = {}  # by each rank's newest exception
        self._causes: dict[int | None, list[Sign]] = {}  # of which the next one is a translation
        self.lines = 0

    @property
    def left_out(self) -> int:
        """The number of signs beyond what is kept."""
        return self._kept.left_out

    def feed(self, line: bytes | str) -> None:
        """Read one line, without its newline."""
        raw = line.encode("utf-8", "surrogateescape") if isinstance(line, str) else line
        self.read(raw.replace(b"\n", b" ") + b"\n")

    def read(self, block: bytes) -> None:
        """Read whole lines, each ended by a newline."""
        block = printable(block)
        folded = fold(block)
        telling = self._signatures.telling_lines(folded)
        line, at = next(telling, len(block)), 0
        while at < len(block):
            if not self._tracebacks:
                while line < at:
                    line = next(telling, len(block))
                self._pass_over(block, folded, at, line)
                at = line
            if at < len(block):
                at = self._read_line(block, at)

    def resume_traceback(self) -> None:
        """Read what follows as the end of the last traceback, whose frames say where it was."""
        if self._tracebacks.of(None, self.lines) is None:
            self._tracebacks.set(None, self._last or Traceback(self.lines, seen=self.lines))

    def signs(self) -> tuple[Sign, ...]:
        """Return the signs of the newest run, in the order of their lines."""
        return self._kept.all()

    def earlier(self) -> tuple[Sign, ...]:
        """Return the first signs of the run above the newest, where the log holds several."""
        return self._kept.earlier

    def _pass_over(self, block: bytes, folded: bytes, start: int, end: int) -> None:
        """Lines that tell nothing but that the training goes on."""
        if start >= end:
            return
        self._count_steps(block, start, end)
        self._find_report(block, folded, start, end)
        self.lines += block.count(b"\n", start, end)

    def _count_steps(self, block: bytes, start: int, end: int) -> None:
        movement = self._progress.read(block, start, end)
        if movement.started_over is not None and self._runs is not None and self._runs.ended:
            self._begin_run(self._line_at(block, start, movement.started_over), keep_bars=True)
        if movement.moved is not None:
            offset, signature = movement.moved
            number = self._line_at(block, start, offset)
            line = read_line(block[block.rfind(b"\n", 0, offset) + 1 : block.find(b"\n", offset)])
            self._kept.keep_alive(sign_from(signature, number, line))

    def _line_at(self, block: bytes, start: int, offset: int) -> int:
        return self.lines + block.count(b"\n", start, offset) + 1

    def _find_report(self, block: bytes, folded: bytes, start: int, end: int) -> None:
        """Keep the last report of a step: of those before it nothing matters."""
        window = _WINDOW
        while end > start:
            low = start if end - window <= start else folded.rfind(b"\n", start, end - window) + 1
            low = max(low, start)
            for line in self._signatures.reporting_lines(folded[low:end]):
                sign = self._report(block, low + line, start)
                if sign is not None:
                    self._kept.keep_alive(sign)
                    return
            end, window = low, window * 8

    def _report(self, block: bytes, at: int, start: int) -> Sign | None:
        line = read_line(block[at : block.find(b"\n", at)])
        if is_numbered_source(line.text):
            return None
        number = self._line_at(block, start, at)
        reports = (i for i in self._signatures.search(line.text) if _is_report(i))
        return next((sign_of(i, number, line) for i in reports), None)

    def _read_line(self, block: bytes, at: int) -> int:
        """Read the line that begins at `at` with all care; return where the next one begins."""
        end = block.find(b"\n", at)
        end = len(block) if end < 0 else end
        self._count_steps(block, at, min(end + 1, len(block)))
        self.lines += 1
        line = read_line(block[at:end])
        if line.text.strip():
            self._look_into(line)
        return end + 1

    def _look_into(self, line: Line) -> None:
        opened = self._tracebacks.begin(line.text, line.rank, self.lines)
        if opened is not None:
            if opened.form is Form.NOTEBOOK:
                self._read_head(line, opened)
            return
        traceback = self._tracebacks.of(line.rank, self.lines)
        if traceback is not None and traceback.leader:
            line = replace(line, text=without_leader(line.text, traceback.leader))
        if is_numbered_source(line.text):
            return
        if traceback is None:
            traceback = self._tracebacks.begin_within(line.text, line.rank, self.lines)
        if traceback is not None and traceback.quotes(line.text):
            traceback.seen = self.lines
            return
        frame = traceback.frame(line.text) if traceback is not None else None
        if traceback is not None and frame is not None:
            traceback.seen = self.lines
            found = self._signatures.of_frames.search(frame)
            traceback.read_frame(frame, [item.signature for item in found])
            for item in found:
                if item.signature.role is Role.CONTEXT and item.signature.phase is None:
                    self._kept.keep(sign_of(item, self.lines, line))
            return
        self._take_signs(line, traceback)

    def _read_head(self, line: Line, traceback: Traceback) -> None:
        """A notebook names the exception above its traceback, of which the end may be cut off."""
        for item in self._signatures.search(line.text):
            if names(item.signature) and item.signature.role is Role.ROOT:
                sign = replace(sign_of(item, self.lines, line), raised=True)
                traceback.heads.append(sign)
                self._kept.keep(sign)

    def _take_signs(self, line: Line, traceback: Traceback | None) -> None:
        signs = []
        found = self._signatures.search(line.text)
        raised = raises(found) or (traceback is not None and traceback.ends(line.text))
        for item in weed(found):
            if item.signature.name not in PROGRESS:
                signs.append(self._sign(item, line, traceback, raised))
            elif _is_report(item):
                self._kept.keep_alive(sign_of(item, self.lines, line))
        if raised and not any(sign.role is not Role.CONTEXT for sign in signs):
            signs.append(placed(nameless(line, self.lines), traceback))
        closed = traceback is not None and any(s.role is not Role.CONTEXT for s in signs)
        if traceback is not None:
            traceback.loose = True
        if self._runs is not None:
            self._tell_runs_apart(self._runs, line, signs, traceback if closed else None)
        if line.text.startswith(IGNORED):
            self._tracebacks.set(line.rank, Traceback(self.lines, ignored=True, seen=self.lines))
        elif closed:
            self._last = traceback
            self._tracebacks.close(line.rank)
            self._translate(line.rank, [*(traceback.heads if traceback else ()), *signs])
        elif line.text.startswith(DIRECT_CAUSE):
            self._causes[line.rank] = self._raised.get(line.rank, [])
        for sign in signs:
            self._kept.keep(sign)

    def _tell_runs_apart(
        self, runs: Runs, line: Line, signs: list[Sign], closed: Traceback | None
    ) -> None:
        if runs.begins(signs):
            self._begin_run(self.lines)
        elif closed is not None and closed.form is Form.NOTEBOOK:
            if runs.cell_failed(line.text, self._chained):
                self._begin_run(closed.began)
                runs.cell_failed(line.text, self._chained)
        elif closed is not None or signs:
            uncaught = closed is not None and closed.whole and not closed.ignored
            runs.see(signs, uncaught)
        # Until a traceback ends, the next one belongs to the same chain.
        self._chained = line.text.startswith(CHAINED) or (self._chained and closed is None)

    def _begin_run(self, number: int, keep_bars: bool = False) -> None:
        if self._runs is not None:
            self._runs.begin()
        self._kept.begin_run(number)
        self._tracebacks.clear()
        self._raised.clear()
        self._causes.clear()
        if not keep_bars:
            self._progress.forget()

    def _translate(self, rank: int | None, signs: list[Sign]) -> None:
        """Where an exception was raised from another, its name replaces that of the other.

        A shortage of memory stays the cause, whatever it was translated into.
        """
        named = any(s.role is Role.ROOT and s.failure is not Failure.USER_CODE_ERROR for s in signs)
        for cause in self._causes.pop(rank, []) if named else []:
            if cause.failure not in FIGURED:
                self._kept.replace(cause, replace(cause, role=Role.CASCADE))
        if rank in self._raised or len(self._raised) < MOST_OPEN:
            self._raised[rank] = signs

    def _sign(self, item: Found, line: Line, traceback: Traceback | None, raised: bool) -> Sign:
        sign = sign_of(item, self.lines, line)
        if sign.failure in FIGURED:
            figures = parse_oom(line.text)
            sign = replace(sign, figures=figures if has_figures(figures) else None)
        if not raised and is_calm(sign, line.text):
            return replace(sign, role=Role.CONTEXT)
        return placed(replace(sign, raised=raised), traceback)


def _is_report(item: Found) -> bool:
    """A step that is reported rather than counted."""
    return item.signature.name in PROGRESS and not counts(item.match.re)


def with_signs(exception: RankException, signatures: Signatures) -> RankException:
    """Return the exception with the signs found in its words.

    Those of the exception itself come first, then those of the chain that led to it: in a chain
    neither the first nor the last is always the cause.
    """
    scanner = Scanner(signatures)
    chain = exception.traceback.splitlines()[-MOST_CHAIN_LINES:]
    if chain:
        scanner.read(_as_block(chain))
        scanner.resume_traceback()
    words = f"{exception.type}: {exception.message}".splitlines()[:MOST_MESSAGE_LINES]
    scanner.read(_as_block(words))
    signs = [s for s in scanner.signs() if s.role is not Role.CONTEXT]
    signs.sort(key=lambda sign: (sign.line <= len(chain), sign.line))
    return replace(exception, signs=tuple(replace(s, rank=exception.rank) for s in signs))


def _as_block(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")

"""Explains logs and run folders: what was seen, what it is called, why, and the remedy."""

import contextlib
import json
import math
import os
import sys
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, getincrementaldecoder
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from autotune.cli.speech import say_lines
from autotune.core.evidence import Diagnosis
from autotune.core.explain import Explanation, Remedies, as_plain, as_text, explain_scanned
from autotune.core.history import fold
from autotune.core.scan import Scanner
from autotune.core.signature import Signatures
from autotune.world.journal import read_journal
from autotune.world.line_splitter import BlockSplitter
from autotune.world.signature_file import SignatureFileError, load_signatures

_CHUNK_BYTES = 1 << 20
_STDIN = "-"
# How a shell of Windows marks a file that it redirects output to.
_WIDE = {BOM_UTF16_LE: "utf-16", BOM_UTF16_BE: "utf-16"}


def no_remedies(diagnosis: Diagnosis) -> list[dict[str, str]]:
    """Name no remedy; the policy's own are given by the caller."""
    del diagnosis
    return []


def explain(
    paths: Sequence[str],
    exit_code: int | None = None,
    device: str | None = None,
    as_json: bool = False,
    remedy_for: Remedies = no_remedies,
) -> int:
    """Print one explanation a log, in order; 0 when all could be read, 2 otherwise."""
    try:
        signatures = load_signatures(device=device)
    except SignatureFileError as error:
        return _complain(error.what, error.where, error.hint)
    outcome = 0
    for name in paths:
        try:
            explanation = explain_log(name, signatures, exit_code)
        except OSError as error:
            reason = error.strerror or str(error)
            outcome = _complain(
                f"cannot read {name}: {reason}", name, "give a log file or a run folder"
            )
            continue
        if as_json:
            print(json.dumps(as_plain(explanation, remedy_for), allow_nan=False))
        else:
            say_lines(as_text(explanation, name, remedy_for))
    return outcome


def explain_log(name: str, signatures: Signatures, exit_code: int | None = None) -> Explanation:
    """Read one log to its end, in the same memory whatever its length; raises OSError.

    Of a run folder the newest ended attempt, and of an attempt's folder or log that attempt, is
    explained as it was diagnosed: from all that was seen of it and not from its log alone.
    """
    journal, number = _journal_of(Path(name))
    if journal is not None:
        attempts = fold(read_journal(journal)).attempts
        ended = [a.diagnosis for a in attempts if a.diagnosis and number in (None, a.number)]
        if ended:
            return Explanation(ended[-1], lines=0)
    scanner = Scanner(signatures, appended=True)
    if name == _STDIN:
        _read(sys.stdin.buffer, scanner)
    else:
        with log_of(Path(name)).open("rb", buffering=0) as stream:
            _read(stream, scanner)
    return explain_scanned(scanner, signatures.device, exit_code)


def _journal_of(path: Path) -> tuple[Path | None, int | None]:
    """Return the journal that speaks of the path, and the attempt it means, if one."""
    folder = path.parent if path.name == "output.log" else path
    run, number = folder, None
    if folder.parent.name == "attempts" and folder.name.isdigit():
        run, number = folder.parent.parent, int(folder.name)
    journal = run / "journal.jsonl"
    known = journal.is_file() and (number is not None or path.is_dir())
    return (journal, number) if known else (None, None)


def log_of(path: Path) -> Path:
    """Return the newest attempt's log of a run folder, or the path itself."""
    if not path.is_dir():
        return path
    logs = sorted(path.glob("attempts/[0-9]*/output.log"), key=lambda log: log.parent.name)
    logs = logs or [log for log in (path / "output.log",) if log.is_file()]
    if not logs:
        raise FileNotFoundError(2, "no attempts/*/output.log in this folder", str(path))
    return logs[-1]


def _read(stream: BinaryIO, scanner: Scanner) -> None:
    splitter = BlockSplitter(scanner.read)
    # What is written while we read is left out: a training may write faster than that.
    size = os.fstat(stream.fileno()).st_size if isinstance(stream, FileIO) else 0
    end = size or math.inf  # what is no ordinary file has no size
    chunk = _next(stream, end)
    wide = next((name for mark, name in _WIDE.items() if chunk.startswith(mark)), None)
    decode = getincrementaldecoder(wide)("replace").decode if wide else None
    while chunk:
        splitter.feed(decode(chunk).encode("utf-8", "replace") if decode else chunk)
        chunk = _next(stream, end)
    splitter.flush()


def _next(stream: BinaryIO, end: float) -> bytes:
    """Return what comes next of a file as long as `end`; holes, made to save disk, are left out."""
    if not isinstance(stream, FileIO):
        return stream.read(_CHUNK_BYTES)
    with contextlib.suppress(OSError):  # nothing follows, or the file system knows of no holes
        os.lseek(stream.fileno(), stream.tell(), os.SEEK_DATA)
    return stream.read(_CHUNK_BYTES) if stream.tell() < end else b""


def _complain(what: str, where: str, hint: str) -> int:
    print(f"error: {what}\nwhere: {where}\n\nhint: {hint}", file=sys.stderr)
    return 2

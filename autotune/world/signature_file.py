"""Reads signatures.yaml, refusing what it does not understand with the line where it stands."""

from collections.abc import Iterable
from difflib import get_close_matches
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from autotune.core.failure import Failure, Phase, Role
from autotune.core.fault import Fault, InputError
from autotune.core.pattern import PatternError, compile_pattern
from autotune.core.signature import CPU, CUDA, FRAME, OUTPUT, STACK, Signature, Signatures
from autotune.world.policy_folder import SIGNATURES, policy_folder

_REQUIRED = ("name", "failure", "role", "patterns", "means", "careful")
_KEYS = (*_REQUIRED, "phase", "device", "where", "cure")
E = TypeVar("E", bound=Enum)


class SignatureFileError(InputError):
    """What is wrong in a file of signatures, where, and one thing to do."""

    def __init__(self, what: str, where: str, hint: str) -> None:
        """Keep the three parts apart so that the command line can print them."""
        super().__init__(Fault(what, where, hint))
        self.what, self.where, self.hint = what, where, hint


def load_signatures(path: Path | None = None, device: str | None = None) -> Signatures:
    """Return the signatures for a job on `device`; without a path, those shipped with autotune."""
    return Signatures(_entries(path), device) if path else _shipped(device)


@cache
def _shipped(device: str | None) -> Signatures:
    return Signatures(_shipped_entries(), device)


@cache
def _shipped_entries() -> tuple[Signature, ...]:
    return _entries(policy_folder() / SIGNATURES)


def _entries(path: Path) -> tuple[Signature, ...]:
    try:
        loaded = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise SignatureFileError(
            f"not valid YAML: {error.problem}", f"{path}:{line}", "mend the syntax"
        ) from error
    except (YAMLError, OSError, UnicodeDecodeError) as error:
        raise SignatureFileError(f"cannot be read: {error}", str(path), "mend the file") from error
    if not isinstance(loaded, CommentedMap) or list(loaded) != ["signatures"]:
        raise SignatureFileError(
            "expected one key, signatures", f"{path}:1", "write `signatures:` and a list below it"
        )
    entries = loaded["signatures"] or []
    signatures = tuple(_Entry(path, entry).signature() for entry in _maps(path, entries))
    _refuse_twins(path, entries, signatures)
    return signatures


def _maps(path: Path, entries: Any) -> Iterable[CommentedMap]:
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        if not isinstance(entry, CommentedMap):
            raise SignatureFileError(
                f"entry {number + 1} is not a mapping", str(path), f"give it {', '.join(_REQUIRED)}"
            )
        yield entry


def _refuse_twins(path: Path, entries: Any, signatures: tuple[Signature, ...]) -> None:
    seen: set[str] = set()
    for entry, signature in zip(entries, signatures, strict=True):
        if signature.name in seen:
            raise SignatureFileError(
                f"the name {signature.name} is used twice",
                f"{path}:{entry.lc.line + 1}",
                "give each entry a name of its own",
            )
        seen.add(signature.name)


class _Entry:
    """One mapping of the file, read key by key with the line of each."""

    def __init__(self, path: Path, entry: CommentedMap) -> None:
        self.path, self.entry = path, entry

    def signature(self) -> Signature:
        for key in self.entry:
            if key not in _KEYS:
                raise self.fault(f"unknown key {key!r}", key, _accepted(str(key), _KEYS))
        for key in _REQUIRED:
            if key not in self.entry:
                raise self.fault(f"the key {key} is missing", None, f"add {key}")
        return Signature(
            name=self.text("name"),
            failure=self.member("failure", Failure),
            role=self.member("role", Role),
            patterns=self.patterns(),
            means=self.text("means"),
            careful=self.text("careful"),
            phase=self.member("phase", Phase) if "phase" in self.entry else None,
            device=self.device(),
            where=self.where(),
            cure=self.text("cure") if "cure" in self.entry else "",
        )

    def text(self, key: str) -> str:
        value = self.entry[key]
        if not isinstance(value, str) or not value.strip():
            raise self.fault(f"{key} is not a text", key, "write a sentence")
        return str(value)

    def member(self, key: str, kind: type[E]) -> E:
        value = self.entry[key]
        names = [str(member.value) for member in kind]
        if value not in names:
            raise self.fault(f"unknown {key} {value!r}", key, _accepted(str(value), names))
        return kind(value)

    def device(self) -> str | None:
        value = self.entry.get("device")
        if value not in (None, CPU, CUDA):
            raise self.fault(f"unknown device {value!r}", "device", "write cpu or cuda")
        return None if value is None else str(value)

    def where(self) -> str:
        value = self.entry.get("where", OUTPUT)
        if value not in (OUTPUT, FRAME, STACK):
            raise self.fault(f"unknown place {value!r}", "where", "write output, frame or stack")
        return str(value)

    def patterns(self) -> tuple[str, ...]:
        values = self.entry["patterns"]
        if not isinstance(values, CommentedSeq) or not values:
            raise self.fault("patterns is not a list", "patterns", "give at least one pattern")
        for number, value in enumerate(values):
            try:
                if not isinstance(value, str) or not value:
                    raise PatternError("not a text")
                compile_pattern(value)
            except PatternError as error:
                where = f"{self.path}:{values.lc.item(number)[0] + 1}"
                raise SignatureFileError(
                    f"pattern {value!r} of {self.entry['name']}: {error}", where, "mend the pattern"
                ) from error
        return tuple(str(value) for value in values)

    def fault(self, what: str, key: Any, hint: str) -> SignatureFileError:
        line = self.entry.lc.line if key is None else self.entry.lc.key(key)[0]
        name = self.entry.get("name")
        named = f" in signature {name}" if isinstance(name, str) else ""
        return SignatureFileError(what + named, f"{self.path}:{line + 1}", hint)


def _accepted(given: str, names: Iterable[str]) -> str:
    near = get_close_matches(given, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"write one of {', '.join(names)}"

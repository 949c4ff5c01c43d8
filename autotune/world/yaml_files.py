"""Reads YAML 1.2 and JSON files into plain values, with the line of every key."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from autotune.core.fault import Fault, InputError, nearest

Model = TypeVar("Model", bound=BaseModel)
MOST_VALUES = 200_000  # with every repetition, by which a few lines can mean billions
LARGEST_BYTES = 4 * 2**20  # a settings file; more is a mistake, or an attack by repetition


class Document:
    """A file's content as plain values, and where each part of it stands."""

    def __init__(self, path: Path, tree: Any) -> None:
        """Keep the parsed tree for its line numbers."""
        self.path = path
        self._tree = tree
        self.value = _Plain().of(tree)

    def where(self, *keys: str | int) -> str:
        """Return `file:line` of the deepest of `keys` that is there."""
        node, line = self._tree, None
        for key in keys:
            position = _position(node, key)
            if position is None:
                break
            line = position
            node = node[key]
        return f"{self.path}:{line}" if line is not None else str(self.path)


def read_text(path: Path, at_most: int = LARGEST_BYTES) -> str:
    """Return what a settings file holds; raises InputError when it is no text, or far too long."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            # A pipe would be waited for, a device may never end.
            raise InputError(Fault("this is no ordinary file", str(path), "name a file"))
        with path.open("rb") as file:
            held = file.read(at_most + 1)
        if len(held) > at_most:
            raise InputError(Fault("the file is far too large for settings", str(path)))
        return held.decode("utf-8")
    except OSError as error:
        text = f"the file cannot be read ({error.strerror})"
        raise InputError(Fault(text, str(path), "check the path and its permissions")) from error
    except UnicodeDecodeError as error:
        raise InputError(Fault("the file is not UTF-8 text", str(path))) from error


def read_document(path: Path) -> Document:
    """Return the document at `path`; raises InputError when it cannot be read as YAML or JSON."""
    text = read_text(path)
    yaml = YAML(typ="rt", pure=True)
    yaml.version = (1, 2)
    try:
        tree = yaml.load(text)
        return Document(path, tree)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        what = f"the file is not YAML: {error.problem or error.context}"
        raise InputError(Fault(what, f"{path}:{line}", "mend the line and check again")) from error
    except TypeError as error:  # from the library, which hashes every key
        what = "a key of the file is itself a mapping or a list"
        hint = "look for a `?`, or a `{` or `[` where a key begins"
        raise InputError(Fault(what, str(path), hint)) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError(Fault(f"the file is not YAML: {error}", str(path))) from error
    except (LookupError, RuntimeError) as error:  # from the library: an odd sign or odd comments
        what = f"the file cannot be read as YAML ({type(error).__name__}: {error})"
        hint = "look for a `-` or `+` where a number belongs, and for comments after `|` or `>`"
        raise InputError(Fault(what, str(path), hint)) from error


def validate(model: type[Model], document: Document, *below: str | int) -> Model:
    """Return `model` built from the document, or from its part at `below`.

    Raises InputError with every fault at once, each with its line and the nearest known key.
    """
    value = document.value
    for key in below:
        value = value[key]
    if not isinstance(value, dict):
        text = "a mapping of keys to values is expected here"
        raise InputError(Fault(text, document.where(*below)))
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InputError(*faults_of(error, model, document, below)) from error


def faults_of(
    error: ValidationError, model: type[BaseModel], document: Document, below: tuple[str | int, ...]
) -> list[Fault]:
    """Return pydantic's complaints as faults with lines, one for each place."""
    faults: dict[tuple[str | int, ...], Fault] = {}
    for complaint in error.errors():
        place = tuple(complaint["loc"])
        keys = tuple(key for key in place if _in_document(document, below, place, key))
        where = document.where(*below, *keys)
        name = ".".join(str(key) for key in (*below, *keys)) or "the file"
        if complaint["type"] == "extra_forbidden":
            hint = nearest(str(place[-1]), _accepted(model, place[:-1]))
            faults[place] = Fault(f"`{name}` is not a key autotune knows", where, hint)
        elif complaint["type"] == "missing":
            missing = ".".join(str(key) for key in (*below, *place))
            hint = "add it; the README lists every key"
            faults[place] = Fault(f"`{missing}` is missing", where, hint)
        else:
            message = complaint["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            shown = "" if complaint["type"] == "value_error" else f" (found {_short(complaint)})"
            # Each branch of what a value might have been complains at the same keys.
            said = f"{faults[keys].what}; or" if keys in faults else f"`{name}`{shown}:"
            faults[keys] = Fault(f"{said} {message}", where)
    return list(faults.values())


def _short(complaint: Any) -> str:
    text = repr(complaint.get("input"))
    return text if len(text) <= 60 else text[:57] + "..."


def _in_document(
    document: Document, below: tuple[str | int, ...], place: tuple[str | int, ...], key: str | int
) -> bool:
    # Pydantic names the branch of a union inside the place; such a part is no key of the file.
    node: Any = document.value
    for step in below:
        node = node[step]
    for step in place:
        inside = isinstance(node, dict) and step in node
        inside = inside or (isinstance(node, list) and isinstance(step, int) and step < len(node))
        if inside:
            node = node[step]
        if step is key:
            return inside
    return False


def _accepted(model: type[BaseModel], place: tuple[str | int, ...]) -> list[str]:
    fields: Any = model
    for key in place:
        found = next(
            (f for name, f in fields.model_fields.items() if (f.alias or name) == key), None
        )
        if found is None:
            continue
        inner = _model_inside(found.annotation)
        if inner is None:
            return []
        fields = inner
    return [field.alias or name for name, field in fields.model_fields.items()]


def _model_inside(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        inner = _model_inside(part)
        if inner is not None:
            return inner
    return None


def _position(node: Any, key: str | int) -> int | None:
    try:
        if isinstance(node, CommentedMap):
            return int(node.lc.key(key)[0]) + 1
        if isinstance(node, CommentedSeq) and isinstance(key, int):
            return int(node.lc.item(key)[0]) + 1
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    return None


class _Plain:
    """Makes plain values of a tree; one value that stands in many places counts in each."""

    def __init__(self) -> None:
        self._left = MOST_VALUES

    def of(self, node: Any, depth: int = 0) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"it comes to more than {MOST_VALUES} values")
        if depth > 60:
            raise ValueError("values are nested more than 60 deep")
        if isinstance(node, dict):
            return {_scalar(key): self.of(value, depth + 1) for key, value in node.items()}
        if isinstance(node, list):
            return [self.of(value, depth + 1) for value in node]
        return _scalar(node)


def _scalar(node: Any) -> Any:
    # ruamel keeps the way a number or text was written in types of its own.
    if isinstance(node, bool) or node is None:
        return node
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    if type(node).__name__ == "ScalarBoolean":
        return bool(node)
    return str(node)

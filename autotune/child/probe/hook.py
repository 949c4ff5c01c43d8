"""Calls back when a module has been imported, by a finder that lets the others do the finding."""

import sys

from . import faults

TYPE_CHECKING = False  # typing itself would be an import the program may never make
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_wanted: "dict[str, list[Callable[[Any], Any]]]" = {}


def when_imported(name: str, callback: "Callable[[Any], Any]") -> None:
    """Call `callback` with the module once it is imported: now, if it is, else when it will be."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if module is not None and not getattr(spec, "_initializing", False):
        faults.guarded(callback)(module)
        return
    _wanted.setdefault(name, []).append(callback)


def install() -> None:
    """Stand in front of the other finders, once."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


class Finder:
    """Finds what the finders behind it find, and watches the loading of what is waited for."""

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name not in _wanted:
            return None
        for finder in sys.meta_path:
            look = getattr(finder, "find_spec", None)
            if finder is self or look is None:
                continue
            spec = look(name, path, target)
            if spec is not None:
                faults.guarded(watch)(spec.loader, name)
                return spec
        return None


def watch(loader: "Any", name: str) -> None:
    """Let this one loader call back after it has run the module's code."""
    original = loader.exec_module

    def exec_module(module: "Any") -> None:
        # Before the code runs: what it imports in a circle must find the loader as it was.
        faults.guarded(delattr)(loader, "exec_module")
        original(module)
        for callback in _wanted.pop(name, []):
            faults.guarded(callback)(module)

    loader.exec_module = exec_module

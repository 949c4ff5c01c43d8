"""Puts our ears around a method, so that what it does and raises stays its own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from . import faults, moments, room, state

# Methods that run now, by name and object: one that calls its parent's is still the same call.
_inside: set[tuple[str, int]] = set()


def around(
    owner: type,
    name: str,
    begin: Callable[..., Any] | None = None,
    end: Callable[..., Any] | None = None,
) -> None:
    """Call `begin` with the arguments before `owner.name` runs, and `end` with its result in front.

    A class without such a method of its own is left as it is, and so is one wrapped already. An
    exception that leaves the method is told as `refused`.
    """
    original = vars(owner).get(name)
    if original is None or hasattr(original, "autotune_wrapped"):
        return
    before = None if begin is None else faults.guarded(begin)
    after = None if end is None else faults.guarded(end)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = (name, id(self))
        if call in _inside:
            return original(self, *args, **kwargs)
        _inside.add(call)
        try:
            if before is not None:
                before(self, *args, **kwargs)
            result = original(self, *args, **kwargs)
            if after is not None:
                after(result, self, *args, **kwargs)
            return result
        except Exception as error:
            refuse(error)
            raise
        finally:
            _inside.discard(call)

    method.autotune_wrapped = True  # type: ignore[attr-defined]
    setattr(owner, name, method)


def owner_of(kind: type, name: str) -> type:
    """The class whose method this name means in `kind`, however it was inherited."""
    return next(one for one in kind.__mro__ if name in vars(one))


def refuse(error: BaseException) -> None:
    """Tell of an exception where it is seen first: in the innermost of what it leaves."""
    room.make(error)
    if getattr(error, "autotune_told", False):
        return
    # One with slots cannot be marked; it is told of once for each method it leaves.
    with contextlib.suppress(AttributeError):
        error.autotune_told = state.phase  # type: ignore[attr-defined]
    moments.tell("refused", error=error, phase=state.phase)

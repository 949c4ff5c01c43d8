"""Trains with other versions of packages, laid over the job's own Python for this run alone."""

import re

from autotune.core.compatibility import parse_version
from autotune.core.failure import Failure, Trait
from autotune.core.plan import Plan
from autotune.core.rung import Result, Rung, Scene

# transformers 5 rewrote loading, attention and quantization; where one of these fails in it, the
# last release of the line before is another program.
LAST_BEFORE_5 = "transformers>=4.57,<5"
_REWRITTEN = (Failure.DTYPE_KERNEL_GAP, Failure.QUANTIZATION_CONFLICT)
# A cure names a version in quotes: install 'numpy<2' in the training's Python.
_NAMED = re.compile(r"'([A-Za-z0-9][A-Za-z0-9._-]*(?:[<>=!~]=?[0-9][0-9A-Za-z.*,<>=!~]*))'")


def wanted(scene: Scene) -> tuple[str, ...]:
    """Return what would be pinned: as the job says, as the diagnosis names, or the line before."""
    if scene.around.pins:
        return tuple(scene.around.pins)
    named = _NAMED.search(scene.diagnosis.cure)
    if named:
        return (named.group(1),)
    installed = parse_version(scene.around.versions.get("transformers", "0"))
    own = Trait.OWN_OPERATION in scene.diagnosis.traits  # no code of transformers' called it
    if scene.diagnosis.failure in _REWRITTEN and installed >= (5,) and not own:
        return (LAST_BEFORE_5,)
    return ()


def _applies(scene: Scene) -> str | None:
    if scene.plan.pins:
        return "other versions are laid over the job's Python already"
    if not wanted(scene):
        return "no other version is known to help; name packages under `pins.packages`"
    return None


def _apply(scene: Scene) -> Plan:
    return scene.plan.but(pins=wanted(scene))


RUNG = Rung(
    name="pin_packages",
    summary="other package versions, laid over the job's Python in the run folder",
    result=Result.CHANGED,
    knobs=frozenset({"pins"}),
    applies=_applies,
    apply=_apply,
)

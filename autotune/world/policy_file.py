"""Reads a policy by name or path, and refuses what it does not fully understand."""

import hashlib
from functools import cache
from pathlib import Path

from autotune.core.fault import Fault, InputError, nearest
from autotune.core.policy import Derived, Policy, faults_of
from autotune.core.rung import Rung
from autotune.world.policy_folder import SIGNATURES, policy_folder
from autotune.world.yaml_files import Document, read_document, validate


def is_path(named: str) -> bool:
    """Return whether a job names its policy by path and not by a shipped name."""
    return "/" in named or named.endswith((".yaml", ".yml"))


def find_policy(named: str, job_folder: Path) -> Path:
    """Return the file of a policy: a path beside the job, or a name of those shipped."""
    if is_path(named):
        return job_folder / Path(named).expanduser()
    shipped = {path.stem: path for path in policy_folder().glob("*.yaml")}
    shipped.pop(Path(SIGNATURES).stem)
    if named not in shipped:
        text = f"`{named}` is not a policy"
        raise InputError(Fault(text, str(policy_folder()), nearest(named, shipped)))
    return shipped[named]


def load_policy(path: Path, rungs: dict[str, Rung]) -> Policy:
    """Return the policy; raises InputError with every fault at once."""
    document = _document(path)
    if isinstance(document.value, dict) and "extends" in document.value:
        derived = validate(Derived, document)
        unknown = [name for name in derived.without if name not in rungs]
        if unknown:
            raise InputError(
                *(
                    Fault(
                        f"`{name}` is not a rung",
                        document.where("without", derived.without.index(name)),
                        nearest(name, rungs),
                    )
                    for name in unknown
                )
            )
        return derived.of(_shipped(derived.extends, document, rungs))
    policy = validate(Policy, document)
    faults = faults_of(policy, rungs, document.where)
    if faults:
        raise InputError(*faults)
    return policy


def digest(policy: Policy) -> str:
    """Return what names this content of a policy."""
    return hashlib.sha256(policy.model_dump_json(by_alias=True).encode()).hexdigest()[:16]


def _document(path: Path) -> Document:
    return _shipped_document(path) if path.parent == policy_folder() else read_document(path)


@cache
def _shipped_document(path: Path) -> Document:
    # A tenth of a second of a core, and a derived policy, its base and a check all ask for it.
    return read_document(path)


def _shipped(name: str, document: Document, rungs: dict[str, Rung]) -> Policy:
    path = find_policy(name, document.path.parent)
    base = _document(path)
    if path == document.path or (isinstance(base.value, dict) and "extends" in base.value):
        text = f"`{name}` is itself derived from another policy"
        raise InputError(Fault(text, document.where("extends"), "name one with rules of its own"))
    return load_policy(path, rungs)

"""Finds the folder of policies and signatures in a checkout, an editable install and a wheel."""

from pathlib import Path

import autotune

SIGNATURES = "signatures.yaml"


class PolicyFolderError(FileNotFoundError):
    """The installation lacks its policies."""


def policy_folder() -> Path:
    """Return the folder that holds signatures.yaml and the policies shipped with autotune."""
    package = Path(autotune.__file__).resolve().parent
    # A wheel carries the folder inside the package; a checkout and an editable install beside it.
    for folder in (package / "policies", package.parent / "policies"):
        if (folder / SIGNATURES).is_file():
            return folder
    raise PolicyFolderError(f"no policies/{SIGNATURES} in or beside {package}: reinstall autotune")

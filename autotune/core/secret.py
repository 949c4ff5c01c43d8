"""Tells by name or form what is probably a secret, so that no file of ours ever holds one."""

import re

_NAME = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY)($|_)", re.I
)
_VALUE = re.compile(r"^(hf_|sk-|ghp_|github_pat_|xox[bp]-|AKIA|eyJ)[A-Za-z0-9_\-.]{12,}")


def names_a_secret(name: str) -> bool:
    """Return whether an environment variable of this name usually holds a secret."""
    return _NAME.search(name) is not None


def is_a_secret(value: str) -> bool:
    """Return whether a value has the form of a well-known kind of token."""
    return _VALUE.match(value) is not None

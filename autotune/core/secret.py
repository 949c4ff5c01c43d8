"""Tells by name or form what is probably a secret, so that no file of ours ever holds one."""

import re
from collections.abc import Iterable, Mapping

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


SHORTEST = 8  # characters; what is shorter would be found in innocent words
HIDDEN = b"[secret]"


def secret_values(env: Mapping[str, str], names: Iterable[str]) -> tuple[bytes, ...]:
    """Return the values under `names` that are secrets, by their name or their form."""
    found = {
        env[name].encode("utf-8", "surrogateescape")
        for name in names
        if name in env and (names_a_secret(name) or is_a_secret(env[name]))
    }
    # One may stand within another.
    return tuple(sorted((one for one in found if len(one) >= SHORTEST), key=len, reverse=True))


def hide(raw: bytes, secrets: tuple[bytes, ...]) -> bytes:
    """Return what a training said without the secrets that it was given."""
    for secret in secrets:
        if secret in raw:
            raw = raw.replace(secret, HIDDEN)
    return raw

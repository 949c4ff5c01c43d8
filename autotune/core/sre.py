"""The parser of the standard library's `re`, under the name it has in this Python."""

from functools import cache
from typing import Any

try:  # it moved in Python 3.11
    from re import _constants as sre  # type: ignore[attr-defined]
    from re import _parser as sre_parser  # type: ignore[attr-defined]
except ImportError:  # pragma: no cover
    import sre_constants as sre
    import sre_parse as sre_parser

__all__ = ["parse", "sre"]


@cache
def parse(text: str) -> Any:
    """Return a pattern's tree; raises re.error. A pattern is looked at from several sides."""
    return sre_parser.parse(text)

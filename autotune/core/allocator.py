"""The allocator settings string that torch reads from PYTORCH_ALLOC_CONF, taken apart and merged.

The grammar is `key:value,key:value`, where a value may be a bracketed list with commas of its own
(c10/core/AllocatorConfig.h). Torch parses all settings as a whole, so a user's must be merged.
"""

Settings = tuple[tuple[str, str], ...]

NEW_NAME = "PYTORCH_ALLOC_CONF"
OLD_NAME = "PYTORCH_CUDA_ALLOC_CONF"  # read by torch before 2.9, and honoured as a fallback since


def parse(text: str) -> Settings:
    """Return the settings in `text`; a part without a colon is kept with an empty value."""
    parts: list[str] = []
    depth = 0
    current = ""
    for char in text:
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += char
    parts.append(current)
    pairs = (part.partition(":") for part in parts if part.strip())
    return tuple((key.strip(), value.strip()) for key, _, value in pairs)


def merge(base: Settings, more: Settings) -> Settings:
    """Return `base` with `more` laid over it, in the order of first mention."""
    merged = dict(base)
    merged.update(more)
    return tuple(merged.items())


def show(settings: Settings) -> str:
    """Return the settings as torch reads them."""
    return ",".join(f"{key}:{value}" if value else key for key, value in settings)

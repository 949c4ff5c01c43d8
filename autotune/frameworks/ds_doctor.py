"""Looks at a DeepSpeed configuration as a doctor would: what is refused, and what is ignored."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from autotune.core.fault import nearest
from autotune.frameworks.ds_former import GONE, MEANT
from autotune.frameworks.ds_keys import BLOCKS, TOP, Block, places
from autotune.frameworks.ds_recipes import OPTIMIZERS, SCHEDULERS
from autotune.frameworks.ds_remark import Path, Remark, Use, View
from autotune.frameworks.ds_rules import RULES
from autotune.frameworks.ds_text import Parsed
from autotune.frameworks.ds_values import dotted, shown, value_remarks

_COMMENTS = ("_", "//", "#", "comment", "description")
_MOST_PLACES = (
    3  # a name that is read in more places than these says nothing about where it belongs
)
_MOST_REMARKS = 40
_MOST_WALKED = 200  # a file of nonsense is not walked to its end


def examine(config: Any, use: Use) -> list[Remark]:
    """Return what is to be said of a configuration, faults first; never raises."""
    if not isinstance(config, Mapping):
        what = f"a DeepSpeed configuration is a mapping of keys, and this is {shown(config)}"
        return [Remark((), what, "put it into braces")]
    view = View(config, use)
    remarks = list(islice(_walk("", config, use), _MOST_WALKED))
    said = {remark.path for remark in remarks if remark.fault}
    for rule in RULES:
        # One fault for a place: a value of a wrong kind breaks rules that build on it.
        remarks += [remark for remark in rule(view) if remark.path not in said]
    remarks = _together(remarks)
    remarks.sort(key=lambda remark: not remark.fault)
    return remarks[:_MOST_REMARKS]


def _together(remarks: list[Remark]) -> list[Remark]:
    """Return the remarks with those that say the same of several keys made one."""
    groups: dict[tuple[str, str], list[Remark]] = {}
    for remark in remarks:
        key = (remark.what, "" if remark.alike else dotted(remark.path))
        groups.setdefault(key, []).append(remark)
    made = []
    for (what, _), (first, *others) in groups.items():
        if first.alike:
            names = "`, `".join(dotted(remark.path) for remark in (first, *others))
            what = f"`{names}`{what}"
        made.append(replace(first, what=what, alike=False))
    return made


def examine_text(parsed: Parsed, use: Use) -> list[Remark]:
    """Return what is to be said of the text of a configuration, before its values are looked at."""
    if parsed.broken:
        return [Remark((), f"the file is not JSON: {parsed.broken}", "mend the line")]
    remarks = []
    for slip in parsed.slips:
        if slip.kind == "twice":
            what = f"`{dotted(slip.path)}` is given twice, first on line {slip.what}: DeepSpeed "
            what += "refuses that, and HF Trainer takes the last one in silence"
            remarks.append(Remark(slip.path, what, "keep one of the two"))
        elif slip.kind == "word":
            what = f"`{slip.what}` is no JSON: DeepSpeed reads it and the rest of its line as a "
            what += "text, and Python's JSON reader takes NaN and Infinity only"
            hint = "write true, false, null, a number, or a text in quotes"
            remarks.append(Remark(slip.path, what, hint))
    odd = list(dict.fromkeys(slip.what for slip in parsed.slips if slip.kind == "hjson"))
    if odd and use.json_only:
        what = f"the file holds {', '.join(odd)}: DeepSpeed reads that, and {use.who}, which reads "
        remarks.append(Remark((), what + "plain JSON, does not", "take it out"))
    return remarks


def _walk(block_path: str, table: Mapping[Any, Any], use: Use) -> Iterator[Remark]:
    block = BLOCKS[block_path]
    above: Path = tuple(block_path.split(".")) if block_path else ()
    for name, value in table.items():
        path = (*above, str(name))
        place = dotted(path)
        if place in use.elsewhere:
            continue
        if place in GONE:
            yield _gone(path, use)
        elif (key := block.keys.get(str(name))) is None:
            yield from _unknown(path, value, block, use)
        elif not use.has(key.since):
            what = f"`{place}` needs DeepSpeed {key.since}, and {use.deepspeed} is installed"
            yield Remark(path, what, "take it out, or install a newer DeepSpeed")
        else:
            if key.instead and value and place not in use.literal:
                what = f"`{place}` is called `{key.instead}` today"
                cpu = ': {"device": "cpu"}' if key.instead.startswith("offload_") else ""
                yield Remark(path, what, f"write `{key.instead}`{cpu}", fault=False)
            yield from value_remarks(path, key, value, block.strict, use)
            if isinstance(value, Mapping) and place in BLOCKS:
                yield from _walk(place, value, use)


def _gone(path: Path, use: Use) -> Remark:
    gone = GONE[dotted(path)]
    if use.has(gone.since):
        what = f"`{dotted(path)}` is gone from DeepSpeed since {gone.since}, which refuses to start"
        return Remark(path, what + " with it", gone.instead)
    what = f"`{dotted(path)}` is gone from DeepSpeed {gone.since}, which refuses it"
    return Remark(path, what, gone.instead, fault=False)


def _unknown(path: Path, value: Any, block: Block, use: Use) -> Iterator[Remark]:
    name, place = str(path[-1]), dotted(path)
    if not block.strict and name.lower().startswith(_COMMENTS):
        return
    consequence = "refuses to start with it" if block.strict else "does not read it"
    what = f"`{place}` is no key of DeepSpeed, which {consequence}"
    if len(path) == 1 and isinstance(value, Mapping) and set(value) & set(TOP):
        what = f"the configuration stands one level too deep, under `{place}`, where DeepSpeed "
        yield Remark(path, what + "does not look", f"take `{place}` and its braces away")
        return
    real = _real_places(name, path)
    if real:
        if real[0].split(".")[-1] == name:
            where = "`, `".join(real)
            what = f"`{place}` stands in the wrong place: DeepSpeed {consequence} there"
            hint = f"move it to `{where}`"
        else:
            hint = f"write `{real[0]}`"
        if all(one.split(".")[0] in use.elsewhere for one in real):
            hint = f"take it out; {use.who} sets it itself"
        yield Remark(path, what, hint)
    elif difflib.get_close_matches(name, block.keys, 1, 0.75):
        yield Remark(path, what, nearest(name, block.keys, 1))
    elif block.strict:
        yield Remark(path, what, "take it out; " + nearest(name, block.keys))
    else:
        yield Remark(path, what, "take it out, or check its name", fault=False)


def _real_places(name: str, path: Path) -> list[str]:
    """Return where a key that stands in the wrong place belongs, nearest first."""
    if name in MEANT and MEANT[name] != dotted(path):
        return [MEANT[name]]
    found = list(places(name))
    if not found and path[0] != "scheduler" and name in OPTIMIZERS["adamw"]:
        found = [f"optimizer.params.{name}"]
    if not found and any(name in names for names in SCHEDULERS.values()):
        found = [f"scheduler.params.{name}"]
    return found if len(found) <= _MOST_PLACES else []

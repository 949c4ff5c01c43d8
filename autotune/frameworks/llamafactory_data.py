"""What of LLaMA-Factory's `dataset_info.json` a configuration needs, said before the launch."""

from collections.abc import Mapping
from typing import Any

from autotune.core.fault import Fault, nearest
from autotune.frameworks.llamafactory_config import Given

# What each entry of dataset_info.json may be loaded from (data/parser.py).
_SOURCES = (
    "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "file_name",
)  # fmt: skip
RANKED = ("rm", "dpo")  # stages that train on pairs


def dataset_faults(given: Given, documents: Mapping[str, Any]) -> list[Fault]:
    """Return where `dataset_info.json` does not offer what the configuration names."""
    path = given.datasets
    if path is None:
        return []
    known = documents.get(path)
    if isinstance(known, Fault):
        return [known]
    if not isinstance(known, Mapping):
        return [Fault("this is no list of datasets by name", path, "the tool's data/README says")]
    faults = []
    for name in (*given.names("dataset"), *given.names("eval_dataset")):
        if name not in known:
            text = f"the dataset `{name}` is not in this file"
            faults.append(Fault(text, path, nearest(name, [str(one) for one in known])))
        else:
            faults += _entry_faults(name, known[name], given, path)
    return faults


def _entry_faults(name: str, entry: Any, given: Given, path: str) -> list[Fault]:
    if not isinstance(entry, Mapping) or not any(key in entry for key in _SOURCES):
        text = f"the dataset `{name}` says nowhere what it is loaded from"
        return [Fault(text, path, "give it a `file_name`, or one of the hubs' names")]
    ranked, stage = entry.get("ranking") is True, given.text("stage", "sft")
    if ranked != (stage in RANKED):
        kind = "pairs to choose from" if ranked else "no pairs to choose from"
        text = f"the dataset `{name}` holds {kind}, which stage {stage} cannot train on"
        return [Fault(text, path, "name another dataset, or another `stage`")]
    return []

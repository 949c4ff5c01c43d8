"""The example jobs of configs/: read as `autotune check` reads them, and found fit to run."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from autotune.cli.looking import look_at_own
from autotune.core.fault import Fault
from autotune.core.job import Job
from autotune.frameworks.command_line import split
from autotune.frameworks.foreign import Foreign, settings_with
from autotune.frameworks.known import FRAMEWORKS, recognise
from autotune.world.yaml_files import read_document, validate
from tests.frameworks.asked import NOW
from tests.frameworks.test_deepke import LLAMA

CONFIGS = Path(__file__).parents[2] / "configs"
VERSIONS: Mapping[str, Mapping[str, str]] = {
    "trl": {**NOW, "trl": "1.16.0"},
    "axolotl": {**NOW, "transformers": "5.14.1", "axolotl": "0.18.0"},
    "ms_swift": {**NOW, "transformers": "5.6.0", "ms-swift": "4.6.0"},
    "deepke": {"transformers": "4.33.0", "torch": "2.0.0", "deepspeed": "0.14.5"},
}


@pytest.mark.parametrize(
    ("name", "ranks", "total"),
    [("trl", 1, 16), ("axolotl", 2, 32), ("ms_swift", 2, 16), ("deepke", 4, 32)],
)
def test_an_example_is_fit_to_run_and_says_where_it_starts(
    name: str, ranks: int, total: int
) -> None:
    document = read_document(CONFIGS / name / "job.yaml")
    job, framework = validate(Job, document), FRAMEWORKS[name]
    given = Foreign.model_validate(job.settings)
    if given.config is not None:
        usual = framework.usual(given.config)
        assert usual is not None
        settings = settings_with(job, config=None, command=list(usual))
        job = job.model_copy(update={"settings": settings})
    looked = look_at_own(job, framework, CONFIGS / name, VERSIONS[name])
    assert not looked.faults
    assert framework.ranks(job, looked) in (None, ranks)
    batch = framework.batch(job, looked, ranks)
    assert not isinstance(batch, Fault)
    job = job.model_copy(update={"batch": batch})
    assert not framework.faults(job, looked, ranks, "job.yaml")
    start = framework.start(job, looked, ranks)
    assert start.method == "lora"
    assert start.dtype == "bf16"
    assert batch.global_ == start.global_batch == total


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("trl", "sft", "--config", "x.yaml"), "trl"),
        (("axolotl", "train", "x.yaml", "--", "--num_processes", "2"), "axolotl"),
        (("NPROC_PER_NODE=2", "swift", "sft", "x.yaml"), "ms_swift"),
        (LLAMA, "deepke"),
    ],
)
def test_a_command_line_shows_its_tool(command: tuple[str, ...], name: str) -> None:
    call = split(command)
    assert not isinstance(call, Fault)
    assert recognise(call) == name

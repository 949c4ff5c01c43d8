"""The doctor's tables against the installed DeepSpeed: a new key, or a new refusal, shows here."""

import json
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest

from autotune.frameworks.ds_doctor import examine
from autotune.frameworks.ds_former import GONE
from autotune.frameworks.ds_keys import BLOCKS, CHECKED_AGAINST
from autotune.frameworks.ds_recipes import OPTIMIZERS, SCHEDULERS
from autotune.frameworks.ds_remark import PLAIN
from autotune.frameworks.ds_text import parse
from tests.frameworks.test_ds_doctor import with_

pytestmark = pytest.mark.train

MODELS = {
    "zero_optimization": "deepspeed.runtime.zero.config:DeepSpeedZeroConfig",
    "zero_optimization.offload_param": (
        "deepspeed.runtime.zero.offload_config:DeepSpeedZeroOffloadParamConfig"
    ),
    "zero_optimization.offload_optimizer": (
        "deepspeed.runtime.zero.offload_config:DeepSpeedZeroOffloadOptimizerConfig"
    ),
    "zero_optimization.zenflow": "deepspeed.runtime.zenflow.zenflow_config:ZenFlowConfig",
    "zero_optimization.leaf_module": (
        "deepspeed.runtime.zero.leaf_module_config:DeepSpeedZeroLeafModuleConfig"
    ),
    "bf16": "deepspeed.runtime.precision_config:DeepSpeedBF16Config",
    "fp16": "deepspeed.runtime.precision_config:DeepSpeedFP16Config",
    "comms_logger": "deepspeed.comm.config:CommsLoggerConfig",
    "tensorboard": "deepspeed.monitor.config:TensorBoardConfig",
    "csv_monitor": "deepspeed.monitor.config:CSVConfig",
    "wandb": "deepspeed.monitor.config:WandbConfig",
    "comet": "deepspeed.monitor.config:CometConfig",
    "timers.throughput": "deepspeed.utils.config:DeepSpeedThroughputTimerConfig",
    "compile": "deepspeed.compile.config:CompileConfig",
    "tensor_parallel": "deepspeed.runtime.tensor_parallel.config:TPTrainingConfig",
    "hybrid_engine": "deepspeed.runtime.config:HybridEngineConfig",
    "weight_quantization": "deepspeed.inference.config:WeightQuantConfig",
}
LOOSE = (
    "torch_autocast", "optimizer", "activation_checkpointing", "aio", "checkpoint",
    "checkpoint.writer", "checkpoint.parallel_write", "data_types", "flops_profiler", "timers",
    "scheduler",
)  # fmt: skip
# Read by HF's model loading, in the form of 2020, or where `bf16` is not given.
READ_ELSEWHERE = {"sequence_parallel_size", "allgather_size", "bfloat16"}

ASK = """
import importlib, inspect, json, sys
asked = json.load(sys.stdin)
out = sys.stdout; sys.stdout = sys.stderr
from deepspeed.runtime import config as ds, lr_schedules

def keys_of(place):
    module, name = place.split(":")
    fields = getattr(importlib.import_module(module), name).model_fields
    return sorted({n for name, f in fields.items() for n in (name, f.alias) if n})

class Seen:
    def __init__(self, held, names): self.held, self.names = held, names
    def __contains__(self, name): self.names.add(name); return name in self.held
    def __iter__(self): return iter(self.held)

class Spy(dict):
    names = None
    def get(self, name, otherwise=None):
        self.names.add(name); return dict.get(self, name, otherwise)
    def __contains__(self, name): self.names.add(name); return dict.__contains__(self, name)
    def __getitem__(self, name): self.names.add(name); return dict.__getitem__(self, name)
    def keys(self): return Seen(dict.keys(self), self.names)
    def __copy__(self): return self
    def __deepcopy__(self, memo): return dict(self)

def spied(held, path, seen):
    made = Spy({k: spied(v, (path + "." if path else "") + k, seen) if isinstance(v, dict) else v
                for k, v in held.items()})
    made.names = seen.setdefault(path, set())
    return made

def verdict(config):
    try:
        ds.DeepSpeedConfig(config)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None

seen = {}
ds.DeepSpeedConfig(spied(asked["loose"], "", seen))
kinds = {n: list(inspect.signature(getattr(lr_schedules, n).__init__).parameters)[2:]
         for n in lr_schedules.VALID_LR_SCHEDULES}
json.dump({
    "models": {block: keys_of(place) for block, place in asked["models"].items()},
    "read": {block: sorted(names) for block, names in seen.items()},
    "gone": sorted([*ds._REMOVED_TOP_LEVEL_CONFIG_KEYS]
                   + ["zero_optimization." + n for n in ds._REMOVED_ZERO_CONFIG_KEYS]),
    "optimizers": ds.DEEPSPEED_OPTIMIZERS, "schedulers": kinds,
    "verdicts": [verdict(config) for config in asked["configs"]],
}, out)
"""

REFUSED: list[dict[str, Any]] = [
    {"zero_optimization.reduce_bucket_size": "5e8"},
    {"zero_optimization.reduce_bucket_size": 0},
    {"zero_optimization.reduce_bucket_size": 0.5},
    {"zero_optimization.reduce_bucket_size": None},
    {"zero_optimization.reduce_bucket": 5},
    {"zero_optimization.stage": 4},
    {"zero_optimization.gradient_clipping": 1},
    {"zero_optimization.offload_optimizer": {"device": "gpu"}},
    {"zero_optimization.offload_optimizer": {"device": "CPU"}},
    {"zero_optimization.offload_optimizer": {"device": "cpu", "ratio": 0.5}},
    {"zero_optimization.offload_optimizer": {"device": "cpu", "overlap_comm": True}},
    {"zero_optimization": {"stage": 2, "cpu_offload": True, "offload_optimizer": {}}},
    {"zero_optimization": {"stage": 3, "max_live_parameters": 1, "stage3_max_live_parameters": 1}},
    {"zero_optimization": {"stage": 3, "compute_grad_norm": False}},
    {"zero_optimization": "stage 2"},
    {"fp16": True},
    {"fp16": {"enabled": True}},
    {"fp16": {"enable": False}},
    {"bf16.check_overflow": True},
    {"bf16.bf16_optimizer_states": True},
    {"bf16.enabled": "perhaps"},
    {"communication_data_type": "bfloat16"},
    {"optimizer": None},
    {"train_batch_size": 31},
    {"train_micro_batch_size_per_gpu": None},
    {"train_micro_batch_size_per_gpu": "auto"},
    {"train_batch_size": 8, "gradient_accumulation_steps": 3},
    *({name: {}} for name in GONE),
]
TAKEN: list[dict[str, Any]] = [
    {},
    {"zero_optimization.reduce_bucket_size": 5e8},
    {"zero_optimization.reduce_bucket_size": "500000000"},
    {"zero_optimization.reduce_bucket_size": "auto"},
    {"zero_optimization.stage": "3"},
    {"zero_optimization.offload_param": None},
    {"zero_optimization.offload_optimizer": {"device": "cpu"}},
    {"zero_optimization": True},
    {"bf16.enabled": 1},
    {"bf16.enabled": "true"},
    {"bf16": None, "bfloat16": {"enabled": True}},
    {"steps_per_print": None},
    {"my_own_thing": 3},
    {"train_batch_size": 8, "gradient_accumulation_steps": 2},
    {"activation_checkpointing": {"cpu_checkpointing": True}},
]


@pytest.fixture(scope="module")
def installed() -> dict[str, Any]:
    """Return what the installed DeepSpeed says of its own configuration."""
    loose: dict[str, Any] = with_({name: {} for name in LOOSE if name != "optimizer"})
    loose["checkpoint"] = {"writer": {}, "parallel_write": {}}
    loose["scheduler"] = {"type": "WarmupLR", "params": {}}
    configs = [with_(changes) for changes in (*REFUSED, *TAKEN)]
    asked = {"models": MODELS, "loose": loose, "configs": configs}
    done = subprocess.run(
        [sys.executable, "-c", ASK], input=json.dumps(asked), capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return said


def test_the_tables_are_those_of_the_installed_version() -> None:
    assert version("deepspeed").split("+")[0] == CHECKED_AGAINST


def test_every_key_of_a_strict_block_is_known_and_no_other(installed: dict[str, Any]) -> None:
    for block, names in installed["models"].items():
        assert set(BLOCKS[block].keys) == set(names), block
        assert BLOCKS[block].strict


def test_every_key_that_is_read_of_other_blocks_is_known_and_no_other(
    installed: dict[str, Any],
) -> None:
    gone = {name for name in GONE if "." not in name}
    for block in ("", *LOOSE):
        known = set(BLOCKS[block].keys) - READ_ELSEWHERE
        assert set(installed["read"][block]) - gone == known, block
        assert not BLOCKS[block].strict


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, // why\n "b": 2}', '{"a": true # why\n}', '{"a": {"b": 1 /* why */}}',
        '{"a": [1, 2,],}', '{"a": 1\n"b": 2}', "{a: 1}", "{'a': 1}", '\ufeff{"a": 1}',
        '{"a": 5e8}',
    ],
)  # fmt: skip
def test_what_is_read_beyond_json_is_read_as_deepspeeds_own_reader_does(text: str) -> None:
    hjson = pytest.importorskip("hjson")
    assert parse(text).value == hjson.loads(text)


def test_what_is_gone_is_refused_by_name(installed: dict[str, Any]) -> None:
    assert set(installed["gone"]) == set(GONE)


def test_optimizers_and_schedules_are_deepspeeds(installed: dict[str, Any]) -> None:
    assert set(OPTIMIZERS) == set(installed["optimizers"])
    for name, parameters in installed["schedulers"].items():
        assert SCHEDULERS[name] == set(parameters), name


def test_what_the_doctor_calls_refused_is_refused_and_the_rest_is_taken(
    installed: dict[str, Any],
) -> None:
    verdicts = installed["verdicts"]
    for changes, verdict in zip((*REFUSED, *TAKEN), verdicts, strict=True):
        refused = any(remark.fault for remark in examine(with_(changes), PLAIN))
        assert refused == (changes in REFUSED) == (verdict is not None), (changes, verdict)

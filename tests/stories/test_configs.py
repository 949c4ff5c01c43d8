"""The example jobs at their real size, by prediction: read, checked and planned on fake cards.

The model's folder holds its real config and an empty file of its weights' size; a stand-in for the
training's Python says that the rows are as long as they may be.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.stories.at_size import CONFIGS, describe, python_in, rungs, told_of

MODELS: dict[str, dict[str, Any]] = {
    "chatglm3-6b": {
        "model_type": "chatglm", "num_layers": 28, "hidden_size": 4096, "ffn_hidden_size": 13696,
        "num_attention_heads": 32, "multi_query_attention": True, "multi_query_group_num": 2,
        "kv_channels": 128, "padded_vocab_size": 65024, "seq_length": 8192, "add_qkv_bias": True,
        "add_bias_linear": False,
    },
    "Llama-2-13b-hf": {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 5120, "num_hidden_layers": 40,
        "intermediate_size": 13824, "num_attention_heads": 40, "num_key_value_heads": 40,
        "max_position_embeddings": 4096,
    },
}  # fmt: skip
PARAMETERS = {"chatglm3-6b": 6_243_584_000, "Llama-2-13b-hf": 13_015_864_320}


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four empty cards of 24 GiB, in a host with 60 GiB for each rank."""
    describe(monkeypatch, 24, 24, 24, 24, host=60)


def planned(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Lay out what the job's paths name, and return what `autotune plan --json` says of it."""
    yaml = YAML(typ="safe", pure=True)
    job = yaml.load((CONFIGS / name).read_text())
    model = folder / job["settings"]["model"]
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(MODELS[model.name]))
    (model / "tokenizer.json").write_text("{}")
    with (model / "model.safetensors").open("wb") as weights:
        weights.truncate(2 * PARAMETERS[model.name])  # 16 bits each, and no block on the disk
    rows = folder / job["settings"]["data"]["train"]
    rows.parent.mkdir()
    rows.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    longest = [job["settings"]["data"]["sequence"]] * 4
    job |= {
        "python": python_in(folder),
        "env": {"FAST_STORY": json.dumps({"survey": {"longest": longest}})},
    }
    with (folder / "job.yaml").open("w") as file:
        YAML().dump(job, file)
    return told_of(folder / "job.yaml", capsys)


def test_lora_on_chatglm3_with_8k_tokens_fits_one_card_without_4_bit_or_offload(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cards: None
) -> None:
    told = planned("chatglm3_lora_8k.yaml", tmp_path, capsys)

    given, chosen = told["plans"][0], told["plans"][told["chosen"]]
    assert given["changes"] == []
    assert given["low_bytes"] > told["capacity_bytes"]
    assert rungs(chosen) == [
        "chunked_loss",
        "activation_checkpointing",
    ]
    assert chosen["result"] == "same"
    assert chosen["high_bytes"] < told["capacity_bytes"]


def test_lora_on_llama2_13b_fits_three_cards_of_24_gb_with_the_same_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cards: None
) -> None:
    told = planned("llama2_13b_lora_three_cards.yaml", tmp_path, capsys)

    given, chosen = told["plans"][0], told["plans"][told["chosen"]]
    assert given["low_bytes"] > told["capacity_bytes"]
    assert rungs(chosen) == ["activation_checkpointing", "zero_up"]
    assert chosen["result"] == "same"
    alone = {tuple(rungs(one)): one for one in told["plans"]}
    for useless in (("allocator_settings",), ("shrink_buckets",)):
        assert alone[useless]["p_fit"] < 0.01
    assert alone[("four_bit",)]["p_fit"] > alone[()]["p_fit"]

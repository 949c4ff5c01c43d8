"""The probe in real trainings that know nothing of it: HF Trainer, DeepSpeed, a bare loop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.child.probed import Probed

pytestmark = pytest.mark.train

ALONE: dict[str, str] = {
    "OMP_NUM_THREADS": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
    "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1",
}  # fmt: skip


@pytest.fixture
def free_port() -> int:
    from autotune.world import environment

    return environment.free_port()


def environment(probed: Probed, **more: str) -> dict[str, str]:
    return {**probed.environment(more_path=""), **ALONE, **more}


TRAINER = """
import torch, transformers
transformers.set_seed(1)
model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
    vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
))
ids = torch.randint(1, 64, (16, 8), generator=torch.Generator().manual_seed(3))
rows = [{"input_ids": row, "labels": row} for row in ids]
arguments = transformers.TrainingArguments(
    output_dir="out", max_steps=4, per_device_train_batch_size=2,
    gradient_accumulation_steps=2, save_steps=2, eval_strategy="steps", eval_steps=3,
    report_to=[], use_cpu=True, disable_tqdm=True, logging_steps=1,
)
class Late(transformers.TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 3:
            trainer.compute_loss = refuses
def refuses(*_, **__):
    torch.empty(2**60, dtype=torch.uint8)
trainer = transformers.Trainer(
    model=model, args=arguments, train_dataset=rows, eval_dataset=rows[:2], callbacks=[Late()]
)
trainer.train()
"""


def test_a_trainer_tells_all_of_itself_until_memory_is_refused(tmp_path: Path) -> None:
    probed = Probed(tmp_path)
    code, _, err = probed.program(TRAINER, env=environment(probed))
    assert code == 1, err
    events = probed.events()
    assert [event["error"] for event in events if event["kind"] == "probe_gap"] == []
    phases = [event["phase"] for event in events if event["kind"] == "phase"]
    assert phases == ["optimizer_creation", "train", "save", "train", "eval", "train", "finish"]
    (base,) = (event for event in events if event["kind"] == "probe")
    assert base["moment"] == "base"
    assert 2**20 < base["held_bytes"] < events[-1]["memory"]["data_bytes"]
    (settings,) = (event for event in events if event["kind"] == "settings")
    expected = {
        "micro_batch": 2, "accumulation": 2, "global_batch": 4, "world_size": 1, "zero_stage": 0,
        "dtype": "float32", "quantization": "none", "activation_checkpointing": False,
        "attention": "sdpa", "optimizer": "AdamW", "total_steps": 4,
    }  # fmt: skip
    assert {name: settings[name] for name in expected} == expected
    steps = [event for event in events if event["kind"] == "step"]
    assert [(one["step"], one["rows"], one["tokens"]) for one in steps] == [
        (1, 4, 32), (2, 4, 32), (3, 4, 32),
    ]  # fmt: skip
    logged = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    for one, told in zip(steps, logged["log_history"], strict=False):
        assert one["loss"] == pytest.approx(told["loss"], abs=1e-3)
        assert one["grad_norm"] == pytest.approx(told["grad_norm"], abs=1e-3)
    (saved,) = (event for event in events if event["kind"] == "checkpoint")
    assert (saved["step"], saved["path"]) == (2, str(tmp_path / "out" / "checkpoint-2"))
    refused, failed = (event for event in events if event["kind"] in ("refused", "exception"))
    assert (refused["phase"], refused["step"], refused["type"]) == ("forward", 3, "RuntimeError")
    assert "can't allocate memory" in failed["message"]
    assert failed["phase"] == "forward"
    assert failed["memory"]["data_bytes"] > 2**20
    assert len({one["fingerprint"] for one in steps}) == 3


ENGINE = """
import deepspeed, torch
deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = torch.nn.Embedding(64, 16), torch.nn.Linear(16, 64)
    def forward(self, input_ids):
        logits = self.head(self.embedding(input_ids))
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), input_ids.flatten())
torch.manual_seed(1)
model = Model()
engine, *_ = deepspeed.initialize(
    model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2), config={
        "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2,
        "zero_allow_untested_optimizer": True, "gradient_clipping": 1.0,
        "zero_optimization": {
            "stage": 2, "reduce_bucket_size": 10000, "allgather_bucket_size": 10000
        },
    },
)
for micro in range(6):
    loss = engine(input_ids=torch.full((2, 8), micro + 1))
    engine.backward(loss)
    engine.step()
    if micro == 3:
        engine.save_checkpoint("saved")
        engine.eval()
        with torch.no_grad():
            engine(input_ids=torch.ones(2, 8, dtype=torch.long))
        engine.train()
loss = engine(input_ids=torch.ones(2, 8, dtype=torch.long))
engine.backward(loss.detach())
"""


def test_a_loop_around_an_engine_tells_of_its_steps(tmp_path: Path, free_port: int) -> None:
    probed = Probed(tmp_path)
    code, _, err = probed.program(ENGINE, env=environment(probed, MASTER_PORT=str(free_port)))
    assert code == 1, err
    events = probed.events()
    assert [event["error"] for event in events if event["kind"] == "probe_gap"] == []
    phases = [event["phase"] for event in events if event["kind"] == "phase"]
    assert phases == ["optimizer_creation", "train", "save", "train", "eval", "train"]
    (settings,) = (event for event in events if event["kind"] == "settings")
    expected = {
        "micro_batch": 2, "accumulation": 2, "global_batch": 4, "zero_stage": 2,
        "offload_optimizer": "none", "reduce_bucket_elements": 10000, "optimizer": "AdamW",
    }  # fmt: skip
    assert {name: settings[name] for name in expected} == expected
    steps = [event for event in events if event["kind"] == "step"]
    assert [(one["step"], one["rows"], one["micros"]) for one in steps] == [
        (1, 4, 2), (2, 4, 2), (3, 4, 2),
    ]  # fmt: skip
    assert all(one["loss"] > 0 and one["grad_norm"] > 0 and one["lr"] == 1e-2 for one in steps)
    (saved,) = (event for event in events if event["kind"] == "checkpoint")
    assert (saved["step"], saved["path"]) == (2, str(tmp_path / "saved" / "global_step2"))
    (refused,) = (event for event in events if event["kind"] == "refused")
    assert (refused["phase"], refused["step"]) == ("backward", 3)


LOOP = """
import torch
model = torch.nn.Linear(8, 8)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for _ in range(3):
    model(torch.ones(4, 8)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
torch.empty(2**60, dtype=torch.uint8)
"""


def test_a_bare_loop_under_a_limit_tells_of_its_steps(tmp_path: Path) -> None:
    limit = {"device": "cpu", "bytes": 3 * 2**30}
    probed = Probed(tmp_path, {"limit": limit})
    # Without a rank's variables: it is known for one when its optimizer first steps.
    env = {k: v for k, v in environment(probed).items() if k != "RANK"}
    code, _, _ = probed.program(LOOP, env=env)
    assert code == 1
    assert [event["step"] for event in probed.events(kinds=["step"])] == [1, 2, 3]
    (settings,) = probed.events(kinds=["settings"])
    assert settings["soft_limit_bytes"] == limit["bytes"]
    (failed,) = probed.events(kinds=["exception"])
    assert "can't allocate memory" in failed["message"]

"""The trace agrees with what real passes allocate, and what cannot be traced is a sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from autotune.child import finetune
from autotune.child import trace as tracing
from autotune.core.memory.traced import Untraced
from autotune.world.tracing import Tracer, trace

pytestmark = pytest.mark.long

SMALL: dict[str, Any] = {
    "hidden_size": 128, "num_hidden_layers": 7, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 320, "vocab_size": 1000, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CASE: dict[str, Any] = {
    "dtype": "bf16", "micro_batch": 2, "eval_micro_batch": 2, "sequence": 128,
    "checkpointing": False, "attention": "sdpa", "padded": True, "loss": "whole",
    "fp32_logits": True, "keeps_outputs": False, "evaluates": True, "quantization": "none",
    "four_bit_compute": "dtype", "other_weights_fp32": False, "activation_offload": False,
    "lora": None,
}  # fmt: skip
LORA = {"rank": 4, "targets": ["q_proj", "v_proj"], "dropout": 0.1, "fp32": False}


def asked(family: str = "llama", device: str = "cpu", **config: Any) -> dict[str, Any]:
    wanted = {"model_type": family, **SMALL, **config}
    return {"model": {"config": wanted}, "trust_remote_code": False, "device": device}


def traced(request: dict[str, Any], **changes: Any) -> dict[str, Any]:
    config = tracing.load_config(request)
    answer = tracing.answer(request, config, {**CASE, **changes})
    assert answer["ok"], answer
    return answer


def highest(answer: dict[str, Any], width: int) -> int:
    """Return the peak of a training pass with gradients of `width` bytes."""
    return max(
        int(answer["forward"]), *(int(live + width * made) for live, made in answer["backward"])
    )


# ------------------------------------------------------------------------------------- reality


def really(request: dict[str, Any], case: dict[str, Any]) -> int:
    """Return the bytes a real pass of the trainer's own parts allocates, at most, gradients too."""
    lora = case["lora"]
    settings = {
        "model": {"config": request["model"]["config"], "dtype": case["dtype"],
                  "attention": case["attention"]},
        "activation_checkpointing": case["checkpointing"],
        "method": {"kind": "lora" if lora else "full", "lora_rank": lora and lora["rank"],
                   "lora_alpha": 8, "lora_dropout": lora and lora["dropout"],
                   "lora_targets": lora and lora["targets"]},
        "schedule": {"seed": 1},
    }  # fmt: skip
    model = finetune.finish_model(settings, finetune.fresh_model(settings))
    model.train()
    pieces = finetune.ChunkedLoss(model) if case["loss"] == "chunked" else None
    shape = (case["micro_batch"], case["sequence"])

    def one_pass() -> None:
        ids = torch.ones(shape, dtype=torch.long)
        mask = torch.ones(shape, dtype=torch.long)
        mask[0, -8:] = 0
        inputs = {"attention_mask": mask} if case["padded"] else {}
        inputs["input_ids"], labels = ids, torch.ones_like(ids)
        if pieces:
            loss = pieces.of(model, inputs, labels)
        else:
            loss = finetune.token_loss(model(**inputs).logits, labels)
        (loss * 1.0).backward()

    one_pass()
    model.zero_grad(set_to_none=True)
    return highest_of(one_pass)


def highest_of(work: Any) -> int:
    """Return the most bytes that `work` holds at once, as the profiler counts them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    live = peak = 0
    for event in sorted(
        (one for one in events if one.name() == "[memory]"), key=lambda one: one.start_ns()
    ):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


REAL: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"padded": False, "dtype": "fp32"}),
    ("llama", {"checkpointing": True}),
    ("llama", {"lora": LORA}),
    ("llama", {"lora": LORA, "checkpointing": True, "dtype": "fp32"}),
    ("qwen2", {"attention": "eager"}),
    ("qwen2", {"padded": False, "sequence": 256}),
]


@pytest.mark.train  # real passes: for the main test command, and not for every check
@pytest.mark.parametrize(("family", "changes"), REAL)
def test_the_trace_agrees_with_a_real_pass(family: str, changes: dict[str, Any]) -> None:
    request = asked(family, num_hidden_layers=2)
    width = 4 if changes.get("dtype") == "fp32" else 2
    predicted = highest(traced(request, **changes), width)
    measured = really(request, {**CASE, **changes})
    assert abs(predicted / measured - 1) < 0.02


# ---------------------------------------------------------------------------------- components


def test_attention_by_plain_products_keeps_every_pair_and_flash_does_not() -> None:
    plain = traced(asked(device="cuda"), padded=False, dtype="fp32", evaluates=False)
    spread = traced(
        asked(device="cuda", num_key_value_heads=4), padded=False, dtype="fp32", evaluates=False
    )
    pairs = 7 * 2 * 4 * 128 * 128 * 4  # layers, rows, heads, tokens, tokens, float32
    assert plain["forward"] - spread["forward"] > pairs / 2


def test_adapters_are_of_the_models_dtype_unless_they_are_said_to_be_wide() -> None:
    request = asked(device="cuda")
    narrow, wide = (
        traced(request, lora={**LORA, "fp32": fp32, "dropout": 0.0}, evaluates=False)
        for fp32 in (False, True)
    )
    assert narrow["forward"] < wide["forward"]


def test_a_loss_in_pieces_takes_less_than_a_whole_one() -> None:
    request = asked(device="cuda", vocab_size=32000)
    whole, pieces = (
        traced(request, loss=loss, sequence=1024, lora=LORA) for loss in ("whole", "chunked")
    )
    assert pieces["loss"] < whole["loss"] / 2
    assert pieces["evaluation"] < whole["evaluation"] / 2


def test_all_parameters_that_learn_are_counted() -> None:
    answer = traced(asked(), lora=LORA)
    shapes = 4 * (128 + 128) + 4 * (128 + 64)  # of rank 4: q is 128 x 128, v is 128 x 64
    assert answer["backward"][-1][1] == 7 * shapes


def test_the_allocator_splits_and_reuses_blocks() -> None:
    allocator = tracing.Allocator(expandable=False)
    allocator.new(0, 3 * 2**20)
    allocator.new(1, 4 * 2**20)
    assert allocator.reserved == 20 * 2**20
    allocator.let_go(0, 3 * 2**20)
    allocator.new(2, 2 * 2**20)
    assert allocator.reserved == 20 * 2**20
    allocator.new(3, 21 * 2**20)
    assert allocator.reserved == 42 * 2**20
    allocator.new(4, 100)
    assert allocator.reserved == 44 * 2**20
    assert allocator.live == (4 + 2 + 21) * 2**20 + 512


def test_expandable_segments_leave_less_unused() -> None:
    events = []
    for number, size in enumerate((30, 31, 33)):
        events += [("forward", "new", number, size * 2**20), ("forward", "free", number, 0)]
    assert tracing.overhead(events, expandable=False) == (94 + 2 - 33) * 2**20
    assert tracing.overhead(events, expandable=True) == (40 - 33) * 2**20


@pytest.mark.parametrize("fp32", [False, True])
def test_adapters_have_the_dtype_of_the_weights_unless_told_otherwise(fp32: bool) -> None:
    config = tracing.load_config(asked())
    with torch.device("meta"):
        model = tracing.build(config, asked(), {**CASE, "lora": {**LORA, "fp32": fp32}})
    (dtype,) = {one.dtype for one in model.parameters() if one.requires_grad}
    assert dtype == (torch.float32 if fp32 else torch.bfloat16)


def test_attention_is_what_transformers_would_take_where_nobody_chose() -> None:
    given = traced(asked("gemma2", head_dim=32), attention="given")
    eager = traced(asked("gemma2", head_dim=32), attention="eager")
    assert {**given, "seconds": 0} == {**eager, "seconds": 0}


def test_flash_attention_needs_no_mask() -> None:
    flash, masked, open_ = (
        traced(asked(device="cuda"), sequence=512, evaluates=False, **changes)["forward"]
        for changes in (
            {"attention": "flash_attention_2"},
            {"attention": "sdpa"},
            {"attention": "flash_attention_2", "padded": False},
        )
    )
    assert open_ < flash < masked


def test_a_call_like_one_before_makes_the_same_events() -> None:
    request = asked(device="cuda")
    with pytest.MonkeyPatch.context() as patch:
        kept = traced(request, lora=LORA, checkpointing=True)
        patch.setattr(tracing.Tracker, "computed", lambda _, func, args, more: func(*args, **more))
        assert {**kept, "seconds": 0} == {
            **traced(request, lora=LORA, checkpointing=True),
            "seconds": 0,
        }


# ------------------------------------------------------------------------------------- hostile


def run(folder: Path, request: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the file by its path, as the supervisor does."""
    path = folder / "request.json"
    path.write_text(json.dumps({"data_limit": 8 * 2**30, "cases": [CASE], **request}))
    done = subprocess.run(
        [sys.executable, tracing.__file__, str(path)],
        capture_output=True, text=True, timeout=120, check=False, cwd=folder,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HOME": str(folder)},
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


CONFIG = """
from transformers import LlamaConfig
print("a word of the model's own")
class Own(LlamaConfig):
    model_type = "own"
"""
MODEL = """
from transformers import LlamaForCausalLM
from .own import Own
class Model(LlamaForCausalLM):
    config_class = Own
    def get_output_embeddings(self):
        return {head}
    def forward(self, *given, **more):
        {first}
        return super().forward(*given, **more)
"""


def remote_folder(folder: Path, first: str = "pass", head: str = "self.lm_head") -> Path:
    """Make a model whose code says that it ran, and runs `first` before each pass."""
    model = folder / "model"
    model.mkdir()
    names = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "model.Model"}
    config = {**SMALL, "model_type": "own", "auto_map": names}
    (model / "config.json").write_text(json.dumps(config))
    (model / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n" + CONFIG)
    (model / "model.py").write_text(MODEL.format(first=first, head=head))
    return model


def of_remote(folder: Path, trust: bool = True, **more: str) -> dict[str, Any]:
    path = str(remote_folder(folder, **more))
    return {"model": {"path": path}, "trust_remote_code": trust, "device": "cpu"}


@pytest.mark.slow
def test_remote_code_runs_only_where_the_job_trusts_it(tmp_path: Path) -> None:
    (answer,) = run(tmp_path, of_remote(tmp_path, trust=False))
    assert not answer["ok"]
    assert "contains custom code" in answer["error"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_remote_code_is_traced_like_the_model_it_is(tmp_path: Path) -> None:
    (answer,) = run(tmp_path, of_remote(tmp_path))
    own = traced(asked())
    assert (tmp_path / "ran").exists()
    assert (answer["forward"], answer["loss"]) == (own["forward"], own["loss"])


@pytest.mark.slow
def test_a_model_without_a_head_is_traced_and_no_loss_in_pieces(tmp_path: Path) -> None:
    cases = [CASE, {**CASE, "loss": "chunked"}]
    whole, pieces = run(tmp_path, {**of_remote(tmp_path, head="None"), "cases": cases})
    own = traced(asked())
    assert whole["forward"] == own["forward"]
    assert 0 < whole["loss"] < own["loss"]  # the logits themselves are the model's
    assert pieces["error"] == "a loss in pieces needs a plain head, not NoneType"


@pytest.mark.slow
def test_remote_code_that_fills_memory_meets_the_limit(tmp_path: Path) -> None:
    (answer,) = run(tmp_path, of_remote(tmp_path, first="self.hoard = bytearray(9 * 2**30)"))
    assert answer == {"case": 0, "ok": False, "error": "MemoryError"}


@pytest.mark.slow
def test_remote_code_that_hangs_is_ended(tmp_path: Path) -> None:
    request = of_remote(tmp_path, first="while True: pass")
    request |= {"data_limit": 8 * 2**30, "cases": [CASE]}
    program, folder = Path(tracing.__file__), tmp_path / "trace"
    tracer = Tracer(sys.executable, program, folder, os.environ, "hanging-trace", 60)
    (answer,) = trace(tracer, request, lambda: False)
    assert (tmp_path / "ran").exists()
    assert answer == Untraced("the tracer was ended: it took more than 60 s")


def refusal(request: dict[str, Any], **changes: Any) -> str:
    """Return the sentence; nothing may be raised once the config stands."""
    try:
        config = tracing.load_config(request)
    except tracing.TraceError as error:
        return str(error)
    answer = tracing.answer(request, config, {**CASE, **changes})
    assert not answer["ok"]
    return str(answer["error"])


def test_a_folder_without_a_config_is_a_sentence(tmp_path: Path) -> None:
    request = {**asked(), "model": {"path": str(tmp_path)}}
    assert refusal(request) == f"{tmp_path} holds no config.json"


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 10**9, "head_dim": 64},
        {"hidden_size": 10**15},
        {"vocab_size": 10**18},
        {"intermediate_size": -1},
        {"num_attention_heads": 0},
    ],
)
def test_absurd_sizes_end_in_numbers_or_in_a_sentence(sizes: dict[str, Any]) -> None:
    request = asked(**sizes)
    try:
        answer = tracing.answer(request, tracing.load_config(request), CASE)
    except Exception as error:  # as `main` does
        answer = tracing.sentence(error)
    assert answer["ok"] or answer["error"]


def test_absurd_rows_are_a_sentence() -> None:
    assert "RuntimeError" in refusal(asked(), micro_batch=2**40, sequence=2**40)


def test_a_thousand_layers_are_the_most() -> None:
    assert refusal(asked(num_hidden_layers=10**6)) == (
        "the config says 1000000 layers; no more than 1000 are traced"
    )


def test_activations_that_wait_in_host_memory_are_refused() -> None:
    assert refusal(asked(), checkpointing=True, activation_offload=True) == (
        "activations that wait in host memory are not traced"
    )


def test_a_model_that_cannot_be_a_decoder_is_a_sentence() -> None:
    assert "ValueError" in refusal({**asked(), "model": {"config": {"model_type": "vit"}}})

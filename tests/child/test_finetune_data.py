"""The trainer's rows and their order, without starting a training."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from autotune.child import finetune

SHAPES = [(8, 1, 1), (4, 2, 1), (4, 1, 2), (2, 2, 2), (1, 8, 1), (1, 2, 4)]


def order(count: int, shape: tuple[int, int, int], rank: int, **more: Any) -> finetune.Order:
    micro, accumulation, world_size = shape
    batch = {"micro": micro, "accumulation": accumulation, "world_size": world_size}
    return finetune.Order(count, batch, rank, **{"shuffle": True, "seed": 3, **more})


def steps(count: int, shape: tuple[int, int, int], epoch: int = 0) -> list[list[int]]:
    """The sample ids of each optimizer step, over all ranks, in ascending order."""
    taken: list[list[int]] = []
    for rank in range(shape[2]):
        ours = order(count, shape, rank)
        ours.set_epoch(epoch)
        batches = list(ours)
        assert len(batches) == len(ours)
        for at in range(ours.steps):
            part = batches[at * shape[1] : (at + 1) * shape[1]]
            taken.extend([[]] if rank == 0 else [])
            taken[at] += [index for batch in part for index in batch]
    return [sorted(step) for step in taken]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 7, 8, 21, 64])
def test_an_optimizer_step_takes_the_same_samples_under_every_factorisation(
    count: int, shape: tuple[int, int, int]
) -> None:
    assert steps(count, shape) == steps(count, (8, 1, 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_last_batch_of_an_epoch_is_filled_with_null_rows(shape: tuple[int, int, int]) -> None:
    taken = steps(21, shape)
    assert taken[-1].count(finetune.NULL_ROW) == 3
    assert sorted(index for step in taken for index in step if index >= 0) == list(range(21))


def test_epochs_differ_in_order_and_repeat_exactly() -> None:
    assert steps(64, (8, 1, 1), epoch=0) != steps(64, (8, 1, 1), epoch=1)
    assert steps(64, (8, 1, 1), epoch=1) == steps(64, (8, 1, 1), epoch=1)


def test_file_order_is_kept_when_shuffling_is_off() -> None:
    assert order(16, (8, 1, 1), 0, shuffle=False).entries() == list(range(16))


def test_skipping_to_a_step_under_another_shape_goes_on_where_the_first_stopped() -> None:
    before = list(order(64, (4, 2, 1), 0))[: 3 * 2]  # three optimizer steps of two micro-batches
    after = list(order(64, (2, 4, 1), 0))[3 * 4 :]
    seen = [index for batch in before + after for index in batch]
    assert sorted(seen) == list(range(64))


def test_a_proof_takes_the_longest_rows_once() -> None:
    lengths = [1, 9, 3, 8, 2, 7, 6, 5, 4, 0]
    batch = {"micro": 2, "accumulation": 1, "world_size": 2}
    taken = [list(finetune.Longest(lengths, batch, rank)) for rank in range(2)]
    assert taken == [[[1, 3]], [[5, 6]]]


def test_every_rank_gets_as_many_evaluation_batches() -> None:
    per_rank = [list(finetune.eval_batches(5, 2, rank, 2)) for rank in range(2)]
    assert [len(batches) for batches in per_rank] == [2, 2]
    rows = [index for batches in per_rank for batch in batches for index in batch if index >= 0]
    assert sorted(rows) == list(range(5))


def test_the_tail_of_the_file_is_held_out() -> None:
    assert finetune.split_rows(list(range(10)), 0.2) == (list(range(8)), [8, 9])
    assert finetune.split_rows(list(range(10)), 0.0) == (list(range(10)), [])


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{not json", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"prompt": "a"}', "must both be strings"),
        ('{"messages": []}', "at least one message"),
        ('{"messages": [{"role": "user"}]}', '"content"'),
        ('{"other": 1}', "expected"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str, fault: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n\n' + line + "\n")
    with pytest.raises(finetune.SettingsError, match=r"rows\.jsonl:3: .*" + fault):
        finetune.read_rows(path)


class Characters:
    """A tokenizer of one token a character, which is all the label rules need."""

    is_fast = True
    eos_token = "$"
    eos_token_id = ord("$")
    pad_token_id = 0
    chat_template: str | None = None

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        spans = [(at, at + 1) for at in range(len(text))]
        return {"input_ids": [ord(letter) for letter in text], "offset_mapping": spans}


def learned(row: dict[str, Any], **more: Any) -> str:
    data = {"sequence": 100, "response_only": True, **more}
    _, labels = finetune.Rows(Path("x"), [], Characters(), data).encode(row)
    return "".join("." if label == finetune.IGNORED else chr(label) for label in labels)


def test_only_the_answer_is_learned() -> None:
    assert learned({"prompt": "ab", "completion": "cd"}) == "..cd$"
    assert learned({"text": "ab"}) == "ab$"
    assert learned({"prompt": "ab", "completion": "cd"}, response_only=False) == "abcd$"


def test_only_the_assistants_turns_of_a_conversation_are_learned() -> None:
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ok"}]
    assert learned({"messages": talk * 2}) == ("." * 19 + "ok$.") * 2


def test_rows_are_cut_at_the_sequence_and_read_where_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "é"}\n\n{"text": "abcdef"}\n')
    data = {"sequence": 4, "response_only": True}
    rows = finetune.Rows(path, finetune.read_rows(path), Characters(), data)
    assert len(rows) == 2
    assert rows[1] == {"sample": 1, "ids": [97, 98, 99, 100], "labels": [97, 98, 99, 100]}
    assert rows[finetune.NULL_ROW]["labels"] == [finetune.IGNORED]


def rows_of(tmp_path: Path, texts: list[str], sequence: int = 100) -> finetune.Rows:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = {"sequence": sequence, "response_only": True}
    return finetune.Rows(path, finetune.read_rows(path), Characters(), data)


def test_the_longest_rows_are_found_by_encoding_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "LONGEST_ENCODED", 3)
    # One é takes six bytes of the file and is one token.
    rows = rows_of(tmp_path, ["a" * 5, "é" * 4, "a" * 9, "a", "a" * 7])
    assert finetune.tokens_of_longest(rows, 1) == {1: 5, 2: 10, 4: 8}
    assert finetune.longest_rows(rows, 2).indices == [2, 4]
    assert finetune.longest_rows(rows, 5).indices == [2, 4, 0, 1, 3]


def test_no_more_rows_are_encoded_once_enough_are_cut(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, ["a" * size for size in (9, 3, 8, 7)], sequence=6)
    assert finetune.tokens_of_longest(rows, 2) == {0: 6, 2: 6}


def test_too_few_rows_for_a_micro_batch_are_taken_again(tmp_path: Path) -> None:
    picked = finetune.longest_rows(rows_of(tmp_path, ["a", "aaa"]), 5)
    assert [len(picked[at]["ids"]) for at in range(len(picked))] == [4, 2, 4, 2, 4]
    assert picked[finetune.NULL_ROW]["labels"] == [finetune.IGNORED]


def test_a_survey_tells_rows_steps_and_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(finetune, "load_tokenizer", lambda _: Characters())
    lines = [json.dumps({"text": "a" * size}) + "\n" for size in (9, 3, 70, 20, 1)]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    data = {"eval_fraction": 0.2, "sequence": 30, "response_only": True}
    settings = minimal(data=data, schedule={"epochs": 2.0, "max_steps": None})
    settings["batch"] = {"global": 2, "micro": 2, "accumulation": 1, "world_size": 1}
    path = tmp_path / "train.json"
    path.write_text(json.dumps(settings))

    assert finetune.main([str(path), "--survey"]) == 0
    # 10, 4, 30 and 21 tokens, the last row being held out.
    assert json.loads(capsys.readouterr().out) == {
        "rows": 4, "steps": 4, "longest": [30, 24, 16, 8], "tokens_mean": 16.25,
        "eval_rows": 1, "eval_longest": [8],
    }  # fmt: skip
    assert not (tmp_path / "events").exists()

    settings["data"]["packing"] = True
    settings["model"]["attention"] = "sdpa"
    path.write_text(json.dumps(settings))
    finetune.main([str(path), "--survey"])
    packed = json.loads(capsys.readouterr().out)
    assert (packed["rows"], packed["longest"]) == (3, [30, 24, 16])


def minimal(**changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "schema": 1,
        "mode": "train",
        "model": {"path": None, "config": {"model_type": "llama"}, "tokenizer": "tok"},
        "method": {"kind": "full", "quantization": "none"},
        "data": {"train": "rows.jsonl", "eval": None},
        "batch": {"global": 8, "micro": 4, "accumulation": 1, "world_size": 2},
        "checkpoints": {"dir": "checkpoints", "resume": None},
        "channel": {"events": "events", "control": None},
    }
    for section, values in changes.items():
        settings[section] = {**settings.get(section, {}), **values}
    return settings


def test_paths_are_relative_to_the_folder_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(minimal(data={"train": "../rows.jsonl"})))
    settings = finetune.load_settings(path)
    assert settings["data"]["train"] == str(tmp_path / ".." / "rows.jsonl")
    assert settings["channel"]["control"] is None


class FewTokens:
    """Rows whose lengths are given, as a packing needs them."""

    sequence, pad_id = 12, 0

    def __init__(self, *lengths: int) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == finetune.NULL_ROW:
            return {"sample": index, "ids": [0], "labels": [finetune.IGNORED]}
        ids = [10 * (index + 1) + at for at in range(self.lengths[index])]
        return {"sample": index, "ids": ids, "labels": list(ids)}


def packed(*lengths: int) -> finetune.Packed:
    few: Any = FewTokens(*lengths)
    return finetune.Packed(few)


def test_rows_are_packed_in_order_while_they_fit() -> None:
    rows = packed(5, 7, 3, 9, 12, 1)
    assert rows.groups == [[0, 1], [2, 3], [4], [5]]
    assert rows.lengths == [12, 12, 12, 1]


def test_packed_rows_keep_their_own_positions_and_do_not_foretell_each_other() -> None:
    row = packed(2, 3)[0]
    assert row["ids"] == [10, 11, 20, 21, 22]
    assert row["positions"] == [0, 1, 0, 1, 2]
    assert row["labels"] == [finetune.IGNORED, 11, finetune.IGNORED, 21, 22]


def test_a_packed_null_row_carries_no_loss() -> None:
    assert set(packed(2)[finetune.NULL_ROW]["labels"]) == {finetune.IGNORED}


@pytest.mark.train
@pytest.mark.parametrize("attention", finetune.PACKABLE_ATTENTION)
def test_packed_samples_do_not_see_each_other(attention: str) -> None:
    import torch
    import transformers

    transformers.set_seed(1)
    config = transformers.AutoConfig.for_model(
        "llama", vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, use_cache=False,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    rows: Any = FewTokens(2, 3, 5)
    whole = finetune.Packed(rows)
    alone = [finetune.collate([rows[index]], 0, 12) for index in range(3)]
    together = finetune.collate([whole[0], whole[finetune.NULL_ROW]], 0, 12)
    with torch.no_grad():
        for batch in (*alone, together):
            batch.pop("samples")
            batch.pop("labels")
        expected = torch.cat([model(**one).logits[0, :size] for one, size in
                              zip(alone, (2, 3, 5), strict=True)])  # fmt: skip
        got = model(**together).logits[0, :10]
    assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"batch": {"micro": 3}}, "is 6, not the global batch 8"),
        ({"data": {"packing": True}, "model": {"attention": "flash_attention_2"}}, "use one of"),
        ({"method": {"quantization": "nf4"}}, "use lora"),
        ({"model": {"path": "somewhere"}}, "exactly one of"),
    ],
)
def test_what_would_train_something_else_is_refused(
    tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(minimal(**changes)))
    with pytest.raises(finetune.SettingsError, match=fault):
        finetune.load_settings(path)


def test_a_control_file_that_cannot_be_read_is_no_command(tmp_path: Path) -> None:
    path = tmp_path / "control.json"
    control = finetune.Control(str(path))
    assert not control.asks_to_stop()
    path.write_text("{half")
    assert not control.asks_to_stop()
    path.write_text('{"seq": 2, "command": "stop"}')
    assert control.asks_to_stop()
    assert control.asks_to_stop()
    path.write_text('{"seq": 3, "command": "run"} ')
    assert not control.asks_to_stop()


def test_a_fault_in_writing_events_costs_only_the_event(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    reporter = finetune.Reporter(blocked / "events", 0, 1)
    reporter.emit("start")
    assert reporter.lost_events == 2


def test_old_checkpoints_go_only_when_newer_ones_are_complete(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if step != 20:
            (folder / finetune.COMPLETE_MARK).write_text("{}")
    finetune.keep_newest(tmp_path, 20, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-10",
        "checkpoint-15",
        "checkpoint-20",
    ]


def test_a_checkpoint_is_on_disk_before_its_mark_and_the_mark_before_older_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint-5"
    shards = folder / "global_step5"
    shards.mkdir(parents=True)
    for name in ("global_step5/a_optim_states.pt", "global_step5/model.pt", "trainer_state.json"):
        (folder / name).write_text("x")
    (folder / "of another").symlink_to("/dev/zero")
    done: list[str] = []
    fsync, replace, unlink = os.fsync, os.replace, os.unlink

    def synced(descriptor: int) -> None:
        named = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(str(named.relative_to(tmp_path)))
        fsync(descriptor)

    def replaced(source: Any, target: Any) -> None:
        replace(source, target)
        done.append(f"to {Path(target).name}")

    def unlinked(path: Any, *, dir_fd: int | None = None) -> None:
        unlink(path, dir_fd=dir_fd)
        done.append(f"no {Path(path).name}")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(os, "unlink", unlinked)
    (folder / finetune.BEGUN_MARK).write_text("{}")
    finetune.sync_tree(folder)
    settings = {"deepspeed": {}, "channel": {"attempt": 1}, "batch": {"world_size": 1}}
    finetune.mark_complete(folder, 5, settings)

    assert sorted(done[:2]) == [f"checkpoint-5/global_step5/{n}" for n in (
        "a_optim_states.pt", "model.pt")]  # fmt: skip
    assert done[2] == "checkpoint-5/global_step5"
    assert sorted(done[3:5]) == [
        f"checkpoint-5/{finetune.BEGUN_MARK}", "checkpoint-5/trainer_state.json"
    ]  # fmt: skip
    assert done[5:] == [
        "checkpoint-5", ".",
        f"checkpoint-5/{finetune.COMPLETE_MARK}.draft", f"to {finetune.COMPLETE_MARK}",
        "checkpoint-5", f"no {finetune.BEGUN_MARK}",
    ]  # fmt: skip


def test_what_another_rank_has_renamed_meanwhile_is_passed_over(tmp_path: Path) -> None:
    finetune.sync(tmp_path / "a draft")

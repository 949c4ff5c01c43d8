"""`explain` reads logs and run folders as a stream and says what it could not read."""

import json
import tracemalloc
from pathlib import Path

import pytest

from autotune.cli.explain import explain
from autotune.core.scan import Scanner

SHORTAGE = "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


def test_each_log_gets_one_object_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.log").write_text(SHORTAGE)
    (tmp_path / "b.log").write_text("KeyboardInterrupt\n")
    names = [str(tmp_path / name) for name in ("a.log", "b.log", "a.log")]
    assert explain(names, device="cpu", as_json=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["failure"] for line in lines] == [
        "device_oom", "user_interrupt", "device_oom",
    ]  # fmt: skip


def test_of_a_run_the_newest_attempt_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, words in (("001", SHORTAGE), ("002", "KeyboardInterrupt")):
        (tmp_path / "attempts" / number).mkdir(parents=True)
        (tmp_path / "attempts" / number / "output.log").write_text(words)
    assert explain([str(tmp_path)], as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["failure"] == "user_interrupt"


def test_what_cannot_be_read_is_said_and_the_rest_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.log").write_text(SHORTAGE)
    assert explain([str(tmp_path / "none.log"), str(tmp_path / "a.log")]) == 2
    shown = capsys.readouterr()
    assert "hint:" in shown.err
    assert "host_oom" in shown.out


@pytest.mark.long
def test_a_long_log_costs_no_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "long.log"
    with log.open("w") as stream:
        for number in range(12_000):
            stream.write(f"[rank{number % 900}]: step {number} RuntimeError: loss: nan {number}\n")
    tracemalloc.start()
    explain([str(log)], as_json=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 2**20
    assert json.loads(capsys.readouterr().out)["failure"] == "numeric_divergence"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "gb18030"])
def test_a_log_of_a_windows_shell_or_in_chinese_is_read_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], encoding: str
) -> None:
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    words = f"开始训练：上上上\r\n错误：{SHORTAGE}\r\n"
    (tmp_path / "a.log").write_bytes(mark + words.encode(encoding))
    assert explain([str(tmp_path / "a.log")], device="cpu", as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["failure"] == "device_oom"


def test_of_a_log_with_a_hole_the_ends_are_read_and_nothing_of_what_comes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "output.log"
    with log.open("wb") as file:
        file.write(b"begun\n")
        file.seek(2**40)
        file.write(f"{SHORTAGE}\n".encode())
    read: list[bytes] = []

    class Growing(Scanner):
        """Sees the training write on while it is read."""

        def read(self, block: bytes) -> None:
            """Read a block, for which one more is written."""
            read.append(block)
            assert len(read) < 100
            with log.open("ab") as file:
                file.write(b"x" * 2**20 + b"\n")
            super().read(block)

    monkeypatch.setattr("autotune.cli.explain.Scanner", Growing)

    assert explain([str(log)], device="cpu", as_json=True) == 0
    assert any(SHORTAGE.encode() in block for block in read)

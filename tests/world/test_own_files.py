"""The files that a tool's command names are read, bounded, and only as often as needed."""

from pathlib import Path

from autotune.core.fault import Fault
from autotune.world.own_files import LARGEST_BYTES, ROUNDS, OwnFiles, read_own


def test_a_config_is_read_and_then_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("deepspeed: ds.json\nlearning_rate: 1e-4\n")
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 2}}')

    def wants(found: OwnFiles) -> tuple[str, ...]:
        first = found.documents.get("train.yaml")
        return ("train.yaml",) if first is None else ("train.yaml", first["deepspeed"])

    found = read_own(tmp_path, wants)

    assert found.faults == []
    assert found.documents["train.yaml"]["learning_rate"] == 1e-4
    assert found.documents["ds.json"] == {"zero_optimization": {"stage": 2}}
    assert set(found.texts) == {"train.yaml", "ds.json"}


def test_a_missing_file_is_a_fault_with_its_place(tmp_path: Path) -> None:
    found = read_own(tmp_path, lambda _: ("nowhere.json",))
    (fault,) = found.faults
    assert fault.where == str(tmp_path / "nowhere.json")


def test_what_is_no_yaml_is_kept_as_text_with_the_fault_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [1,\n")
    found = read_own(tmp_path, lambda _: ("a.yaml",))
    assert found.faults == []
    assert isinstance(found.documents["a.yaml"], Fault)
    assert found.texts["a.yaml"] == "a: [1,\n"


def test_a_script_is_a_text_and_no_document(tmp_path: Path) -> None:
    (tmp_path / "train.sh").write_text("echo: hello\n")
    found = read_own(tmp_path, lambda _: ("train.sh",))
    assert (set(found.texts), found.documents) == ({"train.sh"}, {})


def test_a_file_far_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "large.json").write_bytes(b" " * (LARGEST_BYTES + 1))
    assert "far too large" in read_own(tmp_path, lambda _: ("large.json",)).faults[0].what


def test_what_names_ever_more_files_is_not_followed_for_ever(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.yaml").write_text("a: 1\n")
    found = read_own(tmp_path, lambda found: (f"{len(found.texts)}.yaml",))
    assert len(found.texts) == ROUNDS

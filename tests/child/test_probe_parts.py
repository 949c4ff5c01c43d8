"""The parts of the probe by themselves: guarding, hooking imports, wrapping, fingerprints."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.child.probe import faults, hook, moments, state, wrapping


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module, names in ((faults, ("_told",)), (hook, ("_wanted",)), (moments, ("_listeners",))):
        for name in names:
            monkeypatch.setattr(module, name, type(getattr(module, name))())
    monkeypatch.setattr(faults, "count", 0)
    monkeypatch.setattr(state, "armed", lambda: True)
    before = list(sys.meta_path)
    yield
    sys.meta_path[:] = before


# -------------------------------------------------------------------------------------- faults


def test_a_fault_is_swallowed_and_counted_each_time() -> None:
    broken = faults.guarded(lambda: 1 / 0)
    assert [broken(), broken()] == [None, None]
    assert faults.count == 2


def test_a_guard_holds_whatever_is_guarded() -> None:
    class Odd:
        def __call__(self) -> None:
            raise ValueError

    faults.guarded(Odd())()  # has no name to report
    assert faults.count == 1


def test_an_interrupt_is_no_fault() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        faults.guarded(interrupted)()
    assert faults.count == 0


def test_one_listener_that_fails_does_not_keep_the_moment_from_the_next() -> None:
    heard: list[int] = []
    moments.on("boundary", lambda **_: 1 / 0)
    moments.on("boundary", lambda step: heard.append(step))
    moments.tell("boundary", step=3)
    assert (heard, faults.count) == ([3], 1)


# ------------------------------------------------------------------------------ the import hook


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "seen_late.py").write_text("import sys\nVALUE = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "seen_late"
    sys.modules.pop("seen_late", None)


def test_a_module_is_told_of_after_its_code_has_run(package: str) -> None:
    seen: list[int] = []
    hook.when_imported(package, lambda module: seen.append(module.VALUE))
    hook.install()
    hook.install()
    assert sum(isinstance(finder, hook.Finder) for finder in sys.meta_path) == 1
    module = importlib.import_module(package)
    assert seen == [7]
    # Nothing of the hook is left: the next to look finds what Python made.
    assert module.__spec__ is not None
    assert "exec_module" not in vars(module.__spec__.loader)
    hook.when_imported(package, lambda module: seen.append(module.VALUE + 1))
    assert seen == [7, 8]


def test_an_import_that_fails_fails_as_ever(tmp_path: Path, package: str) -> None:
    (tmp_path / "seen_late.py").write_text("raise OSError('its own')\n")
    hook.when_imported(package, lambda _: pytest.fail("told of a module that was not imported"))
    hook.install()
    with pytest.raises(OSError, match="its own"):
        importlib.import_module(package)


def test_a_module_that_is_not_there_is_not_found(package: str) -> None:
    hook.when_imported("nowhere_at_all", print)
    hook.install()
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        importlib.import_module("nowhere_at_all")


# ------------------------------------------------------------------------------------- wrapping


def test_a_method_is_heard_once_however_its_children_call_it() -> None:
    class Parent:
        def work(self, value: int) -> int:
            return value + 1

    class Child(Parent):
        def work(self, value: int) -> int:
            return super().work(value) * 10

    heard: list[Any] = []

    def begin(_: Any, value: int) -> None:
        heard.append(value)

    def end(result: int, *_: Any) -> None:
        heard.append(result)

    for owner in (Parent, Child, Child):
        wrapping.around(owner, "work", begin, end)
    assert Child().work(1) == 20
    assert heard == [1, 20]
    assert Child.work.__name__ == "work"


def test_an_exception_is_told_once_and_goes_on_its_way() -> None:
    class Inner:
        def forward(self) -> None:
            raise MemoryError("no room")

    class Outer:
        def training_step(self) -> None:
            Inner().forward()

    told: list[str] = []
    moments.on("refused", lambda error, phase: told.append(f"{error} {phase}"))
    wrapping.around(Inner, "forward", lambda *_: setattr(state, "phase", "forward"))
    wrapping.around(Outer, "training_step")
    with pytest.raises(MemoryError, match="no room"):
        Outer().training_step()
    assert told == ["no room forward"]
    with pytest.raises(MemoryError):  # nothing remembers that the method was inside
        Outer().training_step()
    assert len(told) == 2


# --------------------------------------------------------------------------------- fingerprints


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


def total(batches: list[dict[str, Any]]) -> str:
    from autotune.child.probe import fingerprint

    found = [fingerprint.of_rows(batch) for batch in batches]
    return fingerprint.shown(sum(int(one[0]) for one in found if one is not None))


def batch(torch: Any, rows: list[list[int]], width: int, left: bool = False) -> dict[str, Any]:
    """The rows padded with an odd token to `width`, on the right or on the left."""
    ids, mask = [], []
    for row in rows:
        empty = width - len(row)
        pads, holes = [9] * empty, [0] * empty
        ids.append(pads + row if left else row + pads)
        ones = [1] * len(row)
        mask.append(holes + ones if left else ones + holes)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


ROWS = [[1, 2, 3], [4, 5], [9, 9, 9, 9], [7]]


def test_padding_and_factorisation_leave_a_fingerprint_as_it_is(torch: Any) -> None:
    whole = total([batch(torch, ROWS, 4)])
    assert whole == total([batch(torch, ROWS, 16)])
    assert whole == total([batch(torch, ROWS, 6, left=True)])
    assert whole == total([batch(torch, [row], 5) for row in reversed(ROWS)])
    assert len(whole) == 16


@pytest.mark.parametrize(
    "others",
    [
        [[1, 2, 3], [4, 5], [9, 9, 9, 9]],
        [[1, 2, 3], [4, 5], [9, 9, 9, 9], [8]],
        [[1, 3, 2], [4, 5], [9, 9, 9, 9], [7]],
        [[4, 2, 3], [1, 5], [9, 9, 9, 9], [7]],  # two tokens of one place changed rows
        [[1, 2], [3, 4, 5], [9, 9, 9, 9], [7]],
        [[1, 2, 3], [4, 5], [9, 9, 9], [7]],
        [*ROWS, *ROWS],
    ],
)  # fmt: skip
def test_other_rows_have_another_fingerprint(torch: Any, others: list[list[int]]) -> None:
    assert total([batch(torch, others, 4)]) != total([batch(torch, ROWS, 4)])


def test_no_two_of_many_rows_have_the_same_hash(torch: Any) -> None:
    from autotune.child.probe import fingerprint

    ids = torch.randint(0, 50, (5000, 12), generator=torch.Generator().manual_seed(1))
    rows = {tuple(row) for row in ids.tolist()}
    hashes = set()
    for row in rows:
        found = fingerprint.of_rows({"input_ids": torch.tensor([row])})
        assert found is not None
        hashes.add(int(found[0]))
    assert len(hashes) == len(rows)


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8"])
def test_arrays_and_tensors_come_to_the_same_fingerprint(
    torch: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotune.child.probe import fingerprint

    ids = torch.randint(0, 200, (7, 33), generator=torch.Generator().manual_seed(2))
    ids = ids.to(getattr(torch, kind))
    both = [{"input_ids": ids}, {"input_ids": ids, "attention_mask": ids > 9}]
    fast = [fingerprint.of_rows(one) for one in both]
    # As on a GPU, or where torch was built for another numpy.
    monkeypatch.setattr(fingerprint, "as_arrays", lambda *given: given)
    slow = [fingerprint.of_rows(one) for one in both]
    for one, other in zip(fast, slow, strict=True):
        assert one is not None
        assert other is not None
        assert isinstance(one[0], int)
        assert isinstance(other[0], torch.Tensor)
        assert fingerprint.shown(one[0]) == fingerprint.shown(int(other[0]))
        assert one[1:] == (int(other[1]), *other[2:])


@pytest.mark.parametrize("inputs", [None, "text", {}, {"input_ids": [1, 2]}, (1, 2)])
def test_what_holds_no_rows_of_tokens_has_no_fingerprint(torch: Any, inputs: Any) -> None:
    from autotune.child.probe import fingerprint

    assert fingerprint.of_rows(inputs) is None


# -------------------------------------------------------------------------------------- memory


def test_figures_of_memory_are_those_of_this_process() -> None:
    from autotune.child.probe import figures

    held = figures.memory()
    assert (held["peak_data_bytes"] or 0) >= (held["data_bytes"] or 0) > 2**20
    assert (held["peak_rss_bytes"] or 0) >= (held["rss_bytes"] or 0) > 2**20
    assert held["allocated_bytes"] is None


@pytest.fixture
def bare_told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is told of a process of 900 bytes without its model, event by event."""
    from autotune.child.probe import events, figures, reports

    told: list[Any] = []
    monkeypatch.setattr(reports, "_told", {})
    monkeypatch.setattr(figures, "of_process", lambda: {"VmData:": 900})
    monkeypatch.setattr(events, "emit", lambda kind, **fields: told.append((kind, fields)))
    return told


def model_of(**more: Any) -> SimpleNamespace:
    one = SimpleNamespace(numel=lambda: 50, element_size=lambda: 2, **more)
    return SimpleNamespace(parameters=lambda: [one, one], buffers=lambda: [one])


def test_what_a_process_takes_without_its_model_is_told_once(
    monkeypatch: pytest.MonkeyPatch, bare_told: list[Any]
) -> None:
    from autotune.child.probe import reports

    monkeypatch.setattr(state, "trainer", SimpleNamespace(model=model_of()))
    for phase in ("train", "optimizer_creation", "optimizer_creation"):
        reports.bare(name=phase)
    assert bare_told == [("probe", {"moment": "base", "peak_bytes": 600, "held_bytes": 600})]


@pytest.mark.parametrize("trainer", [None, SimpleNamespace(model=model_of(ds_id=3))])
def test_of_a_model_that_is_sharded_or_not_known_it_is_not_told(
    monkeypatch: pytest.MonkeyPatch, bare_told: list[Any], trainer: Any
) -> None:
    from autotune.child.probe import reports

    monkeypatch.setattr(state, "trainer", trainer)
    reports.bare(name="optimizer_creation")
    assert bare_told == []


def test_on_a_gpu_it_is_not_told_since_the_allocator_knows(
    monkeypatch: pytest.MonkeyPatch, bare_told: list[Any]
) -> None:
    from autotune.child.probe import figures, reports

    monkeypatch.setattr(figures, "cuda_in_use", lambda: object())
    monkeypatch.setattr(state, "trainer", SimpleNamespace(model=model_of()))
    reports.bare(name="optimizer_creation")
    assert bare_told == []


def test_a_share_of_the_card_is_capped_only_once_cuda_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from autotune.child.probe import limits

    later: list[Any] = []
    capped: list[Any] = []
    cuda = SimpleNamespace(
        _lazy_call=later.append,
        device_count=lambda: 2,
        get_device_properties=lambda _: SimpleNamespace(total_memory=80 * 2**30),
        set_per_process_memory_fraction=lambda *given: capped.append(given),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setenv("LOCAL_RANK", "1")
    limits.cap_allocator(20 * 2**30)
    assert capped == []
    later[0]()
    assert capped == [(0.25, 1)]
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "per_process_memory_fraction:0.5")
    limits.cap_allocator(20 * 2**30)
    assert len(later) == 1


def test_a_compiler_is_spared_the_limit_and_nothing_after_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from autotune.child.probe import limits, settings

    said: list[str] = []
    monkeypatch.setattr(settings, "_given", {"limit": {"device": "cpu", "bytes": 7}})
    monkeypatch.setattr(limits, "lift", lambda: said.append("lifted"))
    monkeypatch.setattr(limits, "set_soft", lambda limit: said.append(f"set to {limit}"))

    class OpBuilder:
        def jit_load(self) -> None:
            said.append("builds")
            raise RuntimeError("no compiler")

    limits.spare_compilers(SimpleNamespace(OpBuilder=OpBuilder))
    with pytest.raises(RuntimeError, match="no compiler"):
        OpBuilder().jit_load()
    assert said == ["lifted", "builds", "set to 7"]

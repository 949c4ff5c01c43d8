"""The view adds up what ranks report and trusts none of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.codec import from_plain, to_plain
from autotune.core.evidence import Evidence
from autotune.core.failure import Phase
from autotune.core.memory.forecast import Moment
from autotune.core.memory.probe import Probe
from autotune.core.pace import Pace
from autotune.core.view import View

KINDS = [
    "start", "phase", "settings", "step", "eval", "checkpoint", "stopped", "finished", "proven",
    "exception", "__init__", "probe", "rehearsal", "armed", "probe_gap", "refused", "left",
    "probe_cost",
]  # fmt: skip
KEYS = [
    "rank", "pid", "phase", "step", "total", "total_steps", "loss", "lr", "seconds", "memory",
    "t", "type", "message", "traceback", "moment", "peak_bytes", "held_bytes", "longest",
    "world_size", "where", "error",
]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def test_steps_and_settings_come_from_rank_0() -> None:
    view = View()
    view.see({"kind": "settings", "rank": 0, "total_steps": 30, "micro_batch": 4})
    view.see({"kind": "step", "rank": 1, "step": 9, "loss": 9.0})
    view.see({"kind": "step", "rank": 0, "step": 3, "loss": 2.5, "lr": 1e-4})

    assert (view.step, view.total, view.loss) == (3, 30, 2.5)
    assert view.settings["micro_batch"] == 4


def test_an_exception_keeps_its_rank_phase_and_memory() -> None:
    view = View()
    memory = {"data_bytes": 5}
    view.see({"kind": "exception", "rank": 1, "type": "E", "phase": "forward", "memory": memory})

    assert view.exceptions[0].phase is Phase.FORWARD
    assert (view.exceptions[0].rank, view.exceptions[0].data_bytes) == (1, 5)


def test_ranks_that_say_they_are_done_are_not_missed() -> None:
    view = View()
    for rank, kind in ((0, "finished"), (1, "stopped"), (2, "start")):
        view.see({"kind": "start", "rank": rank, "pid": 100 + rank})
        view.see({"kind": kind, "rank": rank, "pid": 100 + rank})

    assert view.ended == {0, 1}
    assert view.ranks == {0: 100, 1: 101, 2: 102}


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(KEYS), VALUES))))
def test_no_event_however_wrong_breaks_the_view(
    events: list[tuple[str, dict[str, object]]],
) -> None:
    view = View()
    for kind, fields in events:
        view.see({**fields, "kind": kind})
    assert view.step is None or isinstance(view.step, int)


def probe(**fields: object) -> dict[str, object]:
    event = {"kind": "probe", "rank": 0, "moment": "first_forward"}
    return {**event, "peak_bytes": 10, "held_bytes": 5, **fields}


def test_of_each_moment_the_rank_that_held_most_is_kept() -> None:
    view = View()
    for rank, peak in ((0, 10), (1, 30), (2, 20)):
        view.see(probe(rank=rank, peak_bytes=peak, rows=2, sequence=64, seconds=0.5))
    view.see(probe(moment="load", peak_bytes=7))

    forward = Probe(Moment.FORWARD, 30, 5, rank=1, rows=2, sequence=64, seconds=0.5)
    assert view.probes == (Probe(Moment.LOAD, 7, 5), forward)


def test_a_probe_of_wrong_values_says_nothing() -> None:
    wrong: list[object] = [None, "9", -1, True, 1.5, float("nan"), 10**400]
    view = View()
    for value in wrong:
        view.see(probe(peak_bytes=value))
        view.see(probe(held_bytes=value))
        view.see(probe(rank=-3))
        view.see(probe(moment=value))
        view.see({"kind": "rehearsal", "rank": 0, "longest": value})
        view.see({"kind": "step", "rank": 0, "step": 1, "seconds": value, "t": value})
    assert (view.probes, view.longest, view.pace) == ((), None, None)

    for value in wrong:
        view.see(probe(reserved_bytes=value, rows=value, sequence=value, seconds=value))
    assert view.probes[0].reserved_bytes is view.probes[0].rows is view.probes[0].sequence is None


def test_a_flood_of_probes_takes_no_room() -> None:
    view = View()
    for rank in range(5000):
        view.see(probe(rank=rank, peak_bytes=rank))
        view.see(probe(rank=rank, moment=f"made up {rank}"))
    assert len(view.probes) == 1
    assert view.marks == 1


def paced(view: View) -> Pace:
    assert view.pace is not None
    return view.pace


def step(number: int, seconds: float, rank: int = 0, **fields: Any) -> dict[str, Any]:
    return {"kind": "step", "rank": rank, "step": number, "seconds": seconds, **fields}


def test_the_usual_step_is_the_median_of_the_recent_ones_without_the_first_two() -> None:
    view = View()
    view.see(step(5, 900.0))
    assert paced(view).seconds is None
    for number, seconds in ((6, 80.0), (7, 1.0), (8, 3.0), (8, 500.0), (9, 2.0)):
        view.see(step(number, seconds))
        view.see(step(number, 77.0, rank=1))
    assert (paced(view).steps, paced(view).seconds) == (3, 2.0)
    for number in range(10, 500):
        view.see(step(number, 4.0))
    assert paced(view).seconds == 4.0


def test_a_pace_is_told_by_the_token_because_rows_differ_in_length() -> None:
    view = View()
    for number in range(1, 11):
        view.see(step(number, 1.0 * number, tokens=10 * number))
    assert paced(view).early_token_seconds == pytest.approx(0.1)
    for number in range(11, 101):
        view.see(step(number, 1.0, tokens=1))
    assert paced(view).token_seconds == pytest.approx(1.0)
    assert paced(view).early_token_seconds == pytest.approx(0.1)


def test_the_price_of_a_start_ends_where_the_first_step_begins() -> None:
    view = View()
    view.see({"kind": "start", "rank": 0, "pid": 7, "t": 100.0})
    view.see(step(1, 5.0, t=130.0))
    view.see(step(2, 5.0, t=135.0))
    assert paced(view).start_seconds == 25.0


def test_the_longest_row_is_what_the_rehearsal_of_rank_0_met() -> None:
    view = View()
    view.see({"kind": "rehearsal", "rank": 0, "longest": 512})
    view.see({"kind": "rehearsal", "rank": 1, "longest": 9})
    assert view.longest == 512


def test_evidence_written_before_there_were_probes_still_loads() -> None:
    evidence = Evidence(attempt=1, probes=(Probe(Moment.STEP, 3, 2),), pace=Pace(3, 1.5))
    plain = to_plain(evidence)
    assert from_plain(Evidence, plain) == evidence
    for name in ("probes", "pace", "longest"):
        del plain[name]
    assert from_plain(Evidence, plain) == Evidence(attempt=1)


def test_a_checkpoint_counts_once_every_rank_has_written_its_part() -> None:
    view = View()
    said = {"kind": "checkpoint", "step": 4, "world_size": 2}
    view.see({**said, "rank": 1})
    view.see({**said, "rank": 1})
    assert view.checkpoint_step is None
    view.see({**said, "rank": 0})
    assert view.checkpoint_step == 4


def test_what_was_raised_and_caught_is_not_what_ended_a_rank() -> None:
    view = View()
    for rank in range(3):
        view.see({"kind": "armed", "rank": rank, "pid": 100 + rank})
        view.see({"kind": "refused", "rank": rank, "type": "E", "message": "no room"})
    view.see({"kind": "step", "rank": 0, "step": 2})
    view.see({"kind": "exception", "rank": 1, "type": "F"})
    assert [(one.rank, one.type) for one in view.last_words()] == [(1, "F"), (2, "E")]
    assert view.silent_ranks() == (0,)
    assert [one.rank for one in view.exceptions] == [1]  # a refusal alone is nobody's death


def test_what_the_probe_could_not_see_is_a_gap() -> None:
    view = View()
    for _ in range(100):
        view.see({"kind": "probe_gap", "rank": 1, "where": "engine_hooks.made", "error": "E: no"})
    assert view.gaps()[0].reading == "probe of rank 1"
    assert view.gaps()[0].why == "engine_hooks.made: E: no"
    assert len(view.gaps()) == 64


def test_a_snapshot_is_named_only_by_a_name_of_our_making() -> None:
    view = View()
    for name in ("../../job.yaml", "snapshot-rank0.json\nmore", 7, None):
        view.see({"kind": "snapshot", "rank": 0, "file": name, "bytes": 9})
    assert view.snapshots == {}
    view.see({"kind": "snapshot", "rank": 1, "file": "snapshot-rank1.pickle", "bytes": -1})
    assert view.snapshots[1].bytes is None

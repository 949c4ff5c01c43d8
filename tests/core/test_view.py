"""The view adds up what ranks report and trusts none of it."""

from hypothesis import given
from hypothesis import strategies as st

from autotune.core.failure import Phase
from autotune.core.view import View

KINDS = [
    "start", "phase", "settings", "step", "eval", "checkpoint", "stopped", "finished", "proven",
    "exception", "__init__",
]  # fmt: skip
KEYS = [
    "rank", "pid", "phase", "step", "total", "total_steps", "loss", "lr", "seconds", "memory",
    "t", "type", "message", "traceback",
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

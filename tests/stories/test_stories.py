"""Every story beside this file is told row by row and answered as it says.

A story is YAML: `about`, then optionally `policy` (default), `job` (keys of a job file), `around`
(what a rung may look at) and `plan` (what differs from the builders' plan), and `rows`. Each row
says what happened and what comes `then`:

- `ended`: the failure that ended the attempt now running, with `phase`, `step` (of its newest
  checkpoint, or of all it wrote, oldest first), what else is told of the diagnosis (`rank`, `cure`,
  the signature it `rests_on`, its `traits`, `figures` in GiB), and any other field of the evidence;
- `unconverted: true`: the checkpoint could not be converted for the attempt just decided;
- `unpinned: true`: the packages could not be pinned for it;
- `waited: seconds` (or with the `room` it found), `proved: true`, `stop_asked: by`, or nothing, for
  the first row.

`then` is one of `launch` (its `rung`, or none; every change as people read it; optionally
`carry`, `from` a step, `set_aside` steps, `rebuild`, `spent` attempts so far, `passed_over` rungs),
`wait` (seconds, or fields of the wait), `prove`, `finish`, `give_up` (words of the reason;
optionally of the `cure`, and `passed_over`) and `stop`.
"""

from pathlib import Path
from typing import Any

import pytest

from autotune.core.carry import CarryKind
from autotune.core.decide import next_step
from autotune.core.evidence import Reason
from autotune.core.failure import Failure, Phase, Role, Trait
from autotune.core.history import Story, tell
from autotune.core.outlook import Outlook, Saved
from autotune.core.plan import changes
from autotune.core.record import (
    AttemptEnded,
    Decided,
    Finish,
    GiveUp,
    Launch,
    Prepared,
    Prove,
    Proved,
    RunStarted,
    Step,
    Stop,
    StopAsked,
    Wait,
    Waited,
)
from autotune.world.yaml_files import read_document
from tests import builders

STORIES = sorted(Path(__file__).parent.glob("*.yaml"))
KEYS = {"about", "policy", "job", "around", "plan", "rows"}


class Teller:
    """Tells one story to core and keeps what it has answered."""

    def __init__(self, data: dict[str, Any]) -> None:
        assert set(data) <= KEYS, set(data) - KEYS
        self.start = builders.plan(**data.get("plan", {}))
        self.saved: Saved | None = None
        self.earlier: tuple[Saved, ...] = ()
        self.data = data
        started = RunStarted("r", "a-job", "identity", self.start, "cuda")
        self.story: Story = tell(Story(), started)
        self.step: Step | None = None

    def outlook(self) -> Outlook:
        return builders.outlook(
            job=builders.job(**self.data.get("job", {})),
            policy=builders.shipped(self.data.get("policy", "default")),
            around=builders.around(**self.data.get("around", {})),
            start=self.start,
            saved=self.saved,
            earlier=self.earlier,
        )

    def happen(self, row: dict[str, Any]) -> None:
        """Write down what the row says happened."""
        (kind,) = set(row) - {"then"} or {"nothing"}
        given: Any = row.get(kind)
        if kind == "ended":
            self._ended(dict(given))
        elif kind == "unconverted":
            number = self._running().attempt
            self.story = tell(self.story, Prepared(number, False, why="a shard is missing"))
            self._ended({"failure": "checkpoint_mismatch"})
        elif kind == "unpinned":
            number = self._running().attempt
            self.story = tell(self.story, Prepared(number, False, why="no index", what="packages"))
            self._ended({"failure": "missing_dependency"})
        elif kind == "waited":
            assert isinstance(self.step, Wait)
            told = given if isinstance(given, dict) else {"seconds": given}
            self.story = tell(self.story, Waited(float(told["seconds"]), told.get("room")))
        elif kind == "proved":
            assert isinstance(self.step, Prove)
            self.story = tell(self.story, Proved(given, "as the story says"))
        elif kind == "stop_asked":
            self.story = tell(self.story, StopAsked(given))
        else:
            assert kind == "nothing", kind

    def answer(self) -> Step:
        """Ask for the next step twice, as replay must give the same, and write it down."""
        self.step = next_step(self.story, self.outlook())
        assert next_step(self.story, self.outlook()) == self.step
        if self.step is not self.story.pending:
            self.story = tell(self.story, Decided(self.step))
        return self.step

    def _running(self) -> Launch:
        assert isinstance(self.step, Launch), f"no attempt runs: {self.step}"
        return self.step

    def _ended(self, given: dict[str, Any]) -> None:
        number = self._running().attempt
        failure, phase = Failure(given.pop("failure")), given.pop("phase", None)
        step = given.pop("step", None)
        held = [one for one in (self.saved, *self.earlier) if one]
        held = [one for one in held if one.name not in self._running().set_aside]
        for new in [step] if isinstance(step, int) else step or []:
            held.insert(0, Saved(f"checkpoints/checkpoint-{new}", new, number))
        self.saved, self.earlier = (held[0] if held else None), tuple(held[1:])
        reached = self.saved.step if self.saved else 0
        told: dict[str, Any] = {key: given.pop(key) for key in ("rank", "cure") if key in given}
        if "rests_on" in given:
            told["evidence"] = (Reason(given.pop("rests_on"), Role.ROOT, 1, "words"),)
        if "traits" in given:
            told["traits"] = tuple(Trait(trait) for trait in given.pop("traits"))
        if "figures" in given:
            told["figures"] = builders.figures(**given.pop("figures"))
        seen = {"seconds": 60.0, "checkpoint_step": reached, **given}
        evidence = builders.evidence(attempt=number, **seen)
        found = builders.diagnosis(failure, phase=Phase(phase) if phase else None, **told)
        self.story = tell(self.story, AttemptEnded(number, evidence, found))


def check_launch(teller: Teller, step: Step, wanted: dict[str, Any], before: Any) -> None:
    assert isinstance(step, Launch), step
    remedy = step.remedy
    assert (remedy.rung if remedy else None) == wanted["rung"]
    assert [str(change) for change in changes(before, step.plan)] == wanted["changes"]
    assert step.plan.global_batch == teller.start.global_batch
    if "carry" in wanted:
        assert step.carry.kind is CarryKind(wanted["carry"])
    if "from" in wanted:
        assert step.checkpoint_step == wanted["from"]
    if "set_aside" in wanted:
        assert list(step.set_aside) == [f"checkpoints/checkpoint-{n}" for n in wanted["set_aside"]]
        lost = sum(wanted["set_aside"][:1]) - step.checkpoint_step if step.set_aside else 0
        assert step.steps_again == lost
    if "rebuild" in wanted:
        assert step.rebuild_ops is wanted["rebuild"]
    if "spent" in wanted:
        assert teller.story.spent == wanted["spent"]
    if "passed_over" in wanted:
        assert remedy is not None
        assert [one.rung for one in remedy.passed_over] == wanted["passed_over"]


def check(teller: Teller, step: Step, then: dict[str, Any], before: Any) -> None:
    """Compare one step with what the story says comes then."""
    (kind,) = then
    wanted = then[kind]
    if kind == "launch":
        check_launch(teller, step, wanted, before)
    elif kind == "wait":
        assert isinstance(step, Wait), step
        told = wanted if isinstance(wanted, dict) else {"seconds": wanted}
        assert {key: getattr(step, key) for key in told} == told
    elif kind == "give_up":
        assert isinstance(step, GiveUp), step
        assert wanted["why"] in step.why
        assert wanted.get("cure", "") in step.cure
        if "passed_over" in wanted:
            assert {one.rung: one.why for one in step.passed_over} == wanted["passed_over"]
    else:
        assert isinstance(step, {"prove": Prove, "finish": Finish, "stop": Stop}[kind]), step


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_a_story_is_answered_as_it_says(path: Path) -> None:
    data = read_document(path).value
    teller, before = Teller(data), builders.plan(**data.get("plan", {}))
    for number, row in enumerate(data["rows"], 1):
        teller.happen(row)
        step = teller.answer()
        try:
            check(teller, step, row["then"], before)
        except AssertionError as error:
            raise AssertionError(f"{path.name}, row {number}: {error}\nthe step: {step}") from error
        if isinstance(step, Launch):
            before = step.plan


def test_there_are_stories_and_each_says_what_it_is_about() -> None:
    abouts = [read_document(path).value["about"] for path in STORIES]
    assert len(abouts) >= 12
    assert len(set(abouts)) == len(abouts)
    assert all(about.endswith(".") for about in abouts)

"""A service manager is told of a run in the words of `autotune status`, with fields."""

from collections.abc import Mapping

from autotune.cli.service_teller import JournalTeller, StatusTeller
from autotune.core.evidence import Diagnosis, Evidence
from autotune.core.failure import Failure
from autotune.core.record import AttemptEnded, Decided, Ended, GiveUp, StopAsked, Wait
from autotune.core.view import View
from autotune.world.notify import Notifier
from autotune.world.systemd_journal import SystemdJournal
from tests.builders import launch

LAUNCH = launch(1)


class Entries(SystemdJournal):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, object]] = []

    def send(self, fields: Mapping[str, object]) -> bool:
        self.sent.append({name: value for name, value in fields.items() if value is not None})
        return False  # nobody took it, which must not matter


class Said(Notifier):
    """Keeps what would be said."""

    def __init__(self) -> None:
        super().__init__(None)
        self.lines: list[str] = []

    def _send(self, text: str) -> None:
        self.lines.append(text)


def at_step(step: int) -> View:
    return View(step=step, total=20, loss=2.5)


def test_a_failed_attempt_is_a_warning_that_names_attempt_and_failure() -> None:
    journal = Entries()
    teller = JournalTeller(journal, "night", "abc")
    teller.event(Decided(LAUNCH))
    oom = Diagnosis(Failure.DEVICE_OOM, 1.0, "memory was refused")
    teller.event(AttemptEnded(1, Evidence(1, exit_code=1), oom))
    teller.event(Decided(GiveUp("nothing is left", cure="a larger card")))
    teller.event(Ended("gave_up", 1))

    first, ended, gave_up, last = journal.sent
    always = {"SYSLOG_IDENTIFIER": "autotune", "AUTOTUNE_JOB": "night", "AUTOTUNE_RUN": "abc"}
    assert [always.items() <= entry.items() for entry in journal.sent] == [True] * 4
    assert (first["AUTOTUNE_EVENT"], first["AUTOTUNE_ATTEMPT"]) == ("Launch", 1)
    assert first["PRIORITY"] == 6
    assert (ended["PRIORITY"], ended["AUTOTUNE_FAILURE"]) == (4, "device_oom")
    assert "a larger card" in str(gave_up["MESSAGE"])
    assert last["PRIORITY"] == 3


def test_steps_are_told_once_a_minute_with_their_numbers() -> None:
    journal, now = Entries(), [0.0]
    teller = JournalTeller(journal, "night", "abc", lambda: now[0])
    for second in range(125):
        now[0] = float(second)
        teller.progress(1, at_step(second + 1), 2**30)
    assert [entry["AUTOTUNE_STEP"] for entry in journal.sent] == [1, 61, 121]
    assert journal.sent[0]["AUTOTUNE_BYTES"] == 2**30
    assert journal.sent[0]["AUTOTUNE_LOSS"] == 2.5


def test_the_status_line_follows_the_run_to_its_end() -> None:
    said = Said()
    teller = StatusTeller(said, 2 * 2**30)
    teller.event(Decided(LAUNCH))
    teller.progress(1, at_step(3), 2**30)
    teller.event(Decided(Wait(60.0, "a neighbour holds the card")))
    said.stop()
    teller.progress(1, at_step(4), 2**30)
    teller.event(StopAsked("SIGTERM"))
    teller.event(Ended("stopped", 4))

    first, step, wait, stopping, _, saving, asked, ended = said.lines
    assert first.startswith("STATUS=attempt 1: micro-batch ")
    assert step == f"{first}; step 3/20  loss 2.5000  memory 1.00 GiB of 2.00 GiB"
    assert wait == "STATUS=waiting: a neighbour holds the card"
    assert stopping == "STOPPING=1"
    assert saving.startswith("STATUS=stopping: attempt 1: ")
    assert asked == "STATUS=asked to stop by SIGTERM"
    assert ended == "STATUS=stopped; the same command goes on from here"


def test_an_attempt_of_an_earlier_supervisor_is_named_by_its_number() -> None:
    said = Said()
    StatusTeller(said, None).progress(3, at_step(3), None)
    assert said.lines[0].startswith("STATUS=attempt 3; step 3/20")

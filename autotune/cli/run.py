"""`autotune run JOB`: supervises a job to its end, or goes on with it."""

import contextlib
import dataclasses
import faulthandler
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from autotune import __version__
from autotune.cli.continuing import saved_as, written_anew
from autotune.cli.import_job import job_of
from autotune.cli.looking import digest_of
from autotune.cli.service_teller import teller
from autotune.cli.wiring import identity, lay_ground
from autotune.core.fault import CannotRecord, Fault, InputError
from autotune.core.history import Story, fold
from autotune.core.history import tell as with_event
from autotune.core.outlook import Outlook
from autotune.core.record import Event, RunStarted, WentOn
from autotune.edges import Clock, Interrupts, Teller
from autotune.foreseeing import Foreseer
from autotune.ground import Ground
from autotune.stage import RunStage
from autotune.supervisor import Supervisor
from autotune.world.bringing import bring
from autotune.world.checkpoint_files import read_layout
from autotune.world.checkpoints import Checkpoint, inspect
from autotune.world.files import write_text
from autotune.world.interrupts import SignalWatch
from autotune.world.journal import FileJournal, read_journal
from autotune.world.nodes import Members, Terms
from autotune.world.notify import BeatingClock, Notifier, listening
from autotune.world.policy_file import digest
from autotune.world.process import become_subreaper, keep_memory_private
from autotune.world.run_folder import RunFolder, RunLock
from autotune.world.upgrade import Upgrade, become_new

INSTALL_SECONDS = 120.0  # for a package manager to put the rest of a new autotune there


class Asked:
    """Requests to end, by signal or through the run folder."""

    def __init__(self, signals: SignalWatch, folder: RunFolder, notifier: Notifier) -> None:
        """Listen to both; `notifier` hears of each turn that asks, and of the end once it began."""
        self._signals = signals
        self._folder = folder
        self._notifier = notifier
        self._stop_by: str | None = None

    def read(self) -> Interrupts:
        """Return what was asked for so far; what was once heard is not forgotten."""
        heard = self._signals.read()
        if self._stop_by is None:
            self._stop_by = heard.stop_by or self._folder.stop_asked_by()
        if self._stop_by is not None:
            self._notifier.stop()
        self._notifier.beat()
        return Interrupts(stop_by=self._stop_by, hurry=heard.hurry)


class Renewal:
    """Lets the run go on under a new autotune as soon as one was put in the place of ours.

    Each attempt is started with files of the package. Those of another version than the one that
    reads what they say would be a mixture that nobody has tried.
    """

    def __init__(self, asked: Asked, clock: Clock, notifier: Notifier, tell: Teller) -> None:
        """Know what lies on disk from now on."""
        self._asked, self._clock, self._notifier, self._tell = asked, clock, notifier, tell
        self._upgrade = Upgrade()

    def __call__(self) -> None:
        """Become the new one, if there is one; while it is being installed, wait a moment."""
        deadline = self._clock.monotonic() + INSTALL_SECONDS
        while self._upgrade.is_begun() and self._asked.read().stop_by is None:
            if self._upgrade.is_whole(self._clock.sleep):
                self._tell.note("autotune was replaced on disk; going on as the new one")
                self._notifier.begin_anew()
                become_new(self._notifier.environment)
            if self._clock.monotonic() >= deadline:
                self._tell.note("autotune was replaced on disk by what does not start; going on")
                return
            self._clock.sleep(1)


def run(named: Sequence[str], run_dir: Path | None, as_json: bool) -> int:
    """Supervise a job file, or a command line; return the exit code of `autotune run`."""
    signals, notifier = SignalWatch(), listening()
    signals.install()
    faulthandler.enable()  # a watchdog's SIGABRT then says where the loop stood
    job, run_dir = job_of(named, run_dir)
    ground = lay_ground(job, run_dir, uuid.uuid4().hex[:16])
    folder = ground.folder
    if folder.is_foreign():
        text = "this folder holds things and no journal; it is not a run folder"
        raise InputError(Fault(text, str(folder.path), "choose another with --run-dir"))
    folder.create()
    lock = RunLock(folder)
    try:
        become_subreaper()
        keep_memory_private()
        return _supervise(ground, signals, notifier, as_json)
    except OSError as error:
        text = f"a file of the run could not be written ({error.strerror})"
        hint = "free disk space or mend the folder, then start the same command again"
        raise CannotRecord(Fault(text, str(error.filename or folder.path), hint)) from error
    finally:
        ground.leases.release()
        lock.release()


def _supervise(ground: Ground, signals: SignalWatch, notifier: Notifier, as_json: bool) -> int:
    folder, clock = ground.folder, BeatingClock(notifier)
    limit, journal = ground.job.devices.memory_limit, FileJournal(folder.journal, clock.now)
    story = fold(read_journal(folder.journal))
    ground = _with_members(_same_run(ground, story), clock)
    event = _opening(ground, story)
    tell = teller(as_json, limit, notifier, ground.job.name, ground.run_id)
    journal.append(event)
    tell.event(event)
    if ground.document.path != folder.job:
        write_text(folder.job, ground.document.path.read_text(encoding="utf-8"))
    folder.clear_stop()
    notifier.ready()
    tell.note(f"run folder: {folder.path}")
    for note in ground.looked.notes:
        tell.note(f"{note.what} ({note.where})")
    asked = Asked(signals, folder, notifier)
    _gather(ground, asked, tell)
    foreseer = Foreseer(ground, folder.path / "survey", tell, lambda: bool(asked.read().stop_by))
    stage = RunStage(ground, clock, asked, tell, foreseer)
    _bring(ground, story, asked)

    def outlook(story: Story) -> Outlook:
        now = Outlook(
            ground.job,
            ground.policy,
            ground.rungs,
            ground.around_now(one.plan for one in story.attempts),
            ground.start,
            stage.saved(),
            stage.earlier(),
            foreseer.foresight(),
            ground.seating(),
            ground.inherited,
        )
        before = foreseer.doubts
        closer = foreseer.look_closer(story, now)
        for doubt in foreseer.doubts[len(before) :]:
            tell.note(doubt)
        return closer

    _tell_doubts(foreseer, ground, tell)
    supervisor = Supervisor(
        story=with_event(story, event),
        outlook=outlook,
        journal=journal,
        stage=stage,
        clock=clock,
        asked=asked,
        tell=tell,
        between=Renewal(asked, clock, notifier, tell),
    )
    code = supervisor.run()
    if ground.members is not None:
        ground.members.done(code)
    if code == 0:
        with contextlib.suppress(OSError):  # the run is done, whether anybody hears of it or not
            print(folder.known_good, flush=True)
    return code


def _bring(ground: Ground, story: Story, asked: Asked) -> None:
    """Copy the checkpoint that the run goes on from; a stop that cuts it short is heard next."""
    given, folder = ground.inherited, ground.folder
    if given is None or story.attempts:
        return
    if isinstance(inspect(folder.path / saved_as(given)), Checkpoint):
        return  # a supervisor died right after it
    source = Path(given.source)
    layout = read_layout(source)
    if isinstance(layout, str):
        text = f"the checkpoint that this run goes on from is no longer whole: {layout}"
        hint = "put it back, or start a new run with --run-dir"
        raise InputError(Fault(text, given.source, hint))
    written = written_anew(given, layout, ground.job.checkpoints.every)
    bring(source, folder.checkpoints, written, lambda: bool(asked.read().stop_by))


def _same_run(ground: Ground, story: Story) -> Ground:
    """Return the ground under the run's own name; raises InputError for a folder of another job."""
    started = story.started
    if started is None:
        return ground
    if started.identity != identity(ground.job):
        text = f"this run folder belongs to another job (`{started.job_name}`, or this one before "
        text += "its name, settings or global batch were changed)"
        hint = "choose another with --run-dir, or give the job another name"
        raise InputError(Fault(text, str(ground.folder.path), hint))
    for key, before in started.inputs.items():
        if ground.inputs.get(key, before) != before:
            text = f"what `{key}` names has changed since this run began; going on would train "
            text += "other samples or another model from the middle"
            hint = "put the old content back, or start a new run with --run-dir"
            raise InputError(Fault(text, ground.document.where("settings"), hint))
    ranks, device = started.plan.world_size, started.device
    last = story.last.plan if story.last else started.plan
    if story.devices and set(story.devices) <= set(ground.given):
        ground.gpus.indices = story.devices
    # A GPU that a rung has left out may be gone from the machine by now.
    enough = bool(last.excluded) and len(ground.indices_of(last)) == last.world_size
    if ground.device != device or not (enough or ground.start.world_size == ranks):
        text = f"this run began on {ranks} ranks of device {device}, and now there are "
        text += f"{ground.start.world_size} of device {ground.device}"
        hint = f"give it {ranks} again, or start a new run with --run-dir"
        raise InputError(Fault(text, ground.document.where("devices"), hint))
    return dataclasses.replace(ground, run_id=started.run_id, start=started.plan)


def _tell_doubts(foreseer: Foreseer, ground: Ground, tell: Teller) -> None:
    foresight = foreseer.foresight()
    if foresight is None and ground.policy.choose == "predicted":
        tell.note(f"memory cannot be predicted: {foreseer.why_not}; rungs are tried in order")
    for doubt in (*(foresight.subject.shape.doubts if foresight else ()), *foreseer.doubts):
        tell.note(doubt)


def _gather(ground: Ground, asked: Asked, tell: Teller) -> None:
    """Wait for the other nodes, before anything is predicted: the smallest device decides."""
    if ground.members is not None:
        ground.members.begin()
        ground.members.wait(lambda: bool(asked.read().stop_by), tell)


def _with_members(ground: Ground, clock: Clock) -> Ground:
    if ground.nodes == 1:
        return ground
    ranks = ground.start.world_size // ground.nodes
    terms = Terms(ground.nodes, ranks, ground.device, ground.job.name, ground.run_id)
    return dataclasses.replace(ground, members=Members(ground.folder.path, terms, clock))


def _opening(ground: Ground, story: Story) -> Event:
    policy, policy_digest = ground.policy.name, digest(ground.policy)
    if story.started is not None:
        edited = digest_of(ground.job.model_dump(mode="json", by_alias=True))
        return WentOn(os.getpid(), policy, policy_digest, edited, __version__)
    return RunStarted(
        run_id=ground.run_id,
        job_name=ground.job.name,
        identity=identity(ground.job),
        plan=ground.start,
        device=ground.device,
        versions=dict(ground.versions),
        policy=policy,
        policy_digest=policy_digest,
        autotune=__version__,
        inputs=dict(ground.inputs),
        inherited=ground.inherited,
    )

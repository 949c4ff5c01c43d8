"""Finds out what predictions rest on: the model's shape, the longest rows, the room, the past."""

import dataclasses
import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from autotune import __version__, child
from autotune.core.carry import WantedShape, decide_carry
from autotune.core.codec import CodecError, from_plain, to_plain
from autotune.core.decide import doubtful
from autotune.core.foresight import Foresight
from autotune.core.history import Story
from autotune.core.lessons import too_few
from autotune.core.memory.belief import OF_THE_JOB, Belief
from autotune.core.memory.forecast import Forecast, Moment
from autotune.core.memory.reading import read_shape
from autotune.core.memory.shape import ModelShape
from autotune.core.memory.survey import Surveyed
from autotune.core.memory.traced import Traced, Untraced
from autotune.core.outcome import Outcome, outcome_of
from autotune.core.outlook import Outlook, shape_of
from autotune.core.plan import Plan
from autotune.core.prior import Kind, known_of, method_of, prior_from
from autotune.core.record import AttemptEnded, Launch
from autotune.edges import Teller
from autotune.frameworks.framework import Setting
from autotune.frameworks.subject import subject_of
from autotune.ground import Ground
from autotune.launchers import deepspeed
from autotune.spawn import TRAINER
from autotune.world.environment import child_environment
from autotune.world.files import make_folder, read_json, write_json, write_text
from autotune.world.host import room_of_a_rank
from autotune.world.outcome_store import OutcomeStore
from autotune.world.probe_folder import python_path
from autotune.world.survey import survey
from autotune.world.tracing import Tracer, request_for, trace

ANSWER = "answer.json"  # of the survey; a run that is gone on with asks the same again
TRACER = Path(child.__file__).parent / "trace.py"
TRACE_SECONDS = 180.0  # for the few plans of one decision, importing torch included
MOST_TRACES = 12  # of one run


class Foreseer:
    """Predicts for one run; what it finds out it finds out once."""

    def __init__(
        self, ground: Ground, folder: Path, tell: Teller, stop_asked: Callable[[], bool]
    ) -> None:
        """Work in `folder`, which is made when something has to be written there."""
        self._ground = ground
        self._folder = folder
        self._tell = tell
        self._stop_asked = stop_asked
        self._store = OutcomeStore()
        self._foresight: Foresight | None = None
        self._traced: set[Plan] = set()  # those that could not be traced too
        self.why_not = ""  # nothing can be predicted; "" where it can, or nobody asked yet
        self.doubts: tuple[str, ...] = ()  # what else is unsure

    def foresight(self) -> Foresight | None:
        """Return what predictions rest on; None, and `why_not`, where nothing can be predicted."""
        if self._foresight is None and not self.why_not:
            found = self._look()
            if isinstance(found, str):
                self.why_not = found
            else:
                self._foresight = found
        return self._foresight

    def look_closer(self, story: Story, outlook: Outlook) -> Outlook:
        """Return the outlook with traces of the plans that the next decision turns on."""
        foresight = outlook.foresight
        if foresight is None:
            return outlook
        wanted = [
            plan
            for plan in doubtful(story, outlook)
            if plan not in self._traced and _traceable(foresight, plan)
        ]
        wanted = wanted[: MOST_TRACES - len(self._traced)]
        if not wanted:
            return outlook
        found = dict(zip(wanted, self._trace(foresight, wanted), strict=True))
        self._traced |= found.keys()
        failed = {one.why for one in found.values() if isinstance(one, Untraced)}
        self.doubts += tuple(f"a plan near the limit was not traced: {why}" for why in failed)
        traced = {plan: one for plan, one in found.items() if isinstance(one, Traced)}
        self._foresight = dataclasses.replace(foresight, traced={**foresight.traced, **traced})
        return dataclasses.replace(outlook, foresight=self._foresight)

    def _trace(self, foresight: Foresight, plans: Sequence[Plan]) -> list[Traced | Untraced]:
        ground = self._ground
        named = ground.framework.model(ground.job, ground.looked)
        model: dict[str, object] = {"config": dict(ground.looked.model_config or {})}
        if isinstance(named, str) and (ground.tool_folder / named).is_dir():
            model = {"path": str(ground.tool_folder / named)}
        trust = ground.framework.trained(ground.job, ground.looked).trust_remote_code
        works = [foresight.workload(plan) for plan in plans]
        return trace(
            Tracer(
                ground.python,
                TRACER,
                self._folder / "trace",
                self._environment(plans[0]),  # all derived from one, and pinned as it is
                f"{ground.run_id}/trace",
                TRACE_SECONDS,
            ),
            request_for(foresight.subject, works, model, trust),
            self._stop_asked,
        )

    def _environment(self, plan: Plan) -> dict[str, str]:
        ground, laid = self._ground, self._ground.overlay(plan)
        env = child_environment(
            ground.python, ground.job.env, [], deepspeed.environment(ground.device)
        )
        return env | ({"PYTHONPATH": python_path(laid.path, env.get("PYTHONPATH"))} if laid else {})

    def remember(self, launch: Launch, ended: AttemptEnded) -> None:
        """Keep what the attempt needed and took, for the runs that come after."""
        if self._foresight is None or not self._ground.job.learn:
            return
        outcome = self._outcome(self._foresight, launch.plan, ended)
        fault = self._store.add(outcome) if outcome is not None else ""
        if fault:
            self._tell.note(fault)

    def _look(self) -> Foresight | str:
        ground = self._ground
        if ground.policy.choose != "predicted":
            return f"the policy {ground.policy.name} climbs in order"
        shape = shape_of_model(ground)
        if isinstance(shape, str):
            return shape.rstrip(".")
        capacity = self._capacity()
        if capacity is None:
            return "the memory of the device cannot be read"
        trained = ground.framework.trained(ground.job, ground.looked)
        if trained.sequence is None:
            return "the length of the rows is not known; `settings.sequence` can say it"
        if trained.optimizer:
            return f"it steps with {trained.optimizer}, whose state was never measured"
        self.doubts = shape.doubts
        if ground.nodes > 1 and ground.members is None:
            self.doubts += ("the devices of the other nodes are taken to be as large as these",)
        surveyed = self._survey()
        if isinstance(surveyed, str):
            self.doubts += (f"every row is taken to be as long as it may be: {surveyed}",)
        subject = subject_of(
            trained,
            shape,
            None if isinstance(surveyed, str) else surveyed,
            ground.device,
            ground.start.world_size,
            cuda_context=ground.policy.limits.cuda_context,
            packs=ground.around.packing,
            fresh=ground.looked.weight_bytes == 0,
            evaluates=ground.around.has_evaluation,
            deepspeed=ground.looked.deepspeed,
            env=ground.job.env,
            cores=len(os.sched_getaffinity(0)),
            nodes=ground.nodes,
        )
        ranks = ground.start.world_size // ground.nodes
        limit = ground.job.devices.host_memory_limit
        room = room_of_a_rank(limit, ranks) if ground.device == "cuda" else None
        return self._with_the_past(Foresight(subject, capacity, room))

    def _with_the_past(self, foresight: Foresight) -> Foresight:
        held = self._store.read() if self._ground.job.learn else None
        if held is None or not held.outcomes:
            return foresight
        subject, start = foresight.subject, self._ground.start
        spread = foresight.forecast(start).spread
        kind = Kind(
            subject.shape.family, method_of(start), subject.device, "closed form", __version__
        )
        prior = prior_from(held.outcomes, kind, spread)
        known = known_of(held.outcomes, subject, self._ground.device_name)
        return dataclasses.replace(
            foresight,
            prior=Belief(prior.bias_mean, prior.open_share(spread, OF_THE_JOB)),
            seconds={plan: one.step_seconds for plan, one in known.items() if one.step_seconds},
        )

    def _capacity(self) -> int | None:
        ground = self._ground
        limit = ground.job.devices.memory_limit
        if ground.device == "cpu":
            host = ground.job.devices.host_memory_limit
            here = limit or room_of_a_rank(host, ground.start.world_size // ground.nodes)
        else:
            here = ground.gpus.total_bytes()
        there = ground.members.smallest_bytes() if ground.members else None
        return min((size for size in (limit, here, there) if size), default=None)

    def _survey(self) -> Surveyed | str:
        ground = self._ground
        if not ground.framework.surveys:
            return "the tool reads its rows itself"
        folder = self._folder
        make_folder(folder)
        carry = decide_carry(None, WantedShape(**shape_of(ground.start)))
        setting = Setting(
            job=ground.job,
            looked=ground.looked,
            job_folder=str(ground.job_folder),
            plan=ground.start,
            device=ground.device,
            attempt=0,
            folder=str(folder),
            checkpoints=str(folder),
            control=None,
            load_universal=carry.load_universal,
            trainer=str(TRAINER),
        )
        program = ground.framework.program(setting)
        asked: dict[str, object] = {"inputs": dict(ground.inputs), **program.files}
        held = _held(folder / ANSWER, asked)
        if held is not None:
            return held
        for name, text in program.files.items():
            write_text(folder / name, text)
        trainer, train = (Path(word) for word in program.argv)
        env, mark = self._environment(ground.start), f"{ground.run_id}/survey"
        found = survey(ground.python, trainer, train, env, mark, self._stop_asked)
        if isinstance(found, Surveyed):
            write_json(folder / ANSWER, {"asked": asked, "found": to_plain(found)})
        return found

    def _outcome(self, foresight: Foresight, plan: Plan, ended: AttemptEnded) -> Outcome | None:
        seen, ground = ended.evidence, self._ground
        reached = {one.moment for one in seen.probes}
        base = [one.held_bytes for one in seen.probes if one.moment is Moment.BASE]
        foretold = foresight.forecast(plan)
        return outcome_of(
            foresight.subject,
            plan,
            foretold,
            seen,
            ended.diagnosis,
            day=datetime.date.today().isoformat(),
            capacity_bytes=foresight.capacity,
            available_bytes=too_few(seen, ended.diagnosis),
            outside_bytes=_outside(foretold, base),
            device_name=ground.device_name,
            rehearsed=Moment.SECOND_STEP in reached,
            step_seconds=seen.pace.seconds if seen.pace else None,
            versions={**ground.versions_of(plan), "autotune": __version__},
        )


def _traceable(foresight: Foresight, plan: Plan) -> bool:
    """Whether a trace does what the training does: it moves nothing out, and knows no tiles."""
    tiled = foresight.subject.tile is not None and plan.loss == "chunked"
    return not plan.activation_offload and not tiled


def _held(path: Path, asked: Mapping[str, object]) -> Surveyed | None:
    """Return the answer of an earlier start to the same question."""
    held = read_json(path)
    if not isinstance(held, dict) or held.get("asked") != asked:
        return None
    try:
        return from_plain(Surveyed, held.get("found"))
    except (CodecError, ValueError):
        return None


def shape_of_model(ground: Ground) -> ModelShape | str:
    """Return the shape of the job's model, or the sentence why nothing can be predicted of it."""
    if ground.looked.model_config is None:
        return "the model's config is not known"
    shape = read_shape(ground.looked.model_config)
    return shape if isinstance(shape, str) else _lie(shape, ground) or shape


def _outside(foretold: Forecast, base: list[int]) -> int | None:
    """Return what a process measured before its model takes beside its tensors later; or None."""
    predicted = foretold.moments.get(Moment.BASE)
    return max(base) - predicted.held if base and predicted else None


def _lie(shape: ModelShape, ground: Ground) -> str:
    """Return why the config cannot be the one of the weights beside it, or ""."""
    held = ground.looked.weight_bytes
    if not held or shape.parameters <= 0:
        return ""
    each = held / shape.parameters
    if 0.4 <= each <= 4.6:  # bytes: from 4-bit weights to 32-bit ones, and some tensors beside
        return ""
    return (
        f"the model's config speaks of {shape.parameters:,} parameters, and its weights take"
        f" {held:,} bytes: one of the two is not this model's"
    )

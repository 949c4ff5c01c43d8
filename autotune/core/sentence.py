"""Says what happened in one sentence each, always in the same grammar."""

from collections.abc import Sequence

from autotune.core.evidence import Rescued
from autotune.core.failure import Failure
from autotune.core.history import Attempt, Story
from autotune.core.plan import Plan, changes
from autotune.core.record import (
    AttemptEnded,
    Decided,
    Ended,
    Event,
    Finish,
    GiveUp,
    Launch,
    Prepared,
    Prove,
    Proved,
    RunStarted,
    Stop,
    StopAsked,
    Unseated,
    Wait,
)
from autotune.core.units import show_bytes, show_seconds

DOUBTFUL = 0.5  # a confidence below it is said
_OPTIMIZERS = {
    "adamw_8bit": "8-bit AdamW",
    "paged_adamw": "paged AdamW",
    "paged_adamw_8bit": "paged 8-bit AdamW",
}
LONGEST_WHY = 200  # characters of a diagnosis in one line; diagnosis.json holds all of it


def say(event: Event) -> str | None:
    """Return the sentence for an event, or None for one that people need not hear of."""
    if isinstance(event, RunStarted):
        begins = f"run {event.job_name} begins on the {event.device} under policy {event.policy}"
        given = event.inherited
        return f"{begins}, from step {given.step} of {given.source}" if given else begins
    if isinstance(event, Decided):
        return _say_step(event.step)
    if isinstance(event, Prepared):
        if event.what == "packages":
            if event.ok:
                return f"packages pinned in {event.seconds:.0f} s: {event.why}"
            return f"packages could not be pinned for attempt {event.attempt}: {event.why}"
        if event.ok:
            return f"checkpoint converted for attempt {event.attempt} in {event.seconds:.0f} s"
        return f"checkpoint could not be converted for attempt {event.attempt}: {event.why}"
    if isinstance(event, AttemptEnded):
        return _say_ended(event)
    if isinstance(event, Proved):
        return f"known-good {'proven' if event.ok else 'unproven'}: {event.why}"
    if isinstance(event, Unseated):
        return f"not yet: {event.why}"
    if isinstance(event, StopAsked):
        return f"asked to stop by {event.by}"
    if isinstance(event, Ended):
        return {
            "finished": "finished",
            "gave_up": "gave up; what was tried stands above and in the journal",
            "stopped": "stopped; the same command goes on from here",
        }.get(event.state, event.state)
    return None


def _say_step(step: object) -> str | None:
    if isinstance(step, Launch):
        return say_launch(step)
    if isinstance(step, Wait):
        if step.for_devices:
            return f"waiting for devices, {show_seconds(step.seconds)} at most: {step.why}"
        until = f" or until {show_bytes(step.free_bytes)} are free" if step.free_bytes else ""
        return f"waiting {show_seconds(step.seconds)}{until}: {step.why}"
    if isinstance(step, Prove):
        return f"proving the plan of attempt {step.attempt} from step {step.checkpoint_step}"
    if isinstance(step, GiveUp):
        lines = [f"giving up: {step.why}"]
        lines += [f"  not {passed.rung}: {passed.why}" for passed in step.passed_over]
        lines += [f"  what you can do: {step.cure}"] if step.cure else []
        return "\n".join(lines)
    if isinstance(step, (Finish, Stop)):
        return None  # told by the event that follows at once
    raise AssertionError(f"a step without words: {step}")


def say_launch(launch: Launch) -> str:
    """Return what is started and why."""
    start = "starts fresh"
    if launch.checkpoint_step:
        start = f"resumes at step {launch.checkpoint_step}"
        if launch.carry.conversions:
            start += " from a converted copy"
    if launch.set_aside:
        names = ", ".join(name.rsplit("/", 1)[-1] for name in launch.set_aside)
        start += f", with {names} set aside: {_steps(launch.steps_again)} trained again"
    if launch.remedy is None:
        return f"{say_attempt(launch)}; {start} ({launch.why})"
    what = ", ".join(str(change) for change in launch.remedy.changes) or "nothing changes"
    why = f" ({launch.why})" if launch.foreseen else ""  # a rule's own words say little that is new
    return f"{_named(launch)}: {say_rungs(launch.remedy.rungs)} ({what}); {start}{why}"


def say_attempt(launch: Launch) -> str:
    """Return which attempt it is and its plan."""
    return f"{_named(launch)}: {say_plan(launch.plan)}"


def _named(launch: Launch) -> str:
    on = f" on GPU {', '.join(map(str, launch.devices))}" if launch.devices else ""
    return f"attempt {launch.attempt}{on}"


def say_wait(wait: Wait) -> str:
    """Return what is waited for."""
    return f"waiting: {wait.why}"


def say_rungs(names: Sequence[str]) -> str:
    """Return each rung once, with how often it was taken."""
    times = {name: names.count(name) for name in names}
    return " + ".join(name if count == 1 else f"{name} ×{count}" for name, count in times.items())


def say_plan(plan: Plan) -> str:
    """Return a plan in a few words."""
    words = [
        f"micro-batch {plan.micro_batch} × accumulation {plan.accumulation} × "
        f"{plan.world_size} {'rank' if plan.world_size == 1 else 'ranks'}",
        f"ZeRO {plan.zero_stage}",
        plan.dtype,
        _method(plan),
    ]
    words += ["4-bit"] if plan.quantization != "none" else []
    words += ["loss in pieces"] if plan.loss == "chunked" else []
    words += ["activation checkpointing"] if plan.activation_checkpointing else []
    words += ["activation offload"] if plan.activation_offload else []
    words += [_OPTIMIZERS[plan.optimizer]] if plan.optimizer in _OPTIMIZERS else []
    words += ["optimizer offload"] if plan.offload_optimizer else []
    words += ["parameter offload"] if plan.offload_param else []
    words += ["blocking launches"] if plan.blocking_launches else []
    words += [f"without GPU {', '.join(map(str, plan.excluded))}"] if plan.excluded else []
    return ", ".join(words)


def _method(plan: Plan) -> str:
    if plan.method == "full":
        return "full"
    return f"LoRA of rank {plan.lora_rank}" if plan.lora_rank else "LoRA"


def _say_ended(event: AttemptEnded) -> str:
    evidence, diagnosis = event.evidence, event.diagnosis
    if evidence.finished:
        end = "its end" if evidence.total_steps is None else f"step {evidence.total_steps}"
        return f"attempt {event.attempt} trained to {end}{_memory(event)}"
    if diagnosis.failure is Failure.NONE and evidence.ended_by_us:
        why = {
            "climb": "was stopped to try a faster plan",
            "not_faster": "was no faster, and was stopped",
        }.get(evidence.ended_by_us, "was interrupted")
        return f"attempt {event.attempt} {why} at step {evidence.step or 0}"
    where = "" if diagnosis.rank is None else f" on rank {diagnosis.rank}"
    phase = "" if diagnosis.phase is None else f" in {diagnosis.phase.value}"
    step = f" at step {evidence.step}" if evidence.step else " before the first step"
    doubt = " (not sure)" if diagnosis.confidence < DOUBTFUL else ""
    ended = f"attempt {event.attempt} ended: {diagnosis.failure.value}{doubt}{where}{phase}{step}"
    shown = f"{_say_rescued(evidence.rescued)}{_say_snapshots(event)}"
    return f"{ended}{_memory(event)}; {_short(diagnosis.why)}{shown}"


def _say_rescued(rescued: Rescued | None) -> str:
    if rescued is None:
        return ""
    if rescued.ok:
        return f"; step {rescued.step} was saved before it ended"
    return f"; its last step was not saved: {_short(rescued.why)}"


def _say_snapshots(event: AttemptEnded) -> str:
    found = event.evidence.snapshots
    if not found:
        return ""
    more = f" and of {len(found) - 1} more beside it" if len(found) > 1 else ""
    return f"; what filled its memory: attempts/{event.attempt:03d}/{found[0].file}{more}"


def _steps(count: int) -> str:
    return "1 step is" if count == 1 else f"{count} steps are"


def printable(text: str) -> str:
    """Return the text without control characters, which a child may have put into its words."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_WHY else text[: LONGEST_WHY - 1] + "…"


def _memory(event: AttemptEnded) -> str:
    memory = event.evidence.memory
    if memory.peak_bytes is None:
        return ""
    limit = f" of {show_bytes(memory.limit_bytes)}" if memory.limit_bytes else ""
    return f" (seen at most {show_bytes(memory.peak_bytes)}{limit})"


def tell_story(story: Story) -> list[str]:
    """Return the whole run as sentences, for the known-good and for giving up."""
    lines = []
    for attempt in story.attempts:
        lines.append(say_launch(attempt.launch))
        if attempt.launch.remedy:
            if attempt.launch.foreseen is None:
                lines.append(f"  because: {attempt.launch.remedy.why}")
            for passed in attempt.launch.remedy.passed_over:
                lines.append(f"  not {passed.rung}: {passed.why}")
        if attempt.evidence and attempt.diagnosis:
            lines.append(
                _say_ended(AttemptEnded(attempt.number, attempt.evidence, attempt.diagnosis))
            )
    return lines


def lost_steps(attempt: Attempt) -> int | None:
    """Return the optimizer steps an ended attempt ran beyond its last checkpoint."""
    if attempt.evidence is None or attempt.evidence.step is None:
        return None
    kept = max(attempt.evidence.checkpoint_step or 0, attempt.launch.checkpoint_step)
    return max(0, attempt.evidence.step - kept)


def changed_from_start(story: Story, plan: Plan) -> str:
    """Return what a plan changes against the job's own settings."""
    if story.started is None:
        return ""
    return ", ".join(str(change) for change in changes(story.started.plan, plan)) or "nothing"

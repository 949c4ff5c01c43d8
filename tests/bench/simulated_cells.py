"""Jobs and machines for the planner to be tried on, each with what would truly happen."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import product
from pathlib import Path
from zlib import crc32

from autotune.cli.wiring import all_rungs
from autotune.core.candidates import Candidate, candidates
from autotune.core.evidence import Diagnosis
from autotune.core.failure import Failure
from autotune.core.memory.activations import Activations, Point
from autotune.core.memory.counts import count
from autotune.core.memory.forecast import Forecast
from autotune.core.memory.learning import Lesson
from autotune.core.memory.predict import forecast
from autotune.core.memory.probe import Probe
from autotune.core.memory.reading import read_shape
from autotune.core.memory.shape import ModelShape
from autotune.core.memory.step_time import step_seconds
from autotune.core.memory.traced import Traced
from autotune.core.memory.workload import Subject, Workload
from autotune.core.plan import KNOBS, Plan
from autotune.core.rung import Result, Rung, Scene, Surroundings
from autotune.world.policy_file import find_policy, load_policy
from tests.bench.planner_traces import FOR_CHANGING, LORA_RANK
from tests.bench.simulated_truth import (
    GIB,
    Errors,
    Hardware,
    Reference,
    TracedModel,
    errors,
    hardware,
    load_traces,
    moments,
    reference,
)

RUNGS = all_rungs()
DIAGNOSIS = Diagnosis(Failure.DEVICE_OOM, 1.0, "simulated")
AROUND = Surroundings("cuda", KNOBS)
METHODS = ("full", "lora", "qlora")
RANKS = (1, 2, 4, 8)
MICRO = (16, 4)
# GiB of a card, and tokens of a row: for changing the planner, and for judging it.
CARDS = {True: (5, 12, 16, 24, 40, 80), False: (4, 6, 8, 9, 11, 14, 17, 20, 26, 32, 48, 64)}
SEQUENCES = {True: (512, 2048, 8192), False: (640, 1024, 1536, 3072, 6144)}
CONTEXT = 600 << 20  # of CUDA, as the shipped policies have it


@dataclass(frozen=True)
class Work:
    """One job, with all that does not depend on the card or the errors."""

    name: str  # of the model
    start: Workload  # of the plan its owner wrote down
    traced: TracedModel
    found: list[Candidate]
    references: dict[Plan, Reference] = field(default_factory=dict)
    forecasts: dict[Plan, Forecast] = field(default_factory=dict)
    seconds: dict[Plan, float] = field(default_factory=dict)
    numbers: dict[Plan, int] = field(default_factory=dict)

    def at(self, plan: Plan) -> Workload:
        return Workload(self.start.subject, plan)

    def reference(self, plan: Plan) -> Reference:
        if plan not in self.references:
            self.references[plan] = reference(self.at(plan), self.traced)
        return self.references[plan]

    def number(self, plan: Plan) -> int:
        """A number that is the plan's in every job."""
        if plan not in self.numbers:
            self.numbers[plan] = crc32(repr(plan).encode())
        return self.numbers[plan]

    def foretold_seconds(self, plan: Plan) -> float:
        if plan not in self.seconds:
            self.seconds[plan] = step_seconds(self.at(plan))
        return self.seconds[plan]

    def forecast(self, plan: Plan) -> Forecast:
        if plan not in self.forecasts:
            self.forecasts[plan] = forecast(self.at(plan))
        return self.forecasts[plan]

    def traced_forecast(self, plan: Plan) -> Forecast:
        """What is foretold of this plan after a trace of the model's own code."""
        work = self.at(plan)
        seen = self.traced.passes(plan, work.sequence)
        half = count(work).trainable // 2
        points = Point(int(seen.before), 0), Point(int(seen.after), half)
        passes = Activations(int(seen.forward), points, 0, int(seen.loss))
        overheads = int(seen.overhead), int(seen.overhead_expandable)
        return forecast(work, Traced(passes, *overheads, seconds=0.0))


@dataclass(frozen=True)
class Cell:
    """One job on one kind of machine, with the truth of every plan that could be chosen."""

    work: Work
    capacity: int
    wrong: Errors
    hardware: Hardware
    fitting: dict[Plan, bool] = field(default_factory=dict)
    taking: dict[Plan, float] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """The cell in a few words."""
        plan = self.work.start.plan
        method = "qlora" if plan.quantization == "nf4" else plan.method
        rows = f"{plan.micro_batch}x{self.work.start.sequence}"
        return f"{self.work.name} {method} {rows} N={plan.world_size} {self.capacity // GIB} GiB"

    def peak(self, plan: Plan) -> float:
        """What the card must hold: allocated, lost between segments, and the context."""
        ref = self.work.reference(plan)
        highest = max(moments(ref, self.wrong.of(plan, self.work.number(plan))).values())
        return highest + ref.overhead + self.wrong.context

    def fits(self, plan: Plan) -> bool:
        if plan not in self.fitting:
            self.fitting[plan] = self.peak(plan) <= self.capacity
        return self.fitting[plan]

    def time(self, plan: Plan) -> float:
        if plan not in self.taking:
            self.taking[plan] = self.hardware.step_seconds(
                self.work.at(plan), self.work.number(plan)
            )
        return self.taking[plan]

    def probes(self, plan: Plan) -> tuple[list[Probe], bool]:
        """The moments that are completed, and whether all are."""
        ref = self.work.reference(plan)
        room = self.capacity - self.wrong.context - ref.overhead
        done: list[Probe] = []
        for moment, size in moments(ref, self.wrong.of(plan, self.work.number(plan))).items():
            if size > room:
                return done, False
            done.append(Probe(moment, int(size), int(size), int(size + ref.overhead)))
        return done, True

    def lesson(self, plan: Plan, foretold: Forecast) -> Lesson:
        """What an attempt shows: its moments and, where it failed, that it had too little."""
        done, whole = self.probes(plan)
        if whole:
            return Lesson(plan, foretold, tuple(done))
        lost = self.work.reference(plan).overhead
        room = max(1, int(self.capacity - self.wrong.context - lost))
        return Lesson(
            plan, foretold, tuple(done), self.capacity,
            fragmentation_bytes=int(lost), allocated_bytes=room,
        )  # fmt: skip


def start_of(method: str, ranks: int, micro: int) -> Plan:
    """Return what an owner writes down who thinks of speed alone."""
    return Plan(
        world_size=ranks, micro_batch=micro, accumulation=48 // micro,
        eval_micro_batch=micro, method="full" if method == "full" else "lora",
        quantization="nf4" if method == "qlora" else "none", dtype="bf16",
        activation_checkpointing=False, zero_stage=2, offload_optimizer=False,
        offload_param=False, reduce_bucket=500_000_000, allgather_bucket=500_000_000,
        gather_on_save=True, attention="sdpa", pinned_memory=True,
    )  # fmt: skip


def forbidden(rung: Rung) -> str | None:
    """What changes the result needs its owner's consent, and these owners give none."""
    return "no consent" if rung.result is Result.CHANGED else None


@cache
def ladder() -> tuple[str, ...]:
    """The default policy's rungs against a shortage in training, in its order."""
    rules = load_policy(find_policy("default", Path()), RUNGS).rules
    names = next(one.try_ for one in rules if one.when == "device_oom" and not one.and_)
    return tuple(name for name in names if forbidden(RUNGS[name]) is None)


@lru_cache(maxsize=256)
def reach(start: Plan) -> list[Candidate]:
    """Every plan the ladder's rungs make of one, itself first."""
    return candidates(
        Scene(start, DIAGNOSIS, AROUND), ladder(), RUNGS, lambda *_: None, forbidden
    )  # fmt: skip


def cells(name: str, seed: str, part: int, parts: int) -> Iterator[Cell]:
    """Yield one of so many parts of a model's jobs, each on every card."""
    traced, changing = load_traces()[name], name in FOR_CHANGING
    shape = read_shape(traced.config)
    if not isinstance(shape, ModelShape):
        raise ValueError(shape)
    grid = product(METHODS, RANKS, MICRO, SEQUENCES[changing])
    for number, (method, ranks, micro, sequence) in list(enumerate(grid))[part::parts]:
        subject = Subject(
            shape, "cuda", sequence, lora_rank=LORA_RANK, padded=traced.padded,
            cuda_context=CONTEXT, host_ranks=ranks,
        )  # fmt: skip
        start = start_of(method, ranks, micro)
        work = Work(name, Workload(subject, start), traced, reach(start))
        for card in CARDS[changing]:
            own = f"{seed} {name} {number} {card}"
            yield Cell(work, card * GIB, errors(own), hardware(own))

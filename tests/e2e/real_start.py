"""Starts a plan as the built-in framework renders it, under DeepSpeed, and reads what it did."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.child import convert, finetune
from autotune.core.carry import Carry, WantedShape, conversion_request
from autotune.core.history import Attempt, Story
from autotune.core.outlook import STEPS_WITH, Saved, carry_to
from autotune.core.plan import Device, Plan
from autotune.core.record import Launch
from autotune.frameworks.finetune import Finetune
from autotune.frameworks.framework import Looked, Setting
from autotune.launchers import deepspeed
from autotune.world.environment import child_environment, free_port
from tests import builders

SECONDS = 600
VOCABULARY = 2048
HEAD = ("t", "rank", "kind", "attempt")  # what every event begins with


@dataclass(frozen=True)
class Outcome:
    """A training that ended well: what each rank reported, in order."""

    plan: Plan
    folder: Path
    ranks: list[list[dict[str, Any]]]
    began_from: Carry

    def events(self, kind: str, rank: int = 0) -> list[dict[str, Any]]:
        """Return the events of one kind."""
        return [event for event in self.ranks[rank] if event["kind"] == kind]

    @property
    def settings(self) -> dict[str, Any]:
        """Return what rank 0 read from its engine, its optimizer and its model."""
        (settings,) = self.events("settings")
        return {key: value for key, value in settings.items() if key not in HEAD}

    @property
    def losses(self) -> dict[int, float]:
        """Return the loss of each optimizer step."""
        return {event["step"]: event["loss"] for event in self.events("step")}

    @property
    def samples(self) -> dict[int, list[int]]:
        """Return the sample ids of each optimizer step over all ranks, ascending."""
        taken: dict[int, list[int]] = {}
        for rank in range(len(self.ranks)):
            for event in self.events("step", rank):
                taken.setdefault(event["step"], []).extend(event["samples"])
        return {step: sorted(ids) for step, ids in taken.items()}

    def held(self, figure: str = "data_bytes") -> int:
        """Return what the fullest rank held at the end of its last step."""
        ranks = range(len(self.ranks))
        return max(int(self.events("step", rank)[-1]["memory"][figure]) for rank in ranks)

    def peak(self, figure: str = "peak_data_bytes") -> int:
        """Return the most any rank held up to the end of its last step."""
        return self.held(figure)

    def evaluation_peak(self, figure: str = "peak_data_bytes") -> int:
        """Return the most any rank held until its first evaluation was over."""
        found = []
        for rank in range(len(self.ranks)):
            phases = self.events("phase", rank)
            place = next(i for i, event in enumerate(phases) if event["phase"] == "eval")
            found.append(int(phases[place + 1]["memory"][figure]))
        return max(found)

    def checkpoint(self, step: int) -> Path:
        """Return the folder of one checkpoint."""
        return self.folder / "checkpoints" / f"checkpoint-{step}"


@dataclass
class Subject:
    """A model and rows to train on; every plan for it is started once, by name."""

    folder: Path
    model: dict[str, Any]
    sequence: int
    steps: int = 6
    every: int = 2
    rows: int = 32
    device: Device = "cpu"
    deepspeed: dict[str, Any] = field(default_factory=dict)
    started: dict[str, Outcome] = field(default_factory=dict)

    def prepare(self) -> Subject:
        """Write model, tokenizer and rows; every row is as long as the sequence."""
        import tokenizers
        from transformers import AutoConfig, AutoModelForCausalLM, set_seed

        self.folder.mkdir(parents=True, exist_ok=True)
        config = dict(self.model)
        made = AutoConfig.for_model(config.pop("model_type"), **config)
        set_seed(1)
        AutoModelForCausalLM.from_config(made).save_pretrained(self.folder / "model")
        words = [f"w{number}" for number in range(VOCABULARY - 2)]
        vocabulary = {"<end>": 0, "<pad>": 1} | {word: i + 2 for i, word in enumerate(words)}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<pad>"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        tokenizer.save(str(self.folder / "model" / "tokenizer.json"))
        told = {"tokenizer_class": "PreTrainedTokenizerFast"}
        told |= {"eos_token": "<end>", "pad_token": "<pad>"}
        (self.folder / "model" / "tokenizer_config.json").write_text(json.dumps(told))
        draw = random.Random(3)
        with (self.folder / "rows.jsonl").open("w") as lines:
            for _ in range(self.rows):
                first, stride = draw.randrange(len(words)), draw.randrange(1, 4)
                text = " ".join(
                    words[(first + stride * i) % len(words)] for i in range(self.sequence)
                )
                lines.write(json.dumps({"text": text}) + "\n")
        return self

    def start(
        self,
        name: str,
        plan: Plan,
        resume: tuple[Outcome, int] | None = None,
        env: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> Outcome:
        """Return the outcome of `plan`, from a checkpoint of another outcome where one is named."""
        if name not in self.started:
            self.started[name] = self._start(name, plan, resume, env or {}, limit)
        return self.started[name]

    def _start(
        self,
        name: str,
        plan: Plan,
        resume: tuple[Outcome, int] | None,
        env: Mapping[str, str],
        limit: int | None,
    ) -> Outcome:
        folder = self.folder / name
        folder.mkdir()
        carry, checkpoint = self._carried(plan, resume, folder)
        setting = Setting(
            job=self.job(plan, limit),
            looked=Looked(deepspeed=self.deepspeed),
            job_folder=str(self.folder),
            plan=plan,
            device=self.device,
            attempt=1,
            folder=str(folder),
            checkpoints=str(folder / "checkpoints"),
            control=None,
            resume=checkpoint,
            load_universal=carry.load_universal,
            ds_overrides=carry.ds_overrides,
            trainer=finetune.__file__,
        )
        program = Finetune().program(setting)
        for file, text in program.files.items():
            (folder / file).write_text(text)
        argv = deepspeed.command(
            sys.executable,
            program.argv,
            plan.world_size,
            tuple(range(plan.world_size)) if self.device == "cuda" else (),
            free_port(),
        )
        ours = {**deepspeed.environment(self.device), **env}
        with (folder / "output.log").open("wb") as log:
            done = subprocess.run(
                argv,
                env=child_environment(sys.executable, {}, (), ours),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                timeout=SECONDS,
            )
        said = (folder / "output.log").read_text(errors="replace")
        ranks = [
            [json.loads(line) for line in (folder / "events" / f"rank{r}.jsonl").open()]
            for r in range(plan.world_size)
        ]
        assert done.returncode == 0, f"{name} ended with {done.returncode}:\n{said[-4000:]}"
        assert [event["kind"] for event in ranks[0]].count("finished") == 1, said[-4000:]
        return Outcome(plan, folder, ranks, carry)

    def _carried(
        self, plan: Plan, resume: tuple[Outcome, int] | None, folder: Path
    ) -> tuple[Carry, str | None]:
        """Ask core how the checkpoint becomes the start of the plan, and convert it if told to."""
        outlook = builders.outlook(start=plan)
        if resume is None:
            return carry_to(plan, Story(), outlook), None
        outcome, step = resume
        source = outcome.checkpoint(step)
        first = Attempt(Launch(1, outcome.plan, outcome.began_from, None, 0, None, "before"))
        allowing = builders.job(allow=["change_dtype", "reset_optimizer_state"])
        saved = Saved(str(source), step, 1)
        outlook = builders.outlook(job=allowing, start=outcome.plan, saved=saved)
        carry = carry_to(plan, Story(attempts=(first,)), outlook)
        assert carry.usable, carry
        if not carry.conversions:
            return carry, str(source)
        wanted = WantedShape(
            zero_stage=plan.zero_stage,
            world_size=plan.world_size,
            dtype=plan.dtype,
            optimizer=STEPS_WITH[plan.optimizer],
        )
        request = conversion_request(carry, wanted, str(source), str(folder / source.name))
        done = subprocess.run(
            [sys.executable, convert.__file__, json.dumps(request)],
            env=child_environment(sys.executable, {}, (), deepspeed.environment(self.device)),
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        answer = json.loads(done.stdout.splitlines()[-1])
        assert answer["ok"], answer
        return carry, str(folder / source.name)

    def job(self, plan: Plan, limit: int | None = None) -> Any:
        """Return a job file's content for this subject; what the plan says is told by the plan."""
        devices = {"use": plan.world_size, "memory_limit": limit}
        return builders.job(
            settings={
                "model": "model",
                "method": plan.method,
                "data": {"train": "rows.jsonl", "eval": "rows.jsonl", "sequence": self.sequence},
                "max_steps": self.steps,
                "eval_every": self.steps,
                "learning_rate": 1e-3,
                "scheduler": "constant",
                "weight_decay": 0.1,
                "dtype": plan.dtype,
            },
            batch={"global": plan.global_batch, "micro": plan.micro_batch},
            checkpoints={"every": self.every, "keep": 3},
            devices=devices,
            start="as_given",  # no rehearsal, which takes as long as the steps do
        )

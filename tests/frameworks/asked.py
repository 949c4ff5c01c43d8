"""A tool's framework, asked about one command and the files it names."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ruamel.yaml import YAML

from autotune.core.fault import Fault
from autotune.core.job import Batch, Job
from autotune.core.plan import Plan
from autotune.frameworks.framework import Framework, KnownGood, Looked, Program, Setting

NOW: Mapping[str, str] = {"transformers": "5.23.0", "torch": "2.13.0", "deepspeed": "0.19.8"}
PYTHON = "/venv/bin/python"


@dataclass(frozen=True)
class Asked:
    """One job of a foreign tool; `documents` are the user's own files, by name."""

    framework: Framework
    command: tuple[str, ...]
    documents: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: dict(NOW))
    ranks: int = 1
    model_config: Mapping[str, Any] | None = None

    @property
    def looked(self) -> Looked:
        """What the world read of the files that the framework wants."""
        looked = Looked(versions=self.versions, model_config=self.model_config)
        for _ in range(4):
            names = self.framework.wants(self._job, looked)
            documents = {name: self.documents[name] for name in names}
            texts = {name: json.dumps(held) for name, held in documents.items()}
            looked = replace(looked, documents=documents, texts=texts)
        return looked

    @property
    def _job(self) -> Job:
        return Job.model_validate(
            {
                "name": "t",
                "framework": self.framework.name,
                "settings": {"command": list(self.command)},
            }
        )

    @property
    def job(self) -> Job:
        """The job with its batches filled in, as the wiring does it."""
        batch = self.framework.batch(self._job, self.looked, self.ranks)
        assert isinstance(batch, Batch), batch
        return self._job.model_copy(update={"batch": batch})

    @property
    def start(self) -> Plan:
        """The plan of the user's own configuration."""
        return self.framework.start(self.job, self.looked, self.ranks)

    @property
    def said_ranks(self) -> int | None:
        """How many ranks the command starts."""
        return self.framework.ranks(self._job, self.looked)

    @property
    def lacks(self) -> Mapping[str, str]:
        """What the tool has no knob for."""
        return self.framework.lacks(self._job, self.looked)

    @property
    def faults(self) -> list[Fault]:
        """What is wrong."""
        return self.framework.faults(self._job, self.looked, self.ranks, "job.yaml")

    @property
    def notes(self) -> str:
        """What is said without stopping anything."""
        told = self.framework.notes(self.job, self.looked, self.ranks, "job.yaml")
        return "\n".join(one.what for one in told)

    def setting(self, resume: str | None = None, mode: str = "train", **changes: Any) -> Setting:
        """Return an attempt at the starting plan with some of it changed."""
        return Setting(
            job=self.job,
            looked=self.looked,
            job_folder="/jobs",
            plan=self.start.but(**changes),
            device="cpu",
            attempt=1,
            folder="/run/attempts/001",
            checkpoints="/run/checkpoints",
            control=None,
            resume=resume,
            mode=mode,
            python=PYTHON,
            port=29501,
        )

    def program(self, resume: str | None = None, mode: str = "train", **changes: Any) -> Program:
        """Return what is started for it."""
        return self.framework.program(self.setting(resume, mode, **changes))

    def written(self, resume: str | None = None, mode: str = "train", **changes: Any) -> Any:
        """Return the copy of the tool's configuration, as the tool will read it."""
        return read_yaml(self.program(resume, mode, **changes).files["train.yaml"])

    def known_good(self, **changes: Any) -> KnownGood:
        """Return what is left of a finished run."""
        return self.framework.known_good(self.setting(**changes))


def read_yaml(text: str) -> Any:
    """Return a YAML text as values."""
    return YAML(typ="safe").load(text)

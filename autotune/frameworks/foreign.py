"""The settings of every tool but the built-in trainer: a command as its user types it."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from autotune.core.job import Job
from autotune.core.secret import is_a_secret, names_a_secret

Word = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]


class Foreign(BaseModel):
    """`settings` of a job whose framework is not `finetune`; a text alone stands for `config`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    command: Annotated[list[Word], Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="the tool's command line as you type it, word by word; no shell"
    )
    config: Word | None = Field(
        default=None, description="instead: the tool's own config file, for its usual command"
    )
    folder: str = Field(
        default=".", description="where the tool starts, against the job file's folder"
    )
    model: str | None = Field(
        default=None,
        description="a model folder or its config.json, for prediction, where the tool's config"
        " names none that lies here",
    )
    sequence: int | None = Field(
        default=None, ge=1, description="tokens of the longest row, where the config does not say"
    )

    @field_validator("command")
    @classmethod
    def _command_holds_no_secret(cls, command: list[str] | None) -> list[str] | None:
        for word in command or ():
            name, _, value = word.rpartition("=")
            # In front of a command stand variables; an option such as --pad_token is none.
            variable = name.isupper() and names_a_secret(name) and not name.startswith("-")
            if is_a_secret(value) or (variable and value):
                raise ValueError(
                    f"`{name or value[:3] + '…'}` looks like a secret, and our files hold none; "
                    "put its name under `env_from` and export it"
                )
        return command

    @model_validator(mode="after")
    def _one_of_the_two(self) -> "Foreign":
        if (self.command is None) == (self.config is None):
            raise ValueError("give one of `command` and `config`")
        return self


def foreign_of(job: Job) -> Foreign:
    """Return what every tool's settings have; raises pydantic's ValidationError when it is wrong.

    A tool's own keys beside them are for its `schema` to judge.
    """
    known = Foreign.model_fields.keys()
    return Foreign.model_validate({k: v for k, v in job.settings.items() if k in known})


def command_of(job: Job) -> list[str]:
    """Return the command; by now one given as `config` has been written out."""
    return list(foreign_of(job).command or ())


def settings_with(job: Job, **changes: Any) -> dict[str, Any]:
    """Return the job's settings with some changed and none that only repeat a default."""
    own = {k: v for k, v in job.settings.items() if k not in Foreign.model_fields}
    merged = {**foreign_of(job).model_dump(exclude_defaults=True), **own, **changes}
    return {key: value for key, value in merged.items() if value is not None}

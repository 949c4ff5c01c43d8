"""What can be named is documented where people look for it, and what is written there exists."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import autotune
import autotune.cli.app as command_line
from autotune.cli.wiring import CONSENTS, all_rungs
from autotune.core.facts import FACTS
from autotune.core.failure import Failure, Role
from autotune.core.fault import AlreadyRunning, CannotLaunch, CannotRecord, InputError
from autotune.core.job import Job
from autotune.core.policy import Derived, Policy, Rule, Thresholds
from autotune.core.rung import Result
from autotune.core.signature import Signature
from autotune.frameworks.finetune_parts import FinetuneSettings
from autotune.frameworks.foreign import Foreign
from autotune.supervisor import FINISHED, GAVE_UP, STOPPED
from autotune.world.policy_folder import policy_folder
from autotune.world.yaml_files import read_document, validate

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORDS = (ROOT / "policies" / "README.md").read_text(encoding="utf-8")
MAP = (ROOT / "autotune" / "ARCHITECTURE.md").read_text(encoding="utf-8")
CHANGES = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not {".venv", "runs", "build", "node_modules"} & set(page.relative_to(ROOT).parts)
    and not any(part.startswith(".") for part in page.relative_to(ROOT).parts)
)
VERBS = sorted(
    [
        *(
            command.name or command.callback.__name__
            for command in command_line.app.registered_commands
            if command.callback
        ),
        *(f"service {command.name}" for command in command_line.service.registered_commands),
    ]
)
RUNGS = all_rungs()
RESULTS = {result.value for result in Result}


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a settings file, dotted, without those that only hold others."""
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        inner: Any = field.annotation
        if type(None) in get_args(inner):  # a part that may be left out
            inner = next(part for part in get_args(inner) if part is not type(None))
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from keys_of(inner, f"{key}.")
        else:
            yield key


def rows(page: str) -> list[list[str]]:
    """The cells of every table row on a page."""
    lines = [line for line in page.splitlines() if line.startswith("|") and "---" not in line]
    # A bar inside a code word is written \| in a table.
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def first_cells(page: str) -> set[str]:
    """What stands in code style in the first column of a page's tables."""
    return {word for row in rows(page) for word in re.findall(r"`([^`]+)`", row[0])}


def results_in(page: str) -> dict[str, str]:
    """The rungs of a page's tables, in their order, with the result each names."""
    return {row[0].strip("`"): row[2] for row in rows(page) if len(row) > 2 and row[2] in RESULTS}


def row_of(page: str, name: str) -> list[str]:
    return next(row for row in rows(page) if row[0] == f"`{name}`")


@pytest.mark.parametrize("key", [*keys_of(Job)])
def test_every_key_of_a_job_is_in_the_readme(key: str) -> None:
    assert key in first_cells(README)


@pytest.mark.parametrize("key", [*keys_of(FinetuneSettings)])
def test_every_setting_of_the_built_in_trainer_is_in_the_readme(key: str) -> None:
    assert key in first_cells(README)


@pytest.mark.parametrize("key", [*keys_of(Foreign)])
def test_every_setting_of_a_foreign_tool_is_in_the_readme(key: str) -> None:
    assert key in first_cells(README)


def default_cells() -> list[tuple[str, Any]]:
    found = []
    for model in (Job, FinetuneSettings, Foreign):
        for name, field in model.model_fields.items():
            inner = field.default
            if isinstance(inner, BaseModel):
                for part, below in type(inner).model_fields.items():
                    found.append((f"{field.alias or name}.{part}", below.default))
            elif not field.is_required():
                found.append((field.alias or name, inner))
    return found


PLAIN_DEFAULTS = [
    (key, value)
    for key, value in default_cells()
    if isinstance(value, (bool, str)) or (isinstance(value, int) and not key.endswith("_bytes"))
]


@pytest.mark.parametrize(("key", "value"), PLAIN_DEFAULTS)
def test_a_default_in_the_readme_is_the_one_in_force(key: str, value: Any) -> None:
    written = str(value).lower() if isinstance(value, bool) else str(value)
    assert row_of(README, key)[1] == f"`{written}`"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_in_the_readme(verb: str) -> None:
    assert re.search(rf"^\| `autotune {verb}[ `]", README, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(RUNGS))
def test_every_rung_is_in_both_lists_with_its_result(name: str) -> None:
    for page in (README, WORDS):
        assert results_in(page)[name] == RUNGS[name].result.value


def test_no_rung_is_documented_that_does_not_exist() -> None:
    assert set(results_in(README)) == set(results_in(WORDS)) == set(RUNGS)


def test_the_ladder_of_the_readme_has_the_order_of_the_default_policy() -> None:
    policy = validate(Policy, read_document(policy_folder() / "default.yaml"))
    ladder = next(rule.try_ for rule in policy.rules if rule.when == "device_oom" and not rule.and_)
    assert list(results_in(README))[: len(ladder)] == ladder


@pytest.mark.parametrize("consent", CONSENTS)
def test_every_consent_is_in_the_readme(consent: str) -> None:
    assert f"`{consent}`" in row_of(README, "allow")[2]


@pytest.mark.parametrize("path", sorted(policy_folder().glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_of_policies_is_explained(path: Path) -> None:
    assert f"`{path.name}`" in WORDS
    if path.stem != "signatures":
        assert f"`{path.stem}`" in README


@pytest.mark.parametrize("failure", [failure.value for failure in Failure])
def test_every_failure_is_explained(failure: str) -> None:
    listed = WORDS.partition("### Failures")[2].partition("###")[0]
    assert f"`{failure}`" in listed


@pytest.mark.parametrize("fact", sorted(FACTS))
def test_every_fact_is_explained(fact: str) -> None:
    assert fact in first_cells(WORDS)


def test_no_fact_is_explained_that_does_not_exist() -> None:
    section = WORDS.partition("### Facts")[2].partition("###")[0]
    assert first_cells(section) == set(FACTS)


@pytest.mark.parametrize("role", [role.value for role in Role])
def test_every_role_of_a_signature_is_explained(role: str) -> None:
    assert f"`{role}`" in WORDS.partition("## Signatures")[2]


@pytest.mark.parametrize(
    "key",
    [*keys_of(Policy), *keys_of(Thresholds), *keys_of(Rule), *Signature.__dataclass_fields__],
)
def test_every_key_of_a_policy_and_a_signature_is_explained(key: str) -> None:
    assert key.removeprefix("limits.") in first_cells(WORDS)


@pytest.mark.parametrize("key", [*keys_of(Derived)])
def test_every_key_of_a_derived_policy_is_shown(key: str) -> None:
    assert re.search(rf"^{key}: ", WORDS, re.MULTILINE)


def test_exit_codes_are_those_of_the_code_everywhere() -> None:
    errors = (InputError, CannotLaunch, CannotRecord, AlreadyRunning)
    ends = {FINISHED, GAVE_UP, STOPPED, command_line.BUG, *(error.exit_code for error in errors)}
    table = README.partition("Exit codes of `run`:")[2].partition("\n\n##")[0]
    documented = {int(row[0]) for row in rows(table) if row[0].isdigit()}
    assert documented == ends
    told = {int(number) for number in re.findall(r"\b(\d+) [a-z]", command_line.__doc__ or "")}
    assert told == ends


def test_the_readme_names_commands_that_the_makefile_has() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    assert {"demo", "test", "check", "clean"} <= named <= targets


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^make test\b", script, re.MULTILINE)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_example_job_of_the_readme_has_only_known_keys() -> None:
    from ruamel.yaml import YAML

    text = README.partition("## The job file")[2].partition("```yaml")[2].partition("```")[0]
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 2)
    held = yaml.load(text)
    assert Job.model_validate(held).name == "pydoc-lora"
    assert FinetuneSettings.model_validate(held["settings"]).method == "lora"


def test_the_changelog_names_the_version() -> None:
    assert re.search(rf"^## \[{re.escape(autotune.__version__)}\]", CHANGES, re.MULTILINE)


def test_every_room_and_file_at_the_top_is_on_the_map() -> None:
    package = ROOT / "autotune"
    rooms = [f"{path.parent.name}/" for path in package.glob("*/__init__.py")]
    files = [path.name for path in package.glob("*.py") if path.name != "__init__.py"]
    assert [name for name in rooms + files if f"`{name}`" not in MAP] == []


@pytest.mark.parametrize("page", [MAP, WORDS], ids=["map", "words"])
def test_files_named_on_the_map_exist(page: str) -> None:
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|yaml))`", page)
    places = (ROOT, ROOT / "autotune", ROOT / "policies")
    missing = [name for name in named if not any((place / name).exists() for place in places)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, _ = target.partition("#")
        assert (page.parent / path).exists(), target


def test_every_decision_says_when_to_look_again() -> None:
    parts = ("Context", "Decision", "Rejected", "Consequence", "Revisit when")
    for entry in MAP.partition("# Decisions")[2].split("\n## ")[1:]:
        assert [part for part in parts if f"*{part}" not in entry] == [], entry.splitlines()[0]

"""A unit says what was meant, whatever stands in the names and paths of a job."""

import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.service_unit import (
    ServiceJob,
    drop_in,
    faults_of,
    instance_of,
    quoted,
    read_drop_in,
    unit_of,
)

JOB = ServiceJob("a", "/jobs/a.yaml", "/jobs/runs/a", ("/opt/bin/autotune",), "/usr/bin", "alice")
WORDS = st.text(st.characters(categories=("L", "N", "P", "S"), include_characters=" "), min_size=1)


def read_back(line: str, command: bool = False) -> list[str]:
    """Read quoted words as systemd.syntax(7) and systemd.service(5) say."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    found = [re.sub(r"\\(.)", r"\1", word).replace("%%", "%") for word in words]
    return [word.replace("$$", "$") for word in found] if command else found


@given(WORDS)
def test_a_quoted_word_is_read_back_as_it_was(word: str) -> None:
    assert read_back(quoted(word)) == [word]
    assert read_back(quoted(word, command=True), command=True) == [word]


@given(WORDS)
def test_no_sign_of_systemds_is_left_single_in_a_command(word: str) -> None:
    bare = quoted(word, command=True).replace("%%", "").replace("$$", "")
    assert "%" not in bare
    assert "$" not in bare


@given(WORDS, WORDS)
def test_names_that_differ_have_units_that_differ(one: str, other: str) -> None:
    assert (one == other) == (instance_of(one) == instance_of(other))
    assert re.fullmatch(r"[A-Za-z0-9:_.\\-]+", instance_of(one))
    assert not instance_of(one).startswith(".")


@pytest.mark.parametrize("name", ["a", "a.b_c:d", ".hidden", "a b", "ä", "a/b", "a\\b", "x@y"])
def test_a_name_is_escaped_as_systemd_escape_does(name: str) -> None:
    tool = shutil.which("systemd-escape")
    if tool is None:
        pytest.skip("systemd-escape is not installed")
    said = subprocess.run([tool, "--", name], capture_output=True, text=True, check=True)
    theirs = said.stdout.strip()
    assert instance_of(name).replace("\\x2f", "-") == theirs


def test_a_dash_stays_since_no_name_of_a_job_holds_a_slash() -> None:
    assert unit_of("night-run") == "autotune@night-run.service"


def test_a_drop_in_replaces_the_command_and_is_read_back() -> None:
    text = drop_in(JOB)
    lines = text.splitlines()
    assert lines[lines.index("ExecStart=") + 1] == (
        'ExecStart="/opt/bin/autotune" "run" "/jobs/a.yaml" "--run-dir" "/jobs/runs/a"'
    )
    assert "User=alice" in lines
    assert read_drop_in(text) == ("/jobs/a.yaml", "/jobs/runs/a")
    assert read_drop_in("[Service]\nUser=x\n") is None


NASTY = ["/a\nExecStartPre=/bin/evil", "/a\rb", "/a\0b", "/a\x85b", "/a\u2028b", "/a\udc80b"]


@pytest.mark.parametrize("path", NASTY)
@pytest.mark.parametrize("place", ["job", "run", "path", "program"])
def test_what_would_begin_a_line_of_its_own_is_refused(path: str, place: str) -> None:
    held: dict[str, object] = {**vars(JOB), place: (path,) if place == "program" else path}
    service = ServiceJob(**held)  # type: ignore[arg-type]
    assert faults_of(service)
    with pytest.raises(ValueError, match="cannot be said"):
        drop_in(service)


@pytest.mark.parametrize("user", ["alice\nExecStart=/x", "a b", "%u", "", "-x", "Ä"])
def test_what_is_no_users_name_is_refused(user: str) -> None:
    assert faults_of(ServiceJob(**{**vars(JOB), "user": user}))


def test_a_program_whose_name_systemd_would_change_is_refused() -> None:
    assert faults_of(ServiceJob(**{**vars(JOB), "program": ("/opt/$x/autotune",)}))


@given(WORDS, WORDS)
def test_a_drop_in_has_as_many_directives_whatever_it_holds(job: str, run: str) -> None:
    service = ServiceJob(**{**vars(JOB), "job": f"/{job}", "run": f"/{run}"})
    assert not faults_of(service)
    assert len(drop_in(service).splitlines()) == len(drop_in(JOB).splitlines())

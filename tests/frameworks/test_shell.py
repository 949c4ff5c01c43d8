"""Shell scripts that start trainings: what is understood, what is refused, and nothing is run."""

import shlex
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.core.fault import Fault
from autotune.frameworks.shell import Script, read_script

SCRIPT = """#!/bin/bash
#SBATCH --gres=gpu:2
set -euo pipefail
export CUDA_VISIBLE_DEVICES=0,1   # two of them
MODEL="models/llama 7b"
output=out/${run:-first}
ARGS="--bf16 true --tf32 false"
cd /data/project && \\
nohup torchrun --nproc_per_node=2 train.py \\
    --model_name_or_path "$MODEL" \\
    --output_dir ${output} \\
    --note 'costs $5' $ARGS \\
    > train.log 2>&1 &
"""


def read(text: str) -> Script:
    script = read_script(text, "run.sh", {"HOME": "/home/ann"})
    assert isinstance(script, Script), script
    return script


def test_a_training_script_is_understood() -> None:
    script = read(SCRIPT)
    assert script.command == (
        "torchrun", "--nproc_per_node=2", "train.py", "--model_name_or_path", "models/llama 7b",
        "--output_dir", "out/first", "--note", "costs $5", "--bf16", "true", "--tf32", "false",
    )  # fmt: skip
    assert script.env == {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert script.folder == "/data/project"
    assert [note.where for note in script.notes] == ["run.sh:13"]


def test_assignments_in_front_of_the_command_are_its_environment() -> None:
    script = read("A=1\nB=2 FORCE_TORCHRUN=1 llamafactory-cli train $A.yaml | tee -a log\n")
    assert script.env == {"B": "2", "FORCE_TORCHRUN": "1"}
    assert script.command == ("llamafactory-cli", "train", "1.yaml")


def test_an_exported_variable_has_its_last_value() -> None:
    script = read("N=1\nexport N\nN=2\npython ~/t.py --x=$N ''\n")
    assert script.env == {"N": "2"}
    assert script.command == ("python", "/home/ann/t.py", "--x=2", "")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("python a.py\npython b.py", 2, "second command"),
        ("cat x | python a.py", 1, "a pipe"),
        ("python a.py $(cat args)", 1, "inside the command"),
        ("python a.py `cat args`", 1, "inside the command"),
        ("\nfor i in 1 2; do\n python a.py\ndone", 2, "`for`"),
        ("if [ -f x ]; then\npython a.py; fi", 1, "`if`"),
        ("make && python a.py", 1, "a condition"),
        ("python a.py < in", 1, "shell grammar"),
        ("python <<EOF\nprint()\nEOF", 1, "shell grammar"),
        ("python a.py $1", 1, "only a shell"),
        ("python a.py $MISSING", 1, "has no value"),
        ("python a.py *.json", 1, "pattern"),
        ("python a.py {a,b}", 1, "braces"),
        ("source venv/bin/activate\npython a.py", 1, "another script"),
        ("A=(1 2)\npython a.py", 1, "shell grammar"),
        ("python 'a.py", 1, "never closed"),
        ('python "a.py', 1, "never closed"),
        ("python a.py & python b.py", 1, "a job"),
        ("python ${A/b/c}", 1, "only a shell"),
        ("eval python a.py", 1, "runs text"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(text: str, line: int, words: str) -> None:
    fault = read_script(text, "run.sh")
    assert isinstance(fault, Fault)
    assert words in fault.what
    assert fault.where == f"run.sh:{line}"
    assert fault.hint


def test_a_script_that_starts_nothing_says_so() -> None:
    fault = read_script("export A=1\n# python train.py\n", "run.sh")
    assert isinstance(fault, Fault)
    assert "starts no program" in fault.what


def test_variables_that_double_for_ever_are_refused_in_no_time() -> None:
    lines = "A=xxxxxxxxxxxxxxxx\n" + "A=$A$A\n" * 60 + "python a.py $A\n"
    fault = read_script(lines, "run.sh")
    assert isinstance(fault, Fault)
    assert "grows" in fault.what


@given(st.text(alphabet="ab=$\"'\\ \n{}();&|<>`#*~:-12", max_size=40))
def test_no_text_makes_the_reader_raise(text: str) -> None:
    assert isinstance(read_script(text, "run.sh"), (Script, Fault))


@given(st.lists(st.text(alphabet="ab =$\"'\\\n{};&|*~#é", max_size=6), min_size=1, max_size=5))
def test_quoted_words_come_back_as_they_are(words: list[str]) -> None:
    assert read("python " + shlex.join(words)).command == ("python", *words)


def test_a_shell_reads_the_words_alike() -> None:
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("no bash on this machine")
    text = SCRIPT.replace("cd /data/project && \\\n", "").replace(
        "nohup torchrun", "printf '%s\\n'"
    )
    text = text.replace("    > train.log 2>&1 &\n", "\n")
    said = subprocess.run([shell, "-c", text], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [*read(SCRIPT).command[1:]]

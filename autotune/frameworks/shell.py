"""Reads the shell scripts people start trainings with: variables and one command, nothing run.

What is understood is a small part of the shell: comments, line continuations, quotes, `export`,
plain assignments and their `$NAME` or `${NAME}`, `cd`, and one command. All else is refused, with
its line.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from autotune.core.fault import Fault
from autotune.frameworks.shell_words import Refused, Token, Word, tokens

LARGEST_TEXT = 64 * 1024  # characters, of a script and of anything its variables expand to
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=", re.ASCII)
_KEYWORDS = {
    "if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac",
    "function", "select", "[", "[[", "{", "}", "!", "test",
}  # fmt: skip
_CHANGES_THE_SHELL = {
    "source": "reads another script", ".": "reads another script",
    "conda": "may choose another Python", "module": "may choose another Python",
    "eval": "runs text as a command", "alias": "renames commands", "unset": "removes a variable",
    "declare": "is a special assignment", "local": "is a special assignment",
    "readonly": "is a special assignment", "typeset": "is a special assignment",
    "read": "asks for input", "trap": "sets a handler", "shift": "uses the script's arguments",
}  # fmt: skip
_WRAPPERS = ("nohup", "exec", "time")  # they change nothing of what is trained
_SKIPPED = ("set", "echo", "mkdir", "wait")


@dataclass(frozen=True)
class Script:
    """What a script starts: the command's words, its exported variables, its folder."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    folder: str = "."  # against the folder the script is started in
    notes: tuple[Fault, ...] = ()  # what was left out, harmlessly


@dataclass
class _State:
    """What was read so far."""

    path: str
    variables: dict[str, str]
    exported: set[str] = field(default_factory=set)
    command: tuple[str, ...] = ()
    in_front: dict[str, str] = field(default_factory=dict)
    folder: str = "."
    notes: list[Fault] = field(default_factory=list)


def read_script(text: str, path: str, given: Mapping[str, str] | None = None) -> Script | Fault:
    """Return what the script starts, or the first thing in it that is not understood.

    `given` holds variables that are known beforehand, such as HOME.
    """
    if len(text) > LARGEST_TEXT:
        return Fault("the script is far too long to be a training's start", path)
    state = _State(path, dict(given or {}))
    try:
        for statement in _statements(tokens(text)):
            _take(statement, state)
    except Refused as error:
        hint = error.hint or "put the training's own command line into `command` of a job file"
        return Fault(error.what, f"{path}:{error.line}", hint)
    if not state.command:
        return Fault("the script starts no program", path)
    exported = {name: state.variables[name] for name in sorted(state.exported)}
    env = {**exported, **state.in_front}
    return Script(state.command, env, state.folder, tuple(state.notes))


def _statements(stream: list[Token]) -> list[list[Token]]:
    """Return the commands of the script, each with the operators that stand in it."""
    statements: list[list[Token]] = [[]]
    for token in stream:
        after_cd = token.operator == "&&" and _is_cd(statements[-1])
        if token.operator in ("\n", ";") or after_cd:
            statements.append([])
        else:
            statements[-1].append(token)
    return [statement for statement in statements if statement]


def _is_cd(statement: list[Token]) -> bool:
    return bool(statement) and statement[0].word is not None and statement[0].word.plain() == "cd"


def _take(statement: list[Token], state: _State) -> None:
    line = statement[0].line
    words = _without_output(statement, state)
    front: dict[str, str] = {}
    while words and (name := _assigned(words[0])):
        front[name] = words.pop(0).after_equals(state.variables, line)
    if not words:
        state.variables.update(front)
        return
    first = words[0].plain()
    while first in _WRAPPERS:
        words = words[1:]
        first = words[0].plain() if words else ""
    if first == "export" and not front:
        _export(words[1:], state, line)
    elif first in _KEYWORDS:
        raise Refused(f"`{first}` makes what is run depend on something", line)
    elif first in _CHANGES_THE_SHELL:
        hint = "name the training's Python under `python` in the job file, and take the line out"
        raise Refused(f"`{first}` {_CHANGES_THE_SHELL[first]}, and nothing is run here", line, hint)
    elif first == "cd" and not front:
        _change_folder(words[1:], state, line)
    elif first in _SKIPPED and not front:
        if first == "mkdir":
            _note(state, "`mkdir` is left out; make the folder yourself", line)
    else:
        _command(words, front, state, line)


def _command(words: list[Word], front: dict[str, str], state: _State, line: int) -> None:
    expanded = [part for word in words for part in word.expanded(state.variables, line)]
    if not expanded or not expanded[0]:
        raise Refused("the command is empty once its variables are filled in", line)
    if state.command:
        text = f"`{expanded[0]}` is a second command after `{state.command[0]}`"
        raise Refused(text, line, "keep the one command that trains")
    if sum(map(len, expanded)) > LARGEST_TEXT:
        raise Refused("the command is far too long once its variables are filled in", line)
    state.command, state.in_front = tuple(expanded), front


def _export(words: list[Word], state: _State, line: int) -> None:
    for word in words:
        name = _assigned(word)
        if name:
            state.variables[name] = word.after_equals(state.variables, line)
        else:
            name = word.plain()
            if name not in state.variables:
                raise Refused(f"`{name}` is exported and has no value in the script", line)
        state.exported.add(name)


def _change_folder(words: list[Word], state: _State, line: int) -> None:
    target = [part for word in words for part in word.expanded(state.variables, line)]
    if len(target) != 1 or not target[0] or target[0].startswith("-"):
        raise Refused("`cd` must name one folder", line)
    if state.command:
        raise Refused("`cd` stands after the training's command", line)
    joined = target[0] if target[0].startswith("/") else f"{state.folder}/{target[0]}"
    state.folder = joined.removeprefix("./")


def _without_output(statement: list[Token], state: _State) -> list[Word]:
    """Return the words of a command without where its output goes, which autotune keeps."""
    words: list[Word] = []
    at = 0
    while at < len(statement):
        token = statement[at]
        follows = statement[at + 1].word if at + 1 < len(statement) else None
        if token.word is not None:
            words.append(token.word)
        elif token.operator == ">" and follows is not None:
            _note(state, "where the output goes is left out; the run folder holds it", token.line)
            at += 1
        elif token.operator == "2>&1":
            pass
        elif token.operator == "&" and at == len(statement) - 1:
            pass  # in the background or not: autotune waits for it
        elif token.operator == "|" and follows is not None and follows.plain() == "tee":
            _note(state, "`tee` is left out; the run folder holds the output", token.line)
            if any(rest.operator not in ("", "&", "2>&1") for rest in statement[at + 1 :]):
                raise Refused("more stands behind `tee` than files", token.line)
            break
        else:
            what = {"|": "a pipe", "&&": "a condition", "||": "a condition", "&": "a job"}
            named = what.get(token.operator, "shell grammar")
            raise Refused(f"`{token.operator}` is {named} that is not understood", token.line)
        at += 1
    return words


def _assigned(word: Word) -> str:
    match = _ASSIGNMENT.match(word.head())
    return match.group(1) if match else ""


def _note(state: _State, text: str, line: int) -> None:
    state.notes.append(Fault(text, f"{state.path}:{line}"))

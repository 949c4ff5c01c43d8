"""The rules of the house, held by reading the syntax trees: who imports whom, and how long."""

import ast
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "autotune"
PROBE = PACKAGE / "child" / "probe"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# What the files of a room may import of ours. The files at the top are rooms of their own.
MAY_IMPORT = {
    "core": ("autotune.core",),
    "rungs": ("autotune.core",),
    "frameworks": ("autotune.core", "autotune.frameworks"),
    "launchers": ("autotune.core", "autotune.launchers"),
    "world": ("autotune", "autotune.core", "autotune.edges", "autotune.world"),
    "child": (),
    "edges.py": ("autotune.core",),
    "watch.py": ("autotune.core", "autotune.edges"),
    "supervisor.py": ("autotune.core", "autotune.edges", "autotune.watch"),
}
# `autotune` itself holds a version and no code; world finds the policies and units beside it, and
# sees when it is replaced.
THE_PACKAGE_ITSELF = {"world/policy_folder.py", "world/systemd_units.py", "world/upgrade.py"}

# The standard library without clocks, files, processes and chance, and what checks plain values.
PURE = {
    "__future__", "bisect", "collections", "copy", "dataclasses", "difflib", "enum", "functools",
    "hashlib", "itertools", "json", "math", "operator", "pathlib", "pydantic", "re", "shlex",
    "sre_constants", "sre_parse", "statistics", "string", "textwrap", "types", "typing",
}  # fmt: skip
# Computes and touches nothing: from bytes to numbers, in Rust.
PURE |= {"ahocorasick_rs"}
PURE_ROOMS = ("core", "rungs", "frameworks", "launchers")

TRAINING_STACK = {
    "accelerate", "bitsandbytes", "datasets", "deepspeed", "peft", "safetensors", "tokenizers",
    "torch", "transformers",
}  # fmt: skip
RUNS_WHAT_IT_READS = {"dill", "marshal", "pickle", "shelve", "yaml"}
SUPERVISOR_ONLY = {"autotune", "pydantic", "ruamel"}

LONGEST_FILE, LONGEST_FUNCTION = 300, 60
LONG_FILES = {
    "child/finetune.py": "one self-contained file, copied beside a known-good",
    "child/convert.py": "one self-contained file, started by path in the training's Python",
    "child/trace.py": "one self-contained file, started by path in the training's Python",
    "core/carry.py": "every pair of plans is answered here, and is read in one place",
}
LONG_FUNCTIONS = {
    "frameworks/finetune_file.py:train_file": "one table, the whole file that the child reads",
}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


@cache
def nodes_of(path: Path, *kinds: type[ast.AST]) -> tuple[Any, ...]:
    """Every node of these kinds in a file; to walk a tree takes as long as to parse it."""
    if kinds:
        return tuple(node for node in nodes_of(path) if isinstance(node, kinds))
    return tuple(ast.walk(tree_of(path)))


@cache
def imports_of(path: Path) -> tuple[str, ...]:
    """Every module a file imports, wherever in it; `from a import b` counts as a."""
    found: list[str] = []
    for node in nodes_of(path, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        else:
            # The probe has another name in the training, where it finds its parts beside itself.
            beside = path.is_relative_to(PROBE) and node.level == 1
            assert node.level == 0 or beside, f"{path}: imports are absolute"
            found.append("" if beside else node.module or "")
    return tuple(found)


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` for a plain chain of names, else nothing."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def calls_in(path: Path) -> Iterator[tuple[int, str, ast.Call]]:
    for node in nodes_of(path, ast.Call):
        yield node.lineno, dotted(node.func), node


def each_of(paths: Iterable[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Make one test of a rule for files: two thousand tests take longer than what they read."""

    def over(rule: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            broken = []
            for path in paths:
                try:
                    rule(path)
                except AssertionError as error:
                    broken.append(f"{path.relative_to(ROOT)}: {error}")
            assert not broken, "\n".join(broken)

        test.__name__ = rule.__name__
        return test

    return over


def below(module: str, allowed: tuple[str, ...]) -> bool:
    return any(
        module == one or (one != "autotune" and module.startswith(one + ".")) for one in allowed
    )


@each_of(SOURCES)
def test_each_room_imports_only_the_rooms_it_may(path: Path) -> None:
    ours = [name for name in imports_of(path) if name.split(".")[0] == "autotune"]
    allowed = MAY_IMPORT.get(room_of(path))
    if allowed is not None:
        if name_of(path) not in THE_PACKAGE_ITSELF:
            allowed = tuple(name for name in allowed if name != "autotune")
        assert [name for name in ours if not below(name, allowed)] == []
    if room_of(path) != "cli":
        assert [name for name in ours if below(name, ("autotune.cli",))] == []


@each_of([path for path in SOURCES if room_of(path) in PURE_ROOMS])
def test_what_decides_touches_neither_files_nor_clocks_nor_processes(path: Path) -> None:
    foreign = {name.split(".")[0] for name in imports_of(path)} - PURE - {"autotune"}
    assert foreign == set()
    for node in nodes_of(path, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.ImportFrom) and node.module == "pathlib":
            # A pure path has no file behind it.
            assert {alias.name for alias in node.names} <= {"PurePath", "PurePosixPath"}
        assert not (isinstance(node, ast.Import) and node.names[0].name == "pathlib")
    assert [line for line, name, _ in calls_in(path) if name in ("open", "print", "input")] == []


@each_of([path for path in SOURCES if room_of(path) == "child"])
def test_what_runs_in_the_training_knows_nothing_of_the_supervisor(path: Path) -> None:
    assert {name.split(".")[0] for name in imports_of(path)} & SUPERVISOR_ONLY == set()


@each_of([path for path in SOURCES if room_of(path) != "child"])
def test_the_supervisor_never_imports_the_training_stack(path: Path) -> None:
    assert {name.split(".")[0] for name in imports_of(path)} & TRAINING_STACK == set()


@each_of([path for path in SOURCES if room_of(path) != "child"])
def test_the_supervisor_starts_no_shell_and_runs_no_data_as_code(path: Path) -> None:
    for line, name, call in calls_in(path):
        at = f"line {line}: {name}"
        assert name not in ("eval", "exec", "compile", "os.system", "os.popen"), at
        assert "shell" not in [keyword.arg for keyword in call.keywords], at
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        words = [one.value for one in given if isinstance(one, ast.Constant)]
        assert not (name.endswith("YAML") and "unsafe" in words), at
    assert {name.split(".")[0] for name in imports_of(path)} & RUNS_WHAT_IT_READS == set()


@each_of(SOURCES + TESTS)
def test_every_module_opens_with_a_sentence(path: Path) -> None:
    words = ast.get_docstring(tree_of(path))
    assert words is not None, "no docstring"
    first = words.split("\n\n")[0].strip()
    assert first.endswith((".", ":")), first
    assert first[0].isupper() or first[0] == "`" or first.startswith("autotune"), first


def test_files_are_short_and_the_exceptions_are_named() -> None:
    long = {
        name_of(path)
        for path in SOURCES
        if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_FILE
    }
    assert long == set(LONG_FILES)


def test_functions_are_short_and_the_exceptions_are_named() -> None:
    long = set()
    for path in SOURCES:
        for node in nodes_of(path, ast.FunctionDef, ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                long.add(f"{name_of(path)}:{node.name}")
    assert long == set(LONG_FUNCTIONS)


@each_of(TESTS)
def test_test_names_are_sentences(path: Path) -> None:
    for node in nodes_of(path, ast.FunctionDef):
        if node.name.startswith("test_"):
            assert len(node.name.split("_")) >= 4, node.name


def test_every_room_of_the_design_is_a_package() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == {"child", "cli", "core", "frameworks", "launchers", "rungs", "world"}

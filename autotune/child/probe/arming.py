"""Decides whether this process is a rank, and when the parts of the probe begin to listen.

A rank is the first process of its tree that has RANK in its environment; without RANK a process
only lurks, and is taken for rank 0 at the first sign of training. Launchers, compile
workers and loaders are left alone.
"""

import os
import sys

from . import faults, hook, moments, state

MARK = "AUTOTUNE_PROBE"  # names the rank's own process to everything it starts

# Modules of this package that listen to the training, in the order in which they begin; each has
# `listen()`, called once torch is imported.
PARTS = (
    "events", "room", "stacks", "limits", "reports", "snapshot", "marks", "stopping", "terminating",
    "rescue", "trainer_hooks", "engine_hooks", "loop_hooks",
)  # fmt: skip

# What only starts or serves ranks: modules run with -m, and the names of their scripts.
LAUNCHERS = (
    "accelerate", "deepspeed", "torchrun", "accelerate.commands", "deepspeed.launcher",
    "torch.distributed.launch", "torch.distributed.run", "torch.distributed.elastic",
    "torch._inductor.compile_worker", "pip",
)  # fmt: skip
HELPERS = ("multiprocessing.", "--multiprocessing-fork", "joblib.externals", "compile_worker")


def begin(folder: str) -> None:
    """Arm or lurk; `folder` is the attempt's, where probe.json lies."""
    state.folder = folder
    if serves(sys.orig_argv) or belongs_to_a_rank(folder):
        return
    if "RANK" in os.environ:
        claim(folder)
        faults.guarded(watch_the_end)()
    hook.when_imported("torch", lambda _: listen())
    hook.install()


def serves(argv: "list[str]") -> bool:
    """Whether this command line is a launcher's or a helper's, and no rank's."""
    words = argv[1:]
    while words and words[0].startswith("-") and words[0] not in ("-m", "-c"):
        words = words[2 if words[0] in ("-W", "-X") else 1 :]
    if len(words) < 2 or words[0] not in ("-m", "-c"):
        name = words[0].rpartition("/")[2] if words else ""
        return name in LAUNCHERS or any(helper in " ".join(words[:2]) for helper in HELPERS)
    if words[0] == "-c":
        return any(helper in part for helper in HELPERS for part in words[1:])
    return any(words[1] == one or words[1].startswith(one + ".") for one in LAUNCHERS)


def belongs_to_a_rank(folder: str) -> bool:
    """Whether a rank of this attempt started this process; a program that execs stays the rank."""
    owner, _, where = os.environ.get(MARK, "").partition(":")
    return where == folder and owner != str(os.getpid())


def claim(folder: str) -> None:
    """Make this process the rank, and everything it starts a part of it."""
    os.environ[MARK] = f"{os.getpid()}:{folder}"
    state.claim()


def watch_the_end() -> None:
    from . import last_words

    last_words.install()


def listen() -> None:
    """Let each part begin, torch being imported; one that fails costs the others nothing."""
    for name in PARTS:
        faults.guarded(begin_part)(name)
    moments.tell("armed")


def begin_part(name: str) -> None:
    __import__(f"{__package__}.{name}", fromlist=["listen"]).listen()


def sign_of_training() -> None:
    """Become the rank, if this process only lurked so far; called by whatever saw it train."""
    if not state.armed() and state.folder is not None and not belongs_to_a_rank(state.folder):
        claim(state.folder)
        watch_the_end()
        moments.tell("armed")

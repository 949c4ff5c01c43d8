"""Stands in for a training's Python that attacks whoever supervises it, and then trains.

`malicious.py ATTACK…` does what tests/zoo/fast_python.py does; as the launcher of an attempt it
first attacks, in the attempt's folder, which is where it is started. PRECIOUS names a folder of the
owner's that nothing may touch, VICTIM a process that nothing may signal.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.zoo import fast_python

ESCAPES = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202e\r\nforged line"
DEEP = "[" * 50_000


def replace_by_link(path: Path, target: Path) -> None:
    """Put a link where something of the run's lies."""
    if path.is_symlink() or not path.exists():
        path.unlink(missing_ok=True)
    else:
        path.rename(path.with_name(path.name + ".was"))
    path.symlink_to(target)


def words(here: Path) -> None:
    """Say what a terminal would obey, and a secret that was given, as the cause of death."""
    event = {"kind": "exception", "type": ESCAPES, "phase": "forward", "traceback": ESCAPES}
    event["message"] = f"{ESCAPES} the token {os.environ.get('GIVEN_TOKEN')} was refused"
    (here / "events" / "rank0.jsonl").write_text(json.dumps(event) + "\n")
    print(f"RuntimeError: {ESCAPES} {os.environ.get('GIVEN_TOKEN')} CUDA error", flush=True)
    sys.exit(1)


def events(here: Path) -> None:
    """Put everything but events where events are read, and name a stranger's process as a rank."""
    folder = here / "events"
    os.mkfifo(folder / "rank7.jsonl")
    (folder / "rank2.jsonl").symlink_to("/dev/zero")
    (folder / "rank3.jsonl").mkdir()
    with (folder / "rank4.jsonl").open("wb") as file:
        file.truncate(2**40)  # a hole as large as a disk
    (folder / "rank5.jsonl").write_text('{"kind": "settings", "x": ' + DEEP + "\n")
    (folder / "rank6.jsonl").write_text('{"kind": "step", "step": ' + "9" * 100_000 + "}\n")
    for rank, pid in enumerate((int(os.environ["VICTIM"]), 2**62, -1, 0, 1), 20):
        start = {"kind": "start", "pid": pid}
        (folder / f"rank{rank}.jsonl").write_text(json.dumps(start) + "\n")


def pipes(here: Path) -> None:
    """Put pipes, which are never read to an end, where the supervisor reads and writes."""
    run = here.parent.parent
    for path in (here / "command.json", here / ".diagnosis.json.partial"):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    (here / "output.log").rename(here / "output.log.was")
    os.mkfifo(here / "output.log")
    newest = run / "checkpoints" / "checkpoint-98"
    newest.mkdir()
    os.mkfifo(newest / "autotune-complete.json")
    ready = run / "checkpoints" / "checkpoint-97"
    ready.mkdir()
    (ready / "autotune-complete.json").write_text('{"step": 97, "world_size": 2}')
    (ready / "trainer_state.json").write_text('{"global_step": 97}')
    os.mkfifo(ready / "latest")


def links(here: Path) -> None:
    """Lead the supervisor out of the run folder, wherever it writes, removes or renames."""
    run, precious = here.parent.parent, Path(os.environ["PRECIOUS"])
    for path in (here / "diagnosis.json", here / ".diagnosis.json.partial", here / "output.log",
                 run / "control.json", run / ".control.json.partial",
                 here / "output.log.compact"):  # fmt: skip
        replace_by_link(path, precious / "file")
    for path in (here / "stacks", here / "rescue", run / "staged", run / "ops" / "evil"):
        replace_by_link(path, precious)
    (run / "checkpoints").rename(run / "checkpoints.was")
    (run / "checkpoints").symlink_to(precious)
    told = json.loads((here / "command.json").read_text())
    told["shared_memory"] = os.environ["SHARED"]
    (here / "command.json").write_text(json.dumps(told))


ATTACKS = {"words": words, "events": events, "pipes": pipes, "links": links}

if __name__ == "__main__":
    names, sys.argv[1:] = sys.argv[1].split(","), sys.argv[2:]
    if sys.argv[1:3] == ["-m", "deepspeed.launcher.runner"]:
        for name in names:
            ATTACKS[name](Path.cwd())
    sys.exit(fast_python.main())

"""What tests/bench/chaos.py does to a running job, kind by kind."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.core.failure import Failure
from autotune.core.xid import Blame, blame_of
from tests.bench.chaos_scene import STORY, Kind, Scene, on_gpus, troubled, wait

READERS = 200
XIDS = (13, 31, 43, 45, 48, 63, 79, 94, 95, 109, 119, 154)


def kill_supervisor(scene: Scene) -> None:
    scene.supervisor.kill()


def kill_launcher(scene: Scene) -> None:
    scene.kill(*scene.wait_for_training()[:1])


def kill_rank(scene: Scene) -> None:
    scene.kill(*scene.wait_for_training()[-1:])


def terminate_rank(scene: Scene) -> None:
    scene.kill(*scene.wait_for_training()[-1:], by=signal.SIGTERM)


def kill_everything(scene: Scene) -> None:
    scene.end_all()


def tear_a_file(scene: Scene) -> None:
    """All is dead, as after a reset, and the last record of one file was not written whole."""
    scene.end_all()
    files = [path for path in scene.run.rglob("*") if path.is_file() and path.stat().st_size]
    if files:
        _tear(scene.chance.choice(sorted(files)), scene.chance)


def tear_the_journal(scene: Scene) -> None:
    scene.end_all()
    _tear(scene.run / "journal.jsonl", scene.chance)


def _tear(path: Path, chance: random.Random) -> None:
    content = path.read_bytes() if path.exists() else b""
    if content:
        last = content.rstrip(b"\n").rfind(b"\n") + 1
        os.truncate(path, chance.randrange(last, len(content)))


def junk_in_events(scene: Scene) -> None:
    scene.wait_for_training()
    for path in scene.run.glob("attempts/*/events/rank*.jsonl"):
        with path.open("ab") as file:
            file.write(scene.chance.randbytes(scene.chance.randrange(1, 5000)))


def junk_in_control(scene: Scene) -> None:
    with contextlib.suppress(OSError):
        (scene.run / "control.json").write_bytes(scene.chance.randbytes(200))


def stop_supervisor(scene: Scene) -> None:
    scene.supervisor.send_signal(signal.SIGSTOP)
    wait(lambda: False, scene.chance.uniform(0.1, 2.0))
    scene.supervisor.send_signal(signal.SIGCONT)


def fill_the_disk(scene: Scene) -> None:
    """Nothing more fits until the supervisor has ended, or has lived with it for a while."""
    ballast = scene.job.parent / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    scene.live_with_it(1, 6)
    ballast.unlink()


def read_only_disk(scene: Scene) -> None:
    """The kernel makes the disk read-only, as after an error of it; all goes to another disk."""
    folder = scene.job.parent
    device = subprocess.run(
        ["findmnt", "-no", "SOURCE", str(folder)], capture_output=True, text=True, check=True
    ).stdout.strip()
    Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("chaos")
    scene.live_with_it(20, 40)
    if scene.supervisor.poll() is None or scene.training():
        scene.bad_answers += 1  # it did not see it, or left somebody behind
        scene.end_all()
    saved = shutil.copytree(folder, scene.place / "saved", symlinks=True)
    subprocess.run(["umount", "-l", str(folder)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "chaos", str(folder)], check=True)
    shutil.copytree(saved, folder, symlinks=True, dirs_exist_ok=True)


def failing_files(scene: Scene) -> None:
    """A file server has hiccups for a while."""
    errors = [errno.EIO, errno.ESTALE, errno.EROFS, errno.ENOSPC, errno.EDQUOT]
    chosen = scene.chance.sample(errors, scene.chance.randrange(1, 4))
    share = scene.chance.choice([0.05, 0.3, 1.0])
    told = {"errors": chosen, "share": share, "below": str(scene.run)}
    (scene.place / "trouble").write_text(json.dumps(told))
    scene.live_with_it(0.3, 8)
    (scene.place / "trouble").unlink()


def clock_jump(scene: Scene) -> None:
    """The time of day jumps by hours or weeks, and most often back again."""
    for _ in range(scene.chance.randrange(1, 4)):
        jump = scene.chance.choice([-1, 1]) * scene.chance.choice([60, 7200, 86400, 30 * 86400])
        (scene.place / "trouble").write_text(json.dumps({"clock": float(jump)}))
        scene.live_with_it(0.1, 3)
    if scene.chance.random() < 0.3:
        scene.supervisor.kill()


def hung_nvml(scene: Scene) -> None:
    """The driver answers nobody: for a moment, for longer than it is waited for, or for good."""
    (scene.place / "hang").touch()
    hours = scene.chance.choice([(0.1, 0.8), (2, 6), (300, 300)])
    scene.live_with_it(*hours)
    (scene.place / "hang").unlink()


def xid_event(scene: Scene) -> None:
    """A card tells of an Xid, and half of the time a rank dies of it."""
    code = scene.chance.choice(XIDS)
    pids = scene.wait_for_training()
    (scene.place / "xids").write_text(f"{scene.chance.randrange(2)} {code}\n")
    if scene.chance.random() < 0.5:
        wait(lambda: False, 0.3)
        scene.kill(*pids[-1:], by=signal.SIGABRT)
        blamed = {Blame.HARDWARE: Failure.GPU_HARDWARE, Blame.SUSPECT: Failure.GPU_HARDWARE,
                  Blame.APPLICATION: Failure.ILLEGAL_ACCESS}  # fmt: skip
        found = blame_of(code)
        scene.changing |= {blamed[found]} if found in blamed else set()


def neighbour(scene: Scene) -> None:
    """Somebody takes most of a card for a while, and what is asked for then is refused."""
    gib = scene.chance.randrange(30, 70)
    (scene.place / "held.json").write_text(json.dumps({"0": [[os.getpid(), gib]]}))
    scene.live_with_it(1, 8)
    (scene.place / "held.json").unlink()


def log_flood(scene: Scene) -> None:
    """The story floods at each start; half of the time the supervisor is killed while it does."""
    if scene.chance.random() < 0.5:
        wait(lambda: False, scene.chance.uniform(0, 1))
        scene.supervisor.kill()


def status_readers(scene: Scene) -> None:
    """Many ask at once how it goes; each is answered, and none is in the way of a start either.

    Half of the time the supervisor is killed once all ask, and its next start comes beside them.
    """
    asking = [sys.executable, "-m", "tests.bench.many_readers", str(scene.run), str(READERS)]
    with (scene.place / "answers").open("wb") as said:
        scene.asked = [subprocess.Popen(asking, stdout=said, stderr=said)]
    wait(lambda: (scene.place / "answers").stat().st_size or scene.asked[0].poll() is not None, 60)
    if scene.chance.random() < 0.5:
        scene.supervisor.kill()
    else:
        scene.hear_out()


CUDA: dict[str, Any] = {"devices": {"use": 2}, "proof": False}


def _flooding(chance: random.Random, _: Path) -> Mapping[str, Any]:
    kind = chance.choice(["binary", "no_newline", "ansi", "lines"])
    return {**STORY, "flood": [kind, chance.choice([20, 100, 200])]}


PLAIN = (
    kill_supervisor, kill_launcher, kill_rank, terminate_rank, kill_everything, tear_a_file,
    tear_the_journal, junk_in_events, junk_in_control, stop_supervisor,
)  # fmt: skip
FAULTS: dict[str, Kind] = {
    **{one.__name__: Kind(one) for one in PLAIN},
    "fill_the_disk": Kind(fill_the_disk, disk="tmpfs"),
    "read_only_disk": Kind(read_only_disk, disk="ext4"),
    "failing_files": Kind(failing_files, start=troubled),
    "clock_jump": Kind(clock_jump, start=troubled),
    "hung_nvml": Kind(hung_nvml, on_gpus, lambda *_: {**STORY, "cuda": True}, CUDA),
    "xid_event": Kind(xid_event, on_gpus, lambda *_: {**STORY, "cuda": True}, CUDA),
    "neighbour": Kind(
        neighbour, on_gpus,
        lambda _, place: {**STORY, "cuda": True, "crowded": str(place / "held.json")}, CUDA,
    ),
    "log_flood": Kind(log_flood, story=_flooding, changes={"limits": {"log_bytes": "16MiB"}}),
    "status_readers": Kind(status_readers, story=lambda *_: {**STORY, "seconds": 3}),
}  # fmt: skip

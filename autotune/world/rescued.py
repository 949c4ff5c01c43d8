"""What the ranks of a refused training wrote of its last step: looked at, verified, published.

The folder holds checkpoint-N, as the trainer lays one out, and a file for each rank that names the
files it wrote, with size and SHA-256. Nothing in it is ever loaded here.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from autotune.core.rescue import Parts
from autotune.world import checkpoints
from autotune.world.files import (
    is_real_folder,
    open_plain,
    read_json,
    remove_tree,
    sync,
    write_json,
)

CHUNK_BYTES = 4 * 2**20
LOOK_BYTES = 256 * 2**20  # verified in one look; the loop that looks has other things to see to
_SHARD = "_optim_states.pt"


@dataclass(frozen=True)
class Whole:
    """A verified set of parts."""

    folder: Path  # named checkpoint-N
    step: int
    world_size: int
    zero_stage: int


class RescueFolder:
    """The place where the ranks of one attempt write, read again at each look."""

    def __init__(self, place: Path, world_size: int) -> None:
        """Look into `place`, which need not exist yet."""
        self.place = place
        self.whole: Whole | None = None
        self._world_size = world_size
        self._verified = 0  # bytes
        self._verifying: Iterator[int | str] | None = None

    def look(self, step: int) -> Parts:
        """Return what lies there of this step; verifies a little of it once all parts are told."""
        if self.whole is not None:
            return Parts(self._bytes(), whole=True)
        told = self._told()
        refused = next((str(one["why"]) for one in told.values() if one.get("why")), "")
        if refused:
            return Parts(why=f"a rank could not save it: {refused}")
        if len(told) < self._world_size:
            return Parts(self._bytes())
        if self._verifying is None:
            self._verifying = self._verify(told, step)
        return self._go_on_verifying(told, step)

    def look_again(self) -> Whole | None:
        """Return the whole that a supervisor left here which died before it was published."""
        steps = {one.get("step") for one in self._told().values()}
        step = steps.pop() if len(steps) == 1 else None
        if not isinstance(step, int):
            return None
        while not (parts := self.look(step)).why and not parts.whole:
            if self._verifying is None:  # a part is missing, and nobody writes any more
                return None
        return self.whole

    def publish(self, attempt: int, into: Path) -> Path:
        """Make the verified whole a checkpoint in `into`, at once or not at all; raises OSError."""
        whole = self.whole
        if whole is None:
            raise AssertionError("only what was verified is published")
        for folder in (into, self.place, whole.folder):
            if not is_real_folder(folder):
                raise OSError(errno.ENOTDIR, "a link lies in the place of a folder", str(folder))
        target = into / whole.folder.name
        if isinstance(checkpoints.inspect(target), checkpoints.Checkpoint):
            return target  # saved in the ordinary way meanwhile
        if (target / checkpoints.BEGUN).is_file() and not target.is_symlink():
            remove_tree(target)  # half written, by the save that was refused memory
        else:
            checkpoints.set_aside(target, f"rescue-{attempt:03d}")
        mark = {
            "step": whole.step,
            "attempt": attempt,
            "world_size": whole.world_size,
            "zero_stage": whole.zero_stage,
            "rescued": True,
        }
        write_json(whole.folder / checkpoints.SENTINEL, mark)
        for folder in {path.parent for path in whole.folder.rglob("*")}:
            sync(folder)
        whole.folder.rename(target)
        sync(into)
        return target

    def clear(self) -> None:
        """Remove what was not published."""
        remove_tree(self.place)

    def _told(self) -> dict[int, dict[str, Any]]:
        found = {}
        for rank in range(self._world_size):
            told = read_json(self.place / f"rank{rank}.json")
            if isinstance(told, dict):
                found[rank] = told
        return found

    def _bytes(self) -> int:
        """Return how much was written and verified so far, as far as a save's folders reach."""
        total, looked = self._verified, [self.place]
        for place in looked:
            try:
                for entry in os.scandir(place):
                    if entry.is_dir(follow_symlinks=False):
                        looked.append(Path(entry.path))
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
            except OSError:  # it was renamed meanwhile
                continue
            if len(looked) > checkpoints.MOST_FOLDERS:
                break
        return total

    def _go_on_verifying(self, told: dict[int, dict[str, Any]], step: int) -> Parts:
        done = 0
        for found in self._verifying or ():
            if isinstance(found, str):
                return Parts(why=found)
            self._verified += found
            done += found
            if done >= LOOK_BYTES:
                return Parts(self._bytes(), told=True)
        stage = told[0].get("zero_stage")
        self.whole = Whole(
            self._checkpoint(step), step, self._world_size, stage if isinstance(stage, int) else 0
        )
        return Parts(self._bytes(), whole=True)

    def _checkpoint(self, step: int) -> Path:
        return self.place / f"checkpoint-{step}"

    def _verify(self, told: dict[int, dict[str, Any]], step: int) -> Iterator[int | str]:
        """Yield how many bytes were found sound, and at the first fault a sentence."""
        odd = checkpoints.odd_entry(self._checkpoint(step))
        if odd:
            yield odd
            return
        names: set[str] = set()
        for rank, one in told.items():
            if one.get("step") != step or one.get("world_size") != self._world_size:
                yield f"rank {rank} saved step {one.get('step')} of {one.get('world_size')} ranks"
                return
            for file in _files(one):
                name = str(file.get("name"))
                if not _inside(name) or name in names:
                    yield f"rank {rank} names {name!r}, which is no file of its own"
                    return
                names.add(name)
                yield from _sound(self._checkpoint(step) / name, file)
        missing = _missing(names, self._world_size)
        if missing:
            yield f"no rank wrote {missing}"


def _files(told: dict[str, Any]) -> list[dict[str, Any]]:
    files = told.get("files")
    return [one for one in files if isinstance(one, dict)] if isinstance(files, list) else []


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts


def _sound(path: Path, told: dict[str, Any]) -> Iterator[int | str]:
    digest, size = hashlib.sha256(), 0
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                yield len(chunk)
    except OSError as error:
        yield f"{path.name} cannot be read ({error.strerror})"
        return
    if size != told.get("bytes") or digest.hexdigest() != told.get("sha256"):
        yield f"{path.name} is not what its rank wrote"


def _missing(names: set[str], world_size: int) -> str:
    """Return what a checkpoint of so many ranks needs and these names lack, or nothing."""
    shards = sum(name.endswith(_SHARD) for name in names)
    if shards != world_size:
        return f"{world_size - shards} of {world_size} optimizer shards"
    states = ["rng_state.pth"] if world_size == 1 else []
    states += [f"rng_state_{rank}.pth" for rank in range(world_size) if world_size > 1]
    if not any(name.endswith("_model_states.pt") for name in names):
        return "the model states"
    return next((one for one in ("latest", "trainer_state.json", *states) if one not in names), "")

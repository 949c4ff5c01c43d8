"""One advisory lock per GPU, which dies with its holder, for the jobs of all users of a machine."""

import contextlib
import fcntl
import json
import os
import pwd
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

PLACES = (Path("/run/lock"), Path("/dev/shm"))  # noqa: S108 - see find_place
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PEEKED_SECONDS = 0.1  # others hold a lock for a moment when they only look
_KEY = re.compile(r"[A-Za-z0-9-]{1,80}")
_JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LONGEST_NOTE = 4096


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as far as the kernel and the holder's own note tell."""

    user: str = ""
    pid: int | None = None
    job: str = ""

    def __str__(self) -> str:
        """Name it in a sentence."""
        if self.pid is None:
            return "another job, in a container that hides it or of a user who does"
        job = f"job {self.job}" if self.job else "job"
        return f"{self.user}'s {job} (process {self.pid})"


class Unleasable(Exception):
    """No lease can be had here, and the sentence why."""


def find_place() -> Path | None:
    """Return the folder that every user of the machine finds, or None where there is none.

    It must be root's, open to all and sticky, so that nobody removes what another has made. Only
    the folder itself decides, not what we may do in it: two users must not come to two answers.
    """
    for place in PLACES:
        with contextlib.suppress(OSError):
            seen = place.lstat()
            common = stat.S_IWOTH | stat.S_ISVTX
            trusted = seen.st_uid in (0, os.geteuid())
            if stat.S_ISDIR(seen.st_mode) and seen.st_mode & common == common and trusted:
                return place
    return None


class Leases:
    """The leases of one supervisor; its death, however it dies, gives all of them back."""

    def __init__(self, job: str, place: Path | None = None) -> None:
        """Hold none yet; `job` is the name that others are told."""
        self._job = job
        self._place = place or find_place()
        self._held: dict[str, int] = {}
        self.faults: dict[str, str] = {}  # why there is no lease of a GPU to be had

    def holder(self, key: str) -> Holder | None:
        """Return who else holds the lease of a GPU, by its UUID; None: nobody, or we do.

        Raises Unleasable.
        """
        if key in self._held:
            return None
        descriptor = self._open(key, make=False)
        if descriptor is None:
            return None
        try:
            _patiently(descriptor)  # as one that takes it, or the two would not agree
        except BlockingIOError:
            return self._who(key, descriptor)
        except OSError as error:
            raise Unleasable(f"the file system takes no locks ({error.strerror})") from error
        finally:
            os.close(descriptor)
        return None

    def take(self, keys: Iterable[str]) -> Holder | None:
        """Hold the leases of exactly these GPUs, all or none of the new ones.

        Returns who holds one of them; then what was held before is still held. One that cannot be
        leased at all is done without, and stands in `faults`: the leases are a courtesy.
        """
        wanted = list(dict.fromkeys(keys))
        taken: dict[str, int] = {}
        try:
            for key in wanted:
                if key not in self._held:
                    try:
                        got = self._lock(key)
                    except Unleasable as why:
                        self.faults[key] = str(why)
                        continue
                    if isinstance(got, Holder):
                        return got
                    taken[key] = got
            for key in set(self._held) - set(wanted):
                os.close(self._held.pop(key))
            self._held |= taken
            taken_now, taken = list(taken), {}
        finally:
            for descriptor in taken.values():
                os.close(descriptor)
        for key in taken_now:
            self._note(key)
        return None

    def release(self) -> None:
        """Give all back."""
        while self._held:
            os.close(self._held.popitem()[1])

    def _lock(self, key: str) -> int | Holder:
        while True:
            descriptor = self._open(key, make=True)
            assert descriptor is not None
            try:
                _patiently(descriptor)
            except BlockingIOError:
                who = self._who(key, descriptor)
                os.close(descriptor)
                return who
            except OSError as error:
                os.close(descriptor)
                raise Unleasable(f"the file system takes no locks ({error.strerror})") from error
            if self._still_named(key, descriptor):
                return descriptor
            os.close(descriptor)  # its maker removed it meanwhile; the next one has another

    def _path(self, key: str) -> Path:
        if self._place is None:
            raise Unleasable("neither /run/lock nor /dev/shm is a common folder")
        if not _KEY.fullmatch(key):
            raise Unleasable("the GPU has no UUID that a file could be named by")
        return self._place / f"autotune-{key}.lease"

    def _open(self, key: str, make: bool) -> int | None:
        """Return a descriptor to lock; None where nobody has made the file.

        A file of another user is opened for reading, which is all that flock needs.
        """
        path = self._path(key)
        try:
            try:
                descriptor = _made_open(path) if make else os.open(path, _READ)
            except FileNotFoundError:
                return None
            seen = os.fstat(descriptor)
            if stat.S_ISREG(seen.st_mode) and seen.st_nlink <= 1:
                return descriptor
            os.close(descriptor)
        except OSError as error:
            raise Unleasable(f"{path} cannot be opened ({error.strerror})") from error
        raise Unleasable(f"{path} is not a plain file of its own")

    def _still_named(self, key: str, descriptor: int) -> bool:
        try:
            named = self._path(key).lstat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Unleasable(f"the lease cannot be looked at ({error.strerror})") from error
        held = os.fstat(descriptor)
        return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)

    def _note_path(self, key: str, uid: int) -> Path:
        return self._path(key).with_suffix(f".{uid}")

    def _note(self, key: str) -> None:
        """Write down which job holds it: the lock file may be another user's, so in one of ours."""
        text = json.dumps({"pid": os.getpid(), "job": self._job})
        path = self._note_path(key, os.geteuid())
        with contextlib.suppress(OSError):  # only the sentence that others read is poorer then
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                descriptor = os.open(path, os.O_WRONLY | _NEW, 0o644)
            with os.fdopen(descriptor, "w") as file:
                seen = os.fstat(descriptor)
                if stat.S_ISREG(seen.st_mode) and seen.st_uid == os.geteuid():
                    os.fchmod(descriptor, 0o644)
                    file.truncate(0)
                    file.write(text)

    def _who(self, key: str, descriptor: int) -> Holder:
        """Return who the kernel says has locked the file; the note only adds the job's name."""
        seen = os.fstat(descriptor)
        pid = _locked_by(f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}:{seen.st_ino}")
        if pid is None:
            return Holder()
        try:
            uid = Path(f"/proc/{pid}").stat().st_uid
        except OSError:
            return Holder()
        return Holder(user_name(uid), pid, self._job_of(key, uid, pid))

    def _job_of(self, key: str, uid: int, pid: int) -> str:
        note = None
        with contextlib.suppress(OSError, ValueError, RecursionError):
            descriptor = os.open(self._note_path(key, uid), _READ)
            with os.fdopen(descriptor, "rb") as file:
                seen = os.fstat(descriptor)
                if stat.S_ISREG(seen.st_mode) and seen.st_uid == uid:
                    note = json.loads(file.read(_LONGEST_NOTE))
        if not isinstance(note, dict) or note.get("pid") != pid:
            return ""
        job = note.get("job")
        return job if isinstance(job, str) and _JOB.fullmatch(job) else ""


def user_name(uid: int) -> str:
    """Return the name of a user, or the number where nobody knows it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return f"user {uid}"


def _patiently(descriptor: int) -> None:
    Retrying(
        retry=retry_if_exception_type(BlockingIOError),
        stop=stop_after_delay(_PEEKED_SECONDS),
        wait=wait_fixed(0.02),
        reraise=True,
    )(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _made_open(path: Path) -> int:
    """Open the file for reading, made for all to read where it is not there yet."""
    try:
        return os.open(path, _READ)
    except FileNotFoundError:
        pass
    try:
        descriptor = os.open(path, os.O_RDONLY | _NEW, 0o644)
    except FileExistsError:
        return os.open(path, _READ)  # made by another in between
    os.fchmod(descriptor, 0o644)  # whatever our umask says
    return descriptor


def _locked_by(place: str) -> int | None:
    """Return the process that holds a lock on the file, of those this namespace shows."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            # 3: FLOCK  ADVISORY  WRITE 4242 00:19:56 0 EOF
            words = line.split()
            if len(words) < 6 or words[0].endswith("->") or words[1] != "FLOCK":
                continue
            if words[5] == place and int(words[4]) > 0:
                return int(words[4])
    return None

"""Folders that a process makes for a while. It removes them; what a killed one left, the next process removes.

Each holds a lock that ends with its process, however that ends. A folder whose lock nobody holds is nobody's.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ndpass.errors import OutputError
from ndpass.files.journal import take_back
from ndpass.files.placing import uninterrupted

LOCK = ".ndpass-lock"
TEMPORARY = "ndpass-"  # what the names of those among the system's temporary files begin with
RANDOM = re.compile(r"[a-z0-9_]{8}")  # how `tempfile` ends its names
TRIES = 5  # to make one, while other processes look for what is nobody's

_OURS: dict[Path, OwnFolder] = {}  # those of this process that are there now
_LOOKED: set[Path] = set()  # folders for temporary files in which this process has tidied up


class OwnFolder:
    """A new folder with a random name. Raises OSError where none can be made."""

    def __init__(self, parent: Path, prefix: str) -> None:
        self._lock: FileLock | None = None
        for _ in range(TRIES):
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            _OURS[self.path] = self
            try:
                self._lock = _locked(self.path)
            except (Timeout, FileNotFoundError):  # another process took it for one that was left, and removes it
                self.remove()
                continue
            except BaseException:
                self.remove()
                raise
            return
        raise OSError(errno.EAGAIN, "folders made there go away at once", str(parent))

    def remove(self) -> None:
        """Remove it with all that is in it, as far as that can be; once is enough."""
        if self.path not in _OURS:
            return
        with uninterrupted():  # half removed it would stay till the next run
            _remove(self.path, self._lock)
            _OURS.pop(self.path, None)  # not before: another thread may be about to end the process

    def contents(self) -> list[Path]:
        """What was put into it, by name."""
        return sorted(path for path in self.path.iterdir() if path.name != LOCK)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder among the system's temporary files, which goes at the end of the block."""
    folder = new_temporary()
    try:
        yield folder.path
    finally:
        folder.remove()


def new_temporary() -> OwnFolder:
    """The same, to be removed by whoever asked for it. Raises OutputError where none can be made."""
    tidy_temporary()
    try:
        return OwnFolder(Path(tempfile.gettempdir()), TEMPORARY)
    except OSError as e:
        raise OutputError(f"temporary files cannot be written: {e.strerror}: let TMPDIR name another folder") from e


def tidy_temporary() -> None:
    """Remove what killed processes left among the temporary files; once in a process."""
    with suppress(OSError):  # there may be no place for temporary files, and no need for any
        folder = Path(tempfile.gettempdir())
        if folder not in _LOOKED:
            _LOOKED.add(folder)
            remove_left(folder, TEMPORARY)


def remove_left(parent: Path, prefix: str) -> None:
    """Remove the folders in `parent` that processes made and left.

    Whatever its name, one that holds a lock is known by that; one whose process came no further than to make it is
    known by being empty and having a name that begins with `prefix`.
    """
    with suppress(OSError):  # it may not be readable: nothing is known of it then, and nothing goes
        with os.scandir(parent) as entries:
            found = [Path(entry) for entry in entries if _may_be_ours(entry)]
        for path in found:
            with suppress(OSError, Timeout, NotImplementedError):
                if (path / LOCK).is_file():
                    if lock := _locked(path):
                        take_back(path)
                        _remove(path, lock)
                elif path.name.startswith(prefix) and path not in _OURS:
                    path.rmdir()  # which only an empty one lets happen


def remove_all() -> None:
    """Remove those of this process, for one that ends without unwinding."""
    for folder in list(_OURS.values()):
        folder.remove()


def _may_be_ours(entry: os.DirEntry[str]) -> bool:
    """Whether its name is such as ours have, and it is a folder of this user's, no link to one."""
    named = entry.name.startswith((".", TEMPORARY)) and RANDOM.fullmatch(entry.name[-8:])
    if not named or not entry.is_dir(follow_symlinks=False):
        return False
    try:
        return not hasattr(os, "getuid") or entry.stat(follow_symlinks=False).st_uid == os.getuid()
    except FileNotFoundError:  # another process has removed it meanwhile
        return False


def _locked(folder: Path) -> FileLock | None:
    """The folder's lock, held by this process; None where the file system has none. Raises Timeout, OSError."""
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except NotImplementedError:
        return None
    if not (folder / LOCK).exists():  # whoever held it before has removed it meanwhile
        lock.release(force=True)
        raise FileNotFoundError(folder / LOCK)
    return lock


def _remove(folder: Path, lock: FileLock | None) -> None:
    """The lock goes last: what is cut off here can be told for what it is."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name == LOCK:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    if lock is not None and os.name == "nt":  # which removes no file that is open
        lock.release(force=True)
    with suppress(OSError):
        (folder / LOCK).unlink(missing_ok=True)
    if lock is not None:
        lock.release(force=True)
    with suppress(OSError):
        folder.rmdir()

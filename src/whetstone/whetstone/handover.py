"""Weights between two processes of one machine: a file instead of messages.

Role: the sender's side writes the payload into a file that only its owner may read; the receiver's side opens it only if it is what it
should be. What is read is proven chunk by chunk like what comes in messages. The sender holds a lock on its file while it lives, so that a
later one can tell, and remove, what a killed one left behind. Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from whetstone.errors import InputError

_PREFIX = "whetstone-weights-"
_SPARE = 2  # times its size that must be free in memory-backed folders: a full one takes the machine with it
SHARED_MEMORY = Path("/dev/shm")


def host_id() -> str:
    """This machine since it was started; empty where the system does not say. Containers share it: there the file is not found."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Handover:
    """The sender's file: one at a time, the newest. folders: tried in order; /dev/shm only while it has room to spare."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [Path(folder).absolute() for folder in folders]
        self._held: tuple[int, Path] | None = None
        for folder in self._folders:
            _sweep(folder)

    def write(self, payload: bytearray) -> Path:
        """The payload as a file that is whole and on the disk; the one before is removed. Raises InputError where no folder takes it."""
        reasons = []
        for folder in self._folders:
            try:
                if folder == SHARED_MEMORY and os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize < _SPARE * len(payload):
                    reasons.append(f"{folder}: too little room")
                    continue
                made = _write(folder, payload)
            except OSError as error:
                reasons.append(f"{folder}: {error.strerror}")
                continue
            self.close()
            self._held = made
            return made[1]
        raise InputError("; ".join(reasons) or "no folder is given")

    def close(self) -> None:
        """Remove the file. Who has it open may read on."""
        if self._held is not None:
            self._held[1].unlink(missing_ok=True)
            os.close(self._held[0])
            self._held = None


def open_checked(path: str, size: int) -> int:
    """File descriptor of a hand-over file of `size` bytes, to be closed by the caller. Raises InputError unless it is a regular file of
    ours, closed to others, and no link."""
    if not os.path.isabs(path):
        raise InputError(f"hand-over file '{path}': not an absolute path")
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # before it is opened: with some devices that alone does something
            raise InputError(f"hand-over file {path}: not a regular file")
        # Once more on what was opened, below. O_NONBLOCK: opening a pipe must not wait for its other end.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise InputError(f"hand-over file {path}: {getattr(error, 'strerror', None) or error}") from None
    found = os.fstat(handle)
    wrong = ""
    if not stat.S_ISREG(found.st_mode):
        wrong = "not a regular file"
    elif found.st_uid != os.geteuid():
        wrong = f"it belongs to user {found.st_uid}, this process to {os.geteuid()}"
    elif found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        wrong = "open to others than its owner"
    elif found.st_size != size:
        wrong = f"{found.st_size} bytes instead of {size}"
    if wrong:
        os.close(handle)
        raise InputError(f"hand-over file {path}: {wrong}")
    return handle


def _write(folder: Path, payload: bytearray) -> tuple[int, Path]:
    """(descriptor that holds the lock, path); mkstemp makes the file 0600."""
    handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=".bin", dir=folder)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        # Room first, all of it or an error: half a file of a gigabyte would only fill the disk.
        if payload:
            os.posix_fallocate(handle, 0, len(payload))
        view = memoryview(payload)
        while view:
            view = view[os.write(handle, view[: 1 << 26]) :]
        os.fsync(handle)
    except BaseException:
        os.unlink(name)
        os.close(handle)
        raise
    return handle, Path(name)


def _sweep(folder: Path) -> None:
    """Remove what senders left that live no more."""
    for path in folder.glob(f"{_PREFIX}*.bin"):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(handle).st_uid == os.geteuid():
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except OSError:
            pass  # its sender lives
        finally:
            os.close(handle)

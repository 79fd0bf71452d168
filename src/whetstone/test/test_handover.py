"""The file between two processes of a machine: private, whole, gone when its sender is; nothing else is opened."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from whetstone import handover
from whetstone.errors import InputError
from whetstone.handover import Handover, host_id, open_checked

PAYLOAD = bytearray(range(256)) * 10


def contents(path: Path) -> bytes:
    handle = open_checked(str(path), len(PAYLOAD))
    try:
        return os.read(handle, 1 << 20)
    finally:
        os.close(handle)


def test_what_was_written_is_read_and_the_newest_alone_stays(tmp_path: Path) -> None:
    sender = Handover([tmp_path])
    first = sender.write(PAYLOAD)
    assert contents(first) == PAYLOAD and first.stat().st_mode & 0o777 == 0o600
    second = sender.write(PAYLOAD[::-1])
    assert list(tmp_path.iterdir()) == [second] and contents(second) == PAYLOAD[::-1]
    sender.close()
    assert not list(tmp_path.iterdir())


def test_only_a_private_regular_file_of_ours_is_opened(tmp_path: Path) -> None:
    path = Handover([tmp_path]).write(PAYLOAD)
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(path)
    os.mkfifo(pipe, 0o600)
    for bad, word in (
        (str(link), "not a regular file"),
        (str(pipe), "not a regular file"),
        (str(tmp_path), "not a regular file"),
        (str(tmp_path / "none"), "No such file"),
        (path.name, "not an absolute path"),
        ("/dev/zero", "not a regular file"),
        (str(path) + "\0", "hand-over file"),
    ):
        with pytest.raises(InputError, match=word):
            open_checked(bad, len(PAYLOAD))
    with pytest.raises(InputError, match="2560 bytes instead of 2561"):
        open_checked(str(path), len(PAYLOAD) + 1)
    path.chmod(0o640)
    with pytest.raises(InputError, match="open to others"):
        contents(path)


def test_what_is_no_file_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a watchdog device, say, arms it."""

    def opened(*arguments: object) -> int:
        raise AssertionError("opened")

    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(InputError, match="not a regular file"):
        open_checked("/dev/null", 0)


def test_a_link_that_appears_in_between_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Handover([tmp_path]).write(PAYLOAD)
    link = tmp_path / "link"
    link.symlink_to(path)
    monkeypatch.setattr(os, "lstat", os.stat)  # as if it had been a file a moment ago
    with pytest.raises(InputError, match="symbolic link"):
        open_checked(str(link), len(PAYLOAD))


def test_a_file_of_another_user_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Handover([tmp_path]).write(PAYLOAD)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(InputError, match="belongs to user"):
        contents(path)


def test_a_full_disk_leaves_nothing_and_the_next_folder_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full, spare = tmp_path / "full", tmp_path / "spare"
    full.mkdir()
    spare.mkdir()
    reserve = os.posix_fallocate

    def fallocate(handle: int, start: int, size: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").startswith(f"{full}/"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(handle, start, size)

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    assert Handover([full, spare]).write(PAYLOAD).parent == spare
    with pytest.raises(InputError, match=f"{full}: No space left on device; {tmp_path}/none: No such file"):
        Handover([full, tmp_path / "none"]).write(PAYLOAD)
    assert not list(full.iterdir())


def test_shared_memory_without_room_to_spare_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(handover, "_SPARE", 1 << 60)
    with pytest.raises(InputError, match="too little room"):
        Handover([tmp_path]).write(PAYLOAD)


def test_what_a_killed_sender_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    script = (
        "import os, sys; from whetstone.handover import Handover; "
        "print(Handover([sys.argv[1]]).write(bytearray(9))); sys.stdout.flush(); os.kill(os.getpid(), 9)"
    )
    left = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False).stdout.strip()
    assert Path(left).exists()
    living = Handover([tmp_path])
    path = living.write(PAYLOAD)
    Handover([tmp_path])
    assert list(tmp_path.iterdir()) == [path]


def test_a_machine_has_one_name() -> None:
    assert host_id() == host_id() != ""

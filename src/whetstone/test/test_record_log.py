"""Append-only files: what was appended is read, up to the first record that is not whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whetstone.errors import InputError
from whetstone.frames import Frames, append, encode
from whetstone.record_log import RecordLog, entries, payload, whole

RECORDS = st.lists(st.tuples(st.dictionaries(st.text(max_size=5), st.integers(), max_size=3), st.binary(max_size=40)), max_size=6)


@settings(max_examples=60)
@given(RECORDS, st.integers(0, 400), st.data())
def test_a_cut_or_damaged_file_gives_the_records_before(
    tmp_path_factory: Any, records: list[tuple[dict[str, int], bytes]], cut: int, data: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "events.log"
    path.unlink(missing_ok=True)
    ends = [0]
    for header, content in records:  # opened anew for each: it goes on where it ended
        with RecordLog(path) as log:
            entry = log.append(header, content)
        ends.append(entry.offset + entry.size)
    path.touch()
    assert [(entry.header, payload(path, entry)) for entry in entries(path)] == records and whole(path)
    content = path.read_bytes()
    cut = min(cut, len(content))
    path.write_bytes(content[:cut])
    left = sum(end <= cut for end in ends[1:])
    assert [entry.header for entry in entries(path)] == [header for header, _ in records[:left]]
    assert whole(path) == (cut in ends)
    if content:
        place = data.draw(st.integers(0, len(content) - 1))
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :])
        sound = sum(end <= place for end in ends[1:])
        assert [(entry.header, payload(path, entry)) for entry in entries(path)] == records[:sound]


def test_a_full_disk_leaves_the_records_before(tmp_path: Path) -> None:
    class Full:
        """A file that takes half of what it is given, once."""

        def __init__(self, file: Any) -> None:
            self.file, self.taken = file, False

        def write(self, data: bytes) -> int:
            if self.taken:
                raise OSError(28, "No space left on device")
            self.taken = True
            return self.file.write(data[: len(data) // 2])

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    log = RecordLog(tmp_path / "events.log")
    log.append({"a": 1}, b"one")
    log._file = Full(log._file)  # type: ignore[assignment]
    with pytest.raises(OSError):
        log.append({"a": 2}, b"two")
    log.close()
    assert [entry.header for entry in entries(tmp_path / "events.log")] == [{"a": 1}] and whole(tmp_path / "events.log")


def test_frames_by_camera_and_stamp(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = {stamp: random.integers(0, 256, (5, 7, 3), np.uint8) for stamp in (20, 10)}
    with RecordLog(tmp_path / "frames.log") as log:
        for stamp, image in images.items():
            append(log, "front", stamp, encode(image, lossless=True))
        append(log, "wrist", 10, b"no picture")
    frames = Frames(tmp_path / "frames.log")
    assert frames.cameras == ("front", "wrist") and frames.stamps("front").tolist() == [10, 20] and not len(frames.stamps("side"))
    for stamp, image in images.items():
        np.testing.assert_array_equal(frames.read("front", stamp), image)
    smooth = np.full((16, 16, 3), (250, 120, 10), np.uint8)
    with RecordLog(tmp_path / "frames.log") as log:
        append(log, "front", 30, encode(smooth))
    assert np.abs(Frames(tmp_path / "frames.log").read("front", 30).astype(int) - smooth).max() < 6, "JPEG, red first"
    for camera, stamp in (("front", 11), ("side", 10), ("wrist", 10)):
        with pytest.raises(InputError, match=f"camera '{camera}' at {stamp} ns"):
            frames.read(camera, stamp)

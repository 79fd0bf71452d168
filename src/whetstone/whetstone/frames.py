"""Camera frames of one episode in one append-only file.

Role: every control step's images, JPEG or PNG, with camera and stamp, as `record_frames:=all` writes them while the episode runs and as a
rollout store keeps them beside the arrays. Memory holds an index only. OpenCV is imported where it is used.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from whetstone.errors import InputError
from whetstone.record_log import Entry, RecordLog, entries, payload

JPEG_QUALITY = 95


def encode(image: np.ndarray, lossless: bool = False) -> bytes:
    """JPEG (quality 95), or PNG where lossless, of a (height, width, 3) uint8 RGB image."""
    import cv2

    kind, options = (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]) if lossless else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    ok, data = cv2.imencode(kind, image[..., ::-1], options)
    if not ok:
        raise InputError(f"an image of {image.shape} {image.dtype} cannot be written as {kind[1:]}")
    return data.tobytes()


def decode(data: bytes) -> np.ndarray:
    """(height, width, 3) uint8 RGB. ValueError where the bytes are no picture."""
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise ValueError("not a picture")
    return np.ascontiguousarray(image[..., ::-1])


class Frames:
    """The frames in a file that `append` filled. A record that is cut off at the end is not among them."""

    def __init__(self, path: Path) -> None:
        """Raises InputError where the file cannot be read."""
        self.path = path
        self._index: dict[str, dict[int, Entry]] = {}
        try:
            for entry in entries(path):
                self._index.setdefault(entry.header["camera"], {})[int(entry.header["stamp"])] = entry
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged: {error}") from None

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(self._index)

    def stamps(self, camera: str) -> np.ndarray:
        """(N,) int64 ns, ascending."""
        return np.array(sorted(self._index.get(camera, ())), np.int64)

    def read(self, camera: str, stamp: int) -> np.ndarray:
        """(height, width, 3) uint8 RGB. Raises InputError where there is none, or no picture."""
        entry = self._index.get(camera, {}).get(stamp)
        if entry is None:
            raise InputError(f"{self.path}: no frame of camera '{camera}' at {stamp} ns")
        try:
            return decode(payload(self.path, entry))
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: frame of camera '{camera}' at {stamp} ns: {error}") from None


def append(log: RecordLog, camera: str, stamp: int, data: bytes) -> None:
    """One encoded frame."""
    log.append({"camera": camera, "stamp": stamp}, data)

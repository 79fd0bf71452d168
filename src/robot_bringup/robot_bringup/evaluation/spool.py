"""Frames that are looked at again, on disk.

Role: the frame sets that a reward model was shown, by number, so that they can be shown in another order and some of them printed, while
memory holds one at a time. The file has no name: it is gone with its process. Knows nothing of models or bags.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Frame = dict[str, np.ndarray]


class Spool(Sequence[Frame]):
    """Frame sets in the order in which they were put. limit: bytes on the disk at most; what comes then is not kept, and `full` is True."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, prefix=".frames-")
        self._limit, self._end = limit, 0
        self._sets: list[list[tuple[str, int, tuple[int, ...], np.dtype]]] = []
        self.full = False

    def put(self, frames: Frame) -> None:
        size = sum(array.nbytes for array in frames.values())
        if self.full or self._end + size > self._limit:
            self.full = True
            return
        places = []
        self._file.seek(self._end)
        for name, array in frames.items():
            self._file.write(np.ascontiguousarray(array).data)
            places.append((name, self._end, array.shape, array.dtype))
            self._end += array.nbytes
        self._sets.append(places)

    def __len__(self) -> int:
        return len(self._sets)

    @property
    def size(self) -> int:
        """Bytes."""
        return self._end

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return self.frame(index)

    def frame(self, index: int) -> Frame:
        """One frame set, read from the disk."""
        return {name: self._read(offset, shape, dtype) for name, offset, shape, dtype in self._sets[index]}

    def _read(self, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        self._file.seek(offset)
        return np.frombuffer(self._file.read(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)

    def close(self) -> None:
        self._file.close()


class Reordered(Sequence[Frame]):
    """Frame sets of another sequence in another order, read when they are asked for."""

    def __init__(self, frames: Sequence[Frame], order: Sequence[int]) -> None:
        self._frames, self._order = frames, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self._frames[one] for one in self._order[index]]
        return self._frames[self._order[index]]

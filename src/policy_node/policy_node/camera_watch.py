"""Whether what a camera sends is a look at the scene.

Role: pure: what is wrong with a picture, for the watchdog, to which a camera that shows nothing is as good as silent. Judges what no scene
explains: nothing of what is in the picture. Does not depend on ROS.
"""

from __future__ import annotations

import zlib

import numpy as np

BLACK = 8
"""Of 255: no sampled byte of a black picture is brighter."""
_SAMPLED = 61
"""One byte in so many is looked at for that; no multiple of 3, so that all colours are."""
_HEADER = 12
"""Bytes of a serialised image that hold its stamp."""


class CameraWatch:
    """One camera. behind: ns that a picture's stamp may be behind the joint states'. frozen: whether two pictures that are the same to the
    last bit are a fault: a sensor has noise, a simulator has none."""

    def __init__(self, behind: int, frozen: bool) -> None:
        self._behind, self._frozen = behind, frozen
        self._stamp: int | None = None
        self._content = 0

    def wrong(self, stamp: int, data: bytes, joints: int) -> str:
        """Why this picture is none, empty where it is one. stamp, joints: of the picture and of the newest joint state, ns; data: the
        serialised message."""
        before, self._stamp = self._stamp, stamp
        if before is not None and stamp <= before:
            return "stamps that do not advance"
        if stamp < joints - self._behind:
            return f"pictures {(joints - stamp) / 1e9:.1f} s behind the joint states"
        content = np.frombuffer(data, np.uint8)
        if content[len(content) // 8 :: _SAMPLED].max(initial=0) <= BLACK:
            return "black"
        if self._frozen:
            same, self._content = self._content, zlib.crc32(memoryview(data)[_HEADER:])
            if same == self._content:
                return "the same picture"
        return ""

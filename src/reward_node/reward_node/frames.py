"""What every reward model asks of the frames it is given.

Role: one check, one wording. Does not depend on torch or ROS.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whetstone.contracts import PROPRIOCEPTION, RewardNeeds
from whetstone.errors import InputError


def side_by_side(images: dict[str, np.ndarray], cameras: Sequence[str]) -> np.ndarray:
    """(height, sum of widths, 3): one image of several cameras, in this order, for a model that takes one."""
    return np.concatenate([images[camera] for camera in cameras], axis=1)


def check_frames(images: dict[str, np.ndarray], needs: RewardNeeds) -> None:
    """InputError where a frame set lacks a needed camera, its image is not (height, width, 3) uint8 of the declared size, or the
    proprioception is not (declared number,)."""
    measured = images.get(PROPRIOCEPTION)
    if needs.proprioception and (measured is None or measured.shape != (needs.proprioception,)):
        given = "none" if measured is None else f"{measured.shape}"
        raise InputError(f"proprioception: the reward model needs ({needs.proprioception},), got {given}")
    for camera in needs.cameras:
        if camera not in images:
            raise InputError(f"camera {camera}: no image; got {', '.join(sorted(images)) or 'none'}")
        image = images[camera]
        if image.shape != (*needs.image_size, 3) or image.dtype != np.uint8:
            height, width = needs.image_size
            raise InputError(f"camera {camera}: image is {image.shape} {image.dtype}, the reward model needs ({height}, {width}, 3) uint8")

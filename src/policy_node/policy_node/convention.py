"""A robot's state and actions in the numbers that somebody else's policy was trained on.

Role: joint order, signs, offsets, units and gripper range, as YAML says them, there and back; images in another size. For the policies that
come from elsewhere (lerobot_policy.py, remote.py, openvla.py). Depends on numpy and Pillow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image

from whetstone.contracts import ActionSpace
from whetstone.errors import ConfigError
from whetstone.profile import RobotProfile

GRIPPER = "gripper"
"""What the gripper is called among the joints of a configuration."""
Resize = Literal["pad", "stretch", "none"]


@dataclass(frozen=True)
class PolicyJoint:
    """The policy's number of a joint = sign * ours + offset, in its units. name: of the profile, or `gripper`, whose numbers `gripper` of
    the configuration gives."""

    name: str
    sign: Literal[1, -1] = 1
    offset: float = 0.0


@dataclass(frozen=True)
class GripperRange:
    """closed, open: the policy's numbers at opening 0 and 1."""

    closed: float = 0.0
    open: float = 1.0

    def __post_init__(self) -> None:
        if self.closed == self.open:
            raise ValueError("'closed' and 'open' must differ")


@dataclass(frozen=True, kw_only=True)
class ConventionConfig:
    """deployment: how the policy is deployed and evaluated. joints: the policy's, in its order; empty: the profile's, then the gripper.
    units: of joint angles. gripper: its range in the state, and in the actions where action_gripper is empty. action_space: what its
    actions are (whetstone.contracts.ActionSpace); rate: Hz that they were trained at; empty: the robot's."""

    deployment: Literal["sampled", "greedy"] = "sampled"
    joints: tuple[PolicyJoint, ...] = ()
    units: Literal["rad", "deg"] = "rad"
    gripper: GripperRange = field(default_factory=GripperRange)
    action_gripper: GripperRange | None = None
    action_space: ActionSpace = "joint_position"
    rate: float | None = field(default=None, metadata={"gt": 0})


class Convention:
    """Ours: joints in profile order, rad, then the gripper's opening in [0, 1]; theirs: as the configuration says."""

    def __init__(self, config: ConventionConfig, profile: RobotProfile, source: str) -> None:
        """source: the YAML, for messages. Raises ConfigError where joints or rate are not this robot's."""
        ours = [*profile.joint_names, GRIPPER]
        theirs = config.joints or tuple(PolicyJoint(name) for name in ours)
        names = [joint.name for joint in theirs]
        if sorted(names) != sorted(ours):
            odd = next((name for name in names if name not in ours or names.count(name) > 1), None)
            wrong = f"has no place for '{odd}'" if odd else f"lacks {', '.join(name for name in ours if name not in names)}"
            raise ConfigError(
                f"{source}: key 'joints' [{', '.join(names)}] {wrong}; robot '{profile.name}' has {', '.join(ours)}, each wanted once"
            )
        if config.rate is not None and config.rate != profile.rate:
            raise ConfigError(
                f"{source}: the policy acts at {config.rate:g} Hz (key 'rate'), robot '{profile.name}' at {profile.rate:g} Hz"
            )
        unit = 180 / np.pi if config.units == "deg" else 1.0
        self.order = np.array([ours.index(name) for name in names])
        self._back = np.argsort(self.order)
        grip = np.array([name == GRIPPER for name in names])
        sign = np.array([joint.sign for joint in theirs], np.float64)

        def line(gripper: GripperRange) -> tuple[np.ndarray, np.ndarray]:
            offset = np.array([joint.offset for joint in theirs], np.float64)
            return np.where(grip, gripper.open - gripper.closed, sign * unit), np.where(grip, gripper.closed, offset)

        self.space: ActionSpace = config.action_space
        self._gripper = config.action_gripper or config.gripper
        self._state_scale, self._state_offset = line(config.gripper)
        self._scale, self._offset = line(self._gripper)
        if self.space == "joint_delta":
            self._offset = np.where(grip, self._offset, 0.0)

    @property
    def columns(self) -> int:
        """Numbers of an action."""
        return len(self.order) if self.space.startswith("joint") else 7

    def state(self, proprioception: np.ndarray) -> np.ndarray:
        """(..., joints + 1) ours -> theirs, float32."""
        return (np.asarray(proprioception, np.float64)[..., self.order] * self._state_scale + self._state_offset).astype(np.float32)

    def ours(self, actions: np.ndarray) -> np.ndarray:
        """(..., columns) of theirs -> ours, float32; the opening is clipped to [0, 1]."""
        actions = np.asarray(actions, np.float64)
        if self.space.startswith("joint"):
            result = ((actions - self._offset) / self._scale)[..., self._back]
        else:
            opening = (actions[..., 6:] - self._gripper.closed) / (self._gripper.open - self._gripper.closed)
            result = np.concatenate([actions[..., :6], opening], axis=-1)
        result[..., -1] = result[..., -1].clip(0.0, 1.0)
        return result.astype(np.float32)

    def theirs(self, actions: np.ndarray) -> np.ndarray:
        """(..., columns) of ours -> theirs, float32: what `ours` undoes."""
        actions = np.asarray(actions, np.float64)
        if self.space.startswith("joint"):
            return (actions[..., self.order] * self._scale + self._offset).astype(np.float32)
        grip = actions[..., 6:] * (self._gripper.open - self._gripper.closed) + self._gripper.closed
        return np.concatenate([actions[..., :6], grip], axis=-1).astype(np.float32)


def chosen_cameras(cameras: dict[str, str], profile: RobotProfile, source: str) -> dict[str, str]:
    """The key `cameras` (camera of the profile -> what the policy calls it), checked. Raises ConfigError naming both sides."""
    known = [camera.name for camera in profile.cameras]
    for name, theirs in cameras.items():
        if name not in known:
            raise ConfigError(f"{source}: key 'cameras': no '{name}' (for the policy's '{theirs}') among the robot's: {', '.join(known)}")
    twice = next((name for name in cameras.values() if list(cameras.values()).count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{source}: key 'cameras': '{twice}' is given to more than one camera")
    return dict(cameras)


def resized(image: np.ndarray, height: int, width: int, how: Resize = "pad") -> np.ndarray:
    """(h, w, 3) uint8 -> (height, width, 3). pad: in proportion, centred on black, bilinear (as openpi's clients do); stretch; none: as
    it is."""
    if how == "none" or image.shape[:2] == (height, width):
        return image
    picture = Image.fromarray(image)
    if how == "stretch":
        return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    ratio = max(image.shape[1] / width, image.shape[0] / height)
    inner_height, inner_width = max(int(image.shape[0] / ratio), 1), max(int(image.shape[1] / ratio), 1)
    small = picture.resize((inner_width, inner_height), Image.Resampling.BILINEAR)
    result = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    result[top : top + inner_height, left : left + inner_width] = np.asarray(small)
    return result


def first_line(error: BaseException) -> str:
    """Of what a library said, for an error of one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def names(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values)) or "none"

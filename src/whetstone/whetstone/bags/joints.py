"""Joint states and commands of a bag, in the robot's order and units.

Role: from messages as other stacks record them (their joint names, a gripper of its own, arrays without names) to what the profile calls
proprioception; what is missing is named, with the key of the mapping file that says where it is. Does not depend on rclpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from whetstone.bags.roles import Roles
from whetstone.errors import InputError
from whetstone.profile import RobotProfile


class JointReader:
    """where: the bag, as errors name it. gripper: topic beside the joint states that says where the gripper is; empty: none is needed."""

    def __init__(self, where: str, roles: Roles, profile: RobotProfile) -> None:
        self._where, self._roles, self._profile = where, roles, profile
        self._source = roles.mapping.gripper
        self.gripper = self._source.topic if self._source.topic != roles.joint_states else ""
        self._back = {theirs: ours for ours, theirs in roles.mapping.joints.items()}
        if self._source.joint and not self.gripper:
            self._back[self._source.joint] = profile.gripper.joint

    def measured(self, message: Any, gripper: Any = None) -> np.ndarray:
        """(joints + 1,) float32 of a JointState, and of the gripper's own message where it has one."""
        names, positions = self._ours(message.name, message.position)
        joint, topic = self._profile.gripper.joint, self._roles.joint_states
        if self._source.opening is not None:
            names, positions = [*names, joint], [*positions, self._profile.opening_to_position(self._source.opening)]
        elif gripper is not None:
            names, positions = [*names, joint], [*positions, self._gripper_value(gripper)]
        if joint not in names:
            raise InputError(
                f"{self._where}: topic '{topic}' has no gripper '{joint}', it has {', '.join(message.name)}; say where it is in a mapping"
                " file (key gripper: topic, joint, closed, open; or opening, where there is none)"
            )
        try:
            return self._profile.proprioception(names, positions)
        except InputError as error:
            raise InputError(f"{self._where}: topic '{topic}': {error}; a mapping file says what they are called (key joints)") from None

    def commanded(self, message: Any) -> np.ndarray:
        """(joints + 1,) float32 of a command; a gripper that it does not speak of is NaN."""
        topic, joints = self._roles.commands, self._profile.joint_names
        if hasattr(message, "points"):
            names, positions = self._ours(message.joint_names, message.points[-1].positions if message.points else ())
        elif hasattr(message, "layout"):
            names, positions = self._ours(self._array_names(len(message.data)), message.data)
        elif hasattr(message, "names"):
            names, positions = list(message.names), list(message.position)
        else:
            names, positions = self._ours(message.name, message.position)
        result = np.full(len(joints) + 1, np.nan, np.float32)
        places = {name: place for place, name in enumerate(names)}
        for column, joint in enumerate((*joints, self._profile.gripper.joint)):
            if joint in places and places[joint] < len(positions):
                value = positions[places[joint]]
                result[column] = value if column < len(joints) else self._profile.position_to_opening(value)
        missing = [joint for joint, value in zip(joints, result) if np.isnan(value)]
        if missing:
            raise InputError(
                f"{self._where}: topic '{topic}' has no position of '{missing[0]}'; it has {', '.join(names)}; a mapping says what they"
                " are called (keys joints, commands)"
            )
        return result

    def _ours(self, theirs: Sequence[str], values: Sequence[float]) -> tuple[list[str], list[float]]:
        """Under the profile's names, the gripper's value in its joint's unit."""
        names, positions = [self._back.get(name, name) for name in theirs], [float(value) for value in values]
        joint = self._profile.gripper.joint
        if not self.gripper and joint in names and names.index(joint) < len(positions):
            place = names.index(joint)
            positions[place] = self._in_its_unit(positions[place])
        return names, positions

    def _in_its_unit(self, value: float) -> float:
        """A gripper's value as its joint's position in the profile's unit."""
        closed, opened = self._source.closed, self._source.open
        if closed is None or opened is None:
            return value
        return self._profile.opening_to_position((value - closed) / (opened - closed))

    def _gripper_value(self, message: Any) -> float:
        if hasattr(message, "data"):
            return self._in_its_unit(float(message.data))
        joint = self._source.joint or self._profile.gripper.joint
        if joint not in message.name:
            has = ", ".join(message.name)
            raise InputError(f"{self._where}: topic '{self.gripper}' has no joint '{joint}'; it has {has} (key gripper.joint of a mapping)")
        return self._in_its_unit(float(message.position[list(message.name).index(joint)]))

    def _array_names(self, count: int) -> Sequence[str]:
        said = self._roles.mapping.commands.names if self._roles.mapping.commands else ()
        whole = (*self._profile.joint_names, self._profile.gripper.joint)
        names = said or (whole[:count] if count in (len(whole), len(whole) - 1) else ())
        if len(names) != count:
            raise InputError(
                f"{self._where}: topic '{self._roles.commands}' holds {count} numbers, {self._profile.name} has {len(whole)} joints; name"
                " them in a mapping file (key commands.names)"
            )
        return names

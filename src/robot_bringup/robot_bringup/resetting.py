"""The ways of an arm that brings a scene back: to its home, or along a recorded episode.

Role: pure arithmetic: rows of joint positions and gripper opening, one for each control period. What carries them out is
scene_node.py. Does not depend on ROS.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from whetstone.errors import ConfigError, InputError
from whetstone.profile import RobotProfile
from whetstone.store import RolloutStore

SHARE = 0.25
"""Of the profile's velocities and accelerations that a reset uses: nobody waits beside it for a race."""
_PEAK_VELOCITY, _PEAK_ACCELERATION = 1.875, 5.7735  # of a minimum-jerk path of length 1 in time 1
WAYS, PLACE = ("park", "replay", "prompt"), "place"


def minimum_jerk(start: np.ndarray, end: np.ndarray, profile: RobotProfile, share: float = SHARE) -> np.ndarray:
    """(N, joints) rad, N >= 1, from behind `start` to `end`, both (joints,) rad: no faster and no harder than `share` of the profile's
    limits (Flash and Hogan 1985: the quintic of least jerk)."""
    way = np.abs(np.asarray(end, np.float64) - start)
    by_velocity = (_PEAK_VELOCITY * way / (share * profile.velocity)).max()
    by_acceleration = np.sqrt(_PEAK_ACCELERATION * way / (share * profile.acceleration)).max()
    count = max(1, int(np.ceil(max(by_velocity, by_acceleration) * profile.rate)))
    time = np.arange(1, count + 1) / count
    along = time**3 * (10 - 15 * time + 6 * time**2)
    return start + along[:, None] * (np.asarray(end, np.float64) - start)


def to_home(measured: np.ndarray, profile: RobotProfile) -> np.ndarray:
    """(N, joints + 1) from `measured` (joints + 1,): the hand opens where it is, and the arm goes to its home pose."""
    rows = minimum_jerk(measured[:-1], profile.home, profile)
    return np.column_stack([rows, np.ones(len(rows))])


def along(recorded: np.ndarray, measured: np.ndarray, profile: RobotProfile) -> np.ndarray:
    """(N, joints + 1): to where the recorded way begins, and along it. recorded: (M, joints + 1), measured: (joints + 1,)."""
    there = minimum_jerk(measured[:-1], recorded[0, :-1], profile)
    return np.concatenate([np.column_stack([there, np.full(len(there), recorded[0, -1])]), recorded])


def recorded_way(folder: Path, profile: RobotProfile) -> np.ndarray:
    """What was commanded in a stored episode, (M, joints + 1). folder: .../rollouts/EPISODE. Raises InputError naming what is wrong."""
    if not folder.is_dir():
        raise InputError(f"reset_episode:={folder}: no such folder; name one of an episode, as `whetstone episodes list` shows them")
    rollout = RolloutStore(folder.parent).read(folder.name)
    commanded = rollout.steps.get("commanded")
    if commanded is None or not np.isfinite(commanded).all(axis=1).any():
        raise InputError(f"{folder}: the episode does not say what was commanded at its control steps")
    rows = np.asarray(commanded[np.isfinite(commanded).all(axis=1)], np.float64)
    if rows.shape[1] != len(profile.joints) + 1:
        raise InputError(f"{folder}: of an arm with {rows.shape[1] - 1} joints; robot '{profile.name}' has {len(profile.joints)}")
    return rows


def ways(text: str, episode: str, simulated: bool = False) -> tuple[str, ...]:
    """The words of reset:=park,prompt; episode: of reset_episode:=; simulated: there is a simulator, which can `place` objects. Raises
    ConfigError naming a word that is none, or the missing one of replay and its episode."""
    found, known = tuple(word.strip() for word in text.split(",")), (*WAYS, PLACE) if simulated else WAYS
    for word in found:
        if word not in known:
            raise ConfigError(f"reset:={text}: '{word}' is no way to bring a scene back; there are {', '.join(known)}")
    if ("replay" in found) != bool(episode):
        raise ConfigError("reset:=replay and reset_episode:=FOLDER, the episode to go along, belong together")
    return found

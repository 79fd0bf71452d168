"""An episode that somebody else acted out, as a rollout.

Role: what importers share, of LeRobot's datasets and of other stacks' bags: control steps cut into decisions and chunks as a policy of this
robot would have made them, and the checks that numbers from elsewhere need. Depends on numpy only.
"""

from __future__ import annotations

import numpy as np

from whetstone.contracts import REWARD_VALUES, Rollout
from whetstone.errors import InputError
from whetstone.profile import RobotProfile

_BESIDE = 0.5  # rad that a joint may lie outside its range before its unit is doubted


def from_steps(
    stamps: np.ndarray,
    state: np.ndarray,
    action: np.ndarray,
    *,
    episode_id: str,
    task: str,
    instruction: str,
    outcome: str,
    reason: str,
    execute: int,
    horizon: int,
    intervention: np.ndarray | None = None,
) -> Rollout:
    """A demonstration without its images: a decision every `execute` steps, whose chunk is what was done in the `horizon` steps from then
    on (the last one stands at the end); the last step is the last frame, rewards are unlabelled.

    stamps: (N,) ns of the control steps, N >= 2; state, action: (N, joints + 1) as proprioception.
    """
    count = len(stamps)
    decisions = decisions_of(count, execute)
    ahead = np.minimum(decisions[:, None] + np.arange(horizon), count - 1)
    steps = {"stamps": stamps, "measured": state, "commanded": action}
    if intervention is not None:
        steps["intervention"] = intervention
    return Rollout(
        episode_id=episode_id,
        iteration=0,
        task=task,
        instruction=instruction,
        seed=0,
        outcome=outcome,
        reason=reason,
        stamps=stamps[decisions],
        images={},
        proprioception=state[decisions],
        actions=action[ahead],
        latents=None,
        log_probabilities=np.full(len(decisions), np.nan, np.float32),
        policy_versions=np.zeros(len(decisions), np.uint64),
        rewards={name: np.full(len(decisions) + 1, np.nan, np.float32) for name in REWARD_VALUES},
        last_proprioception=state[-1],
        steps=steps,
        end=int(stamps[-1]),
        source="demonstration",
    )


def decisions_of(count: int, execute: int) -> np.ndarray:
    """Control steps, of `count`, at which a decision is made; not at the last, which is the end."""
    return np.arange(0, count - 1, execute)


def check_joints(values: np.ndarray, profile: RobotProfile, where: str, hint: str) -> None:
    """(N, joints or more) rad. Raises InputError where a joint is far outside its range: its unit or its column must be wrong."""
    for column, joint in enumerate(profile.joints):
        far = np.maximum(joint.lower - values[:, column], values[:, column] - joint.upper)
        if far.max() > _BESIDE:
            reached = values[far.argmax(), column]
            says = f"{where}: joint '{joint.name}' would be at {reached:.3g} rad, its range is {joint.lower:g} to {joint.upper:g}"
            raise InputError(f"{says}; {hint}")

"""Whether a policy can learn from an episode.

Role: one check, for what learners are given from before a run and for refinement on stored episodes. Depends on the contracts alone.
"""

from __future__ import annotations

from whetstone.contracts import PolicySpec, Rollout


def misfit(rollout: Rollout, spec: PolicySpec) -> str:
    """Why a policy cannot learn from an episode; empty where it can."""
    for camera in spec.cameras:
        if camera not in rollout.images:
            return f"has no camera '{camera}'; it has {', '.join(rollout.images) or 'none'}"
        size = rollout.images[camera].shape[1:3]
        if spec.image_size is not None and size != tuple(spec.image_size):
            return f"has images of {size[1]}x{size[0]} of camera '{camera}', the policy sees {spec.image_size[1]}x{spec.image_size[0]}"
    columns = len(spec.joints) + 1
    for what, found in (("measures", rollout.proprioception.shape[-1]), ("commands", rollout.actions.shape[-1])):
        if found != columns:
            return f"{what} {found - 1} joints and a gripper, the policy's robot has {columns - 1}"
    if rollout.actions.shape[1] != spec.horizon:
        return f"has chunks of {rollout.actions.shape[1]} rows, the policy's have {spec.horizon} (horizon)"
    return ""

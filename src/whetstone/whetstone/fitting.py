"""Whether a policy can learn from an episode.

Role: one check, for what learners are given from before a run and for refinement on stored episodes. Depends on the contracts alone.
"""

from __future__ import annotations

from whetstone.contracts import PolicySpec, Rollout


def misfit(rollout: Rollout, spec: PolicySpec) -> str:
    """Why a policy cannot learn from an episode; empty where it can."""
    if not len(rollout.stamps):
        return "holds no decision"
    for camera in spec.cameras:
        if camera not in rollout.images:
            return f"has no camera '{camera}'; it has {', '.join(rollout.images) or 'none'}"
        size = rollout.images[camera].shape[1:3]
        if spec.image_size is not None and size != tuple(spec.image_size):
            return f"has images of {size[1]}x{size[0]} of camera '{camera}', the policy sees {spec.image_size[1]}x{spec.image_size[0]}"
    joints, measured, found = len(spec.joints), rollout.proprioception.shape[-1] - 1, rollout.actions.shape[-1]
    if measured != joints:
        return f"measures {measured} joints and a gripper, the policy's robot has {joints}"
    if found != spec.columns:
        # An episode does not say what its actions mean.
        of = {measured + 1: "joints and gripper", 7: "the end effector and gripper"}.get(found, "something else")
        return f"has actions of {found} numbers ({of}), the policy's have {spec.columns} ({spec.action_space})"
    if rollout.actions.shape[1] != spec.horizon:
        return f"has chunks of {rollout.actions.shape[1]} rows, the policy's have {spec.horizon} (horizon)"
    return ""

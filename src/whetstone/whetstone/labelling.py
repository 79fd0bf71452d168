"""Rewards of an episode that is over: those that came late, and those of another reward model.

Role: puts scores into a rollout at the decisions whose stamps they bear. Does not depend on torch or ROS.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np

from whetstone.contracts import PROPRIOCEPTION, REWARD_VALUES, RewardModel, RewardSample, Rollout
from whetstone.errors import InputError
from whetstone.frames import Frames
from whetstone.profile import RobotProfile


def back_label(rollout: Rollout, late: Iterable[tuple[RewardSample, str]], tolerance: int = 0) -> Rollout:
    """The rollout with rewards (and the model they come from) that came after it was closed: at the decisions and the end to which they are
    the nearest of all its scores, and among the scores. The one given stays as it is.

    tolerance: how far (ns) a score's stamp may be from the decision's, as in joining: 0 in simulation, where stamps agree exactly, half a
    period on hardware, where cameras run on their own.
    """
    rewards = {name: rollout.rewards.get(name, np.full(len(rollout.stamps) + 1, np.nan, np.float32)).copy() for name in REWARD_VALUES}
    rows = {stamp: row for row, stamp in enumerate(rollout.stamps.tolist())}
    if rollout.end is not None:
        rows[rollout.end] = len(rollout.stamps)
    samples = _samples(rollout.scores)
    model, new = rollout.reward_model_id, set()
    for sample, model_id in late:
        samples[sample.stamp] = sample
        new.add(sample.stamp)
        model = model_id or model
    for stamp, row in rows.items():
        nearest = nearest_stamp(samples, stamp, tolerance)
        if nearest is not None and nearest in new:
            sample = samples[nearest]
            for name in REWARD_VALUES:
                rewards[name][row] = getattr(sample, name) if sample.valid else np.nan
    return replace(rollout, rewards=rewards, scores=scores_of(samples), reward_model_id=model)


def nearest_stamp(stamps: Collection[int], wanted: int, tolerance: int) -> int | None:
    """The one of them that is nearest to the wanted one, the earlier of two; None where none is within the tolerance. ns."""
    if wanted in stamps:
        return wanted
    nearest = min(stamps, key=lambda stamp: (abs(stamp - wanted), stamp)) if tolerance and stamps else None
    return nearest if nearest is not None and abs(nearest - wanted) <= tolerance else None


def _samples(scores: dict[str, np.ndarray]) -> dict[int, RewardSample]:
    """What `scores_of` was made of, but for reasons and windows, which it does not keep."""
    samples = {}
    for place, stamp in enumerate(scores.get("stamps", np.empty(0)).tolist()):
        values: dict[str, float] = {name: float(scores[name][place]) for name in REWARD_VALUES if name in scores}
        samples[stamp] = replace(RewardSample(stamp, valid=bool(scores["valid"][place])), **values)  # type: ignore[arg-type]
    return samples


def scores_of(rewards: dict[int, RewardSample]) -> dict[str, np.ndarray]:
    """Every reward of an episode as it came."""
    samples = [rewards[stamp] for stamp in sorted(rewards)]
    values = {name: np.array([getattr(sample, name) for sample in samples], np.float32) for name in REWARD_VALUES}
    stamps = np.array([sample.stamp for sample in samples], np.int64)
    return {"stamps": stamps, "valid": np.array([sample.valid for sample in samples], bool), **values}


def label(rollout: Rollout, frames: Frames | None, model: RewardModel, profile: RobotProfile) -> Rollout:
    """The rollout with this model's scores in place of all that it had: every `needs.every`-th control step, as the reward node does it,
    and the last frame if it is there. In real time the first step is missing; then counting begins where most decisions are met.

    frames: of all control steps; None will do where decisions are no further apart than that.

    Raises InputError naming the image that the model wants and the episode lacks. The outcome stays: it is what ended the episode.
    """
    if not rollout.steps or not len(rollout.steps["stamps"]):
        raise InputError("its control steps were not recorded")
    measured = dict(zip(rollout.steps["stamps"].tolist(), rollout.steps["measured"]))
    last = rollout.end if rollout.end is not None and rollout.end in measured else int(rollout.steps["stamps"][-1])
    met = np.bincount(np.searchsorted(rollout.steps["stamps"], rollout.stamps) % model.needs.every, minlength=1)
    every = rollout.steps["stamps"][int(met.argmax()) :: model.needs.every].tolist()
    stamps, seen = [], []
    for stamp in sorted({*every, last}):
        images = {camera: _image(rollout, frames, camera, stamp, stamp == last, profile) for camera in model.needs.cameras}
        missing = [camera for camera, image in images.items() if image is None]
        if missing and stamp == last:
            continue  # nobody recorded the last frame: it stays unlabelled
        if missing:
            raise InputError(_lacks(rollout, missing[0], stamp, model))
        stamps.append(stamp)
        seen.append({**images, PROPRIOCEPTION: measured[stamp]} if model.needs.proprioception else images)
    model.reset(rollout.episode_id, rollout.instruction, rollout.seed)
    samples = model.score_episode(seen, stamps)
    bare = replace(rollout, rewards={}, scores={}, reward_model_id="", end=last)
    return back_label(bare, ((sample, model.provenance.model_id) for sample in samples))


def _image(rollout: Rollout, frames: Frames | None, camera: str, stamp: int, last: bool, profile: RobotProfile) -> np.ndarray | None:
    if camera not in rollout.images:
        return None
    row = int(np.searchsorted(rollout.stamps, stamp))
    if row < len(rollout.stamps) and rollout.stamps[row] == stamp:
        return rollout.images[camera][row]
    if last and camera in rollout.last_images:
        return rollout.last_images[camera]
    known = frames.stamps(camera) if frames is not None else np.empty(0, np.int64)
    near = known[np.abs(known - stamp) <= profile.period_ns // 2]
    return frames.read(camera, int(near[np.abs(near - stamp).argmin()])) if frames is not None and len(near) else None


def _lacks(rollout: Rollout, camera: str, stamp: int, model: RewardModel) -> str:
    plugin = model.provenance.plugin
    if camera not in rollout.images:
        return f"it has no camera '{camera}', which {plugin} looks at; it has {', '.join(rollout.images) or 'none'}"
    after = (stamp - int(rollout.steps["stamps"][0])) / 1e9
    missing = f"no image of '{camera}' {after:.2f} s after the first: record with record_frames:=all, import with frames:=all"
    return f"{plugin} scores a frame in {model.needs.every} control steps, and there is {missing}"

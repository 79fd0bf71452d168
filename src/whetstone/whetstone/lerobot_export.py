"""Rollouts as a LeRobotDataset v3.0.

Role: what the rows and columns of a dataset mean in terms of rollouts. One rule: row t holds what was measured and seen at its time,
and what was sent at its time. Rows are the decisions, or every control step where every frame was recorded. What the format has no place
for lies beside it in `whetstone/`, so that lerobot_import gives back the same rollouts. Depends on what lerobot_dataset needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from whetstone.contracts import REWARD_VALUES, Rollout
from whetstone.errors import InputError
from whetstone.frames import Frames
from whetstone.lerobot_dataset import DatasetWriter, Feature, picture_feature, progress_table
from whetstone.profile import RobotProfile
from whetstone.store import RolloutStore, meta_of, to_arrays, write_arrays

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
REWARD, DONE, SUCCESS = "next.reward", "next.done", "next.success"
INTERVENTION = "complementary_info.is_intervention"
PROGRESS_FILE = "sarm_progress.parquet"
SIDE_COLUMN, SIDE_FILE = "whetstone/episode", "whetstone/episode_{index:06d}.npz"
GRIPPER = "gripper"
_HALF = 0.5  # of a period: how far a stamp may be from its place


@dataclass(frozen=True)
class ExportOptions:
    """rows: "decisions", "steps" (every control step) or "auto": steps where every chosen episode has all its frames.

    images: "video" (H.264), "png" (exact) or "none". reward: what next.reward holds: a name of REWARD_VALUES, or "success": 1 in the last
    row of a success, else 0.
    """

    rows: Literal["auto", "decisions", "steps"] = "auto"
    images: Literal["video", "png", "none"] = "video"
    reward: str = "total"


@dataclass
class Exported:
    """What was written. fps: rows per second; left_out: episode -> why; unlabelled: rows whose reward is NaN."""

    rows_are: str
    fps: Fraction
    episodes: int = 0
    rows: int = 0
    unlabelled: int = 0
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass
class Rows:
    """The rows of one episode. stamps: (N,) int64 ns; state, action: (N, joints + 1); reward, progress: (N,), NaN unknown; intervention:
    (N,) bool; image: camera and row -> picture."""

    stamps: np.ndarray
    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    progress: np.ndarray
    intervention: np.ndarray
    image: Callable[[str, int], np.ndarray]


def export(store: RolloutStore, episodes: Sequence[str], profile: RobotProfile, to: Path, options: ExportOptions) -> Exported:
    """Write these episodes to a new folder. An episode that cannot be a part of it is left out by name.

    Raises InputError where none can, or the folder cannot be written.
    """
    if options.reward != SUCCESS.rpartition(".")[2] and options.reward not in REWARD_VALUES:
        raise InputError(f"reward '{options.reward}' is not one of success, {', '.join(REWARD_VALUES)}")
    by_steps = options.rows == "steps" or (options.rows == "auto" and all(store.has_frames(one) for one in episodes))
    period = profile.period_ns if by_steps else _decision_period(store, episodes, profile)
    done = Exported("control steps" if by_steps else "decisions", Fraction(profile.rate).limit_denominator(10**6))
    if not by_steps:
        done.fps /= round(period / profile.period_ns)
    usable = _usable(store, episodes, profile, options, period if by_steps else -period, done.left_out)
    first = next(usable, None)
    if first is None:
        reasons = [f"{name}: {reason}" for name, reason in done.left_out.items()]
        raise InputError(f"no episode to export: {reasons[0] if reasons else 'none was chosen'}")
    table: list[np.ndarray] = []
    models: dict[str, None] = {}
    with DatasetWriter(to, done.fps, _features(first[0], profile, options), profile.name) as writer:
        for rollout, rows in chain([first], usable):
            told = {"rows": "steps" if by_steps else "decisions", **meta_of(rollout)}
            index = writer.add_episode(*_columns(rollout, rows, options), rollout.instruction, {SIDE_COLUMN: json.dumps(told)})
            writer.add_file(SIDE_FILE.format(index=index), _side(rollout))
            count, frame = len(rows.stamps), np.arange(len(rows.stamps))
            table.append(np.stack([frame + done.rows, np.full(count, index), frame, rows.progress], axis=1))
            models[rollout.reward_model_id or "none"] = None
            done.episodes, done.rows = done.episodes + 1, done.rows + count
            done.unlabelled += int(np.isnan(rows.reward).sum())
        writer.add_file(PROGRESS_FILE, progress_table(*np.concatenate(table).T, model_id=",".join(models)))
    return done


def _usable(
    store: RolloutStore, episodes: Sequence[str], profile: RobotProfile, options: ExportOptions, period: int, left_out: dict[str, str]
) -> Iterator[tuple[Rollout, Rows]]:
    """The episodes that fit the first of them. period: ns between rows, negative where rows are decisions."""
    first: Rollout | None = None
    for episode_id in episodes:
        try:
            rollout = store.read(episode_id)
            frames = store.frames(episode_id) if period > 0 and options.images != "none" else None
            rows = step_rows(rollout, frames, profile, options) if period > 0 else decision_rows(rollout, options)
            _check(rollout, rows, profile, abs(period), first, options)
        except InputError as error:
            left_out[episode_id] = str(error)
            continue
        first = first or rollout
        yield rollout, rows


def decision_rows(rollout: Rollout, options: ExportOptions) -> Rows:
    """A row per decision. The action is what the guard let through at that control step, the chunk's first row where that is not known."""
    stamps, steps = rollout.stamps, rollout.steps
    action = rollout.actions[:, 0].astype(np.float32).copy() if len(stamps) else np.empty((0, 1), np.float32)
    intervention = np.zeros(len(stamps), bool)
    if steps:
        places = {stamp: place for place, stamp in enumerate(steps["stamps"].tolist())}
        for row, stamp in enumerate(stamps.tolist()):
            place = places.get(stamp)
            if place is not None and np.isfinite(steps["commanded"][place]).all():
                action[row] = steps["commanded"][place]
        if "intervention" in steps:
            owner = np.searchsorted(stamps, steps["stamps"], side="right") - 1
            intervention[np.unique(owner[steps["intervention"] & (owner >= 0)])] = True
    blank = np.full(len(stamps) + 1, np.nan, np.float32)
    reward = _success(rollout, len(stamps)) if options.reward == "success" else rollout.rewards.get(options.reward, blank)[1:]
    progress = rollout.rewards.get("progress", blank)[:-1]
    return Rows(stamps, rollout.proprioception, action, reward, progress, intervention, lambda camera, row: rollout.images[camera][row])


def step_rows(rollout: Rollout, frames: Frames | None, profile: RobotProfile, options: ExportOptions) -> Rows:
    """A row per control step from the first command to the last. Where nothing was sent the last target stands. The reward is the newest
    score at the next row's time (held between scores), progress is interpolated between scores, as lerobot does.

    Raises InputError where steps or frames were not recorded.
    """
    steps = rollout.steps
    sent: np.ndarray = np.isfinite(steps["commanded"]).all(axis=1) if steps else np.empty(0, bool)  # type: ignore[assignment]
    if not sent.any():
        raise InputError("no control steps with a command were recorded")
    keep = slice(int(sent.argmax()), int(len(sent) - sent[::-1].argmax()))
    stamps, action = steps["stamps"][keep], steps["commanded"][keep].copy()
    action = action[np.maximum.accumulate(np.where(sent[keep], np.arange(len(action)), 0))]
    intervention = steps["intervention"][keep] if "intervention" in steps else np.zeros(len(stamps), bool)
    later = np.append(stamps[1:], stamps[-1] + profile.period_ns)
    reward = _success(rollout, len(stamps)) if options.reward == "success" else _held(rollout, options.reward, later)
    picture = _picture(rollout, frames, stamps, profile) if options.images != "none" else _no_picture
    return Rows(stamps, steps["measured"][keep], action, reward, _interpolated(rollout, stamps), intervention, picture)


def _no_picture(camera: str, row: int) -> np.ndarray:
    raise KeyError(camera)


def _picture(rollout: Rollout, frames: Frames | None, stamps: np.ndarray, profile: RobotProfile) -> Callable[[str, int], np.ndarray]:
    if frames is None:
        raise InputError("images of every control step were not recorded (record_frames:=all); rows:=decisions has what there is")
    exact = {stamp: row for row, stamp in enumerate(rollout.stamps.tolist())}
    nearest: dict[str, np.ndarray] = {}
    for camera in rollout.images:
        known = frames.stamps(camera)
        if not len(known):
            raise InputError(f"no frame of camera '{camera}' was recorded")
        after = np.clip(np.searchsorted(known, stamps), 1, max(len(known) - 1, 1)) if len(known) > 1 else np.zeros(len(stamps), int)
        before = np.maximum(after - 1, 0)
        nearest[camera] = np.where(np.abs(known[before] - stamps) <= np.abs(known[after] - stamps), known[before], known[after])
        far = np.abs(nearest[camera] - stamps) > _HALF * profile.period_ns
        if far.any():
            raise InputError(f"camera '{camera}' has no frame {(stamps[far][0] - stamps[0]) / 1e9:.2f} s after the first")

    def read(camera: str, row: int) -> np.ndarray:
        decision = exact.get(int(stamps[row]))
        return rollout.images[camera][decision] if decision is not None else frames.read(camera, int(nearest[camera][row]))

    return read


def _success(rollout: Rollout, rows: int) -> np.ndarray:
    reward = np.zeros(rows, np.float32)
    if rows:
        reward[-1] = rollout.outcome == "success"
    return reward


def _scores(rollout: Rollout, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Stamps and values of the valid scores, by time."""
    if rollout.scores and name in rollout.scores:
        stamps, values = rollout.scores["stamps"], rollout.scores[name]
        known = rollout.scores["valid"] & np.isfinite(values)
    else:
        values = rollout.rewards.get(name, np.full(len(rollout.stamps) + 1, np.nan))[:-1]
        stamps, known = rollout.stamps, np.isfinite(values)
    order = np.argsort(stamps[known], kind="stable")
    return stamps[known][order], values[known][order].astype(np.float32)


def _held(rollout: Rollout, name: str, at: np.ndarray) -> np.ndarray:
    stamps, values = _scores(rollout, name)
    place = np.searchsorted(stamps, at, side="right") - 1
    return np.where(place >= 0, values[np.maximum(place, 0)], np.nan).astype(np.float32) if len(values) else np.full(len(at), np.nan)


def _interpolated(rollout: Rollout, at: np.ndarray) -> np.ndarray:
    stamps, values = _scores(rollout, "progress")
    if not len(values):
        return np.full(len(at), np.nan)
    origin = int(at[0])  # float64 has no room for ns since 1970
    return np.interp(at - origin, stamps - origin, values, left=np.nan, right=values[-1])


def _check(rollout: Rollout, rows: Rows, profile: RobotProfile, period: int, first: Rollout | None, options: ExportOptions) -> None:
    columns = len(profile.joints) + 1
    if not len(rows.stamps):
        raise InputError("it has no rows")
    if rows.state.shape[1] != columns or rows.action.shape[1] != columns:
        raise InputError(f"it has {rows.state.shape[1]} joint columns, robot '{profile.name}' has {columns}")
    expected = rows.stamps[0] + np.arange(len(rows.stamps)) * period
    far = np.abs(rows.stamps - expected) > _HALF * min(period, profile.period_ns)
    if far.any():
        raise InputError(f"a row is missing {(rows.stamps[far.argmax() - 1] - rows.stamps[0] + period) / 1e9:.2f} s after the first")
    if first is not None and options.images != "none":
        sizes, wanted = ({name: one.shape[1:] for name, one in this.images.items()} for this in (rollout, first))
        if sizes != wanted:
            raise InputError(f"its images are {sizes}, those of {first.episode_id} {wanted}")
    for camera, images in rollout.images.items() if options.images == "video" else ():
        if images.shape[1] % 2 or images.shape[2] % 2:
            raise InputError(f"camera '{camera}' is {images.shape[2]}x{images.shape[1]}: video needs even sizes; images:=png does not")


def _features(rollout: Rollout, profile: RobotProfile, options: ExportOptions) -> dict[str, Feature]:
    names = (*profile.joint_names, GRIPPER)
    features = {STATE: Feature("float32", (len(names),), names), ACTION: Feature("float32", (len(names),), names)}
    if options.images != "none":
        kind = "video" if options.images == "video" else "image"
        features |= {IMAGES + camera: picture_feature(kind, *images.shape[1:3]) for camera, images in rollout.images.items()}
    features |= {REWARD: Feature("float32", (1,)), DONE: Feature("bool", (1,)), SUCCESS: Feature("bool", (1,))}
    return features | {INTERVENTION: Feature("float32", (1,), ("is_intervention",))}


def _columns(rollout: Rollout, rows: Rows, options: ExportOptions) -> tuple[dict[str, np.ndarray], dict[str, Iterator[np.ndarray]]]:
    last = np.arange(len(rows.stamps)) == len(rows.stamps) - 1
    columns = {
        STATE: rows.state.astype(np.float32),
        ACTION: rows.action.astype(np.float32),
        REWARD: rows.reward.astype(np.float32),
        DONE: last,
        SUCCESS: last & (rollout.outcome == "success"),
        INTERVENTION: rows.intervention.astype(np.float32),
    }
    cameras = rollout.images if options.images != "none" else {}
    return columns, {IMAGES + camera: map(partial(rows.image, camera), range(len(rows.stamps))) for camera in cameras}


def _side(rollout: Rollout) -> bytes:
    """All of a rollout but the images at decisions."""
    buffer = BytesIO()
    write_arrays(buffer, {name: array for name, array in to_arrays(rollout).items() if not name.startswith("images/")})
    return buffer.getvalue()


def _decision_period(store: RolloutStore, episodes: Sequence[str], profile: RobotProfile) -> int:
    """ns between two decisions, from the first episode that has two."""
    for episode_id in episodes:
        try:
            gaps = np.diff(store.read(episode_id).stamps)
        except InputError:
            continue
        if len(gaps):
            return max(1, round(float(np.median(gaps)) / profile.period_ns)) * profile.period_ns
    return profile.period_ns

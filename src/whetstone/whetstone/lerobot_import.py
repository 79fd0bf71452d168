"""A LeRobotDataset v3.0 as rollouts.

Role: the way back from lerobot_export, and the way in for what lerobot recorded: demonstrations, cut into decisions and chunks as this
project's policies make them, without a reward. Joints are matched by name, units and ranges are checked: what does not fit is an error that
names the feature and the argument that helps. Depends on what lerobot_dataset needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from whetstone.contracts import Rollout
from whetstone.errors import InputError
from whetstone.frames import encode
from whetstone.images import Resize, fitted
from whetstone.imported import check_joints, decisions_of, from_steps
from whetstone.lerobot_dataset import DatasetReader
from whetstone.lerobot_export import (
    ACTION,
    GRIPPER,
    IMAGES,
    INTERVENTION,
    SIDE_COLUMN,
    SIDE_FILE,
    STATE,
    SUCCESS,
    ExportOptions,
    decision_rows,
    step_rows,
)
from whetstone.profile import RobotProfile
from whetstone.store import DAMAGED, RolloutStore, from_arrays, read_meta

_OPENING = 0.05  # of a gripper's range that it may lie outside it before its values are doubted


@dataclass(frozen=True)
class ImportOptions:
    """cameras: ours -> feature; empty: every camera of the robot is observation.images.<its name>. joints: ours -> column name, where they
    differ. by_position: take the columns in the robot's order whatever their names. units: of the joints. gripper: its values when closed
    and when open. outcome: of every episode; "auto": next.success decides. task: name of the task. prefix: episodes are called
    prefix-000000 and so on. execute: rows between two decisions; horizon: rows of a chunk. resample: bring the rows to the robot's rate.
    resize: "stretch" or "crop" images to the robot's size, or "no". frames: keep the images of all rows, or those at decisions. sidecar:
    take from `whetstone/` what the format has no place for, where we exported the dataset. episodes: their indices; None: all.
    """

    cameras: Mapping[str, str] = field(default_factory=dict)
    joints: Mapping[str, str] = field(default_factory=dict)
    by_position: bool = False
    units: Literal["rad", "deg"] = "rad"
    gripper: tuple[float, float] = (0.0, 1.0)
    outcome: Literal["auto", "success", "failure"] = "auto"
    task: str = "imported"
    prefix: str = "demo"
    execute: int = 8
    horizon: int = 16
    resample: bool = False
    resize: Resize = "no"
    frames: Literal["decisions", "all"] = "decisions"
    sidecar: bool = True
    episodes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class _Episode:
    """rollout: all but its images. stamps, sources: (N,) ns and row of the dataset of every control step that has a picture; decisions:
    (T,) rows whose pictures are the decisions'; last: row of the last frame, None where the rollout has it already."""

    rollout: Rollout
    stamps: np.ndarray
    sources: np.ndarray
    decisions: np.ndarray
    last: int | None


def import_dataset(root: Path, store: RolloutStore, profile: RobotProfile, options: ImportOptions) -> list[str]:
    """Write the episodes of a dataset to a store; returns their ids. Raises InputError naming what is missing or does not fit; the episodes
    before it stay."""
    reader = DatasetReader(root)
    chosen = options.episodes if options.episodes is not None else range(len(reader.episodes))
    there = set(store.list())
    written = []
    for index in chosen:
        if not 0 <= index < len(reader.episodes):
            raise InputError(f"{root}: no episode {index}; it has {len(reader.episodes)}, the first is 0")
        episode = (_ours(reader, index, profile) if options.sidecar else None) or _theirs(reader, index, profile, options)
        name = episode.rollout.episode_id
        if name in there:
            raise InputError(f"episode '{name}' is in {store.root} already: name another folder, or another prefix:=")
        if episode.last is not None:
            cameras = _cameras(reader, profile, options)
        else:
            cameras = {key.removeprefix(IMAGES): key for key in reader.pictures}
        rollout = _with_pictures(reader, index, episode, cameras, profile, options)
        store.write(rollout, _frames(reader, index, episode, cameras, profile, options) if options.frames == "all" else None)
        written.append(name)
    return written


def _ours(reader: DatasetReader, index: int, profile: RobotProfile) -> _Episode | None:
    """An episode that we exported, as it was; None where this is none."""
    text, path = reader.episodes[index].get(SIDE_COLUMN), reader.root / SIDE_FILE.format(index=index)
    if not text or not path.is_file():
        return None
    try:
        meta = json.loads(text)
        with np.load(path, allow_pickle=False) as file:
            rollout = from_arrays(read_meta(meta), {name: file[name] for name in file.files})
        by_steps = meta["rows"] == "steps"
        options = ExportOptions(images="none")
        rows = step_rows(rollout, None, profile, options) if by_steps else decision_rows(rollout, options)
    except DAMAGED as error:
        raise InputError(f"{path}: damaged ({error}); sidecar:=false does without it") from None
    columns = reader.columns(index)
    if not all(name in columns and np.array_equal(columns[name], mine) for name, mine in ((STATE, rows.state), (ACTION, rows.action))):
        raise InputError(f"{reader.root}: episode {index} was changed since it was exported; sidecar:=false takes what the dataset says")
    places = {stamp: row for row, stamp in enumerate(rows.stamps.tolist())}
    missing = [stamp for stamp in rollout.stamps.tolist() if stamp not in places]
    if missing and reader.pictures:
        raise InputError(
            f"{reader.root}: episode {index} has no picture of the decision at {missing[0]} ns; sidecar:=false does without it"
        )
    decisions = np.array([places.get(stamp, 0) for stamp in rollout.stamps.tolist()], np.int64)
    return _Episode(rollout, rows.stamps, np.arange(len(rows.stamps)), decisions, None)


def _theirs(reader: DatasetReader, index: int, profile: RobotProfile, options: ImportOptions) -> _Episode:
    """A demonstration: a decision every `execute` rows, the chunk is what was done from then on (the last row stands at the end). The last
    row is the last frame."""
    for name in (STATE, ACTION):
        if name not in reader.features:
            raise InputError(f"{reader.root}: no feature {name}; it has {', '.join(reader.features)}")
    columns = reader.columns(index)
    sources, fractions = _resampled(reader, len(columns[STATE]), profile, options)
    state, action = (_joints(reader, name, columns[name], profile, options) for name in (STATE, ACTION))
    state, action = (_between(one, fractions) for one in (state, action))
    count = len(state)
    if count < 2:
        raise InputError(f"{reader.root}: episode {index} has {count} rows; two are needed")
    stamps = np.arange(count, dtype=np.int64) * profile.period_ns
    rollout = from_steps(
        stamps,
        state,
        action,
        episode_id=f"{options.prefix}-{index:06d}",
        task=options.task,
        instruction=reader.task(index),
        outcome=_outcome(reader, index, columns, options),
        reason=f"imported from {reader.root.resolve().name}",
        execute=options.execute,
        horizon=options.horizon,
        intervention=columns[INTERVENTION].reshape(-1)[sources] > 0.5 if INTERVENTION in columns else None,
    )
    return _Episode(rollout, stamps, sources, sources[decisions_of(count, options.execute)], int(sources[-1]))


def _resampled(reader: DatasetReader, count: int, profile: RobotProfile, options: ImportOptions) -> tuple[np.ndarray, np.ndarray]:
    """Row of the dataset nearest to each control step, and where between rows it lies."""
    if abs(float(reader.fps) - profile.rate) < 1e-6:
        return np.arange(count), np.arange(count, dtype=np.float64)
    if not options.resample:
        raise InputError(
            f"{reader.root}: {float(reader.fps):g} rows per second, {profile.name} is driven at {profile.rate:g} Hz; resample:=true"
            " interpolates joints and takes the nearest images"
        )
    fractions = np.arange(int((count - 1) / float(reader.fps) * profile.rate + 1e-9) + 1) * float(reader.fps) / profile.rate
    return np.minimum(np.rint(fractions).astype(np.int64), count - 1), fractions


def _between(values: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """(N, columns) float32 at fractional rows, linearly."""
    rows = np.arange(len(values))
    return np.stack([np.interp(fractions, rows, column) for column in values.T], axis=1).astype(np.float32)


def _joints(reader: DatasetReader, name: str, values: np.ndarray, profile: RobotProfile, options: ImportOptions) -> np.ndarray:
    """(rows, joints + 1): rad and gripper opening, in the robot's order."""
    ours, theirs = (*profile.joint_names, GRIPPER), reader.features[name].names
    where = f"{reader.root}: {name}"
    if options.by_position:
        if values.ndim != 2 or values.shape[1] != len(ours):
            raise InputError(f"{where} has {values.shape[1] if values.ndim == 2 else 1} columns, {profile.name} has {len(ours)}")
        order = list(range(len(ours)))
    elif theirs is None:
        raise InputError(f"{where} does not name its columns; by_position:=true takes them as {', '.join(ours)}")
    else:
        order = []
        for joint in ours:
            wanted = options.joints.get(joint, joint)
            if wanted not in theirs:
                raise InputError(f"{where} has no column '{wanted}'; it has {', '.join(theirs)}; say which it is, joints:={joint}=COLUMN")
            order.append(theirs.index(wanted))
    values = values[:, order].astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{where} has values that are not finite")
    if options.units == "deg":
        values[:, :-1] = np.deg2rad(values[:, :-1])
    closed, opened = options.gripper
    values[:, -1] = (values[:, -1] - closed) / (opened - closed)
    other = "rad" if options.units == "deg" else "deg"
    check_joints(values, profile, where, f"are its units right (units:={other}), and its column (joints:=)?")
    far = np.maximum(-values[:, -1], values[:, -1] - 1)
    if far.max() > _OPENING:
        raise InputError(f"{where}: the gripper's opening would be {values[far.argmax(), -1]:.3g}; give its values, gripper:=CLOSED,OPEN")
    values[:, -1] = values[:, -1].clip(0, 1)
    return values.astype(np.float32)


def _outcome(reader: DatasetReader, index: int, columns: dict[str, np.ndarray], options: ImportOptions) -> str:
    if options.outcome != "auto":
        return options.outcome
    if SUCCESS not in columns:
        raise InputError(f"{reader.root}: no feature {SUCCESS}; say how the episodes ended, outcome:=success or failure")
    return "success" if columns[SUCCESS].any() else "failure"


def _cameras(reader: DatasetReader, profile: RobotProfile, options: ImportOptions) -> dict[str, str]:
    """Our camera -> their feature."""
    cameras = dict(options.cameras) or {camera.name: IMAGES + camera.name for camera in profile.cameras}
    for camera, key in cameras.items():
        profile.camera(camera)
        if key not in reader.pictures:
            known = ", ".join(reader.pictures) or "none"
            raise InputError(f"{reader.root}: no picture feature {key} for camera '{camera}'; it has {known}; cameras:={camera}=FEATURE")
    return cameras


def _with_pictures(
    reader: DatasetReader, index: int, episode: _Episode, cameras: dict[str, str], profile: RobotProfile, options: ImportOptions
) -> Rollout:
    images, last = {}, {}
    for camera, key in cameras.items():
        wanted = {*episode.decisions.tolist(), *([] if episode.last is None else [episode.last])}
        found = {
            row: _sized(reader, key, picture, camera, profile, options)
            for row, picture in enumerate(reader.images(index, key))
            if row in wanted
        }
        images[camera] = np.stack([found[row] for row in episode.decisions.tolist()])
        if episode.last is not None:
            last[camera] = found[episode.last]
    return replace(episode.rollout, images=images, last_images=last if episode.last is not None else episode.rollout.last_images)


def _frames(
    reader: DatasetReader, index: int, episode: _Episode, cameras: dict[str, str], profile: RobotProfile, options: ImportOptions
) -> Iterator[tuple[str, int, bytes]]:
    """Of every control step; PNG where the dataset is exact."""
    for camera, key in cameras.items():
        lossless = reader.features[key].dtype == "image"
        steps = np.argsort(episode.sources, kind="stable")
        place = 0
        for row, picture in enumerate(reader.images(index, key)):
            data = b""
            while place < len(steps) and episode.sources[steps[place]] == row:
                data = data or encode(_sized(reader, key, picture, camera, profile, options), lossless)
                yield camera, int(episode.stamps[steps[place]]), data
                place += 1


def _sized(reader: DatasetReader, key: str, picture: np.ndarray, camera: str, profile: RobotProfile, options: ImportOptions) -> np.ndarray:
    wanted = profile.camera(camera)
    height, width = picture.shape[:2]
    if (height, width) == (wanted.height, wanted.width):
        return picture
    if options.resize == "no":
        sizes = f"{width}x{height}, camera '{camera}' of {profile.name} is {wanted.width}x{wanted.height}"
        raise InputError(f"{reader.root}: {key} is {sizes}; resize:=crop cuts the middle out, resize:=stretch does not")
    return fitted(picture, wanted.height, wanted.width, camera, options.resize)

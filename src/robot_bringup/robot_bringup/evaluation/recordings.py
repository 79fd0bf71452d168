"""What can be evaluated, and one shape for it: the parts of frame sets in their order, and what the arm did meanwhile.

Role: finds bags and stored episodes behind the words of a command line, and reads stored ones (whetstone/store.py). Bags are read in
bag_recordings.py. Does not depend on ROS, torch or a model.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from robot_bringup import records
from robot_bringup.bags.folder import FOLDER
from whetstone import jsonfile
from whetstone.arguments import expanded
from whetstone.bags.files import METADATA, bags_in
from whetstone.contracts import PROPRIOCEPTION, Rollout
from whetstone.errors import InputError
from whetstone.profile import RobotProfile
from whetstone.store import RolloutStore

Part = tuple[str, int, Any]
"""Camera or PROPRIOCEPTION; stamp, ns; a message with the fields of sensor_msgs, or the array itself."""


@dataclass(frozen=True)
class Source:
    """One bag or one stored episode. path: of the bag, or of the folder of episodes; id: of the episode, or the bag's own name; before:
    the folders that tell it from others of that id, with a / behind; outcome: "success" or "failure" where it is known before the recording
    is read; judge: who said so, empty: the recording; controls: whether it is played again as what it is not."""

    kind: Literal["bag", "episode"]
    path: str
    id: str
    before: str = ""
    outcome: str = ""
    judge: str = ""
    controls: bool = False

    @property
    def name(self) -> str:
        """In reports, no other source's."""
        return self.before + self.id

    def recording(self, own: str) -> str:
        """In reports, the name of a recording in it that calls itself so: a bag may hold several episodes."""
        return self.name if own == self.id else f"{self.name}/{own}"

    @property
    def run(self) -> Path:
        """Where the run lies that it belongs to, if it belongs to one: RUN/rollouts/EPISODE, RUN/bags/EPISODE."""
        return Path(self.path).parent if self.kind == "episode" else Path(self.path).parent.parent

    def identity(self) -> list[Any]:
        """What tells whether it has changed."""
        return identity(Path(self.path) / self.id if self.kind == "episode" else Path(self.path))


@dataclass(frozen=True)
class Facts:
    """What a recording says of itself. outcome: "success", "failure", "timeout", "aborted" or empty: unknown; judge: who said so."""

    name: str
    task: str = ""
    instruction: str = ""
    outcome: str = ""
    judge: str = ""
    seed: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """What the arm did, a row for each control step. stamps: (N,) ns; measured: (N, joints + 1), as proprioception; commanded: the same,
    NaN where nothing was sent or is known."""

    stamps: np.ndarray
    measured: np.ndarray
    commanded: np.ndarray

    def target(self) -> np.ndarray:
        """(N, joints + 1) where the arm was to go from each step: the command, else where it was a step later; NaN where neither is."""
        later = np.full_like(self.measured, np.nan)
        later[:-1] = self.measured[1:]
        return np.where(np.isfinite(self.commanded), self.commanded, later)


class Recording(Protocol):
    """One episode to evaluate."""

    @property
    def facts(self) -> Facts: ...

    @property
    def cameras(self) -> tuple[str, ...]: ...

    @property
    def done(self) -> Done | None: ...

    def grid(self, every: int) -> tuple[int, int, str]:
        """Stamp of control step 0, ns; the interval between two frame sets that can be had for a model that wants one every `every` control
        steps; and why that is another one, empty where it is not."""
        ...

    def parts(self, cameras: Sequence[str], joints: bool) -> Iterator[Part]:
        """All of them in their order. Raises InputError where one cannot be read any further."""
        ...


@dataclass
class StoredEpisode:
    """An episode of a store. Images are exact at decisions; those of the other control steps, where there are any, are JPEG. start, end: s
    from its first decision between which it is looked at, None: to its end."""

    store: RolloutStore
    rollout: Rollout
    profile: RobotProfile
    start: float = 0.0
    end: float | None = None
    facts: Facts = field(init=False)

    def __post_init__(self) -> None:
        rollout = self.rollout
        judge = f"the reward of its run ({rollout.reward_model_id})" if rollout.reward_model_id else "whoever recorded it"
        self.facts = Facts(
            rollout.episode_id, rollout.task, rollout.instruction, rollout.outcome, judge if rollout.outcome else "", rollout.seed
        )
        self.cameras = tuple(rollout.images)
        self.frames = self.store.frames(rollout.episode_id)
        self._measured = self._joints()
        steps = rollout.steps
        recorded = steps and len(steps["stamps"])
        self.done = Done(*(np.asarray(steps[name]) for name in ("stamps", "measured", "commanded"))) if recorded else None

    @property
    def _execute(self) -> int:
        """Control steps between two decisions."""
        gaps = np.diff(self.rollout.stamps)
        return max(1, round(float(np.median(gaps)) / self.profile.period_ns)) if len(gaps) else 1

    def grid(self, every: int) -> tuple[int, int, str]:
        stamps = self.rollout.stamps
        if self.frames is None:
            spacing = self._execute
            possible = spacing * -(-every // spacing)
            why = f"it has images at decisions only: a score in {possible} control steps instead of {every}" if possible != every else ""
            return int(stamps[0]), possible, why
        # As labelling does it: in real time the first step is missing, and counting begins where most decisions are met.
        place = np.rint((stamps - stamps[0]) / self.profile.period_ns).astype(np.int64) % every
        return int(stamps[0]) + int(np.bincount(place, minlength=1).argmax()) * self.profile.period_ns, every, ""

    def parts(self, cameras: Sequence[str], joints: bool) -> Iterator[Part]:
        rollout = self.rollout
        rows = {stamp: row for row, stamp in enumerate(rollout.stamps.tolist())}
        more = {camera: set() if self.frames is None else set(self.frames.stamps(camera).tolist()) for camera in cameras}
        last = rollout.end if rollout.end is not None else -1
        first, half = int(rollout.stamps[0]), self.profile.period_ns // 2
        begin = first + round(self.start * 1e9) - half
        end = math.inf if self.end is None else first + round(self.end * 1e9)
        for stamp in sorted({*rows, *(stamp for camera in more.values() for stamp in camera), last}):
            if stamp < 0 or not begin <= stamp <= end:
                continue
            if joints and (measured := self._at(stamp)) is not None:
                yield PROPRIOCEPTION, stamp, measured
            for camera in cameras:
                if stamp in rows:
                    yield camera, stamp, rollout.images[camera][rows[stamp]]
                elif stamp == last and camera in rollout.last_images:
                    yield camera, stamp, rollout.last_images[camera]
                elif self.frames is not None and stamp in more[camera]:
                    yield camera, stamp, self.frames.read(camera, stamp)

    def _joints(self) -> tuple[np.ndarray, np.ndarray]:
        rollout = self.rollout
        if rollout.steps and len(rollout.steps["stamps"]):
            return rollout.steps["stamps"], rollout.steps["measured"]
        return rollout.stamps, rollout.proprioception

    def _at(self, stamp: int) -> np.ndarray | None:
        stamps, measured = self._measured
        row = int(np.abs(stamps - stamp).argmin())
        return np.asarray(measured[row], np.float32) if abs(int(stamps[row]) - stamp) <= self.profile.period_ns // 2 else None


def identity(root: Path) -> list[Any]:
    """Of a file, or of all files of a folder, what tells whether they have changed: names, sizes and times."""
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    return [[str(path.relative_to(root)), (found := path.stat()).st_size, found.st_mtime_ns] for path in files]


def find(words: Sequence[str]) -> list[Source]:
    """A run's folder, a folder of episodes or one of them; anything else must be a bag, or a folder of bags. Raises InputError naming what
    is not there or is given twice."""
    found: list[Source] = []
    for word in words:
        path = Path(os.path.abspath(expanded(word)))  # so that its run is found from whatever folder it is named
        try:
            if not path.exists():
                raise InputError(f"{word}: no such file or folder")
            found += _episodes(path) or _bags(path)
        except OSError as error:
            raise InputError(f"{word}: cannot be read: {error.strerror or error}") from None
    same = Counter((os.path.realpath(one.path), one.id) for one in found)
    twice = next((one for one in found if same[os.path.realpath(one.path), one.id] > 1), None)
    if twice is not None:
        raise InputError(f"{twice.id} is named twice")
    return told_apart(found)


def told_apart(found: Sequence[Source]) -> list[Source]:
    """Each with as many of the folders before it as make its name its own: episodes and bags of several runs are often called alike."""
    folders = [Path(one.path).parts if one.kind == "episode" else Path(one.path).parts[:-1] for one in found]
    told, depth = [replace(one, before="") for one in found], 0
    while depth < max(map(len, folders), default=0):
        names = Counter(one.name for one in told)
        if len(names) == len(told):
            break
        depth += 1
        told = [
            replace(one, before="/".join(parts[-depth:]) + "/") if names[one.name] > 1 else one
            for one, parts in zip(told, folders, strict=True)
        ]
    return told


def outcomes(run: Path) -> dict[str, str]:
    """Episode -> "success" or "failure", by the simulator's truth, which the run wrote beside what it learned from and of its evaluations.
    Raises InputError."""
    written = [record for name in (records.TRUTH, records.EVALUATION) for record in records.read_all(run / name)]
    return {str(one["episode_id"]): "success" if one["success"] else "failure" for one in written if {"episode_id", "success"} <= set(one)}


def arguments_of(source: Source) -> dict[str, Any]:
    """Of the run that a source belongs to; empty where nobody says. Raises InputError."""
    settings = jsonfile.read(source.run / records.SETTINGS)
    arguments = settings.get("arguments") if isinstance(settings, dict) else None
    return arguments if isinstance(arguments, dict) else {}


def _episodes(path: Path) -> list[Source]:
    root = path / "rollouts" if (path / "rollouts").is_dir() else path
    if (root / "meta.json").is_file() and (root / "arrays.npz").is_file():
        return [_stored(RolloutStore(root.parent), root.name)]
    store = RolloutStore(root)
    names = [name for name in store.list() if (root / name / "arrays.npz").is_file()]
    if not names and root != path:
        raise InputError(f"{root}: no episodes")
    return [_stored(store, name) for name in names]


def _stored(store: RolloutStore, name: str) -> Source:
    """With its outcome, empty where it is damaged, which is said when it is read."""
    outcome = ""
    with suppress(InputError):
        outcome = {"success": "success", "failure": "failure", "timeout": "failure"}.get(store.outcome(name), "")
    return Source("episode", str(store.root), name, outcome=outcome)


def _bags(path: Path) -> list[Source]:
    """A folder that is none is said to be so by whoever opens it. Of a run without episodes to learn from, those that it recorded."""
    if path.name == METADATA:
        path = path.parent
    inside = bags_in(path) if path.is_dir() else []
    if not inside and (path / FOLDER).is_dir():
        inside = bags_in(path / FOLDER)
    if not inside and (path / records.SETTINGS).is_file():
        raise InputError(f"{path}: this run has neither episodes to learn from nor bags; record:=true records any run")
    return [Source("bag", str(one), one.name) for one in inside or [path]]

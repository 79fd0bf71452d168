"""What can be evaluated, and one shape for it: the parts of frame sets in their order, and what the arm did meanwhile.

Role: finds bags and stored episodes behind the words of a command line, and reads stored ones (whetstone/store.py). Bags are read in
bag_recordings.py. Does not depend on ROS, torch or a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from robot_bringup import records
from whetstone import jsonfile
from whetstone.bags.files import is_bag_name, stems_of
from whetstone.contracts import PROPRIOCEPTION, Rollout
from whetstone.errors import InputError
from whetstone.profile import RobotProfile
from whetstone.store import RolloutStore

Part = tuple[str, int, Any]
"""Camera or PROPRIOCEPTION; stamp, ns; a message with the fields of sensor_msgs, or the array itself."""


@dataclass(frozen=True)
class Source:
    """One bag or one stored episode. path: of the bag, or of the folder of episodes; name: in reports; outcome: "success" or "failure"
    where it is known before the recording is read; judge: who said so, empty: the recording; controls: whether it is played again as what
    it is not."""

    kind: Literal["bag", "episode"]
    path: str
    name: str
    outcome: str = ""
    judge: str = ""
    controls: bool = False

    def identity(self) -> list[Any]:
        """What tells whether it has changed: its files' names, sizes and times."""
        root = Path(self.path)
        if self.kind == "episode":
            root = root / self.name
        files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
        return [[str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]


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
    """An episode of a store. Images are exact at decisions; those of the other control steps, where there are any, are JPEG."""

    store: RolloutStore
    rollout: Rollout
    profile: RobotProfile
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
        for stamp in sorted({*rows, *(stamp for camera in more.values() for stamp in camera), last}):
            if stamp < 0:
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


def find(words: Sequence[str]) -> list[Source]:
    """A run's folder, a folder of episodes or one of them; anything else must be a bag, or a folder of bags. Raises InputError naming what
    is not there or is given twice."""
    found: list[Source] = []
    for word in words:
        path = Path(word).expanduser()
        if not path.exists():
            raise InputError(f"{word}: no such file or folder")
        found += _episodes(path) or _bags(path)
    names = [source.name for source in found]
    # Bags of several folders are often called alike.
    found = [replace(one, name=_longer(one)) if one.kind == "bag" and names.count(one.name) > 1 else one for one in found]
    twice = next((one for place, one in enumerate(found) if one in found[:place]), None)
    if twice is not None:
        raise InputError(f"{twice.name} is named twice")
    return found


def outcomes(folder: Path) -> dict[str, str]:
    """Episode -> "success" or "failure", by the simulator's truth, which the run wrote beside what it learned from."""
    found = {}
    for record in records.read_all(folder / records.TRUTH):
        if "episode_id" in record:
            found[str(record["episode_id"])] = "success" if record["success"] else "failure"
    return found


def robot_of(source: Source) -> str:
    """The robot of the run that a stored episode belongs to; empty where nobody says."""
    settings = jsonfile.read(Path(source.path).parent / records.SETTINGS)
    try:
        return str(settings["arguments"]["robot"]) if settings else ""
    except (KeyError, TypeError):
        return ""


def _episodes(path: Path) -> list[Source]:
    root = path / "rollouts" if (path / "rollouts").is_dir() else path
    if (root / "meta.json").is_file() and (root / "arrays.npz").is_file():
        return [Source("episode", str(root.parent), root.name, _outcome(root))]
    names = RolloutStore(root).list() if root.is_dir() else []
    names = [name for name in names if (root / name / "arrays.npz").is_file()]
    if not names and root != path:
        raise InputError(f"{root}: no episodes")
    return [Source("episode", str(root), name, _outcome(root / name)) for name in names]


def _outcome(folder: Path) -> str:
    """Without its arrays; empty where it is damaged, which is said when it is read."""
    try:
        outcome = str(json.loads((folder / "meta.json").read_text(encoding="utf-8"))["outcome"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return {"success": "success", "failure": "failure", "timeout": "failure"}.get(outcome, "")


def _bags(path: Path) -> list[Source]:
    if path.is_file() or (path / "metadata.yaml").is_file():
        return [Source("bag", str(path), path.name)]
    loose = [one for one in path.iterdir() if one.is_file() and is_bag_name(one.name)]
    folders = [one for one in path.iterdir() if one.is_dir() and not one.name.startswith(".") and _is_bag(one)]
    if not folders and len(stems_of(loose)) <= 1:
        # One bag in several files that lost its metadata.yaml; or none, which whoever opens it says.
        return [Source("bag", str(path), path.name)]
    return [Source("bag", str(one), one.name) for one in sorted([*loose, *folders])]


def _is_bag(folder: Path) -> bool:
    return any(one.name == "metadata.yaml" or is_bag_name(one.name) for one in folder.iterdir())


def _longer(source: Source) -> str:
    path = Path(source.path)
    return f"{path.absolute().parent.name}/{path.name}"

"""What of a run must outlive the learner: the weights it deployed, and where it stands after each update.

Role: `weights/` (the newest snapshots and the best one, as .safetensors) and `checkpoints/` of a run directory, written so that a kill at
any moment loses at most the update under way, which is then done again from the same episodes. Knows nothing of ROS.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from learner_node.checkpoint import Checkpoints
from whetstone import files, snapshot
from whetstone.contracts import Policy, Rollout, UpdateReport
from whetstone.errors import InputError

_SUFFIX = ".safetensors"
BEST = f"best{_SUFFIX}"


@dataclass(frozen=True)
class Done:
    """The last update that came to its end. version: in force after it; parent: the version in force before; count: of updates so far.

    interim: it was made while the robot went on, and the iteration goes on with it; seen: the episodes of that iteration that have been
    learned from so far.
    """

    iteration: int
    version: int
    parent: int
    report: UpdateReport
    count: int
    interim: bool = False
    seen: tuple[str, ...] = ()

    @property
    def complete(self) -> int:
        """The newest iteration that is over; -1: none."""
        return self.iteration - self.interim


class Journal:
    """identity: what a checkpoint must agree with (names, hashes, seed). keep: newest snapshots that stay beside the best; 0: all.

    Raises InputError where the folders cannot be made.
    """

    def __init__(self, run_dir: str | Path, identity: dict[str, str], keep: int = 10) -> None:
        self.weights = Path(run_dir) / "weights"
        self._identity, self._keep = identity, keep
        try:
            self.weights.mkdir(parents=True, exist_ok=True)
            files.sweep(self.weights)
        except OSError as error:
            raise InputError(f"run_dir: {self.weights} cannot be made: {error.strerror}") from None
        self._checkpoints = Checkpoints(Path(run_dir) / "checkpoints")

    def path(self, version: int) -> Path:
        return self.weights / f"{version:06d}{_SUFFIX}"

    def write(self, done: Done, learner: Any) -> None:
        """After an update, before anybody hears of it. The weights come first: a checkpoint never names some that are not there."""
        if done.report.deploy:
            _save(learner.trainable_state(), self.path(done.version), done.iteration)
        best = getattr(learner, "best_state", None)
        if best is not None:
            _save(best(), self.weights / BEST, done.iteration)
        state = {"identity": self._identity, "done": json.dumps(asdict(done))}
        if hasattr(learner, "checkpoint"):
            state["learner"] = learner.checkpoint()
        self._checkpoints.save(done.count, state)
        for old in self._snapshots()[: -self._keep] if self._keep else ():
            old.unlink(missing_ok=True)

    def resume(self, learner: Any, policy: Policy, read: Callable[[str], Rollout | None]) -> tuple[Done | None, list[str]]:
        """Puts learner and policy back to where they stood after the last update; None where there was none. read: an episode by its id,
        None where it is gone. The texts say what is not as it was. Raises InputError where the checkpoint is another run's."""
        state, notes = self._checkpoints.newest()
        if state is None:
            return None, notes
        for name, value in self._identity.items():
            if state["identity"].get(name) != value:
                raise InputError(f"{self._checkpoints.folder}: {name} was '{state['identity'].get(name)}', now it is '{value}'")
        done = json.loads(state["done"])
        done = Done(**{**done, "report": UpdateReport(**done["report"]), "seen": tuple(done["seen"])})
        if "learner" in state and hasattr(learner, "resume"):
            missing = learner.resume(state["learner"], read)
            if missing:
                notes.append(f"{missing} episodes that it remembered are no longer on the disk")
        elif done.version:
            policy.load_trainable_state(self.load(done.version))
            notes.append("this learner keeps no checkpoints: it begins anew from the weights in force")
        return done, notes

    def load(self, version: int) -> dict[str, np.ndarray]:
        """A snapshot that was deployed. Raises InputError naming its file."""
        return snapshot.load(str(self.path(version)))

    def _snapshots(self) -> list[Path]:
        return sorted(path for path in self.weights.glob(f"*{_SUFFIX}") if path.stem.isdecimal())


def _save(state: dict[str, np.ndarray], path: Path, iteration: int) -> None:
    try:
        snapshot.save(state, str(path), {"iteration": str(iteration)})
    except OSError as error:
        raise InputError(f"weights {path} cannot be written: {error.strerror or error}") from None

"""A recording on its way through the models: one pass, however many there are.

Role: joins its parts into frame sets by the class that the reward node joins a camera's with (whetstone/frame_sets.py), shows them to
reward models and policies one by one, and keeps what these said. Memory holds one frame set and the scores; frames go to a spool. Does not
depend on ROS, torch or on where a recording lies.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robot_bringup.evaluation.recordings import Recording
from robot_bringup.evaluation.spool import Frame, Spool
from whetstone.action_space import ActionConverter
from whetstone.completion import Completion
from whetstone.contracts import PROPRIOCEPTION, REWARD_VALUES, Observation, Policy, PolicyMode, RewardModel, RewardSample
from whetstone.errors import InputError
from whetstone.frame_sets import FrameSet, FrameSets, decoded, parts_of
from whetstone.images import Resize, to_array
from whetstone.profile import RobotProfile

PATIENCE = 1_000_000_000
"""ns by which a part may come after those of later steps; memory holds what is not whole for so long."""


@dataclass(frozen=True)
class Reward:
    """A reward model under the name that it has in reports; success: when its word ends an episode, None: its configuration does not
    say."""

    name: str
    model: RewardModel
    success: Completion | None


@dataclass(frozen=True)
class Pilot:
    """A policy under the name that it has in reports."""

    name: str
    policy: Policy
    mode: PolicyMode


@dataclass(frozen=True)
class Scores:
    """What a reward model said of S frame sets. stamps: (S,) int64 ns; values: name of a REWARD_VALUES field -> (S,) float64, NaN where it
    was not valid; valid: (S,) bool; reasons: why not, "" where it was; seconds: (S,) of each score, NaN where it was not made by itself;
    spooled: (S,) place of each frame set in the spool, -1 where it is not there."""

    stamps: np.ndarray
    values: dict[str, np.ndarray]
    valid: np.ndarray
    reasons: tuple[str, ...]
    seconds: np.ndarray
    spooled: np.ndarray

    @classmethod
    def of(cls, samples: Sequence[RewardSample], seconds: Sequence[float] = (), spooled: Sequence[int] = ()) -> Scores:
        values = {name: np.array([getattr(one, name) if one.valid else np.nan for one in samples], float) for name in REWARD_VALUES}
        stamps = np.array([one.stamp for one in samples], np.int64)
        valid = np.array([one.valid for one in samples], bool)
        timed = np.array(seconds, float) if len(seconds) else np.full(len(samples), np.nan)
        kept = np.array(spooled, np.int64) if len(spooled) else np.full(len(samples), -1, np.int64)
        return cls(stamps, values, valid, tuple(one.reason for one in samples), timed, kept)


@dataclass(frozen=True)
class Chunks:
    """What a policy answered at D decisions. actions: (D, horizon, joints + 1) joint targets, rad, and gripper opening; measured: (D,
    joints + 1); seconds: (D,) of each inference; out_of_reach: (D,) rows that the arm does not reach; refused: reasons why there was no
    answer."""

    stamps: np.ndarray
    actions: np.ndarray
    measured: np.ndarray
    seconds: np.ndarray
    out_of_reach: np.ndarray
    refused: tuple[str, ...]


class RewardLane:
    """One reward model over one recording. spool: where the frames that it was shown stay; None: they do not."""

    def __init__(self, reward: Reward, recording: Recording, profile: RobotProfile, resize: Resize, spool: Spool | None) -> None:
        self.reward, self.spool = reward, spool
        self._profile = profile
        self._resize: Resize = resize
        needs = reward.model.needs
        self._start, every, self.note = recording.grid(needs.every)
        self.sets: FrameSets[Any] = FrameSets(parts_of(needs), profile.rate, every)
        self._samples: list[RewardSample] = []
        self._seconds: list[float] = []
        self._places: list[int] = []
        self.spooled: list[int] = []
        """Stamp (ns) of each frame set in the spool."""
        self._offline = bool(getattr(reward.model, "offline", False))
        self._refused = ""

    def begin(self, recording: Recording, instruction: str) -> None:
        self.sets.begin(self._start)
        try:
            self.reward.model.reset(recording.facts.name, instruction, recording.facts.seed)
        except InputError as error:
            self._refused = str(error)

    def show(self, frames: FrameSet[Any]) -> None:
        model, needs = self.reward.model, self.reward.model.needs
        place = -1
        try:
            if self._refused:
                raise InputError(self._refused)
            images = decoded(_values(frames.parts), needs.cameras, needs.image_size, self._profile, self._resize)
            if self.spool is not None:
                self.spool.put(images)
                if len(self.spool) > len(self.spooled):
                    place = len(self.spooled)
                    self.spooled.append(frames.stamp)
            if self._offline:
                self._keep(RewardSample(frames.stamp), place)
                return
            begin = time.perf_counter()
            sample = model.observe(images, frames.stamp)
            seconds = time.perf_counter() - begin
        except InputError as error:
            self._keep(RewardSample(frames.stamp, valid=False, reason=str(error)), place)
            return
        if sample is not None:
            self._keep(sample, place, seconds)

    def lack(self, frames: FrameSet[Any]) -> None:
        """A frame set that is not whole."""
        self._keep(RewardSample(frames.stamp, valid=False, reason=_lacks(self.sets, frames)), -1)

    def end(self) -> Scores:
        # A set that is not whole at the end may be one that the recorder was stopped in.
        for _, frames in sorted(self.sets.pending.items()):
            self.lack(frames)
        if not self._offline or self.spool is None:
            return Scores.of(self._samples, self._seconds, self._places)
        said: dict[int, RewardSample] = {}
        frames: Any = self.spool  # read one by one, for there may be more than memory holds
        try:
            if self.spooled:
                said = {sample.stamp: sample for sample in self.reward.model.score_episode(frames, self.spooled)}
        except InputError as error:
            self._samples = [replace(one, valid=False, reason=one.reason or str(error)) for one in self._samples]
        nothing = [RewardSample(one.stamp, valid=False, reason=one.reason or "the model gave no score") for one in self._samples]
        return Scores.of([said.get(one.stamp, none) for one, none in zip(self._samples, nothing, strict=True)], (), self._places)

    def _keep(self, sample: RewardSample, place: int, seconds: float = math.nan) -> None:
        self._samples.append(sample)
        self._places.append(place)
        self._seconds.append(seconds)


class PolicyLane:
    """One policy over one recording, open loop: it is asked at every `execute`-th control step of what was recorded, and what it answers
    moves nothing. One with `observe` is shown every control step, as by the policy node."""

    def __init__(self, pilot: Pilot, recording: Recording, profile: RobotProfile, resize: Resize) -> None:
        self.pilot = pilot
        self._profile = profile
        self._resize: Resize = resize
        spec = pilot.policy.spec
        self._start, self._every, self.note = recording.grid(spec.execute)
        self.note = self.note.replace("a score", "a decision")
        self._observe: Callable[[Observation], None] | None = getattr(pilot.policy, "observe", None)
        if self._observe is not None and recording.grid(1)[1] > 1:
            # Its last observations are to be of control steps in a row.
            self._observe = None
            self.note = "; ".join(filter(None, (self.note, "images of every control step are not there: it sees a decision's alone")))
        every = self._every if self._observe is None else 1
        self.sets: FrameSets[Any] = FrameSets((*spec.cameras, PROPRIOCEPTION), profile.rate, every)
        self._converter = ActionConverter(spec.action_space, profile)
        self._rows: list[tuple[int, np.ndarray, np.ndarray, float, int]] = []
        self._refused: list[str] = []

    def begin(self, recording: Recording, instruction: str) -> None:
        self.sets.begin(self._start)
        self.pilot.policy.reset(instruction, recording.facts.seed, self.pilot.mode)

    def show(self, frames: FrameSet[Any]) -> None:
        policy, size, due = self.pilot.policy, self.pilot.policy.spec.image_size, self._due(frames)
        try:
            seen = decoded(_values(frames.parts), policy.spec.cameras, size, self._profile, self._resize)
            measured = seen.pop(PROPRIOCEPTION)
            observation = Observation(frames.stamp, seen, measured)
            if self._observe is not None:
                self._observe(observation)
            if not due:
                return
            begin = time.perf_counter()
            chunk = policy.act(observation)
            seconds = time.perf_counter() - begin
        except InputError as error:
            self._refused += [str(error)] if due else []
            return
        answer = self._converter.convert(chunk.actions, measured)
        self._rows.append((frames.stamp, np.asarray(answer.actions, np.float32), measured, seconds, answer.out_of_reach))

    def lack(self, frames: FrameSet[Any]) -> None:
        """A frame set that is not whole."""
        self._refused += [_lacks(self.sets, frames)] if self._due(frames) else []

    def _due(self, frames: FrameSet[Any]) -> bool:
        return self.sets.index(frames.stamp) % self._every == 0

    def end(self) -> Chunks:
        # The last one may be what came of a step before the recorder was stopped.
        for _, frames in sorted(self.sets.pending.items())[:-1]:
            self.lack(frames)
        spec, columns = self.pilot.policy.spec, len(self._profile.joints) + 1
        stamps, actions, measured, seconds, beyond = zip(*self._rows) if self._rows else ((), (), (), (), ())
        return Chunks(
            np.array(stamps, np.int64),
            np.stack(actions) if actions else np.empty((0, spec.horizon, columns), np.float32),
            np.stack(measured) if measured else np.empty((0, columns), np.float32),
            np.array(seconds, float),
            np.array(beyond, np.int64),
            tuple(self._refused),
        )


Lane = RewardLane | PolicyLane


def play(recording: Recording, instruction: str, lanes: Sequence[Lane], tick: Callable[[int], None] = lambda stamp: None) -> str:
    """The recording once, to all lanes. tick: told the stamp of each frame set that was shown. Returns why it ended before its end, empty
    where it did not."""
    for lane in lanes:
        lane.begin(recording, instruction)
    wanted = {name for lane in lanes for name in lane.sets.parts}
    cameras = [camera for camera in recording.cameras if camera in wanted]
    try:
        for name, stamp, payload in recording.parts(cameras, PROPRIOCEPTION in wanted):
            once = _Once(payload, name)
            for lane in lanes:
                if name not in lane.sets.parts:
                    continue
                joined = lane.sets.take(name, stamp, once)
                for frames in (*joined.given_up, *lane.sets.overtaken(stamp - PATIENCE)):
                    lane.lack(frames)
                if joined.whole is not None:
                    lane.show(joined.whole)
                    tick(stamp)
    except InputError as error:
        return str(error)
    return ""


def _lacks(sets: FrameSets[Any], frames: FrameSet[Any]) -> str:
    missing = sets.missing(frames)
    what = "joint states: none" if missing == PROPRIOCEPTION else f"camera '{missing}': no image"
    return f"{what} of this step"


class _Once:
    """A part whose image is decoded once, however many models look at it."""

    def __init__(self, payload: Any, name: str) -> None:
        self._payload, self._name = payload, name
        self._value: Any = None

    def value(self) -> Any:
        if self._value is None:
            payload = self._payload() if callable(self._payload) else self._payload
            self._value = payload if isinstance(payload, np.ndarray) or self._name == PROPRIOCEPTION else to_array(payload, self._name)
        return self._value


def _values(parts: dict[str, Any]) -> Frame:
    return {name: part.value() for name, part in parts.items()}

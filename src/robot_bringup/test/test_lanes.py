"""One pass of a recording through its lanes: what a model is shown and when, what is missing, and how much is held meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robot_bringup.evaluation.lanes import PATIENCE, Pilot, PolicyLane, Reward, RewardLane, play
from robot_bringup.evaluation.recordings import Facts, Part
from robot_bringup.evaluation.spool import Spool
from whetstone.contracts import PROPRIOCEPTION, Chunk, Observation, PolicySpec, Provenance, RewardNeeds, RewardSample
from whetstone.errors import InputError
from whetstone.profile import load_profile

PROFILE = load_profile("so100")
PERIOD = PROFILE.period_ns
IMAGE = np.zeros((4, 4, 3), np.uint8)


class Recorded:
    """Of so many control steps; spacing: between those with images. A camera may stop after a step."""

    def __init__(self, steps: int, spacing: int = 1, stops: dict[str, int] | None = None) -> None:
        self.facts, self.cameras, self.done = Facts("one"), ("front", "wrist"), None
        self._steps, self._spacing, self._stops = steps, spacing, stops or {}
        self.begun = 0

    def grid(self, every: int) -> tuple[int, int, str]:
        possible = self._spacing * -(-every // self._spacing)
        return 0, possible, "" if possible == every else "decisions only"

    def parts(self, cameras: Sequence[str], joints: bool) -> Iterator[Part]:
        for step in range(0, self._steps, self._spacing):
            self.begun = step
            yield PROPRIOCEPTION, step * PERIOD, np.zeros(len(PROFILE.joints) + 1, np.float32)
            for camera in cameras:
                if step <= self._stops.get(camera, self._steps):
                    yield camera, step * PERIOD, IMAGE


class Watching:
    """A policy that looks at several control steps in a row."""

    spec = PolicySpec("watching", ("front", "wrist"), None, PROFILE.joint_names, 8, 4, PROFILE.rate, "")

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def reset(self, instruction: str, seed: int, mode: str) -> None:
        self.told = []

    def observe(self, observation: Observation) -> None:
        self.told.append(("observe", observation.stamp // PERIOD))

    def act(self, observation: Observation) -> Chunk:
        self.told.append(("act", observation.stamp // PERIOD))
        return Chunk(np.zeros((8, len(PROFILE.joints) + 1), np.float32))


def played(policy: Any, recording: Any) -> PolicyLane:
    lane = PolicyLane(Pilot("p", policy, "greedy"), recording, PROFILE, "no")
    assert play(recording, "do it", [lane]) == ""
    return lane


def test_a_policy_with_a_past_is_shown_every_control_step_as_by_the_policy_node() -> None:
    policy = Watching()
    chunks = played(policy, Recorded(10)).end()
    assert (chunks.stamps // PERIOD).tolist() == [0, 4, 8] and chunks.refused == ()
    wanted = [told for step in range(10) for told in [("observe", step), *([("act", step)] if step % 4 == 0 else [])]]
    assert policy.told == wanted
    # Between decisions a lost image costs no decision.
    lossy = Recorded(10)
    lossy.parts = lambda *_: (part for part in Recorded(10).parts(("front", "wrist"), True) if part[:2] != ("wrist", 5 * PERIOD))  # type: ignore
    chunks = played(policy, lossy).end()
    assert chunks.refused == () and len(chunks.stamps) == 3 and ("observe", 5) not in policy.told
    # Observations of decisions alone are none of steps in a row.
    lane = played(policy, Recorded(10, spacing=4))
    assert policy.told == [("act", 0), ("act", 4), ("act", 8)] and "images of every control step are not there" in lane.note


def test_a_policy_without_one_is_shown_decisions_alone() -> None:
    class Plain(Watching):
        observe = None  # type: ignore

    lane = played(policy := Plain(), Recorded(10))
    assert lane.sets.every == 4 and policy.told == [("act", 0), ("act", 4), ("act", 8)] and lane.note == ""


def test_a_camera_that_stops_is_said_and_nothing_piles_up() -> None:
    recording = Recorded(400, stops={"wrist": 7})
    policy: Any = Watching()
    lane = PolicyLane(Pilot("p", policy, "greedy"), recording, PROFILE, "no")
    held: list[int] = []

    def parts(cameras: Sequence[str], joints: bool) -> Iterator[Part]:
        for part in Recorded.parts(recording, cameras, joints):
            held.append(len(lane.sets.pending))
            yield part

    recording.parts = parts  # type: ignore
    play(recording, "do it", [lane])
    chunks = lane.end()
    assert max(held) <= PATIENCE // PERIOD + 2
    assert (chunks.stamps // PERIOD).tolist() == [0, 4]
    assert len(chunks.refused) == 98 and set(chunks.refused) == {"camera 'wrist': no image of this step"}


class Failing:
    """A reward model that cannot score some frames, and says nothing of others."""

    provenance = Provenance("failing")
    needs = RewardNeeds(("front",), (4, 4), 1)

    def reset(self, episode_id: str, instruction: str, seed: int) -> None:
        self.shown = -1

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample | None:
        self.shown += 1
        if self.shown == 2:
            raise InputError("the server is gone")
        return None if self.shown == 0 else RewardSample(stamp, raw=1.0)


def test_every_frame_in_the_spool_has_its_stamp_whatever_the_model_said_of_it(tmp_path: Path) -> None:
    spool, recording = Spool(tmp_path, 10_000), Recorded(5)
    lane = RewardLane(Reward("r", Failing(), None), recording, PROFILE, "no", spool)  # type: ignore
    play(recording, "do it", [lane])
    scores = lane.end()
    assert lane.spooled == [step * PERIOD for step in range(5)] and len(spool) == 5
    assert scores.spooled.tolist() == [1, 2, 3, 4] and scores.reasons[1] == "the server is gone"
    spool.close()


def test_a_model_that_fails_on_the_whole_says_why(tmp_path: Path) -> None:
    class Whole(Failing):
        offline = True

        def score_episode(self, frames: Sequence[Any], stamps: Sequence[int]) -> list[RewardSample]:
            assert len(list(frames)) == len(stamps) == 5
            raise InputError("too dark")

    spool, recording = Spool(tmp_path, 10_000), Recorded(5)
    lane = RewardLane(Reward("r", Whole(), None), recording, PROFILE, "no", spool)  # type: ignore
    play(recording, "do it", [lane])
    assert set(lane.end().reasons) == {"too dark"}
    spool.close()

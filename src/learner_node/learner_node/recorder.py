"""The recorder: joins actions, images, joint states and rewards by stamp into rollouts.

Role: pure bookkeeping of what the learner hears during an episode. Everything is keyed by robot time (integer nanoseconds), never
by arrival: a reward may come late, an image may come after the action that was computed from it. Images are kept as opaque
payloads and decoded only for the frames that end up in a rollout. Does not depend on rclpy or on a learner.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from whetstone.contracts import REWARD_VALUES, RewardSample, Rollout
from whetstone.labelling import nearest_stamp, scores_of

Item = TypeVar("Item")


@dataclass(frozen=True)
class EpisodeInfo:
    """What the episode manager says about an episode when it starts."""

    episode_id: str
    iteration: int
    task: str
    instruction: str
    seed: int


@dataclass(frozen=True)
class Decision:
    """One inference: actions (horizon, joints + 1); latent flat or None; version of the weights that made it."""

    stamp: int
    actions: np.ndarray
    latent: np.ndarray | None
    log_probability: float
    version: int


class StampRing(Generic[Item]):
    """The newest `size` items by stamp.

    tolerance: how far (ns) an item's stamp may be from the wanted one; 0 in simulation, where stamps agree exactly,
    half a period on hardware, where cameras run on their own.
    """

    def __init__(self, size: int, tolerance: int = 0) -> None:
        self._items: OrderedDict[int, Item] = OrderedDict()
        self._size = size
        self._tolerance = tolerance

    def put(self, stamp: int, item: Item) -> None:
        self._items[stamp] = item
        if len(self._items) > self._size:
            self._items.popitem(last=False)

    def get(self, stamp: int) -> Item | None:
        item = self._items.get(stamp)
        if item is not None or not self._tolerance or not self._items:
            return item
        nearest = min(self._items, key=lambda other: abs(other - stamp))
        return self._items[nearest] if abs(nearest - stamp) <= self._tolerance else None


@dataclass
class _Open:
    """An episode that is being recorded. parts: stamp -> {camera or '' for joints: payload}; measured, commanded: of every control step;
    human: steps at which a human drove."""

    info: EpisodeInfo
    decisions: dict[int, Decision] = field(default_factory=dict)
    parts: dict[int, dict[str, object]] = field(default_factory=dict)
    rewards: dict[int, RewardSample] = field(default_factory=dict)
    measured: dict[int, np.ndarray] = field(default_factory=dict)
    commanded: dict[int, np.ndarray] = field(default_factory=dict)
    human: set[int] = field(default_factory=set)
    model_id: str = ""
    end: int | None = None
    outcome: str = ""
    reason: str = ""
    deadline: float = 0.0


_JOINTS = ""


class Recorder:
    """Turns a stream of events into contracts.Rollout records.

    cameras: names to record; decode: payload of an image and its camera -> (height, width, 3) uint8; grace: seconds of wall time that an
    ended episode waits for rewards and frames still under way; ring: frames kept for actions that arrive late; keep: called with episode,
    camera, stamp and payload of an image that becomes part of an episode, gives what is held in its place. counters: rollouts,
    discarded_episodes (aborted), empty_episodes (not one whole decision), dropped_decisions (their images never came), unlabelled (rows
    without a valid reward), late_rewards (came after the rollout was closed).
    """

    def __init__(
        self,
        cameras: Iterable[str],
        decode: Callable[[object, str], np.ndarray],
        grace: float = 2.0,
        ring: int = 64,
        tolerance: int = 0,
        keep: Callable[[str, str, int, object], object] | None = None,
    ) -> None:
        self.cameras = tuple(cameras)
        self.counters: Counter[str] = Counter()
        self._decode = decode
        self._grace = grace
        self._rings: dict[str, StampRing[object]] = {name: StampRing(ring, tolerance) for name in (*self.cameras, _JOINTS)}
        self._open: dict[str, _Open] = {}
        self._tolerance = tolerance
        self._held = keep
        self._late: dict[str, list[tuple[RewardSample, str]]] = {}

    @property
    def recording(self) -> bool:
        """True while an episode runs or waits for its last frames: images matter only then."""
        return bool(self._open)

    def known(self, episode_id: str) -> bool:
        """Whether an episode runs or waits."""
        return episode_id in self._open

    def begin(self, info: EpisodeInfo) -> None:
        """An episode starts to run; a second call for the same episode (a pause that ended) changes nothing."""
        self._open.setdefault(info.episode_id, _Open(info))

    def end(self, episode_id: str, stamp: int, outcome: str, reason: str, now: float) -> None:
        """The episode is over at this stamp: decisions at or after it were never carried out and are left out."""
        episode = self._open.get(episode_id)
        if episode is None or episode.end is not None:
            return
        episode.end, episode.outcome, episode.reason = stamp, outcome, reason
        episode.deadline = now + self._grace
        self._want(episode, stamp)

    def discard(self, episode_id: str) -> None:
        """Forget an episode that ended without a record worth keeping (aborted)."""
        if self._open.pop(episode_id, None) is not None:
            self.counters["discarded_episodes"] += 1

    def image(self, camera: str, stamp: int, payload: object) -> None:
        self._put(camera, stamp, payload)

    def joints(self, stamp: int, proprioception: np.ndarray) -> None:
        self._put(_JOINTS, stamp, proprioception)
        for episode in self._open.values():
            if episode.end is None or stamp <= episode.end:
                episode.measured[stamp] = proprioception

    def command(self, stamp: int, command: np.ndarray, human: bool = False) -> None:
        """What was sent at a control step, (joints + 1,), and whether a human wanted it."""
        for episode in self._open.values():
            if episode.end is None or stamp < episode.end:
                episode.commanded[stamp] = command
                if human:
                    episode.human.add(stamp)

    def action(self, episode_id: str, decision: Decision) -> None:
        episode = self._open.get(episode_id)
        if episode is None or decision.stamp in episode.decisions:
            return
        episode.decisions[decision.stamp] = decision
        self._want(episode, decision.stamp)

    def reward(self, episode_id: str, sample: RewardSample, model_id: str = "") -> None:
        episode = self._open.get(episode_id)
        if episode is None:
            self.counters["late_rewards"] += 1
            self._late.setdefault(episode_id, []).append((sample, model_id))
            return
        episode.rewards[sample.stamp] = sample
        episode.model_id = model_id or episode.model_id

    def ready(self, now: float) -> list[Rollout]:
        """Close and return the ended episodes that are complete, or whose grace is over."""
        done = []
        for episode_id, episode in list(self._open.items()):
            if episode.end is not None and (now >= episode.deadline or self._complete(episode)):
                del self._open[episode_id]
                rollout = self._close(episode)
                if rollout is None:
                    self.counters["empty_episodes"] += 1
                else:
                    self.counters["rollouts"] += 1
                    done.append(rollout)
        return done

    def late(self) -> dict[str, list[tuple[RewardSample, str]]]:
        """Rewards since the last call that came when their episode was closed (or never known here), for `back_label`."""
        late, self._late = self._late, {}
        return late

    def running(self) -> list[str]:
        """Episodes whose end has not come."""
        return [episode_id for episode_id, episode in self._open.items() if episode.end is None]

    def waiting(self) -> list[str]:
        """Ended episodes that are not closed yet."""
        return [episode_id for episode_id, episode in self._open.items() if episode.end is not None]

    def _put(self, name: str, stamp: int, payload: object) -> None:
        self._rings[name].put(stamp, payload)
        for episode in self._open.values():
            for wanted in (stamp,) if not self._tolerance else tuple(episode.parts):
                parts = episode.parts.get(wanted)
                if parts is not None and name not in parts and abs(wanted - stamp) <= self._tolerance:
                    parts[name] = self._part(episode, name, wanted, payload)

    def _want(self, episode: _Open, stamp: int) -> None:
        parts = episode.parts.setdefault(stamp, {})
        for name, ring in self._rings.items():
            payload = ring.get(stamp)
            if payload is not None and name not in parts:
                parts[name] = self._part(episode, name, stamp, payload)

    def _part(self, episode: _Open, name: str, stamp: int, payload: object) -> object:
        return payload if self._held is None or name == _JOINTS else self._held(episode.info.episode_id, name, stamp, payload)

    def _whole(self, episode: _Open, stamp: int) -> bool:
        return len(episode.parts.get(stamp, ())) == len(self._rings)

    def _executed(self, episode: _Open) -> list[Decision]:
        assert episode.end is not None
        return [episode.decisions[stamp] for stamp in sorted(episode.decisions) if stamp < episode.end]

    def _complete(self, episode: _Open) -> bool:
        stamps = [decision.stamp for decision in self._executed(episode)] + [episode.end]
        return all(self._label(episode, stamp) is not None and self._whole(episode, stamp) for stamp in stamps)  # type: ignore[arg-type]

    def _label(self, episode: _Open, stamp: int) -> RewardSample | None:
        """The score of this moment. Where clocks differ: of the nearest frame, a camera's stamps are not the joint states'."""
        nearest = nearest_stamp(episode.rewards, stamp, self._tolerance)
        return None if nearest is None else episode.rewards[nearest]

    def _close(self, episode: _Open) -> Rollout | None:
        assert episode.end is not None
        executed = self._executed(episode)
        decisions = [decision for decision in executed if self._whole(episode, decision.stamp)]
        self.counters["dropped_decisions"] += len(executed) - len(decisions)
        if not decisions:
            return None
        stamps = [decision.stamp for decision in decisions]
        labels = [self._label(episode, stamp) for stamp in (*stamps, episode.end)]
        self.counters["unlabelled"] += sum(1 for label in labels if label is None or not label.valid)
        rewards = {
            name: np.array([getattr(label, name) if label is not None and label.valid else np.nan for label in labels], dtype=np.float32)
            for name in REWARD_VALUES
        }
        last = episode.parts[episode.end]
        info = episode.info
        return Rollout(
            episode_id=info.episode_id,
            iteration=info.iteration,
            task=info.task,
            instruction=info.instruction,
            seed=info.seed,
            outcome=episode.outcome,
            reason=episode.reason,
            stamps=np.array(stamps, dtype=np.int64),
            images={camera: np.stack([self._decode(episode.parts[stamp][camera], camera) for stamp in stamps]) for camera in self.cameras},
            proprioception=np.stack([np.asarray(episode.parts[stamp][_JOINTS], dtype=np.float32) for stamp in stamps]),
            actions=np.stack([decision.actions for decision in decisions]).astype(np.float32),
            latents=_stack_latents(decisions),
            log_probabilities=np.array([decision.log_probability for decision in decisions], dtype=np.float32),
            policy_versions=np.array([decision.version for decision in decisions], dtype=np.uint64),
            rewards=rewards,
            last_images={camera: self._decode(last[camera], camera) for camera in self.cameras if camera in last},
            last_proprioception=np.asarray(last[_JOINTS], dtype=np.float32) if _JOINTS in last else None,
            reward_model_id=episode.model_id,
            scores=scores_of(episode.rewards),
            steps=_steps(episode, stamps[0], self._tolerance),
            end=episode.end,
        )


def _steps(episode: _Open, first: int, tolerance: int) -> dict[str, np.ndarray]:
    """What was measured from the first decision to the end, and what was sent at the same step, NaN where nothing was."""
    assert episode.end is not None
    stamps = np.array([stamp for stamp in sorted(episode.measured) if first <= stamp <= episode.end], np.int64)
    measured = np.array([episode.measured[stamp] for stamp in stamps.tolist()], np.float32)
    commanded, human = np.full_like(measured, np.nan), np.zeros(len(stamps), bool)
    for stamp, command in episode.commanded.items():
        if len(stamps):
            nearest = int(np.abs(stamps - stamp).argmin())
            if abs(int(stamps[nearest]) - stamp) <= tolerance:
                commanded[nearest] = command
                human[nearest] = stamp in episode.human
    found = {"stamps": stamps, "measured": measured, "commanded": commanded}
    return found | {"intervention": human} if human.any() else found


def _stack_latents(decisions: list[Decision]) -> np.ndarray | None:
    """(T, size) when every decision has one of the same size, else None."""
    latents = [decision.latent for decision in decisions if decision.latent is not None and decision.latent.size]
    if len(latents) != len(decisions) or len({latent.size for latent in latents}) != 1:
        return None
    return np.stack([latent.ravel() for latent in latents]).astype(np.float32)

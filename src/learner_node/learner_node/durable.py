"""A recorder whose running episodes are on the disk.

Role: writes down whatever the recorder is told, as it comes, so that a killed process loses nothing of an episode but what was still on
its way; after a restart the same events are told to a recorder again. Images of decisions wait on the disk too, not in memory. Does not
depend on rclpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from learner_node.recorder import Decision, EpisodeInfo, Recorder
from whetstone.contracts import RewardSample, Rollout
from whetstone.errors import InputError
from whetstone.frames import encode
from whetstone.record_log import Entry, entries, payload
from whetstone.store import RolloutStore, RunningEpisode

Decode = Callable[[Any, str], np.ndarray]
_RING = 1024
"""Steps by which the order of events in a file may differ from that of their stamps."""
_CUT_OFF = "the process that recorded it was killed"


@dataclass(frozen=True)
class _Kept:
    """An image that waits on the disk."""

    path: Path
    entry: Entry


class DurableRecorder(Recorder):
    """As Recorder, for payloads that are bytes.

    every_frame: the images of all control steps go to the disk besides, as JPEG; they stay with the episode. InputError from any method
    that is told something: the disk is full, or the store cannot be written.
    """

    def __init__(self, store: RolloutStore, cameras: Iterable[str], decode: Decode, every_frame: bool = False, **settings: Any) -> None:
        super().__init__(cameras, lambda kept, camera: decode(_content(kept), camera), keep=self._keep, **settings)
        self._store = store
        self._frame_of = decode if every_frame else None
        self._files: dict[str, RunningEpisode] = {}
        self._ends: dict[str, int] = {}

    def begin(self, info: EpisodeInfo) -> None:
        if info.episode_id not in self._files and not self.known(info.episode_id):
            self._files[info.episode_id] = self._store.begin(info.episode_id)
            self._files[info.episode_id].event({"kind": "begin", **asdict(info)})
        super().begin(info)

    def end(self, episode_id: str, stamp: int, outcome: str, reason: str, now: float) -> None:
        if episode_id in self._files and episode_id not in self._ends:
            self._ends[episode_id] = stamp
            self._files[episode_id].event({"kind": "end", "stamp": stamp, "outcome": outcome, "reason": reason})
        super().end(episode_id, stamp, outcome, reason, now)

    def discard(self, episode_id: str) -> None:
        if (files := self._forget(episode_id)) is not None:
            files.discard()

    def abandon(self, episode_id: str, reason: str) -> None:
        """Its end will never come: what was heard of it is set aside, with the reason."""
        if (files := self._forget(episode_id)) is not None:
            files.close()
            self._store.interrupt(episode_id, None, reason)

    def _forget(self, episode_id: str) -> RunningEpisode | None:
        super().discard(episode_id)
        self._ends.pop(episode_id, None)
        return self._files.pop(episode_id, None)

    def image(self, camera: str, stamp: int, payload: object) -> None:
        if self._frame_of is not None:
            data = b""
            for episode_id, files in self._files.items():
                if stamp <= self._ends.get(episode_id, stamp):
                    data = data or encode(self._frame_of(payload, camera))
                    files.frame(camera, stamp, data)
        super().image(camera, stamp, payload)

    def joints(self, stamp: int, proprioception: np.ndarray) -> None:
        self._tell_all({"kind": "joints", "stamp": stamp}, proprioception)
        super().joints(stamp, proprioception)

    def command(self, stamp: int, command: np.ndarray, human: bool = False) -> None:
        self._tell_all({"kind": "command", "stamp": stamp, "human": human}, command)
        super().command(stamp, command, human)

    def action(self, episode_id: str, decision: Decision) -> None:
        if (files := self._files.get(episode_id)) is not None:
            latent = None if decision.latent is None else list(decision.latent.shape)
            files.event(
                {
                    "kind": "action",
                    "stamp": decision.stamp,
                    "shape": list(decision.actions.shape),
                    "latent": latent,
                    "log_probability": float(decision.log_probability),
                    "version": int(decision.version),
                },
                _bytes(decision.actions) + (b"" if decision.latent is None else _bytes(decision.latent)),
            )
        super().action(episode_id, decision)

    def reward(self, episode_id: str, sample: RewardSample, model_id: str = "") -> None:
        if (files := self._files.get(episode_id)) is not None:
            files.event({"kind": "reward", "model": model_id, **asdict(sample)})
        super().reward(episode_id, sample, model_id)

    def ready(self, now: float) -> list[Rollout]:
        done = super().ready(now)
        closed = {rollout.episode_id for rollout in done}
        for episode_id in [name for name in self._files if not self.known(name)]:
            self._ends.pop(episode_id, None)
            files = self._files.pop(episode_id)
            files.close() if episode_id in closed else files.discard()
        return done

    def _keep(self, episode_id: str, camera: str, stamp: int, content: object) -> object:
        files = self._files.get(episode_id)
        if files is None:
            return content
        assert isinstance(content, bytes)
        return _Kept(files.events, files.event({"kind": "image", "camera": camera, "stamp": stamp}, content))

    def _tell_all(self, header: dict[str, Any], values: np.ndarray) -> None:
        for files in self._files.values():
            files.event(header, _bytes(values))


def recover(store: RolloutStore, cameras: Iterable[str], decode: Decode, tolerance: int = 0) -> list[str]:
    """What a killed process left running: an episode that had ended becomes final, another goes to `interrupted/` with all that is known of
    it. Returns a line on each. Only while nobody writes."""
    lines = []
    for name, events in store.left_running().items():
        try:
            rollout, ended = _again(events, tuple(cameras), decode, tolerance)
        except (ValueError, KeyError, TypeError, InputError) as error:
            path = store.interrupt(name, None, f"{_CUT_OFF}; its events cannot be read: {error}")
            lines.append(f"{name} was running when its recorder was killed; its events cannot be read ({error}): kept in {path}")
            continue
        if rollout is not None and ended:
            store.write(rollout)
            lines.append(f"{name} had ended but was not written when its recorder was killed: {len(rollout.stamps)} decisions recovered")
        else:
            path = store.interrupt(name, rollout, _CUT_OFF)
            count = len(rollout.stamps) if rollout is not None else 0
            lines.append(f"{name} was running when its recorder was killed: {count} decisions kept in {path}, nothing is learned from them")
    return lines


def _again(events: Path, cameras: tuple[str, ...], decode: Decode, tolerance: int) -> tuple[Rollout | None, bool]:
    """The rollout that the events tell of, None where it has no whole decision; whether they tell of its end."""
    recorder = Recorder(cameras, lambda kept, camera: decode(_content(kept), camera), ring=_RING, tolerance=tolerance)
    name, ended, last = "", False, 0
    for entry in entries(events):
        told = dict(entry.header)
        kind = told.pop("kind", "")
        if kind == "begin":
            name = told["episode_id"]
            recorder.begin(EpisodeInfo(**told))
        elif kind == "end":
            recorder.end(name, told["stamp"], told["outcome"], told["reason"], now=0.0)
            ended = True
        elif kind == "image":
            recorder.image(told["camera"], told["stamp"], _Kept(events, entry))
        elif kind == "joints":
            last = max(last, told["stamp"])
            recorder.joints(told["stamp"], _floats(events, entry))
        elif kind == "command":
            recorder.command(told["stamp"], _floats(events, entry), told["human"])
        elif kind == "action":
            values, shape, latent = _floats(events, entry), told["shape"], told["latent"]
            count = int(np.prod(shape))
            noise = None if latent is None else values[count:].reshape(latent)
            recorder.action(name, Decision(told["stamp"], values[:count].reshape(shape), noise, told["log_probability"], told["version"]))
        elif kind == "reward":
            model = told.pop("model")
            recorder.reward(name, RewardSample(**told), model)
    if not ended:
        recorder.end(name, last, "aborted", _CUT_OFF, now=0.0)
    rollouts = recorder.ready(now=float("inf"))
    return (rollouts[0] if rollouts else None), ended


def _bytes(values: np.ndarray) -> bytes:
    return np.asarray(values, np.float32).tobytes()


def _floats(path: Path, entry: Entry) -> np.ndarray:
    return np.frombuffer(payload(path, entry), np.float32)


def _content(kept: object) -> object:
    return payload(kept.path, kept.entry) if isinstance(kept, _Kept) else kept

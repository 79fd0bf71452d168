"""TOPReward with a model behind a server, as a reward plug-in.

Role: entry point `topreward_remote`. What a score means is TOPReward's (topreward/reward.py); where its numbers come from: served.py. A
server that fails costs scores, never the node. Does not depend on ROS.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from reward_node.remote.client import Client
from reward_node.remote.scorer import RemoteScorer, data_url
from reward_node.remote.served import ServedModel
from reward_node.remote.settings import RemoteSettings
from reward_node.topreward.reward import TOPReward
from whetstone.config import config_hash, parse, source_of
from whetstone.contracts import Provenance, RewardNeeds, RewardSample
from whetstone.errors import ConfigError, PeerError

_SOURCE = "config/rewards/topreward_remote.yaml"


class RemoteTOPReward(TOPReward):
    """log p(answer | images, prompt) as a server gives it.

    counters: requests, retries, bytes_sent: see client.py; failures: scores that the server did not give.
    """

    def __init__(self, settings: RemoteSettings, served: ServedModel, config: str) -> None:
        self.settings = settings
        words = [settings.prompt, settings.answer, settings.contrary]
        name = f"{settings.model}@{settings.host}"
        self.provenance = Provenance("topreward_remote", name, served.fingerprint, "remote", config_hash(words), config)
        self.needs = RewardNeeds(settings.cameras, settings.image_size, settings.every, settings.frames, 0, "")
        self.counters = served.client.counters
        self.counters["failures"] = 0
        self.scorer = RemoteScorer(served, settings.frames)
        self.reset("", "", 0)

    @classmethod
    def load(cls, config: dict[str, Any], profile: Any, device: str = "cpu") -> RemoteTOPReward:
        """From config/rewards/topreward_remote.yaml; `device` is the server's affair.

        ConfigError where the server has no such model or would close the user's turn, AssetError where it does not answer.
        """
        source = source_of(config, _SOURCE)
        settings = parse(RemoteSettings, config, source)
        client = Client(settings.base, _key(settings, source), settings.retry)
        height, width = settings.image_size
        grey = np.full((height, width * len(settings.cameras), 3), 128, np.uint8)
        return cls(settings, ServedModel.reach(client, settings, data_url(grey), source), config_hash(config))

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample:
        """Score the newest frame, within `timeout`; invalid, with the reason, where the server does not help. InputError as TOPReward."""
        try:
            return super().observe(images, stamp)
        except PeerError as error:
            self.counters["failures"] += 1
            return RewardSample(stamp, valid=False, reason=str(error), window=self.settings.frames)

    def score_episode(self, frames: list[dict[str, np.ndarray]], stamps: list[int]) -> list[RewardSample]:
        """The samples that observe() gives one by one: a server that fails in between costs some of them. Call reset() first."""
        return [self.observe(images, stamp) for images, stamp in zip(frames, stamps, strict=True)]


def _key(settings: RemoteSettings, source: str) -> str:
    """The API key, which no message shows."""
    if settings.key_variable is None:
        return ""
    key = os.environ.get(settings.key_variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError(f"{source}: the environment variable that 'key_variable' names holds no API key; export it where the node starts")
    return key

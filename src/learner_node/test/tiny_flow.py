"""What tests of learners share: a flow policy of two numbers, and episodes with given rewards. Helpers only."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from whetstone.contracts import Rollout
from whetstone.sharding import share, whole


class TinyNetwork(nn.Module):
    """A flow over one-row chunks of two columns, conditioned on nothing but one number."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1 + 2 + 1, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2))

    def units(self):
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def velocity(self, inputs, chunk, time, scale):
        return self.layers(torch.cat([inputs, chunk, time[:, None]], dim=-1))

    def mix(self, chunk, generator=None):
        noise, time = torch.randn(chunk.shape, generator=generator), torch.rand(len(chunk), generator=generator)
        return (1 - time[:, None]) * noise + time[:, None] * chunk, time, time, chunk - noise

    def sample(self, inputs, noise, steps, scale):
        chunk = noise
        for step in range(steps):
            chunk = chunk + self.velocity(inputs, chunk, torch.full((len(noise),), step / steps), None) / steps
        return chunk

    def normalise(self, actions, proprioception):
        return actions.flatten(1)

    def denormalise(self, chunk, proprioception):
        return chunk[:, None, :]


class TinyConditionedNetwork(TinyNetwork):
    """Acts as if told that it does better than usual."""

    def __init__(self):
        super().__init__()
        self.told = nn.Linear(2, 64, bias=False)
        nn.init.zeros_(self.told.weight)

    def velocity(self, inputs, chunk, time, scale, indicator=None):
        indicator = torch.ones(len(chunk)) if indicator is None else indicator
        told = self.told(5 * torch.stack([indicator > 0, indicator < 0], dim=1).float())
        return self.layers[1:](self.layers[0](torch.cat([inputs, chunk, time[:, None]], dim=-1)) + told)


class TinyPolicy:
    spec = None
    made_of = TinyNetwork

    def __init__(self, demonstrations: int = 64):
        torch.manual_seed(0)
        self.network = self.made_of()
        self._demonstrations = (torch.zeros(demonstrations, 1), torch.zeros(demonstrations, 2)) if demonstrations else None

    @classmethod
    def load(cls, config, profile, device="cpu"):
        return cls()

    def reset(self, instruction, seed, mode): ...

    def act(self, observation): ...

    def encode(self, images, proprioception, actions, instruction):
        return torch.zeros(len(proprioception), 1)

    def replay(self, without):
        self.left_out = without
        return self._demonstrations

    def trainable_state(self):
        return {name: whole(value.detach()).numpy().copy() for name, value in self.network.named_parameters()}

    def load_trainable_state(self, state):
        with torch.no_grad():
            for name, value in self.network.named_parameters():
                value.copy_(share(torch.from_numpy(state[name]), value))

    def mean(self) -> np.ndarray:
        with torch.no_grad():
            noise = torch.randn(512, 2, generator=torch.Generator().manual_seed(1))
            return self.network.sample(torch.zeros(512, 1), noise, 10, 1.0).mean(0).numpy()


class TinyConditioned(TinyPolicy):
    guidance = 1.0
    made_of = TinyConditionedNetwork


def rollout(outcome: str, action: tuple[float, float], progress=(0.0, 0.3, 0.6, 1.0), seed: int = 0) -> Rollout:
    count = len(progress) - 1
    return Rollout(
        episode_id=f"train-{seed}",
        iteration=0,
        task="pick_and_place",
        instruction="put the red cube in the tray",
        seed=seed,
        outcome=outcome,
        reason="",
        stamps=np.arange(count, dtype=np.int64),
        images={},
        proprioception=np.zeros((count, 2), np.float32),
        actions=np.tile(np.array(action, np.float32), (count, 1, 1)),
        latents=None,
        log_probabilities=np.full(count, np.nan, np.float32),
        policy_versions=np.zeros(count, np.uint64),
        rewards={"progress": np.array(progress, np.float32)},
    )

"""The learners that estimate returns, on policies whose best action is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_flow import rollout

from learner_node.dsrl import DSRL
from learner_node.ppo import PPO, gae
from learner_node.replay import transitions
from learner_node.shaping import Shaping, returns
from learner_node.spiral import SPIRAL
from whetstone.config import load_yaml, root
from whetstone.contracts import Learner, Rollout
from whetstone.errors import ConfigError
from whetstone.networks import Critics, NoiseActor, perceptron
from whetstone.plugins import load_plugin
from whetstone.sharding import share, whole


class Tiny:
    """Sees nothing but a constant; two numbers to choose. What policies have in common."""

    spec = None
    modules: dict[str, Any]

    @classmethod
    def load(cls, config: Any, profile: Any, device: str = "cpu") -> Any:
        return cls()

    def reset(self, instruction: str, seed: int, mode: Any) -> None: ...

    def act(self, observation: Any) -> Any: ...

    def encode(self, images: Any, proprioception: np.ndarray, actions: Any, instruction: str) -> torch.Tensor:
        return torch.ones(len(proprioception), 1)

    def trainable_state(self) -> dict[str, np.ndarray]:
        return {
            f"{key}.{name}": whole(value.detach()).numpy().copy()
            for key, one in self.modules.items()
            for name, value in one.named_parameters()
        }

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        with torch.no_grad():
            for key, one in self.modules.items():
                for name, value in one.named_parameters():
                    value.copy_(share(torch.from_numpy(state[f"{key}.{name}"]), value))


class TinySteered(Tiny):
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.actor = NoiseActor(1, 2, 32, 2.0, 1.0)
        self.modules = {"actor": self.actor}

    def choices(self, count: int, seed: int) -> np.ndarray:
        with torch.no_grad():
            return self.actor.sample(torch.ones(count, 1), torch.Generator().manual_seed(seed))[0].numpy()

    def middle(self) -> np.ndarray:
        with torch.no_grad():
            return self.actor.greedy(torch.ones(1, 1))[0].numpy()


class TinyResidual(Tiny):
    """The frozen policy does what its noise says, times .3."""

    scale, noise = 0.5, 2

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.residual = perceptron((3, 32, 2), last_gain=0.0)
        self.critics = Critics(1, 2, 32, 2)
        self.modules = {"residual": self.residual, "critics": self.critics}

    def carried_out(self, actions: np.ndarray, proprioception: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(actions[:, 0])

    def propose(self, inputs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return 0.3 * noise

    def correct(self, inputs: torch.Tensor, chunks: torch.Tensor) -> torch.Tensor:
        return chunks + self.scale * self.residual(torch.cat([inputs, chunks], dim=-1))

    def choices(self, count: int, seed: int) -> np.ndarray:
        with torch.no_grad():
            noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
            return self.correct(torch.ones(count, 1), self.propose(torch.ones(count, 1), noise)).numpy()

    def middle(self) -> np.ndarray:
        return self.choices(256, 99).mean(0)


class Layers(torch.nn.Sequential):
    def units(self) -> list[torch.nn.Module]:
        return [self[0], self[3]]  # the norm between them stays whole


class TinyStochastic(Tiny):
    """Draws what it does from a normal distribution of deviation .5 around what its network says."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = Layers(*perceptron((1, 32, 2), last_gain=0.0))
        self.modules = {"network": self.network}

    def trainable_state(self) -> dict[str, np.ndarray]:
        return {name.removeprefix("network."): value for name, value in super().trainable_state().items()}

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        super().load_trainable_state({f"network.{name}": value for name, value in state.items()})

    def chains(self, latents: np.ndarray) -> torch.Tensor:
        if latents.shape[1] != 2:
            raise ValueError(f"its decisions hold {latents.shape[1]} numbers")
        return torch.from_numpy(latents)

    def chain_log_probabilities(self, inputs: torch.Tensor, chains: torch.Tensor) -> torch.Tensor:
        return torch.distributions.Normal(self.network(inputs), 0.5).log_prob(chains).mean(-1)

    def choices(self, count: int, seed: int) -> np.ndarray:
        noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            return (self.network(torch.ones(count, 1)) + 0.5 * noise).numpy()

    def middle(self) -> np.ndarray:
        with torch.no_grad():
            return self.network(torch.ones(1, 1))[0].numpy()


POLICIES: dict[str, Any] = {"dsrl": TinySteered, "spiral": TinyResidual, "ppo": TinyStochastic}
LEARNERS: dict[str, Any] = {"dsrl": DSRL, "spiral": SPIRAL, "ppo": PPO}
OWN: dict[str, dict[str, Any]] = {
    "dsrl": {"updates": 3.0, "critics": 2, "width": 32, "polyak": 0.05, "input_noise": 0.0},
    "spiral": {"updates": 1.5, "polyak": 0.05, "input_noise": 0.0},
    "ppo": {"sharpness": 2.0, "divergence": 0.5, "clip": 0.2, "learning_rate": 1e-2, "batch": 16},
}


def make(name: str, seed: int = 0, **changes: Any) -> Any:
    given = {"batch": 64, "learning_rate": 3e-3, **OWN[name], **changes}
    return LEARNERS[name].load(given, POLICIES[name](), seed)


def played(chosen: np.ndarray, seed: int) -> Rollout:
    """One decision; the further the first number, the more progress. The second does not matter."""
    end = float(np.clip(0.5 + 0.4 * chosen[0], 0, 1))
    made = rollout("success" if end > 0.8 else "timeout", tuple(chosen), progress=(0.0, end), seed=seed)
    made.latents = chosen[None].astype(np.float32)
    return made


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_the_shipped_configuration_is_the_plug_in_s_own(name: str) -> None:
    given = load_yaml(root() / "config" / "learners" / f"{name}.yaml")
    assert given["plugin"] == name and load_plugin("whetstone.learners", name) is LEARNERS[name]
    learner = LEARNERS[name].load(given, POLICIES[name](), 0)
    assert isinstance(learner, Learner)
    assert learner.config == type(learner.config)(), "the file and the defaults in the code differ"


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_it_finds_what_earns_most(name: str) -> None:
    learner = make(name)
    assert abs(learner.policy.middle()[0]) < 0.1
    for iteration in range(4):
        chosen = learner.policy.choices(64, iteration)
        learner.update([played(one, index) for index, one in enumerate(chosen)], iteration, False)
    middle = learner.policy.middle()
    assert middle[0] > (0.3 if name == "spiral" else 0.6), middle
    assert abs(middle[1]) < middle[0]


@pytest.mark.parametrize(("name", "acting"), [("dsrl", "actor."), ("spiral", "residual.")])
def test_the_critics_learn_before_anything_follows_them(name: str, acting: str) -> None:
    """Of 12 steps the first `lead` are the critics' alone."""
    episodes = [played(one, 0) for one in np.random.default_rng(0).normal(size=(8, 2))]
    for lead, follows in ((0.96, False), (0.5, True)):
        learner = make(name, lead=lead, updates=1.5)
        began = learner.trainable_state()
        assert learner.update(episodes, 0, False).metrics["loss"] > 0
        left = learner.trainable_state()
        assert any(not np.array_equal(began[key], left[key]) for key in began if key.startswith(acting)) == follows


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        learner = make(name, seed)
        learner.update([played(one, 0) for one in np.random.default_rng(0).normal(size=(8, 2))], 0, False)
        states.append(learner.trainable_state())
    assert all(np.array_equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not np.array_equal(states[0][key], states[2][key]) for key in states[0])


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_worse_weights_go_and_at_the_end_those_that_were_not_seen_to_be_better(name: str) -> None:
    learner = make(name, gate={"episodes": 8, "confidence": 0.95})
    began = learner.trainable_state()
    good, bad = (np.array([[value, 0.0]] * 12) for value in (1.5, -1.5))

    def episodes(chosen: np.ndarray) -> list[Rollout]:
        return [played(one, index) for index, one in enumerate(chosen)]

    assert learner.update(episodes(good), 0, False).deploy
    report = learner.update(episodes(bad), 1, False)
    assert "rolled back" in report.reason
    report = learner.update(episodes(bad), 2, True)
    assert "the policy that the run began with stays" in report.reason or "rolled back" in report.reason
    left = learner.trainable_state()
    assert all(np.array_equal(began[key], left[key]) for key in began)


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_no_reward_teaches_nothing_and_is_counted(name: str) -> None:
    learner = make(name)
    began = learner.trainable_state()
    blank = played(np.array([1.0, 0.0]), 0)
    blank.outcome = "timeout"
    blank.rewards["progress"] = np.full(2, np.nan, np.float32)
    report = learner.update([blank], 0, False)
    assert not report.deploy and "nothing to learn from" in report.reason and report.metrics["unlabelled_steps"] == 1
    assert all(np.array_equal(began[key], value) for key, value in learner.trainable_state().items())


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_losses_that_are_no_numbers_undo_the_update(name: str) -> None:
    """The weights in force before it stay, not those of the run's beginning."""
    learner = make(name)
    learner.update([played(one, 0) for one in np.random.default_rng(0).normal(size=(8, 2))], 0, False)
    before = learner.trainable_state()
    spoilt = played(np.array([1.0, 0.0]), 1)
    spoilt.latents = np.full((1, 2), np.inf, np.float32)
    spoilt.actions = np.full_like(spoilt.actions, np.inf)
    report = learner.update([spoilt] * 20, 1, False)
    assert not report.deploy and "update undone: " in report.reason and "steps had no usable gradient" in report.reason
    assert all(np.array_equal(before[key], value) for key, value in learner.trainable_state().items())


@pytest.mark.parametrize(
    ("name", "said"),
    [("dsrl", "use policy:=steered"), ("spiral", "use policy:=residual"), ("ppo", "use policy:=stochastic")],
)
def test_a_policy_that_does_not_fit_is_told_which_does(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LEARNERS[name].load({}, POLICIES["spiral" if name == "dsrl" else "dsrl"](), 0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dsrl", "its decisions hold 5 numbers of noise, learner 'dsrl' needs 2; use policy:=steered"),
        ("ppo", "its decisions hold 5 numbers; use policy:=stochastic"),
    ],
)
def test_episodes_of_another_policy_are_refused(name: str, said: str) -> None:
    other = played(np.array([1.0, 0.0]), 0)
    other.latents = np.zeros((1, 5), np.float32)
    with pytest.raises(ConfigError, match=said):
        make(name).update([other], 0, False)
    other.latents = None
    with pytest.raises(ConfigError, match=said.partition("; ")[2]):
        make(name).update([other], 0, False)


@given(
    earned=st.lists(st.floats(-1, 1), min_size=1, max_size=8),
    discount=st.floats(0.1, 1),
    offset=st.floats(-1, 1),
)
def test_generalised_advantages_at_both_ends(earned: list[float], discount: float, offset: float) -> None:
    """Lambda 1: the return less the value; lambda 0: one step's surprise."""
    rewards, values = np.array(earned), np.linspace(offset, 1, len(earned))
    np.testing.assert_allclose(gae(rewards, values, discount, 1.0), returns(rewards, discount) - values, atol=1e-9)
    one_step = rewards + discount * np.append(values[1:], 0.0) - values
    np.testing.assert_allclose(gae(rewards, values, discount, 0.0), one_step, atol=1e-9)


def test_an_update_stops_where_it_has_moved_far_enough() -> None:
    learner = make("ppo", divergence=1e-4, epochs=50)
    report = learner.update([played(one, 0) for one in np.random.default_rng(0).normal(size=(16, 2))], 0, False)
    assert report.metrics["epochs"] < 50 and report.metrics["kl"] > 1e-4


def test_transitions() -> None:
    episode = rollout("success", (0, 0), progress=(0.0, 0.2, np.nan, 1.0))
    inputs = torch.arange(3.0)[:, None]
    made = transitions(episode, inputs, inputs, Shaping(discount=0.5, bonus=1.0))
    assert made.unlabelled == 1, "the success's bonus is known, whatever the last score"
    assert made.inputs[:, 0].tolist() == [0, 2] and made.following[:, 0].tolist() == [1, 2]
    assert made.rewards.tolist() == pytest.approx([0.1, 1.0]) and made.done.tolist() == [0, 1]
    assert made.returns.tolist() == pytest.approx([0.1 + 0.25, 1.0])

"""The policies around a frozen flow policy: what they change, what they leave, what they send."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_flow_vla import observation, small

from policy_node.conditioned import ConditionedConfig, ConditionedPolicy
from policy_node.residual import ResidualConfig, ResidualPolicy
from policy_node.steered import SteeredConfig, SteeredPolicy
from policy_node.stochastic import StochasticConfig, StochasticPolicy
from whetstone import contracts
from whetstone.config import load_yaml, root
from whetstone.errors import ConfigError
from whetstone.networks import NoiseActor
from whetstone.plugins import load_plugin
from whetstone.profile import load_profile

INSTRUCTION = "put the red cube in the tray"


def steered() -> SteeredPolicy:
    return SteeredPolicy(SteeredConfig(width=16), small())


def residual(**changes: Any) -> ResidualPolicy:
    return ResidualPolicy(ResidualConfig(width=16, **changes), small())


def stochastic(**changes: Any) -> StochasticPolicy:
    return StochasticPolicy(StochasticConfig(**changes), small())


def conditioned(**changes: Any) -> ConditionedPolicy:
    return ConditionedPolicy(ConditionedConfig(**changes), small())


MAKE = {"steered": steered, "residual": residual, "stochastic": stochastic, "conditioned": conditioned}
CONTRACTS = {
    "steered": contracts.SteeredPolicy,
    "residual": contracts.ResidualPolicy,
    "stochastic": contracts.StochasticPolicy,
    "conditioned": contracts.ConditionedPolicy,
}


def act(policy: Any, seed: int, mode: contracts.PolicyMode) -> contracts.Chunk:
    policy.reset(INSTRUCTION, seed, mode)
    return policy.act(observation())


@pytest.mark.parametrize("name", sorted(MAKE))
def test_it_fulfils_the_contract_and_its_configuration_is_the_plug_in_s_own(name: str) -> None:
    policy = MAKE[name]()
    assert isinstance(policy, contracts.Policy)
    assert isinstance(policy, CONTRACTS[name])
    given = load_yaml(root() / "config" / "policies" / f"{name}.yaml")
    assert load_plugin("whetstone.policies", name) is type(policy)
    assert {key: value for key, value in given.items() if key != "width"} == {
        key: getattr(type(policy.config)(), key) for key in given if key != "width"
    }


@pytest.mark.parametrize("name", sorted(MAKE))
def test_an_episode_follows_from_its_seed(name: str) -> None:
    policy = MAKE[name]()
    one, again, other = (act(policy, seed, "exploring") for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.actions, again.actions)
    np.testing.assert_array_equal(one.latent, again.latent)
    assert not np.allclose(one.actions, other.actions)
    assert one.actions.shape == (policy.spec.horizon, 8) and one.actions.dtype == np.float32


@pytest.mark.parametrize("name", sorted(MAKE))
def test_only_its_own_networks_are_trained_and_sent(name: str) -> None:
    policy, other = MAKE[name](), MAKE[name]()
    state = policy.trainable_state()
    assert all(np.array_equal(state[key], value) for key, value in other.trainable_state().items()), "both sides begin alike"
    if name not in ("stochastic", "conditioned"):  # whose flow itself is trained
        assert all(key.partition(".")[0] in ("actor", "residual", "critics") for key in state)
        assert not any(value.requires_grad for value in policy.inner.network.parameters())
    changed = {key: value + 0.1 for key, value in state.items()}
    policy.load_trainable_state(changed)
    assert all(np.allclose(policy.trainable_state()[key], value) for key, value in changed.items())
    first = next(iter(state))
    for wrong, said in (
        ({key: value for key, value in state.items() if key != first}, f"'{first}' is missing"),
        ({**state, "more": np.zeros(1)}, "'more' is unknown"),
        ({**state, first: np.zeros(3)}, f"'{first}' has shape"),
    ):
        with pytest.raises(ValueError, match=said):
            policy.load_trainable_state(wrong)
    assert all(np.allclose(policy.trainable_state()[key], value) for key, value in changed.items()), "a refused state changed something"


def test_a_steered_chunk_is_the_inner_one_from_the_chosen_noise() -> None:
    policy = steered()
    chunk = act(policy, 5, "exploring")
    assert chunk.latent is not None and chunk.latent.shape == (8,) and np.abs(chunk.latent).max() <= 1.0
    plain = small()
    plain.reset(INSTRUCTION, 0, "sampled")
    inputs = plain.see(observation())
    expected = plain.execute(observation(), plain.chunks(inputs, torch.from_numpy(np.tile(chunk.latent, plain.spec.horizon))[None]))
    np.testing.assert_allclose(chunk.actions, expected, atol=1e-6)
    greedy = act(policy, 5, "greedy")
    np.testing.assert_array_equal(greedy.latent, np.zeros(8), err_msg="an actor that has learned nothing chooses the middle")
    np.testing.assert_array_equal(greedy.actions, act(policy, 6, "greedy").actions)


@pytest.mark.parametrize("name", [*sorted(MAKE), "guided"])
def test_what_has_learned_nothing_acts_greedily_as_the_policy_inside(name: str) -> None:
    policy, plain = MAKE[name]() if name in MAKE else conditioned(guidance=2.5), small()
    plain.reset(INSTRUCTION, 1, "greedy")
    np.testing.assert_allclose(act(policy, 1, "greedy").actions, plain.act(observation()).actions, atol=1e-6)


@pytest.mark.parametrize("spread", [0.15, 0.5])
def test_noise_begins_with_its_spread_and_its_density_is_right(spread: float) -> None:
    actor = NoiseActor(3, 8, 16, 1.0, spread)
    inputs = torch.zeros(4000, 3)
    with torch.no_grad():
        noise, density = actor.sample(inputs, torch.Generator().manual_seed(0))
        assert 0.8 * spread < float(noise.std()) < 1.1 * spread and float(noise.abs().max()) <= actor.bound
        mean, spread = actor(inputs[:1])
        plain = torch.distributions.Normal(mean, spread.exp())
        squashed = torch.distributions.TransformedDistribution(
            plain, [torch.distributions.TanhTransform(), torch.distributions.AffineTransform(0.0, actor.bound)]
        )
        inside = noise.abs().max(1).values < 0.99 * actor.bound
        torch.testing.assert_close(density[inside], squashed.log_prob(noise[inside]).sum(-1), atol=1e-3, rtol=1e-3)


def test_the_correction_is_added_to_the_rows_that_are_carried_out() -> None:
    policy = residual(choices=1, scale=0.5)
    before = act(policy, 7, "greedy").actions
    with torch.no_grad():
        next(value for name, value in reversed(list(policy.residual.named_parameters())) if name.endswith("bias")).fill_(1.0)
    after = act(policy, 7, "greedy").actions
    execute, moved = policy.spec.execute, policy.inner.network.delta_scale.numpy() * 0.5
    np.testing.assert_allclose(after[:execute, :-1] - before[:execute, :-1], moved[:execute], atol=1e-5)
    np.testing.assert_array_equal(after[execute:], before[execute:])
    carried = policy.carried_out(after[None], observation().proprioception[None])
    with torch.no_grad():
        zero = torch.zeros(1, policy.noise)
        policy.inner.reset(INSTRUCTION, 0, "sampled")
        inputs = policy.inner.see(observation())
        expected = policy.correct(inputs, policy.propose(inputs, zero))
    joints = torch.ones(execute, 8, dtype=torch.bool)
    joints[:, -1] = False  # the gripper is clipped to [0, 1] on its way
    torch.testing.assert_close(carried[0][joints.flatten()], expected[0][joints.flatten()], atol=1e-4, rtol=1e-4)


def test_the_best_of_several_is_the_critics_choice() -> None:
    policy = residual(choices=6, critics=2)
    policy.critics.forward = lambda inputs, chunks: torch.stack([chunks[:, 0], chunks[:, 0] + 1])  # type: ignore[method-assign]
    policy.reset(INSTRUCTION, 3, "greedy")
    chosen = policy.act(observation()).latent
    policy.reset(INSTRUCTION, 3, "greedy")
    inputs = policy.inner.see(observation()).expand(6, -1)
    noise = np.random.default_rng([3, 29]).standard_normal((6, policy.noise)).astype(np.float32)
    noise[0] = 0
    first = policy.propose(inputs, torch.from_numpy(noise))[:, 0]
    np.testing.assert_array_equal(chosen, noise[int(first.argmax())])


@pytest.mark.parametrize("start", [0, 1])
def test_a_chain_has_the_probability_that_it_was_drawn_with(start: Any) -> None:
    policy = stochastic(start=start, repeat=False)
    chunk = act(policy, 5, "exploring")
    assert chunk.latent is not None
    chain = policy.chains(chunk.latent[None])
    policy.reset(INSTRUCTION, 5, "exploring")
    inputs = policy.inner.see(observation())
    found = policy.chain_log_probabilities(inputs, chain)
    assert float(found[0].detach()) == pytest.approx(chunk.log_probability, abs=1e-5)
    # A standard normal's mean log-density is -log(deviation) - 1/2 log(2 pi e).
    deviation = policy.config.noise / policy.inner.config.flow_steps**0.5
    assert chunk.log_probability == pytest.approx(-np.log(deviation) - 0.5 * np.log(2 * np.pi * np.e), abs=0.15)
    assert (chain[0, 0] == 0).all() == (start == 0)
    other = chain + 0.01 * torch.randn(chain.shape, generator=torch.Generator().manual_seed(1))
    assert float(policy.chain_log_probabilities(inputs, other).detach()[0]) != pytest.approx(chunk.log_probability, abs=1e-6)
    found.sum().backward()
    assert any(value.grad is not None and value.grad.abs().sum() > 0 for value in policy.network.parameters())
    with pytest.raises(ValueError, match="numbers of latent, not"):
        policy.chains(np.zeros((3, 7), np.float32))


def test_a_stochastic_policy_strays_around_the_greedy_chunk_and_is_deployed_without_noise() -> None:
    policy, plain = stochastic(noise=0.05), small()
    plain.reset(INSTRUCTION, 1, "greedy")
    greedy = plain.act(observation()).actions
    deployed = act(policy, 1, "greedy")
    np.testing.assert_array_equal(deployed.actions, greedy)
    assert deployed.latent is None
    strayed = np.mean([act(policy, seed, "exploring").actions for seed in range(30)], axis=0)
    single = act(policy, 0, "exploring").actions
    assert np.abs(strayed - greedy).mean() < 0.5 * np.abs(single - greedy).mean()


def test_with_unit_start_the_chunks_are_spread_as_the_sampled_policy_s() -> None:
    """Flow-SDE keeps the flow's own distribution: here that of a flow to a normal one of mean .5 and deviation .4, known in closed form."""
    policy = stochastic(start=1, noise=0.6, repeat=False)
    policy._steps = 200

    def velocity(inputs: torch.Tensor, point: torch.Tensor, time: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        t = time[:, None]
        spread = (1 - t) ** 2 + (0.4 * t) ** 2
        away = point - 0.5 * t
        return 0.5 + (0.4**2 * t - (1 - t)) / spread * away

    policy.network.velocity = velocity  # type: ignore[method-assign]
    policy._generator = torch.Generator().manual_seed(0)
    policy._size = 4000
    chain = policy._draw(torch.zeros(1, 1))
    last = policy._last(torch.zeros(1, 1), chain[:, -1])
    assert float(last.mean()) == pytest.approx(0.5, abs=0.03) and float(last.std()) == pytest.approx(0.4, abs=0.03)


def test_one_row_of_noise_has_the_probability_of_its_numbers() -> None:
    policy = stochastic(noise=0.1)
    chunk = act(policy, 5, "exploring")
    assert chunk.latent is not None
    chain = policy.chains(chunk.latent[None])
    policy.reset(INSTRUCTION, 5, "exploring")
    inputs = policy.inner.see(observation())
    deviation = 0.1 / policy.inner.config.flow_steps**0.5
    with torch.no_grad():
        mean, _ = policy._step(inputs, chain[:, 0], 0)
    drawn = ((chain[:, 1] - mean) / deviation).view(policy.spec.horizon, -1)
    torch.testing.assert_close(drawn, drawn[:1].expand_as(drawn), atol=1e-3, rtol=1e-3)
    generator = torch.Generator().manual_seed(5)
    torch.randn(1, drawn.numel(), generator=generator)  # x_0, which start: 0 does not use
    steps = [torch.randn(1, 8, generator=generator) for _ in range(policy.inner.config.flow_steps - 1)]
    torch.testing.assert_close(drawn[:1], steps[0], atol=1e-3, rtol=1e-3)
    expected = torch.distributions.Normal(0.0, deviation).log_prob(deviation * torch.stack(steps)).mean()
    assert chunk.log_probability == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.parametrize("name", ["residual", "steered", "stochastic"])
def test_what_was_drawn_is_kept_for_an_exploring_episode(name: str) -> None:
    """Every chunk of it strays the same way; a new episode's another, a policy that does not keep it every chunk's."""

    def draws(policy: Any, seed: int) -> list[np.ndarray]:
        policy.reset(INSTRUCTION, seed, "exploring")
        return [policy.act(observation()).latent for _ in range(2)]

    def policy(keep: bool) -> Any:
        kinds = {"steered": (SteeredConfig, SteeredPolicy), "residual": (ResidualConfig, ResidualPolicy)}
        if name == "stochastic":
            return stochastic(keep=keep)
        config, kind = kinds[name]
        return kind(config(width=16, keep=keep), small())

    first, second = draws(policy(True), 1)
    if name != "stochastic":  # whose chain also tells of what was seen: the last command is not the first's
        np.testing.assert_allclose(first, second, atol=1e-6)
    assert np.abs(draws(policy(True), 2)[0] - first).max() > 0.01
    first, second = draws(policy(False), 1)
    assert np.abs(first - second).max() > 0.01


def test_an_inner_policy_that_cannot_be_begun_from_noise_is_named() -> None:
    from policy_node import inner as module

    class Other:
        @classmethod
        def load(cls, *_: Any) -> Other:
            return cls()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "configured", lambda *_: (Other, {}))
        with pytest.raises(ConfigError, match="key 'inner': policy 'other' has no see"):
            module.load_inner("other", load_profile("franka"), "cpu", "my.yaml")


@pytest.mark.parametrize("mode", ["greedy", "sampled", "exploring"])
def test_a_conditioned_policy_begins_as_the_one_inside_and_adds_two_vectors(mode: contracts.PolicyMode) -> None:
    policy, plain = conditioned(), small()
    plain.reset(INSTRUCTION, 4, mode)
    chunk, expected = act(policy, 4, mode), plain.act(observation())
    np.testing.assert_array_equal(chunk.actions, expected.actions)
    np.testing.assert_array_equal(chunk.latent, expected.latent)
    state, inside = policy.trainable_state(), plain.trainable_state()
    assert set(state) - set(inside) == {"advantage.positive", "advantage.negative"}
    assert all(np.array_equal(state[name], value) for name, value in inside.items())


def test_an_indicator_changes_the_velocity_of_its_own_rows_alone_and_has_a_gradient_from_the_start() -> None:
    network = conditioned().network
    inputs, chunk = torch.randn(4, network.seen), torch.randn(4, network.horizon * network.columns)
    time, told = torch.rand(4), torch.tensor([1.0, -1.0, 0.0, 1.0])
    plain = network.velocity(inputs, chunk, time, torch.ones(4))
    torch.testing.assert_close(network.velocity(inputs, chunk, time, torch.ones(4), told), plain)
    network.velocity(inputs, chunk, time, torch.ones(4), told).square().sum().backward()
    vectors = network.advantage
    assert all(float(vectors[name].grad.abs().sum()) > 0 for name in ("positive", "negative"))
    with torch.no_grad():
        vectors["positive"].normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
        changed = (network.velocity(inputs, chunk, time, torch.ones(4), told) - plain).abs().amax(1) > 1e-6
    assert changed.tolist() == [True, False, False, True]


def test_it_acts_positive_and_guidance_takes_it_further_from_the_velocity_without_an_indicator() -> None:
    """Of one Euler step the chunk is linear in beta: 0: as without indicator, 1: positive, 2: as far again."""
    chunks = []
    for guidance in (0.0, 1.0, 2.0):
        policy = conditioned(guidance=guidance)
        network = policy.network
        with torch.no_grad():
            network.advantage["positive"].normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
            inputs, noise = torch.ones(1, network.seen), torch.zeros(1, network.horizon * network.columns)
            chunks.append(network.sample(inputs, noise, 1, torch.zeros(1)))
            plain = network.velocity(inputs, noise, torch.zeros(1), torch.zeros(1))
            positive = network.velocity(inputs, noise, torch.zeros(1), torch.zeros(1), torch.ones(1))
    torch.testing.assert_close(chunks[0], plain)
    torch.testing.assert_close(chunks[1], positive)
    torch.testing.assert_close(chunks[2] - chunks[1], chunks[1] - chunks[0])
    assert not torch.allclose(chunks[0], chunks[1])


def test_guidance_counts_for_no_configuration_hash_and_the_inner_policy_does() -> None:
    """Weights learned with one guidance may be deployed with another."""
    hashes = {conditioned(guidance=one).spec.config_hash for one in (1.0, 2.0)}
    assert len(hashes) == 1 and conditioned().spec.config_hash != small().spec.config_hash

"""The contracts that plug-ins fulfil: policy, reward model, learner.

Role: the one place that says what a policy, a reward model and a learner are, in arrays. Nodes talk to
plug-ins through these types alone. Does not depend on rclpy, torch, a simulator or any node package.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

PolicyMode = Literal["greedy", "sampled", "exploring"]
"""How a policy acts in an episode: greedy: without noise; sampled: as its distribution has it, every chunk drawn anew; exploring: so that
a learner can tell what made the difference, e.g. with noise that lasts for the episode."""


ActionSpace = Literal["joint_position", "joint_delta", "end_effector_pose", "end_effector_delta"]
"""What the columns of a chunk mean; the last one is the gripper's opening in [0, 1], 1 open, in every space.

joint_position: absolute joint targets, rad, in profile order.
joint_delta: joint targets less the joint positions of the observation that the chunk answers, rad (openpi's delta actions).
end_effector_pose: where the point between the fingers shall be, x, y, z, m, and its rotation vector, rad, in the frame that the base
    stands in.
end_effector_delta: how far it shall move in this control period, x, y, z, m, and by which rotation vector, rad, both in that frame, from
    where the row before wanted it; the first row's from where it is in the observation (OpenVLA's actions).
"""


@dataclass(frozen=True)
class Observation:
    """What a policy sees at one control step.

    stamp: robot time, integer nanoseconds.
    images: camera name -> (height, width, 3) uint8 RGB.
    proprioception: (joints + 1,) float32: measured joint positions in profile order (rad), then gripper opening in [0, 1].
    """

    stamp: int
    images: dict[str, np.ndarray]
    proprioception: np.ndarray


@dataclass(frozen=True)
class Chunk:
    """One inference: commands for the next control periods.

    actions: (horizon, columns) float32 in the policy's `action_space`: joints + 1 columns, or 7 of the end effector and the gripper.
    latent: the policy's record of how it sampled, any shape, or None. It travels in Action.latent (flattened) and
        comes back to the learner, so that an update needs no second guess at what the policy did.
    log_probability: of the sample under the policy, or NaN where the policy cannot say.
    """

    actions: np.ndarray
    latent: np.ndarray | None = None
    log_probability: float = float("nan")


@dataclass(frozen=True)
class Underway:
    """What the arm does while the policy thinks.

    actions: (rows, columns): the rest of the chunk in use, from the step of the observation on; rows <= horizon. delay: how many of them
    will be done before the new chunk takes over, as far as can be told from inferences before.
    """

    actions: np.ndarray
    delay: int


@dataclass(frozen=True)
class PolicySpec:
    """What a policy declares before it runs.

    cameras: names it needs, image_size: (height, width) of each, None where it takes any; joints: names of what it drives, in profile
    order (without the gripper); action_space: what the columns of its chunks mean;
    horizon: rows per chunk; execute: rows to run before the next inference; rate: control rate in Hz.
    config_hash: identifies the configuration that weights must match.
    """

    policy_id: str
    cameras: tuple[str, ...]
    image_size: tuple[int, int] | None
    joints: tuple[str, ...]
    horizon: int
    execute: int
    rate: float
    config_hash: str
    action_space: ActionSpace = "joint_position"

    @property
    def columns(self) -> int:
        """Of a chunk."""
        return len(self.joints) + 1 if self.action_space.startswith("joint") else 7


@runtime_checkable
class Policy(Protocol):
    """A policy plug-in (entry point group `whetstone.policies`: a class with `load`).

    It may have besides `interrupted()`: a human drove meanwhile, and what it commanded last does not hold any more; and
    `observe(observation)`, for one that looks at several control steps in a row: then every step's observation is shown to it, in order,
    that of a decision right before `act`. Without it a policy sees its decisions' only.
    """

    spec: PolicySpec

    @classmethod
    def load(cls, config: dict[str, Any], profile: Any, device: str = "cpu") -> Policy:
        """Build from the YAML of config/policies/<name>.yaml and a RobotProfile. Raises whetstone.errors.ConfigError."""
        ...

    def reset(self, instruction: str, seed: int, mode: PolicyMode) -> None:
        """Start an episode. All randomness of the episode follows from seed. A policy that knows no exploration of its own samples."""
        ...

    def act(self, observation: Observation) -> Chunk: ...

    def trainable_state(self) -> dict[str, np.ndarray]:
        """Tensors that a learner may change, as float32 arrays."""
        ...

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        """Replace them all at once; raises ValueError naming the first tensor that differs in name or shape."""
        ...


@runtime_checkable
class InpaintingPolicy(Policy, Protocol):
    """A policy whose new chunk can go on from the one in use: what real-time chunking asks for."""

    def inpaint(self, observation: Observation, underway: Underway) -> Chunk: ...


@runtime_checkable
class FlowPolicy(Policy, Protocol):
    """A policy whose trainable part is a flow network over inputs that do not change: what flow learners ask for beyond Policy.

    network: a torch module with mix(chunk, generator) -> points of the flow, times, scales, wanted velocities; velocity(inputs, points,
    times, scales); sample(inputs, noise, steps, scales); normalise(actions, proprioception) and denormalise(chunk, proprioception). All
    tensors are torch's; chunks are (B, horizon * columns), normalised.
    """

    network: Any

    def encode(self, images: dict[str, np.ndarray], proprioception: np.ndarray, actions: np.ndarray, instruction: str) -> Any:
        """(T, inputs) that the network saw at the T decisions of one episode (arrays as in Rollout)."""
        ...

    def replay(self, without: str) -> tuple[Any, Any] | None:
        """(N, inputs) and (N, horizon * columns) of the demonstrations the policy came from, or None where there are none.

        without: an instruction whose demonstrations are left out.
        """
        ...


@runtime_checkable
class ImitationPolicy(Policy, Protocol):
    """A policy that says how far it is from imitating a decision: what learners by weighted imitation ask of one that is no FlowPolicy.

    network: torch module; its parameters that are named as in trainable_state are trained, all of them. profile: RobotProfile of its arm:
    what a human commands are joint targets, which are learned as actions of the policy's action_space.
    """

    network: Any
    profile: Any

    def losses(
        self, images: dict[str, np.ndarray], proprioception: np.ndarray, actions: np.ndarray, instruction: list[str], seed: int
    ) -> Any:
        """(B,) torch tensor, differentiable in the trained weights: the policy's own training loss at each of B decisions.

        images: camera -> (B, height, width, 3) uint8; proprioception (B, joints + 1); actions (B, horizon, columns), as chunks hold them;
        instruction: of each decision. All randomness follows from seed.
        """
        ...


@runtime_checkable
class ConditionedPolicy(FlowPolicy, Protocol):
    """A flow policy that is told whether a chunk is better than usual: what RECAP asks for.

    network.velocity takes a fifth argument, (B,): 1 better, -1 not, 0 untold. guidance: beta with which it acts as if it always were.
    """

    guidance: float


@runtime_checkable
class SteeredPolicy(Policy, Protocol):
    """A frozen flow policy whose initial noise a trainable actor chooses: what DSRL asks for beyond Policy.

    actor: whetstone.networks.NoiseActor. Chunk.latent is the noise that was chosen, (actor.size,).
    """

    actor: Any

    def encode(self, images: dict[str, np.ndarray], proprioception: np.ndarray, actions: np.ndarray, instruction: str) -> Any:
        """As FlowPolicy.encode."""
        ...


@runtime_checkable
class ResidualPolicy(Policy, Protocol):
    """A frozen flow policy with a trainable correction on top, and critics that choose among several chunks: what SPIRAL asks for.

    residual: torch module, (inputs, chunks) -> correction; critics: whetstone.networks.Critics of inputs and of what a chunk adds to the
    one from zero noise, in units of scale. Chunks here are (B, execute * columns): the rows that are carried out, normalised. scale: of the
    correction; noise: numbers that a chunk of the frozen policy is drawn from.
    """

    residual: Any
    critics: Any
    scale: float
    noise: int

    def encode(self, images: dict[str, np.ndarray], proprioception: np.ndarray, actions: np.ndarray, instruction: str) -> Any:
        """As FlowPolicy.encode."""
        ...

    def carried_out(self, actions: np.ndarray, proprioception: np.ndarray) -> Any:
        """(T, horizon, columns) actions, (T, columns) measured -> (T, execute * columns), normalised."""
        ...

    def propose(self, inputs: Any, noise: Any) -> Any:
        """Chunks of the frozen policy, from noise of unit variance (B, self.noise)."""
        ...

    def correct(self, inputs: Any, chunks: Any) -> Any:
        """The chunks with the correction added, differentiable in the residual's weights."""
        ...


@runtime_checkable
class StochasticPolicy(Policy, Protocol):
    """A policy that knows how likely what it did was: what PPO asks for beyond Policy.

    network: torch module that is trained. Exploring, Chunk.latent holds all that was drawn ("chain").
    """

    network: Any

    def encode(self, images: dict[str, np.ndarray], proprioception: np.ndarray, actions: np.ndarray, instruction: str) -> Any:
        """As FlowPolicy.encode."""
        ...

    def chains(self, latents: np.ndarray) -> Any:
        """What T decisions drew, (T, ...), as it stands in a rollout. ValueError where it is another policy's."""
        ...

    def chain_log_probabilities(self, inputs: Any, chains: Any) -> Any:
        """(T,) mean log-density, nat, of a number of the chain; differentiable in the network's weights."""
        ...


@dataclass(frozen=True)
class RewardSample:
    """One score; fields as in whetstone_msgs/Reward. A value the model does not give is NaN."""

    stamp: int
    raw: float = float("nan")
    progress: float = float("nan")
    process: float = float("nan")
    completion: float = float("nan")
    contrastive: float = float("nan")
    total: float = float("nan")
    margin: float = float("nan")
    log_true: float = float("nan")
    log_false: float = float("nan")
    entropy: float = float("nan")
    valid: bool = True
    reason: str = ""
    window: int = 0


REWARD_VALUES = (
    "raw", "progress", "process", "completion", "contrastive", "total", "margin", "log_true", "log_false", "entropy",
)  # fmt: skip
"""The numbers among the fields of RewardSample, whetstone_msgs/Reward and Rollout.rewards."""


PROPRIOCEPTION = "proprioception"
"""What a frame set holds beside its cameras, for a reward model that needs it: (joints + 1,) float32, rad and gripper opening in [0, 1]."""


@dataclass(frozen=True)
class RewardNeeds:
    """What a reward model declares before it runs.

    cameras, image_size (height, width) of each; every: control steps between two scores; images: of each camera that one score looks at,
    at most; memory: bytes of its weights; device: that they lie on, as torch names it ("" where the model runs elsewhere);
    proprioception: numbers of it that come with every frame set, 0: none.
    """

    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    every: int
    images: int = 1
    memory: int = 0
    device: str = "cpu"
    proprioception: int = 0


@dataclass(frozen=True)
class Provenance:
    """What scores come from. A calibration holds for one provenance only.

    plugin: name of the reward plug-in; model: its identity, e.g. the folder's name; revision: hash of the weights; precision: of the
    weights at work ("float32", "int8", "nf4"); prompt: hash of the words around the instruction; config: hash of the configuration.
    Empty where there is nothing of the kind.
    """

    plugin: str
    model: str = ""
    revision: str = ""
    precision: str = ""
    prompt: str = ""
    config: str = ""

    @property
    def model_id(self) -> str:
        """In one word, as messages carry it: plugin@model:revision:precision."""
        rest = ":".join(part for part in (self.model, self.revision, self.precision) if part)
        return f"{self.plugin}@{rest}" if rest else self.plugin


@runtime_checkable
class RewardModel(Protocol):
    """A reward plug-in (entry point group `whetstone.rewards`: a class with `load`).

    It may have besides: `counters` (name -> number), which the node publishes with its own in /diagnostics; `tell(instruction)`, other
    words within an episode, whose frames it keeps (without it the node calls reset); `offline = True`: only score_episode gives scores;
    `beside()`, another of the same weights for another robot (without it they are loaded again), and where it has that,
    `observe_together(models, frames, stamps)`, observe() of several in one pass, where what cannot be scored gives a sample that says why.
    reset and observe may raise InputError: the node publishes the reason with valid=false and lives on.
    """

    provenance: Provenance
    needs: RewardNeeds

    @classmethod
    def load(cls, config: dict[str, Any], profile: Any, device: str = "cpu") -> RewardModel: ...

    def reset(self, episode_id: str, instruction: str, seed: int) -> None: ...

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample | None:
        """Score the newest frame set: camera name -> (height, width, 3) uint8 RGB, and PROPRIOCEPTION where it is needed. Causal: looks at
        past frames only."""
        ...

    def score_episode(self, frames: list[dict[str, np.ndarray]], stamps: list[int]) -> list[RewardSample]:
        """Offline: the same samples that observe() would have given one by one."""
        ...


@dataclass
class Rollout:
    """The record of one episode at decision points (one row per inference), as a learner sees it.

    stamps: (T,) int64 ns of the observations; images: camera -> (T, height, width, 3) uint8;
    proprioception: (T, joints + 1); actions: (T, horizon, columns) as the policy gave them; latents: (T, ...) or None;
    log_probabilities: (T,); policy_versions: (T,) uint64.
    rewards: name of a Reward field -> (T + 1,) float32 at stamps and at the last frame of the episode; NaN = unlabelled.
    scores: all that the reward model said, as it came: "stamps" (M,) int64 ns, "valid" (M,) bool, name of a Reward field -> (M,) float32.
    steps: every control step: "stamps" (N,) int64 ns, "measured" (N, joints + 1) as proprioception, "commanded" (N, joints + 1) what the
    guard let through, NaN where it sent nothing; maybe "intervention" (N,) bool, True where a human drove. Both are empty where nobody
    recorded them.
    outcome: "success", "failure", "timeout" or "aborted", as the episode manager said (from the reward, never from ground truth).
    end: ns, stamp of the last frame; None: unknown. source: "policy", or "demonstration" where somebody else acted throughout.
    """

    episode_id: str
    iteration: int
    task: str
    instruction: str
    seed: int
    outcome: str
    reason: str
    stamps: np.ndarray
    images: dict[str, np.ndarray]
    proprioception: np.ndarray
    actions: np.ndarray
    latents: np.ndarray | None
    log_probabilities: np.ndarray
    policy_versions: np.ndarray
    rewards: dict[str, np.ndarray]
    last_images: dict[str, np.ndarray] = field(default_factory=dict)
    last_proprioception: np.ndarray | None = None
    reward_model_id: str = ""
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    steps: dict[str, np.ndarray] = field(default_factory=dict)
    end: int | None = None
    source: str = "policy"


@dataclass(frozen=True)
class UpdateReport:
    """What an update did. deploy: push the new weights; reason: the gate's words; metrics: scalars to log. stop: why no more training is
    wanted; empty: go on."""

    deploy: bool
    reason: str
    metrics: dict[str, float]
    stop: str = ""


@runtime_checkable
class Learner(Protocol):
    """A learner plug-in (entry point group `whetstone.learners`: a class with `load`).

    It owns a copy of the policy and changes only its trainable state. It may have besides:
    `best_state()`: the weights seen to be best so far.
    `update_every`: episodes after which it wants an update while the robot goes on (0: after an iteration alone). It must then credit each
    episode to the weights that drove it: Rollout.policy_versions counts its deployments so far.
    `checkpoint()`: all that it has in mind between two updates, as dictionaries and lists of tensors, arrays and plain values; and
    `resume(state, read)`, which goes on from there as if it had never stopped: `read(episode_id)` gives an episode again, None where it is
    gone; returns how many were. Without these two a learner that was killed begins anew.
    """

    @classmethod
    def load(cls, config: dict[str, Any], policy: Policy, seed: int) -> Learner: ...

    def update(self, rollouts: list[Rollout], iteration: int, last: bool) -> UpdateReport:
        """Learn from the episodes of one iteration. Deterministic under the seed. last: no iteration follows, so what is deployed now
        is what the run leaves behind."""
        ...

    def trainable_state(self) -> dict[str, np.ndarray]:
        """The weights to push (the candidate's if deployed, else the best so far)."""
        ...

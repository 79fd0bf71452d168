"""The small flow VLA: images, instruction and proprioception -> a chunk of joint targets.

Role: the policy plug-in `flow_vla` (contract: whetstone.contracts.Policy): frozen vision encoder, byte-level text encoder, flow-matching
head. Depends on torch; knows nothing of ROS or simulators.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from policy_node.flow_network import FlowNetwork
from policy_node.localiser import Localiser
from policy_node.parameters import put, taken
from policy_node.real_time_chunking import inpaint, prefix_weights
from whetstone.assets import asset_path
from whetstone.config import config_hash, parse
from whetstone.contracts import Chunk, Observation, PolicyMode, PolicySpec, Underway
from whetstone.errors import AssetError
from whetstone.profile import RobotProfile
from whetstone.vision import CAMERAS, IMAGE_SIZE, VisionEncoder


@dataclass(frozen=True)
class FlowVLAConfig:
    """plugin: its entry point; horizon: rows per chunk; execute: rows run before the next inference; width, blocks, text_size: of
    the network; flow_steps: Euler steps; exploration: how far an exploring chunk strays from the greedy one, as a share of how far the
    sampled one does; deployment: how the refined policy is deployed; weights: asset file, {robot} is filled in (empty:
    random weights); demonstrations: asset file with what it was trained on, for replay by a learner (empty: none)."""

    plugin: str = "flow_vla"
    horizon: int = field(default=16, metadata={"ge": 1})
    execute: int = field(default=8, metadata={"ge": 1})
    width: int = field(default=256, metadata={"ge": 8})
    blocks: int = field(default=3, metadata={"ge": 1})
    text_size: int = field(default=64, metadata={"ge": 8})
    flow_steps: int = field(default=5, metadata={"ge": 1})
    exploration: float = field(default=0.8, metadata={"ge": 0, "le": 1})
    deployment: Literal["sampled", "greedy"] = "greedy"
    weights: str = "policy_{robot}.safetensors"
    demonstrations: str = "policy_{robot}_demonstrations.safetensors"


class FlowVLAPolicy:
    """Deterministic given (weights, seed): an episode draws its noise from its seed.

    Greedy acts from zero noise; sampled draws noise for every chunk; exploring draws it once and keeps it for the episode. Noise that
    is new with every chunk averages out over the 15 chunks of an episode: what then tells successes from failures is mostly the scene,
    which no update can change. Kept, it shifts the whole episode one way, and the outcome says whether that way was better
    (state-dependent exploration's argument, Rueckstiess et al. 2008, here for the noise of a flow).
    `exploration` brings such an episode nearer to the greedy one, so that enough of them succeed to learn from.
    """

    def __init__(self, config: FlowVLAConfig, profile: RobotProfile, vision: VisionEncoder, localiser: Localiser, device: str = "cpu"):
        self.config, self.profile, self.device = config, profile, device
        self.vision, self.localiser = vision.to(device), localiser.to(device)
        self.columns = len(profile.joints) + 1
        self.network = (
            FlowNetwork(localiser.size, self.columns, config.horizon, config.width, config.blocks, config.text_size).to(device).eval()
        )
        shape = asdict(config) | {
            "robot": profile.asset_name,
            "joints": list(profile.asset_joints),
            "vision": vision.identity,
            "localiser": localiser.identity,
        }
        self.spec = PolicySpec(
            policy_id="flow_vla",
            cameras=CAMERAS,
            image_size=IMAGE_SIZE,
            joints=profile.joint_names,
            horizon=config.horizon,
            execute=config.execute,
            rate=profile.rate,
            config_hash=config_hash(
                {key: shape[key] for key in ("horizon", "width", "blocks", "text_size", "robot", "joints", "vision", "localiser")}
            ),
        )
        self._text = torch.zeros(1, config.text_size)
        self._previous: torch.Tensor | None = None
        self._rng = np.random.default_rng(0)
        self._scale = 0.0
        self._kept: np.ndarray | None = None  # an exploring episode's noise

    @classmethod
    def load(cls, config: dict[str, Any], profile: RobotProfile, device: str = "cpu") -> FlowVLAPolicy:
        """Raises ConfigError for a bad key, AssetError where weights are missing or do not fit."""
        parsed = parse(FlowVLAConfig, config, "config/policies/flow_vla.yaml")
        policy = cls(parsed, profile, VisionEncoder.load(profile.asset_name), Localiser.load(profile.asset_name), device)
        if parsed.weights:
            path = asset_path(parsed.weights.format(robot=profile.asset_name))
            try:
                with safe_open(str(path), "pt") as file:
                    made_for = (file.metadata() or {}).get("config_hash")
                    policy.network.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})
            except Exception as error:  # safetensors and torch raise their own types; whatever it is, the file is unusable
                raise AssetError(f"{path.name}: does not fit the policy ({error}); make it again with `make assets`") from None
            if made_for != policy.spec.config_hash:
                raise AssetError(
                    f"{path.name}: made for configuration {made_for}, not {policy.spec.config_hash} (horizon, network, joints, vision "
                    "encoder and localiser count); make it again with `make assets`"
                )
        return policy

    def save(self, path: Path) -> None:
        tensors = {name: value.half().contiguous() for name, value in self.network.state_dict().items()}
        save_file(tensors, str(path), {"config_hash": self.spec.config_hash})

    def reset(self, instruction: str, seed: int, mode: PolicyMode) -> None:
        with torch.no_grad():
            self._text = self.network.text([instruction])
        self._previous = None
        self._rng = np.random.default_rng([seed, 13])
        self._scale = 0.0 if mode == "greedy" else 1.0
        self._kept = self._draw() if mode == "exploring" else None

    def interrupted(self) -> None:
        """The last command was not this policy's: the next chunk goes on from where the arm is."""
        self._previous = None

    def _draw(self) -> np.ndarray:
        return self._scale * self._rng.standard_normal((1, self.config.horizon * self.columns)).astype(np.float32)

    def act(self, observation: Observation) -> Chunk:
        """latent: the initial noise of the flow, (horizon * columns,) float32."""
        return self._act(observation, None)

    def inpaint(self, observation: Observation, underway: Underway) -> Chunk:
        """As act, guided to what the arm does meanwhile (real_time_chunking.py)."""
        return self._act(observation, underway)

    @torch.no_grad()
    def _act(self, observation: Observation, underway: Underway | None) -> Chunk:
        inputs = self.see(observation)
        noise = self._draw() if self._kept is None else self._kept
        if self._kept is None:
            chunk = self._sample(inputs, noise, [self._scale], observation, underway)
        else:
            both = np.concatenate([noise, np.zeros_like(noise)])
            chunk, greedy = self._sample(inputs.expand(2, -1), both, [self._scale, 0.0], observation, underway).split(1)
            chunk = greedy + self.config.exploration * (chunk - greedy)
        return Chunk(actions=self.execute(observation, chunk), latent=noise[0])

    @torch.no_grad()
    def see(self, observation: Observation) -> torch.Tensor:
        """What the network sees at this decision, (1, inputs)."""
        features = self.vision.features({camera: observation.images[camera][None] for camera in CAMERAS if camera in observation.images})
        state = self._state(observation)
        previous = state if self._previous is None else self._previous
        return self.network.inputs(self.localiser(features, state), state, previous, self._text)

    @torch.no_grad()
    def chunks(self, inputs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Normalised chunks (B, horizon * columns) from noise (B, horizon * columns) of someone else's choice.

        The network is told how large the noise is: of unit variance it gives the sampled policy's chunks, zero the greedy one's.
        """
        return self.network.sample(inputs, noise, self.config.flow_steps, noise.square().mean(-1).sqrt().clamp(max=1.0))

    @torch.no_grad()
    def execute(self, observation: Observation, chunk: torch.Tensor) -> np.ndarray:
        """The actions (horizon, columns) of a normalised chunk (1, horizon * columns), which is taken for what will be done."""
        rows = self.network.denormalise(chunk, self._state(observation))
        self._previous = rows[:, self.config.execute - 1]
        return rows[0].cpu().numpy().astype(np.float32)

    def _state(self, observation: Observation) -> torch.Tensor:
        return torch.from_numpy(np.asarray(observation.proprioception, np.float32))[None].to(self.device)

    def _sample(
        self, inputs: torch.Tensor, noise: np.ndarray, scales: list[float], observation: Observation, underway: Underway | None
    ) -> torch.Tensor:
        start = torch.from_numpy(noise).to(self.device)
        scale = torch.tensor(scales, dtype=start.dtype, device=self.device)
        if underway is None:
            return self.network.sample(inputs, start, self.config.flow_steps, scale)
        rows = np.zeros((self.config.horizon, self.columns), np.float32)
        rows[: len(underway.actions)] = underway.actions
        wanted = self.network.normalise(torch.from_numpy(rows)[None].to(self.device), self._state(observation))
        weights = prefix_weights(self.config.horizon, underway.delay, len(underway.actions)).astype(np.float32)
        firmly = torch.from_numpy(weights).to(self.device).repeat_interleave(self.columns)
        return inpaint(self.network.flow(inputs, scale), start, wanted.expand(len(start), -1), firmly, self.config.flow_steps)

    @torch.no_grad()
    def encode(self, images: dict[str, np.ndarray], proprioception: np.ndarray, actions: np.ndarray, instruction: str) -> torch.Tensor:
        """What the trainable network saw at the T decisions of one episode: images camera -> (T, height, width, 3) uint8,
        proprioception (T, columns), actions (T, horizon, columns); returns (T, inputs)."""
        state = torch.from_numpy(np.asarray(proprioception, np.float32)).to(self.device)
        commanded = torch.from_numpy(np.asarray(actions[:-1, self.config.execute - 1], np.float32)).to(self.device)
        embedding = self.localiser(self.vision.features(images), state)
        text = self.network.text([instruction]).expand(len(state), -1)
        return self.network.inputs(embedding, state, torch.cat([state[:1], commanded]), text)

    def replay(self, without: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Inputs (N, inputs) and normalised chunks (N, horizon * columns) of the demonstrations of all instructions but `without`.

        Raises AssetError.
        """
        if not self.config.demonstrations:
            return None
        path = asset_path(self.config.demonstrations.format(robot=self.profile.asset_name))
        try:
            with safe_open(str(path), "pt") as file:
                inputs, chunks, which = (file.get_tensor(name) for name in ("inputs", "chunks", "instruction"))
                instructions = json.loads(file.metadata()["instructions"])
        except Exception as error:  # safetensors raises its own types; whatever it is, the file is unusable
            raise AssetError(f"{path.name}: cannot be read ({error}); make it again with `make assets`") from None
        if inputs.shape[1] != self.network.seen or chunks.shape[1] != self.config.horizon * self.columns:
            raise AssetError(f"{path.name}: made for another policy; make it again with `make assets`")
        kept = torch.tensor([instructions[index] != without for index in which.tolist()], dtype=torch.bool)
        return (inputs[kept].float().to(self.device), chunks[kept].float().to(self.device)) if kept.any() else None

    def trainable_state(self) -> dict[str, np.ndarray]:
        """Everything but the text encoder and the data statistics."""
        return taken(self._trainable())

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        put(self._trainable(), state)

    def _trainable(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in self.network.named_parameters() if not name.startswith("text.")}

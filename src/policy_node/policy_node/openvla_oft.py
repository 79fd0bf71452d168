"""OpenVLA-OFT: OpenVLA that says a whole chunk at once, in numbers (Kim et al., arXiv 2502.19645).

Role: the policy plug-in `openvla_oft` (contracts: whetstone.contracts.Policy and ImitationPolicy) around prismatic.py. Depends on torch;
transformers is imported when a policy is loaded. Runs no code of the checkpoint, and reads no pickle while it is loaded:
`python -m policy_node.openvla_oft FOLDER` makes *.safetensors of the checkpoint's *.pt, once.

Behind the prompt stand as many empty words as the chunk has numbers, then the end of the text; every word sees every other (parallel
decoding with bidirectional attention). What the language model makes of the words is turned into numbers by a head: row by row, from the
outputs one place before each empty word, as a language model's outputs are (section IV).
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from policy_node.adapting import Trained
from policy_node.convention import Convention, GripperRange, chosen_cameras, names
from policy_node.openvla import PrismaticConfig, Words, network_of, pixels, tensors_of
from whetstone.config import config_hash, parse, source_of
from whetstone.contracts import Chunk, Observation, PolicyMode, PolicySpec
from whetstone.errors import AssetError, ConfigError, InputError
from whetstone.inverse_kinematics import InverseKinematics
from whetstone.model_folder import loading, model_folder, revision
from whetstone.profile import RobotProfile

_SOURCE = "config/policies/openvla_oft.yaml"
_HEAD, _STATE, _EYES = "action_head", "proprio_projector", "vision_backbone"
PARTS = (_HEAD, _STATE, _EYES)
"""Files beside the network's own; the latter two are there where the policy was trained with them."""
_END = 2
"""Llama's word for the end."""
_LARGEST_RANK = 16
"""openvla-oft scales adapters by min(rank, 16) / rank."""
_IGNORED = ("model", "dtype", "deployment")


@dataclass(frozen=True, kw_only=True)
class OpenVLAOFTConfig(PrismaticConfig):
    """cameras: those that it sees, in its order. horizon: rows of its chunks, which no file of it says (LIBERO 8, BridgeData 5); execute:
    rows run before the next inference, empty: all. bounds: of its numbers: quantiles (q01, q99; LIBERO, BridgeData) or extremes (min, max).
    state: what it was told of the arm, if it was: joints and gripper, or the end effector's position and rotation vector, behind which
    `fingers` has one number each."""

    plugin: str = "openvla_oft"
    cameras: tuple[str, ...] = ("front",)
    horizon: int | None = field(default=None, metadata={"ge": 1})
    execute: int | None = field(default=None, metadata={"ge": 1})
    bounds: Literal["quantiles", "extremes"] = "quantiles"
    state: Literal["joints", "end_effector"] = "joints"
    fingers: tuple[GripperRange, ...] = ()


class Row(nn.Module):
    """The head: a row's outputs of the language model, side by side, -> its numbers, in [-1, 1] as trained. Names as published."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        (hidden, width), count = weights["model.fc1.weight"].shape, len(weights["model.fc2.weight"])
        blocks = len([name for name in weights if name.endswith("ffn.1.weight")])
        model = nn.Module()
        model.layer_norm1, model.fc1 = nn.LayerNorm(width), nn.Linear(width, hidden)
        model.mlp_resnet_blocks = nn.ModuleList(
            nn.ModuleDict({"ffn": nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.ReLU())}) for _ in range(blocks)
        )
        model.layer_norm2, model.fc2 = nn.LayerNorm(hidden), nn.Linear(hidden, count)
        self.model: Any = model
        self.count = count
        self.load_state_dict(weights)

    def forward(self, outputs: Tensor) -> Tensor:
        """(rows, width of a row) -> (rows, count)."""
        outputs = torch.relu(self.model.fc1(self.model.layer_norm1(outputs)))
        for block in self.model.mlp_resnet_blocks:
            outputs = outputs + block["ffn"](outputs)
        return self.model.fc2(self.model.layer_norm2(outputs))


class State(nn.Module):
    """The arm's state as one more thing that is seen. Names as published."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        width, self.count = weights["fc1.weight"].shape
        self.fc1, self.fc2 = nn.Linear(self.count, width), nn.Linear(width, width)
        self.load_state_dict(weights)

    def forward(self, state: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(state)))


class Bounds:
    """Numbers between two bounds of a data set, each to [-1, 1]; those that its mask leaves out stay as they are."""

    def __init__(self, statistics: dict[str, Any], kind: Literal["quantiles", "extremes"]) -> None:
        lowest, highest = ("q01", "q99") if kind == "quantiles" else ("min", "max")
        self._low, self._high = np.array(statistics[lowest], np.float64), np.array(statistics[highest], np.float64)
        self._mask = np.array(statistics.get("mask") or np.ones(len(self._low)), bool)
        self.count = len(self._low)

    def normal(self, values: np.ndarray) -> np.ndarray:
        scaled = 2 * (values - self._low) / (self._high - self._low + 1e-8) - 1
        return np.where(self._mask, scaled, values).clip(-1, 1).astype(np.float32)

    def undone(self, normal: np.ndarray) -> np.ndarray:
        return np.where(self._mask, (normal + 1) / 2 * (self._high - self._low + 1e-8) + self._low, normal)


class OpenVLAOFTPolicy:
    """Draws nothing: greedy, sampled and exploring are the same."""

    def __init__(self, config: OpenVLAOFTConfig, profile: RobotProfile, folder: Path, source: str, device: str = "cpu") -> None:
        self.config, self.device, self.profile = config, device, profile
        self.convention = Convention(config, profile, source)
        chosen_cameras({camera: camera for camera in config.cameras}, profile, source)
        if config.horizon is None:
            raise ConfigError(f"{source}: key 'horizon' is empty; set it to the rows of the policy's chunks (LIBERO 8, BridgeData 5)")
        if (config.execute or 1) > config.horizon:
            raise ConfigError(f"{source}: key 'execute' is {config.execute}, but the policy's chunks have {config.horizon} rows")
        settings = json.loads((folder / "config.json").read_text())
        if settings.get("model_type") != "openvla":
            raise AssetError(f"{source}: model '{folder}' is a {settings.get('model_type')}, not an openvla")
        self.side, self._bins = int(settings["image_sizes"][0]), int(settings.get("n_action_bins", 256))
        given = _statistics(folder, settings, config.statistics, source)
        with loading(folder):
            self.actions = Bounds(given["action"], config.bounds)
            parts = _parts(folder)
            eyes = _eyes(parts.pop(_EYES)) if _EYES in parts else None
            self.network = network_of(folder, settings, config.dtype, device, PARTS, eyes)
            self.network.action_head = Row(parts[_HEAD]).to(device)
            if _STATE in parts:
                self.network.proprio_projector = State(parts[_STATE]).to(device)
                self._bounds = Bounds(given["proprio"], config.bounds)
            self._words = Words(folder, settings)
        self._kinematics = InverseKinematics(profile) if config.state == "end_effector" else None
        self._check(profile, folder, source)
        self.trained = Trained(self.network, config.trained, source)
        self.network.eval()
        shape = {key: value for key, value in asdict(config).items() if key not in _IGNORED}
        self.spec = PolicySpec(
            policy_id="openvla_oft",
            cameras=config.cameras,
            image_size=None,
            joints=profile.joint_names,
            horizon=config.horizon,
            execute=config.execute or config.horizon,
            rate=profile.rate,
            config_hash=config_hash([shape, profile.name, revision(folder)]),
            action_space=self.convention.space,
        )
        self._prompt = self._words.tokens("")

    @classmethod
    def load(cls, config: dict[str, Any], profile: RobotProfile, device: str = "cpu") -> OpenVLAOFTPolicy:
        """Raises ConfigError for a bad key or a policy that is not for this robot, AssetError where the folder cannot be loaded."""
        source = source_of(config, _SOURCE)
        parsed = parse(OpenVLAOFTConfig, config, source)
        folder = model_folder(parsed.model, source, "OpenVLA-OFT", "openvla-7b-oft-finetuned-libero-spatial")
        return cls(parsed, profile, folder, source, device)

    def _check(self, profile: RobotProfile, folder: Path, source: str) -> None:
        head, wanted = self.network.action_head.count, self.convention.columns
        if not head == self.actions.count == wanted:
            raise ConfigError(
                f"{source}: actions of '{folder.name}' have {head} numbers (its statistics {self.actions.count}); robot '{profile.name}' "
                f"wants {wanted} (action_space {self.convention.space})"
            )
        if not hasattr(self.network, _STATE):
            return
        told = 6 + len(self.config.fingers) if self.config.state == "end_effector" else len(self.convention.order)
        if not self.network.proprio_projector.count == self._bounds.count == told:
            raise ConfigError(
                f"{source}: '{folder.name}' is told {self.network.proprio_projector.count} numbers of the arm (its statistics "
                f"{self._bounds.count}); state: {self.config.state} of robot '{profile.name}' gives {told}"
            )

    def reset(self, instruction: str, seed: int, mode: PolicyMode) -> None:
        self._prompt = self._words.tokens(instruction)

    @torch.no_grad()
    def act(self, observation: Observation) -> Chunk:
        images = {camera: image[None] for camera, image in observation.images.items()}
        normal = self._normal(images, observation.proprioception[None], 0, self._prompt).float().cpu().numpy()
        return Chunk(self.convention.ours(self.config.to_vectors(self.actions.undone(normal))))

    def losses(
        self, images: dict[str, np.ndarray], proprioception: np.ndarray, actions: np.ndarray, instruction: list[str], seed: int
    ) -> Tensor:
        """(B,) as whetstone.contracts.ImitationPolicy.losses: mean distance of the normalised numbers (section IV-C)."""
        wanted = self.actions.normal(self.config.from_vectors(self.convention.theirs(np.asarray(actions))))
        found = []
        for row, words in enumerate(instruction):  # prompts differ in length
            normal = self._normal(images, proprioception, row, self._words.tokens(words))
            found.append((normal.float() - torch.from_numpy(wanted[row]).to(self.device)).abs().mean())
        return torch.stack(found)

    def trainable_state(self) -> dict[str, np.ndarray]:
        return self.trained.state()

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        self.trained.load(state)

    def _normal(self, images: dict[str, np.ndarray], proprioception: np.ndarray, row: int, tokens: Tensor) -> Tensor:
        """(horizon, count) of one of several observations, normalised."""
        network, count = self.network, self.network.action_head.count * int(self.config.horizon or 0)
        embed = network.language_model.get_input_embeddings()
        words = embed(torch.cat([tokens, torch.tensor([_END])]).to(self.device)[None])
        seen = []
        for camera in self.config.cameras:
            if camera not in images:
                raise InputError(f"the policy needs camera '{camera}'; the observation has {names(list(images))}")
            picture = pixels(images[camera][row : row + 1], self.side, self.config.centre).to(self.device)
            seen.append(network.patches(picture, words.mean(dim=1).to(network.projector["fc1"].weight.dtype)))
        if hasattr(network, _STATE):
            told = torch.from_numpy(self._bounds.normal(self._told(proprioception[row]))).to(self.device)
            seen.append(network.proprio_projector(told)[None, None])
        before = [words[:, :1], *(one.to(words.dtype) for one in seen), words[:, 1:-1]]
        behind = [words.new_zeros(1, count, words.shape[-1]), words[:, -1:]]
        sequence = torch.cat([*before, *behind], dim=1)
        open_to_all = sequence.new_zeros(1, 1, sequence.shape[1], sequence.shape[1])
        outputs = network.language_model.model(inputs_embeds=sequence, attention_mask=open_to_all, use_cache=False).last_hidden_state
        first = sum(part.shape[1] for part in before) - 1
        rows = outputs[0, first : first + count].reshape(int(self.config.horizon or 0), -1)
        return network.action_head(rows.float())

    def _told(self, proprioception: np.ndarray) -> np.ndarray:
        """(joints + 1,) -> the numbers of the arm that the policy knows, in the data set's units."""
        if self._kinematics is None:
            return self.convention.state(proprioception).astype(np.float64)
        position, quaternion = self._kinematics.pose(np.asarray(proprioception[:-1], np.float64))
        opening = float(proprioception[-1])
        fingers = [one.closed + opening * (one.open - one.closed) for one in self.config.fingers]
        return np.array([*position, *self._kinematics.rotation_vector(quaternion), *fingers])


def _statistics(folder: Path, settings: dict[str, Any], name: str, source: str) -> dict[str, Any]:
    """Of the data set: from dataset_statistics.json, which fine-tuning writes beside the weights, or else from config.json."""
    file = folder / "dataset_statistics.json"
    known = json.loads(file.read_text()) if file.is_file() else settings.get("norm_stats") or {}
    name = name or (next(iter(known)) if len(known) == 1 else "")
    if name not in known:
        raise ConfigError(f"{source}: key 'statistics' is '{name}'; the model knows {names(sorted(known))}")
    return known[name]


def _parts(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The files beside the network's own. RuntimeError where there is no head, or one that has not been converted."""
    found = {
        name: tensors_of(folder / f"{name}.safetensors", torch.float32) for name in PARTS if (folder / f"{name}.safetensors").is_file()
    }
    left = [path.name for name in PARTS for path in sorted(folder.glob(f"{name}--*.pt")) if name not in found]
    if left:
        raise RuntimeError(f"{left[0]} is a pickle, which is not read here: `python -m policy_node.openvla_oft {folder}` converts it once")
    if _HEAD not in found:
        raise RuntimeError(f"no {_HEAD}.safetensors: this is no OpenVLA-OFT with continuous actions")
    return found


def _eyes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The vision backbone with FiLM as openvla-oft saves it, its adapters not merged, -> with them, under the names of prismatic.py."""
    made: dict[str, Tensor] = {}
    for name, value in weights.items():
        if ".lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            at = name.removesuffix(".base_layer.weight")
            down, up = weights[f"{at}.lora_A.default.weight"], weights[f"{at}.lora_B.default.weight"]
            value = value + up @ down * (min(len(down), _LARGEST_RANK) / len(down))
        name = name.replace(".base_layer.", ".").replace(".block.", ".")
        made[name if name.startswith("vision_backbone.") else f"vision_backbone.{name}"] = value
    return made


def convert(folder: Path) -> list[Path]:
    """Makes NAME.safetensors of each NAME--*_checkpoint.pt. These are pickles: torch reads tensors of them and nothing else (weights_only).
    Returns what was written. Raises AssetError."""
    from safetensors.torch import save_file

    written = []
    for name in PARTS:
        found = sorted(folder.glob(f"{name}--*.pt"))
        if len(found) > 1:
            raise AssetError(f"'{folder}' has several: {names([path.name for path in found])}; leave one")
        for path in found:
            with loading(path):
                try:
                    tensors = torch.load(path, map_location="cpu", weights_only=True)
                except Exception as error:  # torch raises pickle's own types too
                    raise OSError(error) from error
                tensors = {key.removeprefix("module."): value.contiguous() for key, value in tensors.items()}
            written.append(folder / f"{name}.safetensors")
            save_file(tensors, written[-1])
    if not written:
        raise AssetError(f"'{folder}' has no {names([f'{name}--*.pt' for name in PARTS])}")
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m policy_node.openvla_oft FOLDER")
    try:
        print(*convert(Path(sys.argv[1])), sep="\n")
    except AssetError as problem:
        raise SystemExit(str(problem)) from None

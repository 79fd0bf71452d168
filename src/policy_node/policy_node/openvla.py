"""OpenVLA: a large vision-language model that says actions as words (Kim et al., arXiv 2406.09246).

Role: the policy plug-in `openvla` (contracts: whetstone.contracts.Policy and ImitationPolicy): prompt, bins, statistics, decoding and
training loss around the network (prismatic.py). Depends on torch; transformers is imported when a policy is loaded. Runs no code of the
checkpoint.

An action has 7 numbers, each one token: with q01 and q99 of the data set an action was normalised to [-1, 1] and cut into 256 bins, which
stand for the last 256 tokens of Llama's vocabulary, the first bin for the very last (section 3.2).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from policy_node.adapting import Trained, TrainedConfig
from policy_node.convention import Convention, ConventionConfig, names
from whetstone.config import config_hash, parse, source_of
from whetstone.contracts import ActionSpace, Chunk, Observation, PolicyMode, PolicySpec
from whetstone.errors import AssetError, ConfigError, InputError
from whetstone.model_folder import loading, model_folder, revision
from whetstone.profile import RobotProfile
from whetstone.quantisation import Precision, finish, loading_arguments, quantise, try_int8

_SOURCE = "config/policies/openvla.yaml"
_PROMPT = "In: What action should the robot take to {}?\nOut:"
_EMPTY = "\u2581"
"""Llama's empty word, which OpenVLA saw behind every prompt."""
_IGNORED = ("model", "dtype", "deployment")


@dataclass(frozen=True, kw_only=True)
class PrismaticConfig(ConventionConfig):
    """model: folder of the checkpoint; statistics: data set whose actions it gives (a key of norm_stats), empty where there is one only.
    rotation: what its numbers 4 to 6 are: rpy: roll, pitch, yaw, rad, about fixed axes x, y, z; vector: a rotation vector. scale: m and rad
    of one unit of its actions. centre: share of the image's area that is seen (0.9 for checkpoints that were fine-tuned with random crops).
    trained: see TrainedConfig."""

    deployment: Literal["sampled", "greedy"] = "greedy"
    model: str | None = None
    statistics: str = ""
    action_space: ActionSpace = "end_effector_delta"
    rotation: Literal["rpy", "vector"] = "rpy"
    scale: tuple[float, float] = (1.0, 1.0)
    centre: float = field(default=1.0, metadata={"gt": 0, "le": 1})
    dtype: Precision = "bfloat16"
    trained: TrainedConfig = field(default_factory=TrainedConfig)

    def to_vectors(self, actions: np.ndarray) -> np.ndarray:
        """(..., columns) in its units -> m and rotation vectors; actions of joints stay as they are."""
        if not self.action_space.startswith("end_effector"):
            return actions
        metres, radians = self.scale
        rotation = actions[..., 3:6] * radians
        rotation = vector_of_rpy(rotation) if self.rotation == "rpy" else rotation
        return np.concatenate([actions[..., :3] * metres, rotation, actions[..., 6:]], axis=-1)

    def from_vectors(self, actions: np.ndarray) -> np.ndarray:
        """What `to_vectors` undoes."""
        if not self.action_space.startswith("end_effector"):
            return actions
        metres, radians = self.scale
        rotation = rpy_of_vector(actions[..., 3:6]) if self.rotation == "rpy" else actions[..., 3:6]
        return np.concatenate([actions[..., :3] / metres, rotation / radians, actions[..., 6:]], axis=-1)


@dataclass(frozen=True, kw_only=True)
class OpenVLAConfig(PrismaticConfig):
    """camera: that it sees; temperature: of what is drawn, where anything is."""

    plugin: str = "openvla"
    camera: str = "front"
    temperature: float = field(default=1.0, metadata={"gt": 0})

    def __post_init__(self) -> None:
        if not self.action_space.startswith("end_effector"):
            raise ValueError(f"key 'action_space' is {self.action_space}; OpenVLA moves the end effector")


class OpenVLAPolicy:
    """One action per inference. Greedy takes the most probable bin, sampled and exploring draw one."""

    def __init__(self, config: OpenVLAConfig, profile: RobotProfile, folder: Path, source: str, device: str = "cpu") -> None:
        self.config, self.device, self.profile = config, device, profile
        self.convention = Convention(config, profile, source)
        if config.camera not in [camera.name for camera in profile.cameras]:
            known = names([camera.name for camera in profile.cameras])
            raise ConfigError(f"{source}: key 'camera': robot '{profile.name}' has no '{config.camera}'; it has {known}")
        settings = json.loads((folder / "config.json").read_text())
        if settings.get("model_type") != "openvla":
            raise AssetError(f"{source}: model '{folder}' is a {settings.get('model_type')}, not an openvla")
        self.side = int(settings["image_sizes"][0])
        self.actions = ActionTokens(settings, config.statistics, source)
        with loading(folder):
            self.network = network_of(folder, settings, config.dtype, device)
            self._words = Words(folder, settings)
        self.trained = Trained(self.network, config.trained, source)
        self.network.eval()
        shape = {key: value for key, value in asdict(config).items() if key not in _IGNORED}
        self.spec = PolicySpec(
            policy_id="openvla",
            cameras=(config.camera,),
            image_size=None,
            joints=profile.joint_names,
            horizon=1,
            execute=1,
            rate=profile.rate,
            config_hash=config_hash([shape, profile.name, revision(folder)]),
            action_space=self.convention.space,
        )
        self._prompt = self._words.tokens("")
        self._generator, self._greedy = torch.Generator(), True

    @classmethod
    def load(cls, config: dict[str, Any], profile: RobotProfile, device: str = "cpu") -> OpenVLAPolicy:
        """Raises ConfigError for a bad key, AssetError where the folder cannot be loaded."""
        source = source_of(config, _SOURCE)
        parsed = parse(OpenVLAConfig, config, source)
        return cls(parsed, profile, model_folder(parsed.model, source, "OpenVLA", "openvla-7b"), source, device)

    def reset(self, instruction: str, seed: int, mode: PolicyMode) -> None:
        self._prompt = self._words.tokens(instruction)
        self._greedy = mode == "greedy"
        self._generator.manual_seed(seed)

    @torch.no_grad()
    def act(self, observation: Observation) -> Chunk:
        """log_probability: of the bins that were chosen, together."""
        if self.config.camera not in observation.images:
            raise InputError(f"the policy needs camera '{self.config.camera}'; the observation has {names(list(observation.images))}")
        seen = self.network.prompt(self._pixels(observation.images[self.config.camera][None]), self._prompt[None].to(self.device))
        cache, bins, total = None, [], 0.0
        for _ in range(self.actions.count):
            answer = self.network.language_model(inputs_embeds=seen, past_key_values=cache, use_cache=True)
            cache = answer.past_key_values
            scores = self.actions.scores(answer.logits[0, -1].float().cpu()) / self.config.temperature
            drawn = scores.argmax() if self._greedy else torch.multinomial(scores.softmax(0), 1, generator=self._generator)[0]
            bins.append(int(drawn))
            total += float(scores.log_softmax(0)[drawn])
            word = self.actions.tokens(np.array(bins[-1:])).to(self.device)
            seen = self.network.language_model.get_input_embeddings()(word[None])
        action = self.actions.decode(np.array(bins))
        return Chunk(self.convention.ours(self.config.to_vectors(action))[None], log_probability=total)

    def losses(
        self, images: dict[str, np.ndarray], proprioception: np.ndarray, actions: np.ndarray, instruction: list[str], seed: int
    ) -> torch.Tensor:
        """(B,) as whetstone.contracts.ImitationPolicy.losses: cross-entropy of the action's tokens, nat, mean over them."""
        theirs = self.convention.theirs(np.asarray(actions)[:, 0])
        wanted = self.actions.tokens(self.actions.encode(self.config.from_vectors(theirs))).to(self.device)
        pixels, found = self._pixels(images[self.config.camera]), []
        for row, words in enumerate(instruction):  # prompts differ in length
            tokens = torch.cat([self._words.tokens(words).to(self.device), wanted[row, :-1]])
            seen = self.network.prompt(pixels[row : row + 1], tokens[None])
            logits = self.network.language_model(inputs_embeds=seen, use_cache=False).logits[0, -self.actions.count :]
            found.append(torch.nn.functional.cross_entropy(logits.float(), wanted[row]))
        return torch.stack(found)

    def trainable_state(self) -> dict[str, np.ndarray]:
        return self.trained.state()

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        self.trained.load(state)

    def _pixels(self, images: np.ndarray) -> torch.Tensor:
        return pixels(images, self.side, self.config.centre).to(self.device)


class Words:
    """OpenVLA's prompt, in tokens."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._begin = int(settings["text_config"].get("bos_token_id", 1))

    def tokens(self, instruction: str) -> torch.Tensor:
        ids = self.tokenizer.encode(_PROMPT.format(instruction.lower())).ids
        ids = ids if ids[:1] == [self._begin] else [self._begin, *ids]
        empty = self.tokenizer.token_to_id(_EMPTY)
        return torch.tensor(ids if empty is None or ids[-1] == empty else [*ids, empty])


def pixels(images: np.ndarray, side: int, centre: float) -> torch.Tensor:
    """(B, height, width, 3) uint8 -> (B, 3, side, side) in [0, 1]: squeezed to a square, as in training. centre: share of the area that is
    seen."""
    made = []
    for image in images:
        picture = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
        if centre < 1:
            cut = side * (1 - centre**0.5) / 2
            picture = picture.resize((side, side), Image.Resampling.BILINEAR, box=(cut, cut, side - cut, side - cut))
        made.append(np.asarray(picture))
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() / 255


class ActionTokens:
    """Actions in the data set's units (..., count), their bins (..., count), and the tokens of these."""

    def __init__(self, settings: dict[str, Any], statistics: str, source: str) -> None:
        """settings: of config.json. Raises ConfigError where `statistics` is not among its data sets, or names none of several."""
        known = settings.get("norm_stats") or {}
        if not statistics and len(known) == 1:
            statistics = next(iter(known))
        if statistics not in known:
            raise ConfigError(f"{source}: key 'statistics' is '{statistics}'; the model knows {names(sorted(known))}")
        found = known[statistics]["action"]
        self._low, self._high = np.array(found["q01"], np.float64), np.array(found["q99"], np.float64)
        self._mask = np.array(found.get("mask") or np.ones(len(self._low)), bool)
        self.count = len(self._low)
        if self.count != 7:
            raise ConfigError(f"{source}: key 'statistics': actions of '{statistics}' have {self.count} numbers; a robot here wants 7")
        edges = np.linspace(-1, 1, int(settings["n_action_bins"]))
        self._edges, self._centres = edges, (edges[:-1] + edges[1:]) / 2
        # The language model's vocabulary is padded behind the tokenizer's own words.
        self._words = int(settings["text_config"]["vocab_size"]) - int(settings.get("pad_to_multiple_of", 0))

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """(words,) of the language model -> (bins,)."""
        return logits[self._words - len(self._edges) : self._words].flip(0)

    def tokens(self, bins: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self._words - 1 - np.asarray(bins, np.int64))

    def decode(self, bins: np.ndarray) -> np.ndarray:
        normal = self._centres[np.minimum(bins, len(self._centres) - 1)]  # the last bin holds the 1 itself
        return np.where(self._mask, (normal + 1) / 2 * (self._high - self._low) + self._low, normal)

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """What `decode` undoes, to half a bin."""
        normal = 2 * (actions - self._low) / np.maximum(self._high - self._low, 1e-8) - 1
        normal = np.where(self._mask, normal, actions).clip(-1, 1)
        return np.digitize(normal, self._edges) - 1


def tensors_of(path: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Of a file, by name. OSError where it is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            return {name: file.get_tensor(name).to(dtype) for name in file.keys()}
    except SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from error


def network_of(
    folder: Path,
    settings: dict[str, Any],
    dtype: Precision,
    device: str,
    beside: Sequence[str] = (),
    eyes: dict[str, torch.Tensor] | None = None,
) -> Any:
    """policy_node.prismatic.Prismatic with the weights of the folder's files but `beside`, and `eyes` in place of those of the vision
    backbone. Raises as whetstone.model_folder.loading expects it."""
    from policy_node.prismatic import build

    files = sorted(path for path in folder.glob("*.safetensors") if path.stem not in beside)
    if not files:
        raise OSError("no *.safetensors in it")
    weights: dict[str, torch.Tensor] = {}
    arguments = loading_arguments(dtype, device)
    for path in files:
        weights |= tensors_of(path, arguments["dtype"])
    made = build(weights | (eyes or {}), settings, arguments)
    if dtype == "int8" and not device.startswith("cuda"):
        try_int8()
        quantise(made.language_model)
    else:
        finish(made.language_model, dtype, device)
    return made.to(device)


def vector_of_rpy(angles: np.ndarray) -> np.ndarray:
    """(..., 3) roll, pitch, yaw about fixed axes x, y, z, rad -> rotation vector."""
    half = np.asarray(angles, np.float64) / 2
    (cr, cp, cy), (sr, sp, sy) = np.moveaxis(np.cos(half), -1, 0), np.moveaxis(np.sin(half), -1, 0)
    real = cr * cp * cy + sr * sp * sy
    rest = np.stack([sr * cp * cy - cr * sp * sy, cr * sp * cy + sr * cp * sy, cr * cp * sy - sr * sp * cy], axis=-1)
    rest = np.where(real[..., None] < 0, -rest, rest)
    length = np.linalg.norm(rest, axis=-1, keepdims=True)
    angle = 2 * np.arctan2(length, np.abs(real)[..., None])
    return rest * np.where(length > 1e-12, angle / np.maximum(length, 1e-12), 2.0)


def rpy_of_vector(vector: np.ndarray) -> np.ndarray:
    """(..., 3), what vector_of_rpy undoes where the pitch is less than a quarter turn."""
    vector = np.asarray(vector, np.float64)
    angle = np.linalg.norm(vector, axis=-1, keepdims=True)
    x, y, z = np.moveaxis(vector * np.where(angle > 1e-12, np.sin(angle / 2) / np.maximum(angle, 1e-12), 0.5), -1, 0)
    w = np.cos(angle[..., 0] / 2)
    roll = np.arctan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = np.arcsin(np.clip(2 * (w * y - z * x), -1, 1))
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return np.stack([roll, pitch, yaw], axis=-1)

"""A policy of LeRobot: ACT, diffusion, SmolVLA, pi0, pi0.5, from a folder as its save_pretrained writes it.

Role: the policy plug-in `lerobot` (contracts: whetstone.contracts.Policy and ImitationPolicy). Model, normalisation and tokenizer are
lerobot's own (its policy class, policy_preprocessor.json, policy_postprocessor.json); here is only the way to them and back. Depends on
torch and on lerobot, which is imported when a policy is loaded (lerobot_import.py); knows nothing of ROS or simulators.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from policy_node.adapting import Trained, TrainedConfig
from policy_node.convention import Convention, ConventionConfig, Resize, chosen_cameras, first_line, names, resized
from policy_node.lerobot_import import lerobot, pi
from whetstone.config import config_hash, parse, source_of
from whetstone.contracts import Chunk, Observation, PolicyMode, PolicySpec, Underway
from whetstone.errors import AssetError, ConfigError, InputError
from whetstone.model_folder import loading, revision
from whetstone.profile import RobotProfile

_LOG = logging.getLogger("whetstone")
_SOURCE = "config/policies/lerobot.yaml"
_STATE, _ACTION, _IMAGES = "observation.state", "action", "observation.images."
_OWN_RESIZING = ("resize_imgs_with_padding", "image_resolution")
"""Settings of policies that take images of any size."""
_PI = ("pi0", "pi05")
_KINDS = ("act", "diffusion", "smolvla", *_PI)


@dataclass(frozen=True, kw_only=True)
class LeRobotConfig(ConventionConfig):
    """path: folder, or name on the model hub (needs the network once). cameras: camera of the profile -> feature of the policy; empty:
    those of equal names. resize: images to the size in the policy's configuration, where the policy does not do that itself. execute: rows
    run before the next inference; empty: the policy's n_action_steps. settings: of the policy's own configuration, changed, e.g. num_steps.
    vlm: SmolVLA's, folder with configuration and processor, or pi0's and pi0.5's, folder with PaliGemma's tokenizer; empty: the name in the
    policy's own files. dtype: bfloat16: mixed with
    float32. trained: see TrainedConfig; empty: nothing is."""

    plugin: str = "lerobot"
    path: str | None = None
    cameras: dict[str, str] = field(default_factory=dict)
    resize: Resize = "pad"
    execute: int | None = field(default=None, metadata={"ge": 1})
    settings: dict[str, Any] = field(default_factory=dict)
    vlm: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    trained: TrainedConfig = field(default_factory=TrainedConfig)


class LeRobotPolicy:
    """Deterministic given (weights, seed). These policies know no zero noise, so greedy draws the same noise for every chunk of every
    episode; sampled draws anew; exploring draws once and keeps it for the episode. (ACT draws none.)

    SmolVLA, pi0 and pi0.5 go on from another chunk (real-time chunking, arXiv 2506.07339) by lerobot's own guidance, which takes the
    velocity's derivative for zero: each step moves where the flow is towards where it ought to end.

    A policy that was trained on several past observations (diffusion) has `observe` and is given the control steps before a decision's; at
    an episode's begin, and where nobody shows it any, the first that it knows counts for those before it, as in lerobot.
    """

    def __init__(self, config: LeRobotConfig, profile: RobotProfile, folder: Path, source: str, device: str = "cpu"):
        self.config, self.device, self.profile = config, device, profile
        self.convention = Convention(config, profile, source)
        with loading(folder):
            settings = lerobot("configs.policies").PreTrainedConfig.from_pretrained(folder)
        kind = settings.type
        if kind not in _KINDS:
            raise ConfigError(f"{source}: '{folder}' is a policy of type '{kind}'; known: {names(_KINDS)}")
        self._settle(settings, source)
        features = settings.input_features or {}
        self._cameras = self._matched(features, profile, folder, source)
        self._sizes = {
            camera: None if any(hasattr(settings, name) for name in _OWN_RESIZING) else tuple(features[feature].shape[1:])
            for camera, feature in self._cameras.items()
        }
        factory = lerobot("policies.factory")
        with loading(folder):
            self.network = _load(pi(kind) if kind in _PI else factory.get_policy_class(kind), settings, folder, device)
            overrides: dict[str, Any] = {"device_processor": {"device": device}}
            if "tokenizer_processor" in _steps(folder) and config.vlm:
                overrides["tokenizer_processor"] = {"tokenizer_name": str(Path(config.vlm).expanduser())}
            self._before, self._behind = factory.make_pre_post_processors(
                settings, pretrained_path=str(folder), preprocessor_overrides=overrides
            )
        self.network.to(device).eval()
        self.trained = Trained(self.network, config.trained, source)
        # All the rows that the policy foretells, or those that its queue gives out, where it gives no more (diffusion).
        self._whole = hasattr(settings, "chunk_size")
        self._history = int(settings.n_obs_steps)
        self._past: deque[Observation] = deque(maxlen=self._history)
        if self._history > 1:
            self.observe: Callable[[Observation], None] = self._past.append
        self.settings = settings
        horizon = int(settings.chunk_size if self._whole else settings.n_action_steps)
        execute = config.execute or int(settings.n_action_steps)
        if execute > horizon:
            raise ConfigError(f"{source}: key 'execute' is {execute}, but the policy's chunks have {horizon} rows")
        shape = {key: value for key, value in asdict(config).items() if key not in ("path", "vlm", "execute", "dtype", "deployment")}
        self.spec = PolicySpec(
            policy_id=f"lerobot_{kind}",
            cameras=tuple(self._cameras),
            image_size=None,
            joints=profile.joint_names,
            horizon=horizon,
            execute=execute,
            rate=profile.rate,
            config_hash=config_hash([shape, profile.name, profile.joint_names, revision(folder)]),
            action_space=self.convention.space,
        )
        if hasattr(settings, "rtc_config"):
            # whetstone.contracts.InpaintingPolicy, for those that make a chunk by a flow.
            self.inpaint: Callable[[Observation, Underway], Chunk] = self._act
        self._instruction = ""
        self._draws = np.random.default_rng(0)
        self._kept: int | None = 0

    @classmethod
    def load(cls, config: dict[str, Any], profile: RobotProfile, device: str = "cpu") -> LeRobotPolicy:
        """Raises ConfigError for a bad key or a policy that is not for this robot, AssetError where the folder cannot be loaded."""
        source = source_of(config, _SOURCE)
        parsed = parse(LeRobotConfig, config, source)
        return cls(parsed, profile, _folder(parsed.path, source), source, device)

    def _settle(self, settings: Any, source: str) -> None:
        """Change the policy's own settings as the configuration wants them."""
        for name, value in self.config.settings.items():
            if not hasattr(settings, name):
                raise ConfigError(f"{source}: key 'settings.{name}' is unknown to a policy of type '{settings.type}'")
            setattr(settings, name, value)
        if getattr(settings, "use_peft", False):
            raise ConfigError(
                f"{source}: the folder holds PEFT adapters alone; merge them into the policy (merge_and_unload) and save that"
            )
        settings.device = self.device
        settings.pretrained_path = None
        if hasattr(settings, "temporal_ensemble_coeff"):
            settings.temporal_ensemble_coeff = None  # the node does that
        if hasattr(settings, "load_vlm_weights"):
            settings.load_vlm_weights = False  # they are in the policy's own file
        if hasattr(settings, "pretrained_backbone_weights"):
            settings.pretrained_backbone_weights = None  # as well
        if hasattr(settings, "do_mask_loss_for_padding"):
            settings.do_mask_loss_for_padding = True
        if hasattr(settings, "rtc_config"):
            # Guided by all that a step of the flow can mend and no more; lerobot's own 10 is that for its 10 steps.
            steps = float(getattr(settings, "num_steps", None) or settings.num_inference_steps)
            exponential = lerobot("configs.types").RTCAttentionSchedule.EXP  # equation 5 of the paper
            kind = lerobot("policies.rtc.configuration_rtc").RTCConfig
            settings.rtc_config = kind(enabled=True, prefix_attention_schedule=exponential, max_guidance_weight=steps)
        if self.config.vlm:
            if hasattr(settings, "vlm_model_name"):
                settings.vlm_model_name = str(Path(self.config.vlm).expanduser())
            elif settings.type not in _PI:
                raise ConfigError(f"{source}: key 'vlm' is for SmolVLA, pi0 and pi0.5; this policy is of type '{settings.type}'")

    def _matched(self, features: dict[str, Any], profile: RobotProfile, folder: Path, source: str) -> dict[str, str]:
        """Camera of the profile -> feature of the policy. Raises ConfigError naming both sides where they do not go together."""
        seen = [name for name, one in features.items() if one.type.name == "VISUAL" and "empty_camera" not in name]
        known = [camera.name for camera in profile.cameras]
        cameras = chosen_cameras(self.config.cameras, profile, source) or {
            name.removeprefix(_IMAGES): name for name in seen if name.removeprefix(_IMAGES) in known
        }
        for what, some, others in (("wants", seen, cameras.values()), ("has no", cameras.values(), seen)):
            wrong = next((name for name in some if name not in others), None)
            if wrong is not None:
                raise ConfigError(
                    f"{source}: key 'cameras': the policy in '{folder.name}' {what} '{wrong}': it sees {names(seen)}; "
                    f"robot '{profile.name}' has {names(known)}; write `cameras: {{{known[0] if known else 'CAMERA'}: {wrong}}}`"
                )
        for name, length, ours in (
            (_STATE, features[_STATE].shape[0] if _STATE in features else None, len(self.convention.order)),
            (_ACTION, self._actions(folder), self.convention.columns),
        ):
            if length is not None and length != ours:
                raise ConfigError(
                    f"{source}: the policy in '{folder.name}' has {length} numbers in '{name}', robot '{profile.name}' has {ours} "
                    f"({names([*profile.joint_names, 'gripper'])}; action_space {self.convention.space})"
                )
        others = [name for name in features if name not in seen and name != _STATE and "empty_camera" not in name]
        if others:
            raise ConfigError(f"{source}: the policy in '{folder.name}' wants '{others[0]}', which no robot here gives")
        return cameras

    @staticmethod
    def _actions(folder: Path) -> int:
        output = json.loads((folder / "config.json").read_text())["output_features"]
        return int(output[_ACTION]["shape"][0])

    def reset(self, instruction: str, seed: int, mode: PolicyMode) -> None:
        self._instruction = instruction
        self._past.clear()
        self._draws = np.random.default_rng([seed, 23])
        self._kept = {"greedy": 0, "sampled": None, "exploring": seed}[mode]

    def act(self, observation: Observation) -> Chunk:
        return self._act(observation, None)

    @torch.no_grad()
    def _act(self, observation: Observation, underway: Underway | None) -> Chunk:
        seed = int(self._draws.integers(2**31)) if self._kept is None else self._kept
        batch = self._seen(observation)
        if underway is not None:
            batch[_ACTION] = torch.from_numpy(self.convention.theirs(underway.actions)[None])
        batch = self._before(batch)
        held: dict[str, Any] = {}
        if underway is not None:
            held = {"prev_chunk_left_over": batch.pop(_ACTION), "inference_delay": underway.delay}
            held["execution_horizon"] = len(underway.actions)
        with drawing(seed, self.device), self._autocast():
            self.network.reset()
            earlier_ones = [one for one in self._past if one.stamp < observation.stamp]
            for earlier in earlier_ones[1 - self._history :] if self._history > 1 else ():
                self._remember(self._before(self._seen(earlier)))
            if self._whole:
                rows = self.network.predict_action_chunk(batch, **held)[0]
            else:
                rows = torch.cat([self.network.select_action(dict(batch)) for _ in range(self.spec.horizon)])
        actions = self._behind(rows.float()).cpu().numpy()
        return Chunk(self.convention.ours(actions[:, : self.convention.columns]))

    def _seen(self, observation: Observation) -> dict[str, Any]:
        images = {camera: image[None] for camera, image in observation.images.items()}
        return self._batch(images, observation.proprioception[None], [self._instruction])

    def _remember(self, batch: dict[str, Any]) -> None:
        """Put an observation into the queues that lerobot's select_action puts the next one into."""
        pictures = torch.stack([batch[feature] for feature in self.network.config.image_features], dim=-4)
        lerobot("policies.utils").populate_queues(self.network._queues, {**batch, "observation.images": pictures}, [_ACTION])

    def losses(
        self, images: dict[str, np.ndarray], proprioception: np.ndarray, actions: np.ndarray, instruction: list[str], seed: int
    ) -> torch.Tensor:
        """(B,) as whetstone.contracts.ImitationPolicy.losses: the policy's own loss."""
        batch = self._batch(images, proprioception, instruction, history=True)
        wanted, padded = self._targets(np.asarray(actions, np.float32))
        batch |= {_ACTION: torch.from_numpy(wanted), "action_is_pad": torch.from_numpy(padded)}
        batch = self._before(batch)
        self.network.train()
        try:
            with drawing(seed, self.device), self._autocast():
                if "reduction" in inspect.signature(self.network.forward).parameters:
                    return self.network.forward(batch, reduction="none")[0]
                # Its loss is a mean over the batch: one of one decision is that decision's.
                return torch.stack([self.network.forward(_row(batch, row))[0] for row in range(len(wanted))])
        finally:
            self.network.eval()

    def _targets(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions (B, rows, columns), ours, as the policy's loss wants them, and which rows do not count (B, rows)."""
        wanted = self.convention.theirs(actions)
        past = 0 if self._whole else self._history - 1
        rows = int(self.settings.chunk_size if self._whole else self.settings.horizon)
        after = max(rows - past - wanted.shape[1], 0)
        wanted = np.pad(wanted, ((0, 0), (past, after), (0, 0)), mode="edge")[:, :rows]
        padded = np.zeros(wanted.shape[:2], bool)
        padded[:, :past] = padded[:, rows - after :] = True
        return wanted, padded

    def trainable_state(self) -> dict[str, np.ndarray]:
        return self.trained.state()

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        self.trained.load(state)

    def _batch(
        self, images: dict[str, np.ndarray], proprioception: np.ndarray, instructions: list[str], history: bool = False
    ) -> dict[str, Any]:
        """As lerobot's datasets give it: (B, 3, height, width) in [0, 1], (B, state), with (B, past, ...) where the policy is trained on
        several and `history` asks for them."""
        batch: dict[str, Any] = {_STATE: torch.from_numpy(self.convention.state(proprioception)), "task": list(instructions)}
        for camera, feature in self._cameras.items():
            if camera not in images:
                raise InputError(f"the policy needs camera '{camera}'; the observation has {names(list(images))}")
            size = self._sizes[camera]
            pictures = [image if size is None else resized(image, *size, self.config.resize) for image in images[camera]]
            batch[feature] = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
        if history and not self._whole:
            for name in (_STATE, *self._cameras.values()):
                batch[name] = batch[name].unsqueeze(1).repeat_interleave(self._history, 1)
        return batch

    def _autocast(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.config.dtype == "bfloat16")


@contextmanager
def drawing(seed: int, device: str) -> Iterator[None]:
    """All that torch draws inside follows from the seed; outside nothing has been drawn."""
    with torch.random.fork_rng([torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        yield


def _folder(path: str | None, source: str) -> Path:
    if not path:
        raise ConfigError(f"{source}: key 'path' is empty; set it to the folder of a LeRobot policy (what its save_pretrained wrote)")
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise AssetError(f"{source}: path '{folder}' is not a LeRobot policy (no config.json); name its pretrained_model folder")
        if not (folder / "policy_preprocessor.json").is_file():
            raise AssetError(
                f"{source}: path '{folder}' has no policy_preprocessor.json; it is of lerobot < 0.4: "
                "python -m lerobot.processor.migrate_policy_normalization makes a new one of it"
            )
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        raise AssetError(f"{source}: path '{path}': no such folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # network, hub and cache raise types of their own; each means that it is not there
        raise AssetError(f"{source}: path '{path}': no such folder, and the model hub does not give it ({first_line(error)})") from error


def _load(kind: Any, settings: Any, folder: Path, device: str) -> Any:
    """The policy with the folder's weights. RuntimeError naming the first tensor that is missing."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, load_model

    policy = kind(settings)
    try:
        if settings.type in _PI:  # lerobot's own way of loading these takes a file that does not fit for no file, and goes on
            from policy_node.pi_gemma import published

            weights = published(load_file(folder / "model.safetensors", device=device), set(policy.state_dict()))
            missing, unknown = policy.load_state_dict(weights, strict=False)
        else:
            missing, unknown = load_model(policy, folder / "model.safetensors", strict=False, device=device)
    except SafetensorError as error:
        raise OSError(f"model.safetensors: {error}") from error
    if missing:
        raise RuntimeError(f"model.safetensors lacks tensor '{sorted(missing)[0]}' (and {len(missing) - 1} more)")
    if unknown:
        _LOG.warning("%s: tensor '%s' and %d more are not this policy's and are left out", folder, sorted(unknown)[0], len(unknown) - 1)
    return policy


def _steps(folder: Path) -> list[str]:
    """Names of the steps of the policy's preprocessor."""
    found = json.loads((folder / "policy_preprocessor.json").read_text())
    return [str(step.get("registry_name", "")) for step in found.get("steps", [])]


def _row(batch: dict[str, Any], row: int) -> dict[str, Any]:
    return {name: value[row : row + 1] for name, value in batch.items() if isinstance(value, torch.Tensor)}

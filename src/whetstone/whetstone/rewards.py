"""A reward model by the name of its configuration, calibrated where the configuration says so.

Role: the one way to a reward model, for the node and for everything offline. The key `calibration_map` is read here, for any plug-in,
and the plug-in never sees it. Does not depend on torch or ROS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from whetstone import calibration, config
from whetstone.calibration import CalibratedReward
from whetstone.contracts import RewardModel
from whetstone.errors import ConfigError
from whetstone.plugins import load_plugin
from whetstone.profile import RobotProfile

KEY = "calibration_map"


def load_reward(name: str, profile: RobotProfile, device: str = "cpu", *, calibrated: bool = True) -> RewardModel:
    """From config/rewards/<name>.yaml or a YAML file by path. calibrated: False leaves its map away. Raises ConfigError, AssetError."""
    settings = config.load_yaml(config.find("rewards", name))
    settings.setdefault("plugin", name)
    return build(settings, profile, device, settings.source, calibrated=calibrated)


def own_settings(path: Path) -> config.Contents:
    """What the plug-in itself is told by such a file; for trainers, which need no map."""
    found = config.load_yaml(path)
    return config.Contents(_without_map(found), found.source)


def build(settings: dict[str, Any], profile: RobotProfile, device: str, source: str, *, calibrated: bool = True) -> RewardModel:
    """From the contents of such a file; source: its name, for messages."""
    rest = config.Contents(_without_map(settings), source)
    named = settings.get(KEY) if calibrated else None
    if named is not None and not isinstance(named, str):
        raise ConfigError(f"{source}: key '{KEY}' must be the name of a file, not {named!r}")
    if named is not None and rest.get("signal", "held") != "held":
        raise ConfigError(f"{source}: key '{KEY}' goes with 'signal: held' only: it would change what increments add up to")
    model: RewardModel = load_plugin("whetstone.rewards", str(rest["plugin"])).load(rest, profile, device)
    if named is None:
        return model
    path = map_path(named, profile.asset_name)
    found = calibration.load(path, model.provenance, profile.asset_name, model.needs.cameras)
    return cast(RewardModel, CalibratedReward(model, found, path.name))  # all of it but `load`: it is made here only


def map_path(named: str, robot: str) -> Path:
    """Of a map as a configuration names it: {robot} filled in, in assets/ unless it is a path from the root."""
    path = Path(named.replace("{robot}", robot)).expanduser()
    return path if path.is_absolute() else config.root() / "assets" / path


def _without_map(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != KEY}

"""The models of an evaluation, by name.

Role: reward:= and policy:= of the command line to plug-ins, each under a name of its own. Imports a plug-in only when it is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robot_bringup.evaluation.lanes import Pilot, Reward
from whetstone import config, snapshot
from whetstone.arguments import expanded
from whetstone.completion import Completion
from whetstone.contracts import PolicyMode
from whetstone.errors import AssetError, ConfigError
from whetstone.plugins import configured
from whetstone.profile import RobotProfile
from whetstone.rewards import load_reward

AT = "@"
"""Between a policy's configuration and the snapshot of weights that it is to have."""


@dataclass(frozen=True)
class Named:
    """name: in reports, no other model's; configuration: name or path of the YAML file; weights: path of a snapshot, empty: its own."""

    name: str
    configuration: str
    weights: str = ""


def named(text: str, kind: str) -> list[Named]:
    """NAME,NAME or PATH.yaml, for policies NAME@SNAPSHOT too. kind: "rewards" or "policies". ConfigError where one is not there or named
    twice."""
    found = []
    for word in filter(None, text.split(",")):
        configuration, _, weights = word.partition(AT) if kind == "policies" else (word, "", "")
        config.find(kind, configuration)
        weights = str(expanded(weights)) if weights else ""
        if weights and not Path(weights).is_file():
            raise ConfigError(f"{word}: {weights}: no such file")
        stem = Path(configuration).stem if configuration.endswith((".yaml", ".yml")) else configuration
        found.append(Named(f"{stem}{AT}{Path(weights).stem}" if weights else stem, configuration, weights))
    names = [one.name for one in found]
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice:
        raise ConfigError(f"two of the {kind} are called '{twice}'; give one of their files another name")
    return found


def load_rewards(wanted: Sequence[Named], profile: RobotProfile, device: str) -> list[Reward]:
    """Raises ConfigError, AssetError."""
    loaded = []
    for one in wanted:
        path = config.find("rewards", one.configuration)
        settings = config.load_yaml(path)
        success = config.parse(Completion, settings["success"], f"{config.show(path)}: success") if "success" in settings else None
        model = load_reward(one.configuration, profile, device)
        count = len(profile.joints) + 1
        if model.needs.proprioception not in (0, count):
            raise ConfigError(
                f"{config.show(path)}: the model wants {model.needs.proprioception} numbers of proprioception, "
                f"but robot '{profile.name}' has {count - 1} joints and a gripper"
            )
        loaded.append(Reward(one.name, model, success))
    return loaded


def load_pilots(wanted: Sequence[Named], profile: RobotProfile, device: str, mode: PolicyMode) -> list[Pilot]:
    """Raises ConfigError where a policy is another robot's, AssetError, InputError where a snapshot is not its."""
    loaded = []
    for one in wanted:
        plugin, settings = configured("whetstone.policies", one.configuration)
        try:
            policy = plugin.load(settings, profile, device)
        except AssetError as error:
            raise AssetError(f"policy '{one.name}' on robot '{profile.name}': {error}") from None
        spec = policy.spec
        if spec.joints != profile.joint_names:
            raise ConfigError(
                f"policy '{one.name}' drives {', '.join(spec.joints)}; robot '{profile.name}' has {', '.join(profile.joint_names)}"
            )
        if one.weights:
            snapshot.restore(policy, one.weights)
        loaded.append(Pilot(one.name, policy, mode))
    return loaded

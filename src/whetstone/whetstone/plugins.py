"""Plug-ins by name.

Role: finds a policy, reward model or learner class through the entry points of the installed packages, and the YAML that says which.
The nodes know no concrete class. Imports a plug-in's module only when it is asked for.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Literal

from whetstone.config import find, load_yaml, unknown
from whetstone.errors import ConfigError

Group = Literal["whetstone.policies", "whetstone.rewards", "whetstone.learners"]

_WORDS = {"whetstone.policies": "policy", "whetstone.rewards": "reward", "whetstone.learners": "learner"}


def plugin_names(group: Group) -> list[str]:
    """Names registered under the group, sorted."""
    return sorted({entry.name for entry in entry_points(group=group)})


def load_plugin(group: Group, name: str) -> Any:
    """The class registered as `name`. Raises ConfigError with the known names, or with what its module failed to import."""
    for entry in entry_points(group=group):
        if entry.name == name:
            try:
                return entry.load()
            except (ImportError, AttributeError) as error:
                raise ConfigError(f"{_WORDS[group]} plug-in '{name}' ({entry.value}) cannot be loaded: {error}") from error
    raise ConfigError(unknown(f"{_WORDS[group]} plug-in", name, plugin_names(group)))


def configured(group: Group, name: str) -> tuple[Any, dict[str, Any]]:
    """The class and the settings of config/<folder>/<name>.yaml (or of a YAML file by path), for `load`.

    The key `plugin` says which class; without it the configuration's own name does. Raises ConfigError.
    """
    settings = load_yaml(find(group.partition(".")[2], name))
    return load_plugin(group, str(settings.get("plugin", name))), settings

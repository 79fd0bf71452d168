"""A task as data.

Role: the typed form of config/tasks/<name>.yaml. `scene` is left to the simulator that builds it. Depends on config only.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from typing import Any

from whetstone import config
from whetstone.errors import ConfigError

# What an arm can be doing; the last one means "none of these, or done". Tasks and reward models share the list.
PRIMITIVES = ("reach", "grasp", "transport", "place", "push", "press", "null")


@dataclass(frozen=True)
class TaskSpec:
    """What is to be done.

    instruction: what the policy and the reward model are told; may hold {fields} that the scene fills in.
    max_steps: control steps until time-out. primitives: names of the stages, in the order in which they are done.
    also_true: tasks whose instruction may be true of this one's frames: never wrong words for them, where a reward is taught or judged.
    scene: objects and their ranges, as the simulator reads them. robots: robot name -> keys of this file that differ for it.
    """

    name: str
    description: str
    instruction: str
    max_steps: int = field(metadata={"ge": 1})
    primitives: tuple[str, ...]
    also_true: tuple[str, ...] = ()
    scene: dict[str, Any] = field(default_factory=dict)
    robots: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.instruction.strip():
            raise ValueError("key 'instruction' is empty; the policy and the reward model need words")
        if not self.primitives:
            raise ValueError("key 'primitives' is empty; name at least one stage")
        self.fields()

    def fields(self) -> list[str]:
        """Names of the {fields} in the instruction."""
        try:
            return [name for _, name, _, _ in string.Formatter().parse(self.instruction) if name is not None]
        except ValueError as error:
            raise ValueError(f"key 'instruction': {error}") from None

    def tell(self, **values: Any) -> str:
        """The instruction with its {fields} filled in. Raises ConfigError naming a field that has no value."""
        for name in self.fields():
            if name not in values:
                raise ConfigError(f"task '{self.name}': the instruction's {{{name}}} has no value; known: {', '.join(values) or 'none'}")
        return self.instruction.format(**values)


def load_task(name: str, robot: str | None = None) -> TaskSpec:
    """Read config/tasks/<name>.yaml (or a path that ends in .yaml) with the overrides for `robot` applied. Raises ConfigError."""
    path = config.find("tasks", name)
    source = config.show(path)
    data = config.load_yaml(path)
    task = config.parse(TaskSpec, data, source)
    if robot is None or robot not in task.robots:
        return task
    over = task.robots[robot]
    if "robots" in over or "name" in over:
        raise ConfigError(f"{source}: key 'robots.{robot}' cannot change 'name' or 'robots'")
    return config.parse(TaskSpec, config.merge(data, over), f"{source} (robot {robot})")


def also_true() -> dict[str, tuple[str, ...]]:
    """Every task of config/tasks -> the tasks of its `also_true`."""
    return {name: load_task(name).also_true for name in config.available("tasks")}

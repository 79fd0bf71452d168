"""One learner in several processes: the first has the robot's topics, the others follow it.

Role: what is sent between them. Every process has a whole learner and makes every update; that they make it together is group.py's and
descent.py's matter. Knows nothing of ROS, so the followers need none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from learner_node.group import Group
from whetstone import snapshot
from whetstone.contracts import Learner, Policy, Rollout, UpdateReport
from whetstone.errors import ConfigError
from whetstone.plugins import configured
from whetstone.profile import load_profile


@dataclass(frozen=True)
class Recipe:
    """What a learner is made of: names of config files, a snapshot to start from (empty: the base policy), a torch device, the run's seed
    and torch's threads. sharded: each process has only its share of the policy's network (whetstone.sharding)."""

    robot: str
    policy: str
    learner: str
    weights: str
    device: str
    seed: int
    threads: int
    sharded: bool = False


def make(recipe: Recipe, group: Group) -> tuple[Policy, Learner]:
    """As it is in every process, before anything is sharded. Raises ConfigError, InputError."""
    plugin, settings = configured("whetstone.policies", recipe.policy)
    policy: Policy = plugin.load(settings, load_profile(recipe.robot), group.device(recipe.device))
    if recipe.weights:
        snapshot.restore(policy, recipe.weights)
    plugin, settings = configured("whetstone.learners", recipe.learner)
    learner = plugin.load(settings, policy, recipe.seed)
    if recipe.sharded and not hasattr(policy, "network"):
        raise ConfigError(f"learner_sharded:=true: policy '{recipe.policy}' has no network that could be; leave it out")
    if recipe.sharded and not hasattr(learner, "shard"):
        raise ConfigError(f"learner_sharded:=true: learner '{recipe.learner}' does not train the policy's network; leave it out")
    return policy, learner


class Leader:
    """The learner of process 0: what changes it is told to the others first."""

    def __init__(self, learner: Learner, recipe: Recipe, group: Group) -> None:
        self._learner, self._group, self._sharded = learner, group, recipe.sharded
        group.tell(("make", recipe))
        if recipe.sharded:
            learner.shard(group.mesh)  # type: ignore[attr-defined]

    def update(self, rollouts: list[Rollout], iteration: int, last: bool) -> UpdateReport:
        self._group.tell(("update", rollouts, iteration, last))
        return self._learner.update(rollouts, iteration, last)

    def resume(self, state: dict[str, Any], read: Callable[[str], Rollout | None]) -> int:
        found: dict[str, Rollout | None] = {}

        def reading(name: str) -> Rollout | None:
            found[name] = read(name)
            return found[name]

        missing = self._learner.resume(state, reading)  # type: ignore[attr-defined]
        self._group.tell(("resume", state, found))
        return missing

    def trainable_state(self) -> dict[str, Any]:
        self._gather("trainable_state")
        return self._learner.trainable_state()

    def checkpoint(self) -> dict[str, Any]:
        self._gather("checkpoint")
        return self._learner.checkpoint()  # type: ignore[attr-defined]

    def _gather(self, what: str) -> None:
        """All processes have to ask for what they have in shares."""
        if self._sharded:
            self._group.tell(("gather", what))

    def close(self) -> None:
        """The others may go."""
        self._group.tell(("stop",))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._learner, name)


def follow(group: Group) -> int:
    """The life of a process other than 0. Returns the exit code."""
    import torch

    learner: Any = None
    while True:
        what, *rest = group.tell()
        if what == "make":
            (recipe,) = rest
            torch.set_num_threads(recipe.threads)
            _, learner = make(recipe, group)
            if recipe.sharded:
                learner.shard(group.mesh)
        elif what == "update":
            learner.update(*rest)
        elif what == "resume":
            state, found = rest
            learner.resume(state, found.get)
        elif what == "gather":
            getattr(learner, rest[0])()
        else:
            return 0

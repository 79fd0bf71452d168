"""What all learners in rounds do alike: episodes in, judged by the gate, one update, weights handed over or put back.

Role: the frame of a learner plug-in (contract: whetstone.contracts.Learner). An algorithm derives from it and says what it remembers of the
episodes (`see`) and how it learns from that (`learn`). Depends on torch by way of descent.py; knows nothing of ROS.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from learner_node.checkpoint import capture, put_back
from learner_node.descent import DivergedError
from learner_node.rounds import GateConfig, Rounds, RoundsConfig, judged
from whetstone.contracts import Rollout, UpdateReport
from whetstone.errors import ConfigError

M = TypeVar("M")


class RoundsLearner(ABC, Generic[M]):
    """Owns a policy of its own; the one that drives the robot is another process's. M: what `see` makes of episodes for `learn`."""

    nothing: ClassVar[str] = "no decision has a reward"
    """Why there is nothing to learn from, where there is not."""
    on_policy: ClassVar[bool] = False
    """Episodes of other weights than those in force teach nothing: after going back, new ones have to be collected first."""

    def __init__(self, policy: Any, gate: GateConfig, rounds: RoundsConfig | None = None) -> None:
        if self.on_policy and rounds is not None and rounds.update_every:
            name = type(self).__name__
            raise ConfigError(f"key 'rounds': update_every is {rounds.update_every}, but {name} learns on-policy; set it to 0")
        self.policy = policy
        self._rounds = Rounds(gate, policy, rounds)

    @abstractmethod
    def see(self, episodes: list[Rollout], iteration: int) -> tuple[dict[str, float], M | None]:
        """Remember an iteration's episodes. Returns metrics, and what there is to learn from, None where there is nothing."""
        ...

    @abstractmethod
    def learn(self, material: M) -> tuple[dict[str, float], str]:
        """One update of the policy. Returns metrics, and why what the policy does has not changed (empty where it has). Raises
        DivergedError."""
        ...

    def forget(self, failed: bool) -> None:
        """Other weights are in force than those that were being trained: moments and slow copies are not theirs. failed: an update
        diverged, else the gate went back."""

    def update(self, rollouts: list[Rollout], iteration: int, last: bool) -> UpdateReport:
        report = self._update(rollouts, iteration, last)
        if report.deploy:
            self._rounds.deployed()
        return report

    @property
    def update_every(self) -> int:
        return self._rounds.settings.update_every

    def _update(self, rollouts: list[Rollout], iteration: int, last: bool) -> UpdateReport:
        rounds, episodes = self._rounds, judged(rollouts)
        successes = sum(rollout.outcome == "success" for rollout in episodes)
        seen, material = self.see(episodes, iteration) if episodes else ({}, None)
        metrics = {"episodes": float(len(episodes)), "reward_success_rate": successes / max(len(episodes), 1), **seen}
        verdict = rounds.judge(episodes, last)

        def unlearned(said: str = "", stop: str = "") -> UpdateReport:
            """Handed over where the judgement put other weights in force than those that drove."""
            return UpdateReport(rounds.current != verdict.drove, f"{verdict.said}{said}", metrics, stop)

        if stop := "" if last else rounds.enough():
            if rounds.current != rounds.gate.best:
                rounds.restore(rounds.gate.best)
            verdict = rounds.end(verdict)
            return unlearned(f"; training ends: {stop}", stop)
        if verdict.final:
            return unlearned()
        if verdict.back:
            self.forget(failed=False)
            if self.on_policy:
                return unlearned()
        if material is None:
            return unlearned(f"; nothing to learn from: {self.nothing}")
        if rounds.early:
            return unlearned(f"; {rounds.gate.episodes} are needed before anything is learned")
        try:
            learned, unchanged = self.learn(material)
        except DivergedError as error:
            rounds.undo()
            self.forget(failed=True)
            return unlearned(f"; update undone: {error}")
        metrics |= learned
        if unchanged:
            return unlearned(f"; {unchanged}")
        rounds.take()
        return UpdateReport(True, verdict.said, metrics)

    def trainable_state(self) -> dict[str, np.ndarray]:
        return self.policy.trainable_state()

    def best_state(self) -> dict[str, np.ndarray]:
        return self._rounds.best

    # What a checkpoint needs to know of an algorithm.

    @abstractmethod
    def memory(self) -> list[tuple[int, str]]:
        """(iteration, episode) of what `see` remembers, in order."""
        ...

    @abstractmethod
    def recall(self, rollout: Rollout, iteration: int) -> None:
        """Remember an episode again, as `see` did."""
        ...

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """What changes while learning besides the policy's weights: modules, optimisers, random generators."""
        ...

    def prepare(self, names: Collection[str], inputs: int) -> None:
        """Make those parts of these names that are made late. inputs: width of what the policy sees."""

    inputs = 0
    """Width of what the policy sees, once it is known."""

    def checkpoint(self) -> dict[str, Any]:
        memory = [[iteration, name] for iteration, name in self.memory()]
        return {"rounds": self._rounds.checkpoint(), "memory": memory, "inputs": self.inputs, "parts": capture(self.parts())}

    def resume(self, state: dict[str, Any], read: Callable[[str], Rollout | None]) -> int:
        self._rounds.resume(state["rounds"])
        missing = 0
        for iteration, name in state["memory"]:
            rollout = read(name)
            if rollout is None:
                missing += 1
            else:
                self.recall(rollout, iteration)
        self.inputs = state["inputs"]
        self.prepare(state["parts"].keys(), self.inputs)
        put_back(self.parts(), state["parts"])
        return missing

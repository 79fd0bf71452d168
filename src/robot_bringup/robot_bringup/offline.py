"""The closed loop in one process, without ROS: for model cards, tests and quick studies.

Role: drives a policy plug-in (and, if given, a reward plug-in) in the simulator the way the nodes do: same guard, same chunk
execution, same joining. What counts is measured over ROS; this is for what needs hundreds of episodes at training time. Does not
depend on rclpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from robot_bringup.sim.simulation import SimState, Simulation
from robot_bringup.sim.tasks import Truth
from whetstone.action_space import ActionConverter
from whetstone.completion import Completion, Debounce
from whetstone.contracts import PROPRIOCEPTION, Chunk, Observation, Policy, PolicyMode, Provenance, RewardNeeds, RewardSample, Rollout
from whetstone.gripper import GripperTrigger
from whetstone.guard import Guard
from whetstone.task import TaskSpec

TRUTH_FRAMES = 5  # the condition must hold for so many control steps, as the evaluator asks


class Acting:
    """A policy at work on one episode of the simulation, as the policy node does it: chunks, guard, edge-triggered gripper.

    The caller observes once a control period, asks `decide` where `due`, then `act`. `done`: the task's condition has held for
    TRUTH_FRAMES control steps in a row, as far as `judge` was asked.
    """

    def __init__(self, sim: Simulation, policy: Policy, task: TaskSpec, seed: int, mode: PolicyMode):
        sim.reset(task, seed)
        policy.reset(task.instruction, seed, mode)
        self._sim, self._policy, self._profile = sim, policy, sim.profile
        self._guard, self._trigger = Guard(sim.profile), GripperTrigger(sim.profile.gripper.hysteresis)
        self._converter = ActionConverter(policy.spec.action_space, sim.profile)
        self._goal, self._previous, self._chunk, self._held = 1.0, None, np.zeros(0), 0
        self.watching = hasattr(policy, "observe")
        """Whether the policy wants every step's images, in `act`."""
        self.done = False

    def due(self, step: int) -> bool:
        """Whether a new chunk is wanted at this control step."""
        return step % self._policy.spec.execute == 0

    def judge(self) -> Truth:
        """Ground truth of this control step."""
        truth = self._sim.truth()
        self._held = self._held + 1 if truth.success else 0
        self.done = self.done or self._held >= TRUTH_FRAMES
        return truth

    def decide(self, step: int, seen: SimState) -> tuple[Observation, Chunk]:
        """A new chunk for what was seen (with images) at this control step."""
        observation = self._observation(step, seen)
        if self.watching:
            self._policy.observe(observation)  # type: ignore[attr-defined]
        answer = self._policy.act(observation)
        self._chunk = self._converter.convert(answer.actions, observation.proprioception).actions
        return observation, answer

    def act(self, step: int, seen: SimState) -> np.ndarray:
        """One control period; returns the command (joints in rad, gripper opening) that the guard let through. seen: with images where the
        policy is watching."""
        if self.watching and not self.due(step):
            self._policy.observe(self._observation(step, seen))  # type: ignore[attr-defined]
        wanted = self._chunk[step % self._policy.spec.execute]
        self._previous = self._guard.check(wanted, proprioception(seen), self._previous, self._profile.period)
        command = self._previous.command
        due = self._trigger.update(float(command[-1]))
        self._goal = self._goal if due is None else due
        self._sim.step(command[:-1], self._goal)
        return command

    def _observation(self, step: int, seen: SimState) -> Observation:
        images = {name: image.copy() for name, image in seen.images.items()}
        return Observation(step * self._profile.period_ns, images, proprioception(seen))


def proprioception(seen: SimState) -> np.ndarray:
    """Joint positions (rad) and gripper opening as one float32 vector."""
    return np.append(seen.positions, seen.gripper_opening).astype(np.float32)


class Scorer(Protocol):
    """What of a RewardModel an episode in one process needs."""

    provenance: Provenance
    needs: RewardNeeds

    def reset(self, episode_id: str, instruction: str, seed: int) -> None: ...

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample | None: ...


@dataclass
class Episode:
    """rollout: as the learner would see it; success: ground truth; steps: control steps run; samples: all scores."""

    rollout: Rollout
    success: bool
    steps: int
    samples: list[RewardSample]


def run_episode(
    sim: Simulation,
    policy: Policy,
    task: TaskSpec,
    seed: int,
    mode: PolicyMode,
    reward: Scorer | None = None,
    completion: Completion | None = None,
    iteration: int = 0,
) -> Episode:
    """One episode. With a reward model and `completion` it ends as training does, else as evaluation does (truth or time-out)."""
    profile, spec = sim.profile, policy.spec
    acting = Acting(sim, policy, task, seed, mode)
    if reward is not None:
        reward.reset(f"offline-{seed}", task.instruction, seed)
    debounce = Debounce(completion) if completion is not None else None
    decisions: list[tuple[int, Observation, np.ndarray, np.ndarray | None, float]] = []
    samples: dict[int, RewardSample] = {}
    step, outcome = 0, "timeout"
    for step in range(task.max_steps + 1):
        stamp = step * profile.period_ns
        scored = reward is not None and step % reward.needs.every == 0
        decide = acting.due(step)
        seen = sim.observe(images=scored or decide or acting.watching)
        acting.judge()  # before the reward may end the episode: the frame it ends with counts
        if scored:
            assert reward is not None
            frames = {**seen.images, PROPRIOCEPTION: proprioception(seen)} if reward.needs.proprioception else seen.images
            sample = reward.observe(frames, stamp)
            if sample is not None:
                samples[step] = sample
                if debounce is not None and debounce(sample.valid, sample.completion, sample.progress):
                    outcome = "success"
                    break
        if (debounce is None and acting.done) or step == task.max_steps:
            outcome = "success" if debounce is None and acting.done else "timeout"
            break
        if decide:
            observation, answer = acting.decide(step, seen)
            decisions.append((stamp, observation, answer.actions, answer.latent, answer.log_probability))
        acting.act(step, seen)
    last = sim.observe()
    names = ("raw", "progress", "process", "completion", "contrastive", "total")
    stamps = [decision[0] for decision in decisions]
    at = [stamp // profile.period_ns for stamp in stamps] + [step]
    rewards = {name: np.array([getattr(samples[s], name) if s in samples else np.nan for s in at], np.float32) for name in names}
    has_latents = all(decision[3] is not None for decision in decisions)
    rollout = Rollout(
        episode_id=f"offline-{seed}",
        iteration=iteration,
        task=task.name,
        instruction=task.instruction,
        seed=seed,
        outcome=outcome,
        reason="",
        stamps=np.array(stamps, np.int64),
        images={name: np.stack([decision[1].images[name] for decision in decisions]) for name in spec.cameras},
        proprioception=np.stack([decision[1].proprioception for decision in decisions]),
        actions=np.stack([decision[2] for decision in decisions]),
        latents=np.stack([np.asarray(decision[3]) for decision in decisions]) if has_latents else None,
        log_probabilities=np.array([decision[4] for decision in decisions], np.float32),
        policy_versions=np.zeros(len(decisions), np.uint64),
        rewards=rewards,
        last_images=last.images,
        last_proprioception=proprioception(last),
        reward_model_id=reward.provenance.model_id if reward is not None else "",
    )
    return Episode(rollout, acting.done, step, [samples[key] for key in sorted(samples)])

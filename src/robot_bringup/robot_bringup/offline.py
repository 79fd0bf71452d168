"""The closed loop in one process, without ROS: for model cards, tests and quick studies.

Role: drives a policy plug-in (and, if given, a reward plug-in) in the simulator the way the nodes do: same guard, same chunk
execution, same
joining. What counts is measured over ROS; this is for what needs hundreds of episodes at training time. Does not depend on rclpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robot_bringup.sim.simulation import Simulation
from whetstone.contracts import Observation, Policy, RewardModel, RewardSample, Rollout
from whetstone.gripper import GripperTrigger
from whetstone.guard import Guard
from whetstone.task import TaskSpec

TRUTH_FRAMES = 5  # the condition must hold for so many control steps, as the evaluator asks


@dataclass
class Debounce:
    """Ends an episode when completion stays at or above `threshold` for `frames` scored frames (config/rewards: success)."""

    threshold: float
    frames: int
    _run: int = 0

    def __call__(self, sample: RewardSample) -> bool:
        self._run = self._run + 1 if sample.valid and sample.completion >= self.threshold else 0
        return self._run >= self.frames


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
    greedy: bool,
    reward: RewardModel | None = None,
    debounce: Debounce | None = None,
    iteration: int = 0,
) -> Episode:
    """One episode. With a reward model and a debounce it ends as training does, else as evaluation does (truth or time-out)."""
    profile, spec = sim.profile, policy.spec
    sim.reset(task, seed)
    policy.reset(task.instruction, seed, greedy)
    if reward is not None:
        reward.reset(f"offline-{seed}", task.instruction, seed)
    guard, previous = Guard(profile), None
    decisions: list[tuple[int, Observation, np.ndarray, np.ndarray | None, float]] = []
    samples: dict[int, RewardSample] = {}
    held, done, step, outcome = 0, False, 0, "timeout"
    chunk = np.zeros(0)
    trigger, goal = GripperTrigger(profile.gripper.hysteresis), 1.0
    for step in range(task.max_steps + 1):
        stamp = step * profile.period_ns
        scored = reward is not None and step % reward.needs.every == 0
        decide = step % spec.execute == 0
        seen = sim.observe(images=scored or decide)
        measured = np.append(seen.positions, seen.gripper_opening).astype(np.float32)
        if scored:
            assert reward is not None
            sample = reward.observe(seen.images, stamp)
            if sample is not None:
                samples[step] = sample
                if debounce is not None and debounce(sample):
                    outcome = "success"
                    break
        held = held + 1 if sim.truth().success else 0
        done = done or held >= TRUTH_FRAMES
        if (debounce is None and done) or step == task.max_steps:
            outcome = "success" if debounce is None and done else "timeout"
            break
        if decide:
            observation = Observation(stamp, {name: image.copy() for name, image in seen.images.items()}, measured)
            answer = policy.act(observation)
            chunk = answer.actions
            decisions.append((stamp, observation, answer.actions, answer.latent, answer.log_probability))
        previous = guard.check(chunk[step % spec.execute], measured, previous, profile.period)
        due = trigger.update(float(previous.command[-1]))
        goal = goal if due is None else due
        sim.step(previous.command[:-1], goal)
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
        last_proprioception=np.append(last.positions, last.gripper_opening).astype(np.float32),
        reward_model_id=reward.model_id if reward is not None else "",
    )
    return Episode(rollout, done, step, [samples[key] for key in sorted(samples)])


def success_rate(sim: Simulation, policy: Policy, task: TaskSpec, seeds: range, greedy: bool) -> float:
    """Share of evaluation episodes that end in true success."""
    return float(np.mean([run_episode(sim, policy, task, seed, greedy).success for seed in seeds]))

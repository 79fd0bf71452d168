"""A refinement in one process, without ROS: to try a learner's settings or calibrate a base policy in minutes.

Role: `python -m robot_bringup.rehearse robot:=franka [iterations:=4] [reward:=sarm2] [learner:=flow_refinement] ...`: the policy's
success before, the training iterations, and after every `every` of them again, one line each. policy: empty: the one that the learner's
file names, else flow_vla. truth:=true: with the simulator's word in place of the reward model's (oracle.py), to tell whether a policy does
not improve for its learner's sake or its reward's. The plug-ins are the nodes'; episodes end and are judged by the reward model as in a
run, evaluations by ground truth. What counts is measured over ROS (`make demo`). Does not depend on rclpy.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from robot_bringup.offline import Episode, Scorer, run_episode
from robot_bringup.oracle import Oracle
from robot_bringup.schedule import development_seeds, training_seeds
from robot_bringup.sim.simulation import Simulation
from whetstone import config
from whetstone.arguments import boolean, integer, parse_arguments, run
from whetstone.completion import Completion
from whetstone.contracts import Learner, Policy, PolicyMode
from whetstone.errors import ConfigError
from whetstone.plugins import configured
from whetstone.profile import load_profile
from whetstone.rewards import load_reward
from whetstone.task import load_task

DEFAULTS = {
    "robot": "franka",
    "task": "pick_and_place",
    "policy": "",
    "reward": "sarm2",
    "learner": "flow_refinement",
    "iterations": "4",
    "episodes": "48",
    "evaluation_episodes": "50",
    "every": "2",
    "seed": "0",
    "truth": "false",
}


def one_thread() -> None:
    """Networks this small and images of 128 pixels gain nothing from more, and threads that wait for each other on a busy machine cost
    twice the time."""
    import torch

    os.environ["LP_NUM_THREADS"] = "1"  # the renderer's
    torch.set_num_threads(1)


class Rehearsal:
    """One simulation, the policy that acts in it, the reward model that judges it, and a learner with a policy of its own."""

    def __init__(self, *, robot: str, task: str, policy: str, reward: str, learner: str, seed: int, truth: bool = False):
        profile = load_profile(robot)
        self._task = load_task(task, profile.asset_name)
        reward_settings = config.load_yaml(config.find("rewards", reward))
        if "success" not in reward_settings:
            raise ConfigError(f"reward '{reward}' has no 'success': nothing would end an episode as one")
        self._completion = config.parse(Completion, reward_settings["success"], f"reward '{reward}': success")
        policies, policy_settings = configured("whetstone.policies", policy)
        learners, learner_settings = configured("whetstone.learners", learner)
        self._seed = seed
        self._policy: Policy = policies.load(policy_settings, profile)
        self._learner: Learner = learners.load(learner_settings, policies.load(policy_settings, profile), self._seed)
        self._sim = Simulation(profile)
        scorer = load_reward(reward, profile)
        self._reward: Scorer = Oracle(scorer, self._sim) if truth else scorer

    def evaluate(self, mode: PolicyMode, episodes: int, first: int) -> float:
        """Share of true successes on the scenes of consecutive seeds."""
        done = [run_episode(self._sim, self._policy, self._task, first + index, mode).success for index in range(episodes)]
        return float(np.mean(done))

    def iterate(self, iteration: int, episodes: int, last: bool) -> tuple[list[Episode], str]:
        """An iteration: exploring episodes judged by the reward model, one update, its weights taken over if deployed."""
        first = training_seeds(self._seed) + iteration * episodes
        played = [
            run_episode(
                self._sim,
                self._policy,
                self._task,
                first + index,
                "exploring",
                self._reward,
                self._completion,
                iteration,
            )
            for index in range(episodes)
        ]
        report = self._learner.update([episode.rollout for episode in played], iteration, last)
        if report.deploy:
            self._policy.load_trainable_state(self._learner.trainable_state())
        return played, report.reason

    def __enter__(self) -> Rehearsal:
        return self

    def __exit__(self, *_: object) -> None:
        self._sim.close()


def made_for(learner: str) -> str:
    """The policy that a learner's configuration names; empty: any flow policy."""
    return config.load_yaml(config.find("learners", learner)).get("policy", "")


def against_truth(played: Sequence[Episode]) -> str:
    """How many were successful by truth, and at which progress those ended that the reward called so, the true and the false ones: whether
    the reward is being deceived."""
    ends = {True: list[str](), False: list[str]()}
    for episode in sorted(played, key=lambda one: float(one.rollout.rewards["progress"][-1])):
        if episode.rollout.outcome == "success":
            ends[episode.success].append(f"{episode.rollout.rewards['progress'][-1]:.2f}")
    told = "; ".join(
        f"{len(found)} of the reward's {word}, at progress {', '.join(found)}" for word, found in zip(("true", "false"), ends.values())
    )
    return f"{np.mean([one.success for one in played]):.0%} by truth; {told}"


def main(arguments: list[str]) -> None:
    given = parse_arguments(arguments, DEFAULTS)
    iterations, episodes, evaluated, every = (integer(given, key) for key in ("iterations", "episodes", "evaluation_episodes", "every"))
    if iterations < 0 or min(episodes, evaluated, every) < 1:
        raise ConfigError("iterations:= must be 0 or more; episodes:=, evaluation_episodes:= and every:= at least 1")
    names = {name: given[name] for name in ("robot", "task", "reward", "learner")}
    names["policy"] = given["policy"] or made_for(given["learner"]) or "flow_vla"
    seed = integer(given, "seed")
    modes: tuple[PolicyMode, ...] = ("greedy", "sampled")
    one_thread()
    with Rehearsal(**names, seed=seed, truth=boolean(given, "truth")) as rehearsal:

        def evaluation() -> str:
            # What is tuned here must not be tuned on the test scenes.
            first = development_seeds(seed)
            rates = ", ".join(f"{mode} {rehearsal.evaluate(mode, evaluated, first):.0%}" for mode in modes)
            return f"{rates} of {evaluated} development episodes"

        print(f"{given['robot']} {given['task']}, base policy: {evaluation()}", flush=True)
        for iteration in range(iterations):
            played, said = rehearsal.iterate(iteration, episodes, iteration + 1 == iterations)
            judged = np.mean([episode.rollout.outcome == "success" for episode in played])
            print(
                f"iteration {iteration}: {judged:.0%} of {episodes} episodes successful by the reward; {said}; {against_truth(played)}",
                flush=True,
            )
            if (iteration + 1) % every == 0 or iteration + 1 == iterations:
                print(f"after iteration {iteration}: {evaluation()}", flush=True)


if __name__ == "__main__":
    run(main)

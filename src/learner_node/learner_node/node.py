"""The learner node: what happened in, better weights out.

Role: ROS only. Takes episodes from its robots (feed.py), keeps rollouts on disk, runs the learner plug-in in a worker thread after an
iteration, pushes its weights. Evaluation episodes are not even looked at.
"""

from __future__ import annotations

import math
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sensor_msgs.msg import Image

from learner_node.durable import DurableRecorder, recover
from learner_node.feed import RobotFeed
from learner_node.group import group
from learner_node.journal import Done, Journal
from learner_node.publisher import Options, Pushed
from learner_node.replicas import Leader, Recipe, follow, make
from learner_node.scalars import Scalars
from whetstone.contracts import Policy, RewardSample, Rollout, UpdateReport
from whetstone.errors import InputError
from whetstone.images import to_array
from whetstone.labelling import back_label
from whetstone.profile import load_profile
from whetstone.ros import LOCKSTEP_DEPTH, WhetstoneNode, deserialize, run_node
from whetstone.signing import load_key
from whetstone.store import RolloutStore

_WRITE_OUT = 4.0
"""Seconds that a stop waits for rollouts on their way to the disk."""


@dataclass(frozen=True)
class Parameters:
    """robot, policy, learner: names of config files. seed: of all randomness in learning. run_dir: absolute, for rollouts and weights.

    iterations: of the whole run, so that the learner knows the last one; 0: it is never told. weights: snapshot (.safetensors) to start
    from; empty: the base policy. rollout_budget_gb: GB that the episodes may take, 0: any; beyond it the oldest that are not
    protected go. record_frames: images that are kept: at decisions, or of all control steps (as
    JPEG besides).
    reward_grace: seconds that an ended episode waits for rewards still under way. realtime: cameras have clocks of their own, so frames
    are joined to the nearest stamp within half a period. weights_key: file of the key that announcements of weights are signed with; empty:
    they are not. weights_dtype: bf16 sends float32 in 16 bits; the robot's weights are then rounded, the learner's are not.
    weights_compression: of what is sent; weights_differences: send robots that have the weights before only what changed.
    weights_file_mb: MB from which on weights go to receivers on this machine as a file; 0: never. device: torch device of the policy
    copy. threads: of torch, while updating; with as many as the machine has cores, a busy core makes the others spin and an update twenty
    times slower.
    sharded: each process of a torchrun has only its share of the policy's network.
    keep: newest snapshots of weights that stay beside the best one; 0: all. wandb: project of Weights & Biases; empty: TensorBoard alone.
    resume: go on from the checkpoints and rollouts in run_dir. restarted: the same after this process was killed in the middle of a run:
    nobody will bring the node up, so it does so itself.
    robots: namespaces of the robots that feed it, all of the kind `robot`; empty: the one in the node's own namespace. An update is made
    when all of them wait for one; a robot whose run is over is not waited for. autostart: the node configures and activates itself, where
    no episode manager does.
    """

    robot: str
    policy: str
    learner: str
    run_dir: str
    seed: int = field(default=0, metadata={"ge": 0})
    iterations: int = field(default=0, metadata={"ge": 0})
    weights: str = ""
    rollout_budget_gb: float = field(default=0.0, metadata={"ge": 0})
    record_frames: Literal["decisions", "all"] = "decisions"
    reward_grace: float = field(default=2.0, metadata={"ge": 0})
    realtime: bool = False
    weights_key: str = ""
    weights_dtype: Literal["as_is", "bf16"] = "as_is"
    weights_compression: Literal["none", "zstd"] = "zstd"
    weights_differences: bool = True
    weights_file_mb: float = field(default=64.0, metadata={"ge": 0})
    device: str = "cpu"
    threads: int = field(default=1, metadata={"ge": 1})
    sharded: bool = False
    keep: int = field(default=10, metadata={"ge": 0})
    wandb: str = ""
    resume: bool = False
    restarted: bool = False
    robots: list[str] = field(default_factory=list)
    autostart: bool = False


class LearnerNode(WhetstoneNode[Parameters]):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("learner", Parameters)
        self.autostart = self.parameters.restarted or self.parameters.autostart

    def configure(self) -> None:
        p = self.parameters
        self._profile = load_profile(p.robot)
        recipe = Recipe(p.robot, p.policy, p.learner, p.weights, p.device, p.seed, p.threads, p.sharded)
        policy, learner = make(recipe, group())
        self._learner = Leader(learner, recipe, group()) if group().size > 1 else learner
        self._spec = policy.spec
        self._store = RolloutStore(Path(p.run_dir) / "rollouts")
        self._store.clean()
        identity = {
            "learner": p.learner,
            "policy": self._spec.policy_id,
            "policy's config_hash": self._spec.config_hash,
            "seed": str(p.seed),
        }
        self._journal = Journal(p.run_dir, identity, p.keep)
        for line in recover(self._store, self._spec.cameras, _decode, self._tolerance):
            self.get_logger().warning(line)
        self._complained: set[str] = set()
        self._count_set_aside()
        self._rollouts: list[Rollout] = []
        self._done: Done | None = self._resume(policy) if p.resume or p.restarted else None
        say = self.get_logger().warning
        self._scalars = Scalars(Path(p.run_dir) / "tensorboard", p.wandb, self._done.count if self._done else 0, say)
        self._updating = False
        self._results: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        key = load_key(p.weights_key) if p.weights_key else b""
        self._feeds = [self._feed(name, key) for name in p.robots or [""]]
        self._feeds[0].weights.publisher.start_from(self._learner.trainable_state())

    @property
    def _tolerance(self) -> int:
        return self._profile.period_ns // 2 if self.parameters.realtime else 0

    def _feed(self, namespace: str, key: bytes) -> RobotFeed:
        p = self.parameters
        recorder = DurableRecorder(
            self._store,
            self._spec.cameras,
            _decode,
            p.record_frames == "all",
            grace=p.reward_grace,
            ring=64 if p.realtime else LOCKSTEP_DEPTH + 56,
            tolerance=self._tolerance,
        )
        options = self._weights_options()
        return RobotFeed(
            self, self._profile, self._spec, recorder, options, key, namespace=namespace, realtime=p.realtime, known=self._known
        )

    def _resume(self, policy: Policy) -> Done | None:
        """Back to where the last update left everything; the episodes recorded since then wait for the next one."""
        log, folder = self.get_logger(), self._store.root
        known = set(self._store.list())
        done, notes = self._journal.resume(self._learner, policy, lambda name: self._read(name) if name in known else None)
        for note in notes:
            log.warning(f"resuming: {note}")
        after, seen = (done.complete, done.seen) if done else (-1, ())
        waiting = [name for name in sorted(known) if (self._store.iteration(name) or 0) > after and name not in seen]
        self._rollouts = [rollout for rollout in map(self._read, waiting) if rollout is not None]
        stands = f"iteration {done.iteration}, weights version {done.version}" if done else "the beginning"
        log.info(f"resumed after {stands}; {len(self._rollouts)} episodes since then in {folder}")
        return done

    def _read(self, name: str) -> Rollout | None:
        try:
            return self._store.read(name)
        except InputError as error:
            self._store.quarantine(name, str(error))
            self.get_logger().warning(f"set aside in quarantine: {error}")
            return None

    def _weights_options(self) -> Options:
        p = self.parameters
        file_above, folder = round(p.weights_file_mb * 1e6), Path(p.run_dir) / "weights"
        return Options(p.weights_dtype, p.weights_compression, p.weights_differences, file_above, folder)

    def activate(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="learner", daemon=True)
        self._worker.start()
        self._timer = self.create_timer(0.05, self._tick, clock=self.steady_clock)
        if self._done is not None and self._done.version:
            state = self._journal.load(self._done.version)
            publishers = [feed.weights.publisher for feed in self._feeds]
            pushed = publishers[0].prepare(state, self._done.version, self._done.parent, self._done.iteration)
            for publisher in publishers:
                publisher.resume(pushed)
        if self.parameters.robots:
            self.get_logger().info(f"learning from {', '.join(self.parameters.robots)}")

    def deactivate(self) -> None:
        self.destroy_timer(self._timer)
        for feed in self._feeds:
            for rollout in feed.recorder.ready(math.inf):
                self._jobs.put(lambda rollout=rollout: self._write(rollout))
        self._jobs.put(None)
        if not self._updating:  # an update under way is given up; episodes that ended get to the disk
            self._worker.join(_WRITE_OUT)
        self._scalars.close()

    def cleanup(self) -> None:
        self._rollouts = []
        for feed in self._feeds:
            feed.weights.publisher.close()
        if isinstance(self._learner, Leader) and not self._updating:
            self._learner.close()

    def _known(self, name: str, iteration: int) -> bool:
        """Whether an episode was dealt with before this process was killed: what is latched tells of it again."""
        p, done = self.parameters, self._done
        if done is not None and (name in done.seen or (not p.robots and iteration <= done.complete)):
            return True
        if not (p.restarted or p.resume):
            return False
        return any(rollout.episode_id == name for rollout in self._rollouts) or (bool(p.robots) and self._store.iteration(name) is not None)

    # What follows from it.

    def _tick(self) -> None:
        while not self._results.empty():
            self._results.get()()
        for feed in self._feeds:
            feed.greet()
            self._collect(feed)
        self._warn()
        if not self._updating:
            self._see_to_updates()

    def _collect(self, feed: RobotFeed) -> None:
        """What a robot's episodes have become: rollouts, labels that came late."""
        for rollout in feed.recorder.ready(time.monotonic()):
            if feed.begun_before(rollout) and self.parameters.restarted:
                self.get_logger().warning(f"{rollout.episode_id} was running when this node was restarted: nothing is learned from it")
                self.counters["interrupted_episodes"] = self.counters.get("interrupted_episodes", 0) + 1
                self._jobs.put(lambda rollout=rollout: self._set_aside(rollout))
                continue
            self._rollouts = [one for one in self._rollouts if one.episode_id != rollout.episode_id] + [rollout]
            self._jobs.put(lambda rollout=rollout: self._write(rollout))
        for name, late in feed.recorder.late().items():
            self._rollouts = [back_label(one, late, self._tolerance) if one.episode_id == name else one for one in self._rollouts]
            self._jobs.put(lambda name=name, late=late: self._label(name, late))

    def _warn(self) -> None:
        counters = sum((feed.recorder.counters for feed in self._feeds), Counter())
        for name, lost in (("empty_episodes", "episodes without one whole decision"), ("dropped_decisions", "decisions without images")):
            if (count := counters[name]) > self.counters.get(name, 0):
                self.get_logger().warning(
                    f"{count} {lost} so far: nothing is learned from them; do the cameras' stamps match the actions'?"
                )
        self.counters.update(counters)

    def _see_to_updates(self) -> None:
        """Begin an update where all robots wait for one, or where the learner wants one while they go on."""
        done = self._done
        if any(feed.asked is not None and not feed.listens for feed in self._feeds):
            return  # this process was restarted: a robot goes on when it is told, and must be heard then
        for feed in self._feeds:
            # What was done before this process was killed, or the run cut off, is reported again.
            if done is None or feed.asked is None:
                continue
            if feed.asked == done.complete:
                feed.say(replace(done, interim=False))  # it is over, even if the next one was learned from since
            elif feed.asked < done.complete and not self.parameters.robots:
                feed.asked = None  # latched, of long ago
        active = [feed for feed in self._feeds if not feed.over]
        asked = [feed.asked for feed in active if feed.asked is not None]
        if self.parameters.robots:
            self.counters["waiting_for"] = ", ".join(feed.namespace for feed in active if feed.asked is None) if asked else ""
        every = getattr(self._learner, "update_every", 0)
        if asked and len(asked) == len(active):
            if not any(feed.recorder.waiting() for feed in active):
                self._begin_update(max(asked))
        elif every and len(self._rollouts) >= every:
            self._begin_update(self._rollouts[-1].iteration, interim=True)

    def _begin_update(self, iteration: int, interim: bool = False) -> None:
        self._updating = True
        self.get_logger().info(f"updating {'within' if interim else 'after'} iteration {iteration}")
        # Several robots may have begun at different times; then their iterations have different numbers.
        rollouts = [rollout for rollout in self._rollouts if self.parameters.robots or rollout.iteration == iteration]
        self._rollouts = []
        self._jobs.put(lambda: self._update(rollouts, iteration, interim))

    def _finish_update(self, done: Done, pushed: Pushed | None) -> None:
        """Back in the executor: push what the learner decided, say so."""
        self._done = done
        for feed in self._feeds:
            if pushed is not None:
                feed.weights.publisher.publish(pushed)
            feed.say(done)
        verdict = "deployed" if done.report.deploy else "kept"
        self.get_logger().info(f"iteration {done.iteration}: {verdict} version {done.version}: {done.report.reason}")
        self._updating = False

    # The worker thread: files and learning, in order.

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:
                self.fail(error)
                return

    def _write(self, rollout: Rollout) -> None:
        self._store.write(rollout)
        if self.parameters.rollout_budget_gb:
            budget = round(self.parameters.rollout_budget_gb * 1e9)
            gone = self._store.prune(budget)
            if gone:
                self.counters["pruned_episodes"] = self.counters.get("pruned_episodes", 0) + len(gone)
                self.get_logger().info(f"disk budget of {self.parameters.rollout_budget_gb:g} GB: removed {', '.join(gone)}")
        self._count_set_aside()

    def _count_set_aside(self) -> None:
        """What only a human deletes must not fill the disk in silence."""
        for where, (count, size) in self._store.set_aside().items():
            self.counters |= {f"folders_in_{where}": count, f"mb_in_{where}": round(size / 1e6, 1)}
            if size > self.parameters.rollout_budget_gb * 1e9 / 2 > 0 and where not in self._complained:
                self._complained.add(where)
                self.get_logger().warning(
                    f"{self._store.root / where} takes {size / 1e9:.2f} of the {self.parameters.rollout_budget_gb:g} GB for episodes; "
                    f"`whetstone episodes clear {self._store.root} {where}` deletes it"
                )

    def _set_aside(self, rollout: Rollout) -> None:
        self._store.interrupt(rollout.episode_id, rollout, "the node that recorded it was restarted meanwhile: this is the rest")

    def _label(self, name: str, late: list[tuple[RewardSample, str]]) -> None:
        """Rewards that came when their episode was on the disk already; those of episodes that are not kept (evaluations) are nobody's."""
        if self._store.iteration(name) is None or (rollout := self._read(name)) is None:
            return
        self._store.rewrite(back_label(rollout, late, self._tolerance))
        self.counters["back_labelled_rewards"] = self.counters.get("back_labelled_rewards", 0) + len(late)

    def _update(self, rollouts: list[Rollout], iteration: int, interim: bool) -> None:
        before = self._done
        seen = before.seen if before is not None and before.interim and before.iteration == iteration else ()
        _set_threads(self.parameters.threads)
        unlabelled = sum(int(np.isnan(rollout.rewards["total"]).sum()) for rollout in rollouts)
        last = iteration + 1 == self.parameters.iterations and not interim
        if rollouts or last:
            began = time.perf_counter()
            report = self._learner.update(rollouts, iteration, last)
            metrics = {**report.metrics, "update_seconds": time.perf_counter() - began}
        else:
            why = "all its episodes have been learned from already" if seen else "no episode of this iteration could be recorded"
            report = UpdateReport(False, why, {})
            metrics = {}
        success = sum(rollout.outcome == "success" for rollout in rollouts) / len(rollouts) if rollouts else math.nan
        metrics = {"episodes": float(len(rollouts)), "reward_success_rate": success, "unlabelled_steps": float(unlabelled), **metrics}
        report = UpdateReport(report.deploy, report.reason, metrics, report.stop)
        publishers = [feed.weights.publisher for feed in self._feeds]
        count, parent = (before.count + 1, before.version) if before is not None else (1, 0)
        seen = (*seen, *(rollout.episode_id for rollout in rollouts)) if interim else ()
        version = max(publisher.next_version for publisher in publishers) if report.deploy else parent
        done = Done(iteration, version, parent, report, count, interim, seen)
        self._journal.write(done, self._learner)
        self._scalars.add(count - 1, metrics)
        state = self._learner.trainable_state() if report.deploy else {}
        pushed = publishers[0].prepare(state, done.version, done.parent, iteration) if report.deploy else None
        self._results.put(lambda: self._finish_update(done, pushed))


def _decode(payload: Any, camera: str) -> np.ndarray:
    return to_array(deserialize(payload, Image), camera)


def _set_threads(count: int) -> None:
    """Of this thread's torch work; the executor thread does none."""
    import torch

    torch.set_num_threads(count)


def main(args: list[str] | None = None) -> int:
    """Executable `learner_node`. Under torchrun the first process is the node, the others follow its learner."""
    if group().rank:
        # The agent of torchrun passes signals on to all; the node says when it is over.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        return follow(group())
    return run_node(LearnerNode, args)


if __name__ == "__main__":
    raise SystemExit(main())

"""The episode manager's decisions: phases, outcomes, deadlines.

Role: a state machine whose inputs are what happened (a frame, a score, a service call, the time) and whose output is the
sequence of states to publish. Pure: no ROS, no clock of its own, so every path is tested without a robot. The phases and
outcomes are those of whetstone_msgs/Episode.

Stamps are robot time in ns; `now` is any monotonic time in s and serves deadlines only. Everything that decides an outcome
follows from stamps, so a run repeats under its seed however the messages interleave.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from robot_bringup.schedule import PlannedEpisode
from whetstone.completion import Completion, Debounce

NANOSECONDS = 1_000_000_000
POINTS_AT_LOG = "; its log says why"
"""End of a reason whose first word is a node that has said more in its own log."""


class Phase(IntEnum):
    WAITING = 0
    RESETTING = 1
    RUNNING = 2
    ENDED = 3
    UPDATING = 4
    FINISHED = 5
    PAUSED = 6


class Outcome(IntEnum):
    UNKNOWN = 0
    SUCCESS = 1
    FAILURE = 2
    TIMEOUT = 3
    ABORTED = 4


@dataclass(frozen=True)
class Deadlines:
    """Seconds to wait for a peer before the run fails and names it.

    reset: the simulator's answer; frame: its next frame; update: the learner; apply: the policy's acknowledgement of weights;
    last: the last score (or the evaluator's verdict) of an episode that timed out; verdict: the last frames after the
    evaluator's word. Their absence is no failure.
    """

    reset: float = 30.0
    frame: float = 60.0
    update: float = 1800.0
    apply: float = 60.0
    last: float = 1.0
    verdict: float = 3.0


@dataclass(frozen=True)
class State:
    """What the Episode message says, less what never changes in a run. record: at ENDED, the line of episodes.jsonl."""

    phase: Phase
    episode: PlannedEpisode | None = None
    outcome: Outcome = Outcome.UNKNOWN
    reason: str = ""
    start: int = 0
    stamp: int = 0
    record: dict[str, object] | None = None


@dataclass(frozen=True)
class Score:
    """The fields of a Reward message that the manager looks at. NaN: not given."""

    stamp: int
    progress: float = math.nan
    completion: float = math.nan
    total: float = math.nan
    valid: bool = True


@dataclass
class _Tally:
    """Reward figures of one episode. Sums are kept apart from counts so that unlabelled frames never count as zero."""

    samples: int = 0
    invalid: int = 0
    max_progress: float = math.nan
    max_completion: float = math.nan
    total_sum: float = 0.0
    total_count: int = 0

    def add(self, score: Score) -> None:
        self.samples += 1
        if not score.valid:
            self.invalid += 1
            return
        self.max_progress = _maximum(self.max_progress, score.progress)
        self.max_completion = _maximum(self.max_completion, score.completion)
        if not math.isnan(score.total):
            self.total_sum += score.total
            self.total_count += 1

    def summary(self) -> dict[str, float | int]:
        mean = self.total_sum / self.total_count if self.total_count else math.nan
        return {
            "samples": self.samples,
            "invalid": self.invalid,
            "max_progress": self.max_progress,
            "max_completion": self.max_completion,
            "mean_total": mean,
        }


def _maximum(old: float, new: float) -> float:
    if math.isnan(new):
        return old
    return new if math.isnan(old) else max(old, new)


class EpisodeMachine:
    """Drives the episodes of a schedule.

    Call the input methods as things happen and publish, in order, what `take()` returns after each. `result` is None until
    FINISHED, then ("finished" | "stopped" | "failed", reason).
    reward_every: control steps between two scored frames; 0 where no reward model runs. after: the last episode of the newest iteration
    that a run which was cut off had collected: its update is asked for before anything else, for who has the weights is not known.
    simulated: else a human is the judge. await_start: an episode begins when a human says start, in real time; `ready`: one waits for that.
    """

    def __init__(
        self,
        episodes: Iterator[PlannedEpisode],
        *,
        rate: float,
        max_steps: int,
        completion: Completion | None,
        reward_every: int = 0,
        deadlines: Deadlines | None = None,
        after: PlannedEpisode | None = None,
        simulated: bool = True,
        await_start: bool = False,
    ):
        self._episodes = episodes
        self._after, self._simulated, self._await_start = after, simulated, await_start
        self._stopped: int | None = None  # segment whose training ended early
        self._rate = rate
        self._max_steps = max_steps
        self._debounce = Debounce(completion) if completion is not None else None
        self._every = reward_every
        self._deadlines = deadlines or Deadlines()
        self._out: deque[State] = deque()
        self._since = 0.0  # when the current wait began
        self._timed_out_since: float | None = None
        self._failing_since: float | None = None
        self._paused, self._why = False, ""
        self._resume_to: Phase | None = None
        self._last_score = -1
        self._tally = _Tally()
        self._update: tuple[int, bool] | None = None
        self._applied = 0
        self._refused: dict[int, str] = {}
        self._newest = 0  # stamp of the robot's last state
        self._held_at = self._held = 0  # ns: when a pause began, and how long all of this episode's took; a robot's clock goes on
        self.ready = False
        self.state = State(Phase.WAITING)
        self.steps = 0
        self.version = 0
        self.result: tuple[str, str] | None = None

    # outputs

    def take(self) -> list[State]:
        """States to publish, oldest first; each is returned once."""
        states = list(self._out)
        self._out.clear()
        return states

    # inputs

    def wait(self, reason: str) -> None:
        """Say whom the run waits for before it begins."""
        if self.state.reason != reason:
            self._emit(State(Phase.WAITING, reason=reason))

    def begin(self, now: float) -> None:
        """All peers are active: start the first episode, or ask for the update that a run which was cut off may lack."""
        if self._after is None:
            self._next(now)
            return
        self._update, self._since = None, now
        self._emit(State(Phase.UPDATING, self._after, reason=f"iteration {self._after.iteration}, resumed"))

    def reset_done(self, now: float, ok: bool, reason: str, start: int) -> None:
        """The scene is back, or not. start: stamp of the episode's first frame."""
        if self.state.phase != Phase.RESETTING or self.ready:
            return
        if not ok:
            self.fail(f"the scene could not be brought back: {reason or 'no reason given'}")
            return
        self.state = replace(self.state, start=start, stamp=start)
        if self._await_start:
            self.ready, self._since = True, now
        elif self._paused:
            self._hold(Phase.RUNNING)
        else:
            self._run(now)

    def frame(self, now: float, stamp: int) -> None:
        """The robot's state at `stamp` arrived."""
        self._newest = stamp
        if self.state.phase != Phase.RUNNING or stamp < self.state.start:
            return
        self._since = now
        self.steps = max(self.steps, self._index(stamp))
        if self.steps >= self._max_steps and self._timed_out_since is None:
            self._timed_out_since = now
            self._try_time_out(now)

    def score(self, now: float, episode_id: str, score: Score) -> None:
        """A reward arrived; it may be late or repeated, never counted twice."""
        state = self.state
        if not self._live() or state.episode is None or episode_id != state.episode.episode_id:
            return
        if score.stamp <= self._last_score or score.stamp < state.start or self._index(score.stamp) > self._max_steps:
            return
        self._last_score = score.stamp
        self._tally.add(score)
        if state.episode.mode == "train" and self._debounce is not None and self._debounce(score.valid, score.completion, score.progress):
            reason = f"reward model: completion {score.completion:.2f} on {self._debounce.streak} frames"
            self.steps = self._index(score.stamp)
            self._end(now, Outcome.SUCCESS, reason, score.stamp)
            return
        if self._timed_out_since is not None:
            self._try_time_out(now)

    def update(self, now: float, iteration: int, version: int, deployed: bool, stop: str = "") -> None:
        """The learner reported on an iteration. stop: why the rest of this training is left out."""
        if self.state.phase == Phase.UPDATING and self.state.episode is not None and iteration == self.state.episode.iteration:
            # After a cut the policy begins with the base policy's weights, whatever the learner decided last.
            self._update = (version, deployed or (self._after is not None and version > 0))
            self._after = None
            self._stopped = self.state.episode.segment if stop else None
            self._since = now
            self._try_finish_update(now)

    def acknowledge(self, now: float, version: int, applied: bool, reason: str, left: bool = True) -> None:
        """The policy applied a snapshot, or (left) went back from it, or refused it: of a version that is in use already that was another
        sender's, and changes nothing."""
        if applied:
            self._applied = self.version = max(self._applied, version)
        elif version <= self._applied and not left:
            return
        elif version == self.version and version > 0:
            self.fail(f"policy left weights version {version}: {reason}")
        else:
            self._refused[version] = reason
        self._try_finish_update(now)

    def tick(self, now: float) -> None:
        """Check the deadlines."""
        waited, phase, deadlines = now - self._since, self.state.phase, self._deadlines
        if phase == Phase.RESETTING and waited > deadlines.reset:
            done = "said start" if self.ready else "brought the scene back"
            self.fail(f"nobody {done} within {deadlines.reset:g} s")
        elif phase == Phase.RUNNING and self._failing_since is not None:
            if now - self._failing_since > deadlines.verdict:
                self._end(now, Outcome.FAILURE, "evaluator: the task has failed", self._stamp(self.steps))
        elif phase == Phase.RUNNING and self._timed_out_since is not None:
            if now - self._timed_out_since > deadlines.last:
                self._time_out(now)
        elif phase == Phase.RUNNING and waited > deadlines.frame:
            who = "simulator sent no frame" if self._simulated else "the robot's driver sent no joint state"
            self.fail(f"{who} for {deadlines.frame:g} s")
        elif phase == Phase.UPDATING and self._update is None and waited > deadlines.update:
            self.fail(f"learner did not report an update within {deadlines.update:g} s")
        elif phase == Phase.UPDATING and self._update is not None and waited > deadlines.apply:
            self.fail(f"policy did not acknowledge weights version {self._update[0]} within {deadlines.apply:g} s")

    # services: each returns (accepted, message)

    def start(self, now: float) -> tuple[bool, str]:
        """A human lets the episode begin whose scene is back: from the robot's next state on."""
        if not self.ready:
            back = self._await_start and self.state.phase == Phase.RESETTING
            return False, "the scene is not back yet" if back else "no episode waits for a start"
        if self._paused:
            return False, f"{self._why}; resume first"
        self.ready = False
        start = self._newest + round(NANOSECONDS / self._rate)
        self.state = replace(self.state, start=start, stamp=start)
        self._run(now)
        return True, "the episode begins"

    def pause(self, now: float, reason: str = "paused by a human") -> tuple[bool, str]:
        if self.result:
            return False, "the run is over"
        if self._paused:
            return False, "already paused"
        self._paused, self._why = True, reason
        if self.state.phase == Phase.RUNNING:
            self._hold(Phase.RUNNING)
            return True, "paused"
        return True, f"pauses after {self.state.phase.name.lower()}"

    def resume(self, now: float) -> tuple[bool, str]:
        if not self._paused:
            return False, "not paused"
        self._paused = False
        if self.state.phase != Phase.PAUSED:
            return True, "the pause had not begun and is taken back"
        if self._resume_to == Phase.RUNNING:
            self._held += max(self._newest - self._held_at, 0)
            self._run(now)
        else:
            self._next(now)
        return True, "resumed"

    def stop(self, now: float, reason: str = "stopped by a human") -> tuple[bool, str]:
        if self.result:
            return False, "the run is over"
        self._finish("stopped", reason)
        return True, reason

    def success(self, now: float) -> tuple[bool, str]:
        """A human (training) or the evaluator (evaluation) says that the task is done."""
        if not self._live() or self.state.episode is None:
            return False, "no episode is running"
        who = "evaluator" if self.state.episode.mode == "evaluate" and self._simulated else "human"
        self._end(now, Outcome.SUCCESS, f"{who}: the task is done", self._stamp(self.steps))
        return True, "success"

    def failure(self, now: float) -> tuple[bool, str]:
        """The opposite. At the last step it is the evaluator's word that no success is on its way: a time-out, and frames that
        have not been counted yet may follow it."""
        if not self._live() or self.state.episode is None:
            return False, "no episode is running"
        if self._timed_out_since is not None:
            self._time_out(now)
            return True, "time-out"
        if self.state.episode.mode == "evaluate" and self._simulated:
            self._failing_since = now
        else:
            self._end(now, Outcome.FAILURE, "human: the task has failed", self._stamp(self.steps))
        return True, "failure"

    def fail(self, reason: str) -> None:
        """The run cannot go on."""
        if not self.result:
            self._finish("failed", reason)

    # transitions

    def _emit(self, state: State) -> None:
        self.state = state
        self._out.append(state)

    def _live(self) -> bool:
        """An episode has begun and not ended."""
        return self.state.phase == Phase.RUNNING or (self.state.phase == Phase.PAUSED and self._resume_to == Phase.RUNNING)

    def _index(self, stamp: int) -> int:
        return round((stamp - self.state.start - self._held) * self._rate / NANOSECONDS)

    def _stamp(self, index: int) -> int:
        return self.state.start + self._held + round(index * NANOSECONDS / self._rate)

    def _next(self, now: float) -> None:
        if self._paused:
            self._hold(None)
            return
        episode = next((one for one in self._episodes if one.segment != self._stopped), None)
        if episode is None:
            self._finish("finished", "all episodes are done")
            return
        self.steps, self._last_score, self._held = 0, -1, 0
        if self._debounce is not None:
            self._debounce.streak = 0
        self._tally, self._since = _Tally(), now
        self._timed_out_since = self._failing_since = None
        self._emit(State(Phase.RESETTING, episode, stamp=self.state.stamp))

    def _run(self, now: float) -> None:
        self._since = now
        self._emit(replace(self.state, phase=Phase.RUNNING, reason=""))

    def _hold(self, resume_to: Phase | None) -> None:
        self._resume_to, self._held_at = resume_to, max(self._newest, self.state.start)
        self._emit(replace(self.state, phase=Phase.PAUSED, reason=self._why))

    def _try_time_out(self, now: float) -> None:
        """End a timed-out episode once nothing that belongs to it can still come."""
        assert self.state.episode is not None
        if self._failing_since is not None:
            self._time_out(now)
        elif self.state.episode.mode == "train":
            last = self._max_steps // self._every * self._every if self._every else 0
            if not self._every or self._last_score >= self._stamp(last):
                self._time_out(now)

    def _time_out(self, now: float) -> None:
        self.steps = self._max_steps
        self._end(now, Outcome.TIMEOUT, f"no success in {self._max_steps} steps", self._stamp(self._max_steps))

    def _record(self, outcome: Outcome, reason: str) -> dict[str, object]:
        episode = self.state.episode
        assert episode is not None
        return {
            "episode_id": episode.episode_id,
            "mode": episode.mode,
            "label": episode.label,
            "iteration": episode.iteration,
            "index": episode.index,
            "seed": episode.seed,
            "greedy": episode.greedy,
            "outcome": outcome.name.lower(),
            "reason": reason,
            "steps": self.steps,
            "policy_version": self.version,
            "reward": self._tally.summary(),
        }

    def _end(self, now: float, outcome: Outcome, reason: str, stamp: int) -> None:
        ended = replace(self.state, phase=Phase.ENDED, outcome=outcome, reason=reason, stamp=stamp)
        self._emit(replace(ended, record=self._record(outcome, reason)))
        self.state = ended
        episode = self.state.episode
        assert episode is not None
        if episode.mode == "train" and episode.last:
            self._update, self._since = None, now
            self._emit(replace(self.state, phase=Phase.UPDATING, reason=f"iteration {episode.iteration}"))
        else:
            self._next(now)

    def _try_finish_update(self, now: float) -> None:
        if self.state.phase != Phase.UPDATING or self._update is None:
            return
        version, deployed = self._update
        if not deployed or self._applied >= version:
            self.version = version
            self._next(now)
        elif version in self._refused:
            self.fail(f"policy refused weights version {version}: {self._refused[version]}")

    def _finish(self, result: str, reason: str) -> None:
        if self._live() or self.state.phase == Phase.RESETTING:
            ended = replace(self.state, phase=Phase.ENDED, outcome=Outcome.ABORTED, reason=reason)
            self._emit(replace(ended, record=self._record(Outcome.ABORTED, reason)))
            self.state = ended
        self.ready, self.result = False, (result, reason)
        self._emit(replace(self.state, phase=Phase.FINISHED, reason=reason))

"""What the operator sees while a run goes on.

Role: follows the run directory's episodes.jsonl, updates.jsonl, stops.jsonl and prompts.jsonl and shows a bar per segment of the schedule
with the success rate so far, and a line per learner update, per stop of the watchdog and per thing that a human is asked to do. Where the
output is no terminal it prints plain lines. Does not depend on ROS, so the supervisor stays free of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from robot_bringup import records, schedule
from robot_bringup.schedule import Segment

_METRICS = ("loss", "kl", "reward_success_rate", "unlabelled_steps")


def title(segment: Segment) -> str:
    """The segment in words."""
    return segment.label.replace("_", " ") if segment.mode == "evaluate" else "training"


class RunConsole:
    """Call update() now and then. Use as a context manager, so that the bars are closed whatever happens."""

    def __init__(self, run_dir: Path, segments: Sequence[Segment], console: Console, judge: str = "truth"):
        """judge: by what an evaluation's episode is a success."""
        self._episodes_file = run_dir / records.EPISODES
        self._updates_file = run_dir / records.UPDATES
        self._console, self._judge = console, judge
        self._segments = list(segments)
        self._segment_of = {}
        for episode in schedule.episodes(self._segments) if not self._endless() else ():
            self._segment_of[episode.episode_id] = episode.segment
        self._counts = [[0, 0] for _ in self._segments]  # episodes, successes
        self._iteration: dict[int, list[int]] = {}
        self._stops_file = run_dir / records.STOPS
        self._prompts_file = run_dir / records.PROMPTS
        self._offsets = dict.fromkeys((self._episodes_file, self._updates_file, self._stops_file, self._prompts_file), 0)
        self._progress: Progress | None = None
        self._bars: list[TaskID] = []

    def _endless(self) -> bool:
        return any(segment.label == "sim" for segment in self._segments)

    def __enter__(self) -> RunConsole:
        if self._console.is_terminal and not self._endless():
            self._progress = Progress(
                TextColumn("{task.description:<28}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._bars = [
                self._progress.add_task(title(segment), total=segment.iterations * segment.episodes, start=False, rate="")
                for segment in self._segments
            ]
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.update()
        if self._progress is not None:
            self._progress.stop()

    def update(self) -> None:
        """Show what was added to the files since the last call."""
        for record in self._new(self._episodes_file):
            self._episode(record)
        for record in self._new(self._updates_file):
            self.say(_update_line(record, self._iteration.get(record["iteration"], [0, 0])))
        for record in self._new(self._stops_file):
            self.say(_stop_line(record))
        for record in self._new(self._prompts_file):
            self.say(f"YOUR TURN: {record['text']}")

    def _new(self, path: Path) -> list[dict[str, Any]]:
        found, self._offsets[path] = records.read(path, self._offsets[path])
        return found

    def _episode(self, record: dict[str, Any]) -> None:
        success = record["outcome"] == "success"
        if record["mode"] == "train":
            count = self._iteration.setdefault(record["iteration"], [0, 0])
            count[0] += 1
            count[1] += success
        position = self._segment_of.get(record["episode_id"])
        if position is None or record["outcome"] == "aborted":
            self.say(f"{record['episode_id']}: {record['outcome']} ({record['reason']})")
            return
        counts, segment = self._counts[position], self._segments[position]
        counts[0] += 1
        counts[1] += success
        who = f"by {self._judge}" if segment.mode == "evaluate" else "by reward"
        rate = f"{100 * counts[1] / counts[0]:3.0f} % success {who}"
        if self._progress is not None:
            self._progress.start_task(self._bars[position])
            self._progress.update(self._bars[position], completed=counts[0], rate=rate)
        elif counts[0] == segment.iterations * segment.episodes:
            self.say(f"{title(segment)}: {counts[0]} episodes, {rate.strip()}")

    def say(self, line: str) -> None:
        """One line among the bars."""
        console = self._progress.console if self._progress is not None else self._console
        console.print(escape(line), soft_wrap=True, highlight=False)


def _stop_line(record: dict[str, Any]) -> str:
    if not record["stopped"]:
        return "the watchdog was released: the arm moves again"
    why = "; ".join(record["reasons"])
    return f"THE WATCHDOG STOPPED THE ARM: {why}. When it is safe: ros2 service call {record['release']} std_srvs/srv/Trigger"


def _update_line(record: dict[str, Any], count: Sequence[int]) -> str:
    metrics = record.get("metrics", {})
    shown = [f"{name} {metrics[name]:.3g}" for name in _METRICS if metrics.get(name) is not None]
    verdict = f"deployed version {record['version']}" if record["deployed"] else f"kept version {record['version']}"
    reason = f" ({record['reason']})" if record.get("reason") else ""
    rate = f"{count[1]}/{count[0]} successes by reward"
    return f"iteration {record['iteration']}: {rate}, {', '.join(shown) + ', ' if shown else ''}{verdict}{reason}"

"""One source evaluated, and its result on disk.

Role: from a source to a folder with `result.json`, `scores.parquet` and `chunks.parquet`; the folder is there whole or not at all, under a
name that holds the hash of all that it depends on. Does not depend on ROS; torch only for the number of threads.
"""

from __future__ import annotations

import base64
import io
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from robot_bringup.evaluation import figures, open_loop, tables
from robot_bringup.evaluation.bag_recordings import recordings_of
from robot_bringup.evaluation.lanes import Chunks, PolicyLane, Reward, RewardLane, Scores, play
from robot_bringup.evaluation.models import load_pilots, load_rewards
from robot_bringup.evaluation.recordings import Recording, Source, StoredEpisode
from robot_bringup.evaluation.settings import Settings
from robot_bringup.evaluation.spool import Frame, Reordered, Spool
from whetstone import config, controls, files, jsonfile
from whetstone.contracts import PROPRIOCEPTION, RewardSample
from whetstone.errors import InputError
from whetstone.profile import RobotProfile, load_profile
from whetstone.store import RolloutStore
from whetstone.task import also_true, load_task

RESULT = "result.json"
THUMBNAIL = 112
"""Pixels of the longer side of a picture in the report."""
POINTS = 400
"""Of a curve in the report, at most; the tables have all."""
IN_MEMORY = 256_000_000
"""Bytes of frames up to which a control is scored as a whole episode; longer ones frame by frame."""


class Bench:
    """The models of an evaluation, loaded once, and what a source gives them."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError, AssetError, InputError."""
        import torch

        torch.set_num_threads(settings.threads)
        self.settings = settings
        self.profile = load_profile(settings.robot)
        self.rewards = load_rewards(settings.rewards, self.profile, settings.device)
        self.pilots = load_pilots(settings.policies, self.profile, settings.device, settings.mode)
        torch.set_num_threads(settings.threads)  # some models choose for themselves when they are loaded
        self._known = also_true()
        self._instructions = _instructions(self.profile)

    def evaluate(self, source: Source, target: Path, tick: Callable[[int], None] = lambda stamp: None) -> None:
        """Write the source's result to the folder `target`, its `place`. Raises InputError naming what is wrong with the source."""
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            with tables.Writer(partial, self.profile) as writer:
                found = [self._evaluate(source, recording, writer, partial, tick) for recording in self.open(source)]
            for name in (tables.SCORES, tables.CHUNKS):
                with (partial / name).open("rb") as file:
                    files.sync(file)
            if not found:
                raise InputError(f"{source.name}: holds no episode")
            jsonfile.write(partial / RESULT, {"source": asdict(source), "recordings": found})
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            files.sync_folder(target.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def open(self, source: Source) -> Iterator[Recording]:
        """The recordings of a source, one after the other. Raises InputError."""
        if source.kind == "episode":
            store = RolloutStore(source.path)
            recording = StoredEpisode(store, store.read(source.id), self.profile, self.settings.start or 0.0, self.settings.end)
            if not len(recording.rollout.stamps):
                raise InputError(f"{source.id}: holds no decision")
            joints = recording.rollout.proprioception.shape[-1] - 1
            if joints != len(self.profile.joints):
                raise InputError(f"{source.name}: measures {joints} joints, robot '{self.profile.name}' has {len(self.profile.joints)}")
            length = float(recording.rollout.stamps[-1] - recording.rollout.stamps[0]) / 1e9
            if recording.start > length:
                raise InputError(f"{source.id}: start:={recording.start:g} is after its last decision, at {length:.1f} s")
            yield recording
            return
        cameras = [camera for reward in self.rewards for camera in reward.model.needs.cameras]
        cameras += [camera for pilot in self.pilots for camera in pilot.policy.spec.cameras]
        yield from recordings_of(source.path, source.id, self.profile, self.settings, list(dict.fromkeys(cameras)))

    def _evaluate(
        self, source: Source, recording: Recording, writer: tables.Writer, folder: Path, tick: Callable[[int], None]
    ) -> dict[str, Any]:
        settings, facts = self.settings, recording.facts
        instruction = settings.instruction or facts.instruction
        if not instruction:
            raise InputError(f"{facts.name}: says no instruction; give it with task:=NAME or task:='what is to be done'")
        self._check_cameras(recording)
        spools = [Spool(folder, settings.spool) for _ in self.rewards]
        try:
            reward_lanes = [
                RewardLane(reward, recording, self.profile, settings.resize, spool)
                for reward, spool in zip(self.rewards, spools, strict=True)
            ]
            policy_lanes = [PolicyLane(pilot, recording, self.profile, settings.resize) for pilot in self.pilots]
            ended = play(recording, instruction, [*reward_lanes, *policy_lanes], tick)
            scores = {lane.reward.name: lane.end() for lane in reward_lanes}
            warnings = [f"read no further: {ended}"] if ended else []
            notes = {lane.note for lane in (*reward_lanes, *policy_lanes) if lane.note}
            warnings += sorted(notes)
            found: dict[str, Any] = {
                **asdict(facts),
                "instruction": instruction,
                "succeeded": succeeded(source, facts.outcome),
                "judge": source.judge or facts.judge,
                "rewards": {},
                "policies": {},
            }
            for lane, spool in zip(reward_lanes, spools, strict=True):
                said = scores[lane.reward.name]
                writer.scores(facts.name, lane.reward.name, "", said)
                shown = self._controls(lane, spool, instruction, recording, tick) if source.controls else {}
                for name, control in shown.items():
                    writer.scores(facts.name, lane.reward.name, name, control)
                if source.controls and spool.full:
                    warnings.append(f"{lane.reward.name}: no controls: its frames take more than {settings.spool / 1e9:g} GB")
                found["rewards"][lane.reward.name] = self._reward(lane, said, shown, spool)
            found["agreement"] = {f"{one}|{other}": figures.agreement(scores[one], scores[other]) for one, other in combinations(scores, 2)}
        finally:
            for spool in spools:
                spool.close()
        for lane in policy_lanes:
            found["policies"][lane.pilot.name] = self._policy(lane, recording, writer)
        found["warnings"] = list(dict.fromkeys([*warnings, *recording.facts.warnings]))
        stamps = [one.stamps for one in scores.values() if len(one.stamps)]
        found["seconds"] = max((float(one[-1] - one[0]) / 1e9 for one in stamps), default=0.0)
        return found

    def _check_cameras(self, recording: Recording) -> None:
        """One line for what would make every frame invalid."""
        needed = [(reward.name, reward.model.needs.cameras) for reward in self.rewards]
        needed += [(pilot.name, pilot.policy.spec.cameras) for pilot in self.pilots]
        if not recording.cameras:
            raise InputError(f"{recording.facts.name}: holds no images")
        for name, cameras in needed:
            for camera in cameras:
                if camera not in recording.cameras:
                    # Of a bag's topics find_roles has said which argument names one; a stored episode has what it has.
                    hint = config.unknown("camera", camera, recording.cameras)
                    raise InputError(f"{recording.facts.name}: {name} looks at '{camera}': {hint}")
        if self.pilots and recording.done is None:
            why = "; ".join(recording.facts.warnings) or "it has none"
            raise InputError(f"{recording.facts.name}: no joint states, which policy '{self.pilots[0].name}' needs: {why}")

    def _controls(
        self, lane: RewardLane, spool: Spool, instruction: str, recording: Recording, tick: Callable[[int], None]
    ) -> dict[str, Scores]:
        """Name -> scores of what only looks like the recording. Nothing where frames are missing from the spool."""
        count = len(spool)
        if count < 2 or spool.full:
            return {}
        random = np.random.default_rng([self.settings.seed, count])
        shown: dict[str, tuple[Sequence[Frame], str]] = {
            "static": (Reordered(spool, controls.still(count)), instruction),
            "noisy_static": (_Grainy(spool, random), instruction),
            "reversed": (Reordered(spool, controls.backwards(count)), instruction),
            "shuffled": (Reordered(spool, controls.shuffled(count, random)), instruction),
        }
        words = controls.swapped(instruction)
        if words is not None:
            shown["wrong_object"] = (spool, words)
        task = recording.facts.task
        own = {words for name, words in self._instructions.items() if name == task}
        others = controls.other_instructions(task, self._instructions, self._known)
        others = [words for words in others if words != instruction and words not in own]
        if others:
            shown["wrong_task"] = (spool, others[int(random.integers(len(others)))])
        found = {}
        for name, (frames, words) in shown.items():
            found[name] = self._again(lane.reward, frames, lane.spooled, words, recording, tick, spool.size)
        return found

    def _again(
        self,
        reward: Reward,
        frames: Sequence[Frame],
        stamps: Sequence[int],
        instruction: str,
        recording: Recording,
        tick: Callable[[int], None],
        size: int,
    ) -> Scores:
        model = reward.model
        samples: list[RewardSample] = []
        try:
            model.reset(recording.facts.name, instruction, recording.facts.seed)
            if size <= IN_MEMORY or getattr(model, "offline", False):
                held: Any = list(frames) if size <= IN_MEMORY else frames
                samples = list(model.score_episode(held, list(stamps)))
            else:
                for place, stamp in enumerate(stamps):
                    sample = model.observe(frames[place], stamp)
                    samples += [] if sample is None else [sample]
            tick(0)
        except InputError as error:
            samples = [RewardSample(stamp, valid=False, reason=str(error)) for stamp in stamps]
        return Scores.of(samples)

    def _reward(self, lane: RewardLane, said: Scores, shown: dict[str, Scores], spool: Spool) -> dict[str, Any]:
        reward = lane.reward
        step = lane.sets.every / self.profile.rate
        marks = figures.landmarks(said, reward.success)
        return {
            "model_id": reward.model.provenance.model_id,
            "config": reward.model.provenance.config,
            "every": lane.sets.every,
            "note": lane.note,
            "success": asdict(reward.success) if reward.success is not None else None,
            "figures": figures.curve_figures(said, reward.success, step),
            "controls": {name: figures.control_figures(said, control) for name, control in shown.items()},
            "reasons": dict(Counter(reason for reason in said.reasons if reason).most_common(5)),
            "curve": _thinned(said, [mark.index for mark in marks]),
            "control_curves": {name: _thinned(control, [])["raw"] for name, control in shown.items()},
            "landmarks": [_pictured(mark, said, spool, reward.model.needs.cameras[0]) for mark in marks],
        }

    def _policy(self, lane: PolicyLane, recording: Recording, writer: tables.Writer) -> dict[str, Any]:
        chunks: Chunks = lane.end()
        spec, profile = lane.pilot.policy.spec, self.profile
        wrong = open_loop.errors(chunks, recording.done, profile.period_ns)
        writer.chunks(recording.facts.name, lane.pilot.name, chunks, wrong)
        guard, reasons = open_loop.guarded(chunks, recording.done, spec.execute, profile)
        seconds = chunks.seconds[1:]
        found: dict[str, float | None] = {
            **open_loop.error_figures(wrong, spec.execute),
            **open_loop.smoothness(chunks, recording.done, spec.execute, profile.rate),
            **{f"guard_{name}": value for name, value in guard.items()},
            "decisions": float(len(chunks.stamps)),
            "refused": float(len(chunks.refused)),
            "out_of_reach": float(chunks.out_of_reach.sum()),
            "latency_p50": float(np.percentile(seconds, 50)) if len(seconds) else None,
            "latency_p95": float(np.percentile(seconds, 95)) if len(seconds) else None,
        }
        return {
            "policy_id": spec.policy_id,
            "config": spec.config_hash,
            "mode": lane.pilot.mode,
            "horizon": spec.horizon,
            "execute": spec.execute,
            "note": lane.note,
            "figures": found,
            "by_row": open_loop.by_row(wrong.policy).tolist(),
            "hold_by_row": open_loop.by_row(wrong.hold).tolist(),
            "guard": reasons,
            "reasons": dict(Counter(chunks.refused).most_common(5)),
        }


class _Grainy(Sequence[Frame]):
    """The first frame set under sensor noise, new in each."""

    def __init__(self, spool: Spool, random: np.random.Generator) -> None:
        self._first, self._count, self._random = spool.frame(0), len(spool), random

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return {name: one if name == PROPRIOCEPTION else controls.grainy(one, self._random) for name, one in self._first.items()}


def place(folder: Path, source: Source, settings: Settings) -> Path:
    """Where a source's result is, or belongs: not a matter of what else is evaluated."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.id).strip(".-") or "recording"
    return folder / f"{name}-{settings.key(source)[:16]}"


def _instructions(profile: RobotProfile) -> dict[str, str]:
    """Of every task of config/tasks whose words are all there."""
    found = {}
    for name in config.available("tasks"):
        task = load_task(name, profile.asset_name)
        if not task.fields():
            found[name] = task.instruction
    return found


def _plain(outcome: str) -> str:
    return {"timeout": "failure"}.get(outcome, outcome)


def succeeded(source: Source, outcome: str) -> bool | None:
    """None: nobody knows. Where somebody else was asked it is not the recording's own word."""
    return {"success": True, "failure": False}.get(source.outcome if source.judge else source.outcome or _plain(outcome))


def _thinned(scores: Scores, keep: Sequence[int]) -> dict[str, list[Any]]:
    """The curve for the report: seconds from its first frame, own value, progress and completion, of at most POINTS frames."""
    count = len(scores.stamps)
    every = max(1, math.ceil(count / POINTS))
    rows: list[int] = sorted({*range(0, count, every), *keep, *([count - 1] if count else [])})
    start = int(scores.stamps[0]) if count else 0
    found: dict[str, list[Any]] = {"t": [round((int(scores.stamps[row]) - start) / 1e9, 4) for row in rows]}
    for name in ("raw", "progress", "completion"):
        found[name] = [float(scores.values[name][row]) for row in rows]
    return found


def _pictured(mark: figures.Landmark, scores: Scores, spool: Spool, camera: str) -> dict[str, Any]:
    index = mark.index
    found = {
        "what": mark.what,
        "at": float(scores.stamps[index] - scores.stamps[0]) / 1e9,
        "raw": float(scores.values["raw"][index]),
        "progress": float(scores.values["progress"][index]),
    }
    place = int(scores.spooled[index])
    return found | ({"image": _data_url(spool.frame(place)[camera])} if place >= 0 else {})


def _data_url(image: np.ndarray) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=75, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()

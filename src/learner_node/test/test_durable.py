"""What a recorder was told is on the disk: a killed process loses nothing of it, and says what became of the episode that ran."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recorder import INFO, at, decision, events, image

from learner_node.durable import DurableRecorder, recover
from learner_node.recorder import Decision, EpisodeInfo, Recorder
from whetstone.contracts import RewardSample, Rollout
from whetstone.errors import InputError
from whetstone.labelling import back_label
from whetstone.store import RolloutStore

CAMERAS = ("front", "wrist")


def decode(payload: Any, camera: str) -> np.ndarray:
    return np.frombuffer(payload, np.uint8).reshape(2, 3, 3)


def tell(recorder: Recorder, event: tuple) -> None:
    kind, *rest = event
    if kind == "image":
        recorder.image(rest[0], at(rest[1]), image(rest[1], rest[2]).tobytes())
    elif kind == "joints":
        recorder.joints(at(rest[0]), np.array([rest[0], 0.5, 1.0]))
        recorder.command(at(rest[0]), np.array([rest[0] + 0.5, 0.5, 1.0]), human=rest[0] % 3 == 1)
    elif kind == "action":
        recorder.action(INFO.episode_id, decision(rest[0]))
    else:
        recorder.reward(INFO.episode_id, RewardSample(at(rest[0]), total=rest[0] / 100, valid=rest[0] != 4), "model@1")


def same(first: Rollout, second: Rollout, *, but: tuple[str, ...] = ()) -> None:
    for field in fields(Rollout):
        if field.name not in but:
            np.testing.assert_equal(getattr(first, field.name), getattr(second, field.name), err_msg=field.name)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 24), st.integers(0, 2**32 - 1), st.sampled_from([0, 20_000_000]))
def test_the_disk_changes_nothing(tmp_path_factory: Any, execute: int, steps: int, shuffle: int, tolerance: int) -> None:
    """In any order of arrival: the rollout is that of a recorder which keeps all in memory, and so is what the files tell."""
    stream = events(steps, execute, execute)
    random.Random(shuffle).shuffle(stream)
    store = RolloutStore(tmp_path_factory.mktemp("store"))
    plain = Recorder(CAMERAS, decode, tolerance=tolerance)
    durable = DurableRecorder(store, CAMERAS, decode, tolerance=tolerance)
    for recorder in (plain, durable):
        recorder.begin(INFO)
        for event in stream:
            tell(recorder, event)
        recorder.end(INFO.episode_id, at(steps), "success", "done", now=0.0)
    shutil.copytree(store.root / "running", store.root.parent / f"{store.root.name}-copy" / "running")
    (expected,), (found,) = plain.ready(now=100.0), durable.ready(now=100.0)
    same(found, expected)
    store.write(found)
    assert store.left_running() == {} and list((store.root / "running").iterdir()) == []
    copy = RolloutStore(store.root.parent / f"{store.root.name}-copy")
    (line,) = recover(copy, CAMERAS, decode, tolerance)
    assert "had ended but was not written" in line and f"{len(expected.stamps)} decisions recovered" in line
    same(copy.read(INFO.episode_id), expected)


CHILD = """
import os, sys
sys.path.insert(0, sys.argv[2])
from test_durable import *
recorder = DurableRecorder(RolloutStore(sys.argv[1]), CAMERAS, decode, every_frame=True)
recorder.begin(INFO)
for event in events(10**6, 4, 4):
    tell(recorder, event)
    if event[0] == "reward":
        print(event[1], flush=True)
"""


def test_a_process_killed_in_an_episode_loses_nothing_that_it_was_told(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = [int(next(child.stdout)) for _ in range(6)]
    child.send_signal(signal.SIGKILL)
    told += [int(line) for line in child.stdout]
    child.wait(timeout=20)
    assert child.returncode == -signal.SIGKILL
    store = RolloutStore(tmp_path)
    assert store.list() == [] and store.clean() == 0
    (line,) = recover(store, CAMERAS, decode)
    assert line.startswith("train-000-0000 was running when its recorder was killed: ") and "\n" not in line
    assert store.left_running() == {} and recover(store, CAMERAS, decode) == [], "it is said once"
    assert list(store.interrupted()) == ["train-000-0000"] and store.list() == []
    aside = RolloutStore(tmp_path / "interrupted")
    rollout = aside.read("train-000-0000")
    assert (rollout.outcome, rollout.task, rollout.seed) == ("aborted", INFO.task, INFO.seed)
    # The decision at the last step that was heard of was perhaps not carried out.
    assert len(rollout.stamps) >= len(told) - 1
    for row, stamp in enumerate(rollout.stamps.tolist()):
        step = 4 * row
        assert stamp == at(step) and rollout.actions[row, 0, 0] == step and rollout.images["wrist"][row, 0, 0, 0] == (20 + step) % 256
    frames = aside.frames("train-000-0000")
    assert frames is not None and len(frames.stamps("front")) > 4 * (len(told) - 1)


def test_an_episode_of_the_same_name_again_takes_nothing_away(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    for _ in range(3):
        recorder = DurableRecorder(store, CAMERAS, decode)
        recorder.begin(INFO)
        tell(recorder, ("joints", 0))
    (line,) = recover(store, CAMERAS, decode)
    assert "0 decisions kept in" in line
    assert list(store.interrupted()) == ["train-000-0000", "train-000-0000-1", "train-000-0000-2"]
    assert all((tmp_path / "interrupted" / name / "events.log").exists() for name in store.interrupted())


def test_an_episode_whose_end_never_came_is_set_aside(tmp_path: Path) -> None:
    """Else it would collect whatever the robot does from then on, and be mixed with the next one of its name."""
    store = RolloutStore(tmp_path)
    recorder = DurableRecorder(store, CAMERAS, decode)
    recorder.begin(INFO)
    for event in events(3, 1, 1):
        tell(recorder, event)
    assert recorder.running() == [INFO.episode_id]
    recorder.abandon(INFO.episode_id, "its run ended without a word")
    assert recorder.running() == [] and not recorder.recording
    assert store.interrupted() == {INFO.episode_id: "its run ended without a word"}
    recorder.begin(INFO)
    for event in events(5, 1, 1):
        tell(recorder, event)
    recorder.end(INFO.episode_id, at(5), "success", "done", now=0.0)
    assert recorder.running() == []
    (whole,) = recorder.ready(now=100.0)
    assert len(whole.stamps) == 5 and len(whole.steps["stamps"]) == 6
    assert (tmp_path / "interrupted" / INFO.episode_id / "events.log").stat().st_size > 0


def test_events_that_cannot_be_read_are_kept_as_they_are(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    store.begin("a").event({"kind": "begin", "episode": "of another version"})
    (line,) = recover(store, CAMERAS, decode)
    assert "its events cannot be read ('episode_id'): kept in" in line
    assert (tmp_path / "interrupted" / "a" / "events.log").stat().st_size > 0


def test_a_write_that_was_not_tidied_up_is_not_taken_for_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RolloutStore(tmp_path)
    recorder = DurableRecorder(store, CAMERAS, decode)
    recorder.begin(INFO)
    for event in events(8, 4, 4):
        tell(recorder, event)
    recorder.end(INFO.episode_id, at(8), "timeout", "", now=0.0)
    (rollout,) = recorder.ready(now=100.0)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed right after the episode got its name
    store.write(rollout)
    monkeypatch.undo()
    assert (tmp_path / "running" / INFO.episode_id).exists()
    assert recover(store, CAMERAS, decode) == [] and not (tmp_path / "running" / INFO.episode_id).exists()
    same(store.read(INFO.episode_id), rollout)


def test_every_frame_is_kept_up_to_the_end_and_aborted_episodes_leave_nothing(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    recorder = DurableRecorder(store, CAMERAS, decode, every_frame=True)
    for outcome in ("aborted", "success"):
        recorder.begin(INFO)
        for event in events(8, 4, 4):
            tell(recorder, event)
        if outcome == "aborted":
            recorder.discard(INFO.episode_id)
            assert list((tmp_path / "running").iterdir()) == []
    recorder.end(INFO.episode_id, at(8), "success", "", now=0.0)
    tell(recorder, ("image", "front", 9, 1))
    (rollout,) = recorder.ready(now=0.0)
    store.write(rollout)
    frames = store.frames(INFO.episode_id)
    assert frames is not None and frames.stamps("front").tolist() == [at(step) for step in range(9)]
    assert np.abs(frames.read("wrist", at(5)).astype(int) - image(5, 2)).max() < 12, "JPEG"
    np.testing.assert_array_equal(rollout.images["wrist"][1], image(4, 2), err_msg="decisions are exact")


def test_memory_does_not_grow_with_the_images_of_an_episode(tmp_path: Path) -> None:
    size, count = 40_000, 300
    recorder = DurableRecorder(RolloutStore(tmp_path), ("front",), lambda payload, camera: np.zeros((1, 1, 3), np.uint8), ring=8)
    recorder.begin(INFO)
    tracemalloc.start()
    for step in range(count):
        recorder.image("front", at(step), os.urandom(size))
        recorder.joints(at(step), np.zeros(3, np.float32))
        recorder.action(INFO.episode_id, Decision(at(step), np.zeros((4, 3), np.float32), None, 0.0, 1))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 3_000_000 < size * count / 3
    recorder.end(INFO.episode_id, at(count), "timeout", "", now=0.0)
    (rollout,) = recorder.ready(now=100.0)
    assert len(rollout.stamps) == count


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = DurableRecorder(RolloutStore(tmp_path), CAMERAS, decode)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1 << 20))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"^no space for rollouts: .* has 1 MiB free, 64 MiB are needed$"):
        recorder.begin(INFO)
    monkeypatch.undo()
    recorder.begin(INFO)

    class Full:
        def __getattr__(self, name: str) -> Any:
            raise OSError(28, "No space left on device")

        def truncate(self, size: int) -> None:
            return None

    recorder._files[INFO.episode_id]._events._file = Full()  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"^no space for rollouts: .* is full$"):
        recorder.joints(at(0), np.zeros(3))


def test_two_episodes_at_once_keep_apart(tmp_path: Path) -> None:
    """One waits for its last rewards while the next one runs."""
    store = RolloutStore(tmp_path)
    recorder = DurableRecorder(store, CAMERAS, decode, every_frame=True)
    recorder.begin(INFO)
    for event in events(4, 4, 8):
        tell(recorder, event)
    recorder.end(INFO.episode_id, at(4), "timeout", "", now=0.0)
    following = EpisodeInfo("train-000-0001", 2, "pick", "again", 8)
    recorder.begin(following)
    for step in range(6, 11):
        for place, camera in enumerate(CAMERAS):
            tell(recorder, ("image", camera, step, place))
        tell(recorder, ("joints", step))
    recorder.action(following.episode_id, decision(6))
    recorder.end(following.episode_id, at(10), "success", "", now=0.0)
    for rollout in recorder.ready(now=100.0):
        store.write(rollout)
    assert store.list() == ["train-000-0000", "train-000-0001"]
    for name, steps in (("train-000-0000", range(5)), ("train-000-0001", range(6, 11))):
        frames = store.frames(name)
        assert frames is not None and frames.stamps("front").tolist() == [at(step) for step in steps]
        assert store.read(name).stamps.tolist() == [at(steps[0])]


def test_a_reward_that_comes_late_gets_to_its_decision() -> None:
    recorder = Recorder(CAMERAS, lambda payload, camera: np.asarray(payload), grace=2.0)
    full = Recorder(CAMERAS, lambda payload, camera: np.asarray(payload), grace=2.0)
    samples = {step: RewardSample(at(step), total=0.1 * step, progress=0.5, valid=step != 4) for step in (0, 2, 4, 8, 12)}
    for one in (recorder, full):
        one.begin(INFO)
        for event in events(12, 4, 100):
            if event[0] == "image":
                one.image(event[1], at(event[2]), image(event[2], event[3]))
            elif event[0] == "joints":
                one.joints(at(event[1]), np.zeros(3))
            elif event[0] == "action":
                one.action(INFO.episode_id, decision(event[1]))
        for step, sample in samples.items():
            if one is full or step == 2:
                one.reward(INFO.episode_id, sample, "model@2")
        one.end(INFO.episode_id, at(12), "timeout", "", now=0.0)
    (rollout,), (expected,) = recorder.ready(now=3.0), full.ready(now=3.0)
    assert np.isnan(rollout.rewards["total"]).all()
    for step, sample in samples.items():
        if step != 2:
            recorder.reward(INFO.episode_id, sample, "model@2")
    recorder.reward("eval-000", samples[0])
    late = recorder.late()
    assert recorder.late() == {} and list(late) == [INFO.episode_id, "eval-000"] and recorder.counters["late_rewards"] == 5
    labelled = back_label(rollout, late[INFO.episode_id])
    same(labelled, expected)
    assert np.isnan(rollout.rewards["total"]).all(), "the one before is as it was"

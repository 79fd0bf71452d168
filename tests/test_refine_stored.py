"""`whetstone refine` over stored episodes, with the models in assets/: weights that can be started from, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recorded_bags
import yaml
from bag_samples import write_rosbag2

from robot_bringup.cli import main
from robot_bringup.offline import run_episode
from robot_bringup.sim.simulation import Simulation
from whetstone import signing, snapshot
from whetstone.config import find, load_yaml
from whetstone.plugins import configured
from whetstone.profile import load_profile
from whetstone.rewards import load_reward
from whetstone.store import RolloutStore
from whetstone.task import load_task
from whetstone.transfer import manifest_of

PROFILE = load_profile("so100")


@pytest.fixture(scope="module")
def policy() -> Any:
    plugin, settings = configured("whetstone.policies", "flow_vla")
    return plugin.load(settings, PROFILE)


@pytest.fixture(scope="module")
def episodes(policy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scored episodes of two decisions; every second one is called a success."""
    sim, task, store = Simulation(PROFILE), load_task("pick_and_place", "so100"), RolloutStore(tmp_path_factory.mktemp("run") / "rollouts")
    reward = load_reward("sarm2", PROFILE)
    try:
        for seed in range(6):
            rollout = run_episode(sim, policy, replace(task, max_steps=16), seed, "exploring", reward).rollout
            stamps = np.arange(17, dtype=np.int64) * PROFILE.period_ns
            held = np.repeat(np.concatenate([rollout.proprioception, rollout.last_proprioception[None]]), 1, 0)  # type: ignore[index]
            measured = held[np.minimum(np.arange(17) // 8, 2)]
            commanded = np.concatenate([rollout.actions[:, :8].reshape(16, -1), np.full((1, measured.shape[1]), np.nan, np.float32)])
            steps = {"stamps": stamps, "measured": measured, "commanded": commanded}
            store.write(replace(rollout, outcome="timeout" if seed % 2 else "success", steps=steps, end=int(stamps[-1])))
    finally:
        sim.close()
    return store.root


def refine(*words: object) -> int:
    return main(["refine", *map(str, words)])


def test_weights_are_written_signed_and_can_be_started_from(
    episodes: Path, policy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 32)
    key.chmod(0o600)
    words = ("--from", episodes, "learner:=filtered_bc", "robot:=so100", "held_out:=0.34", "updates:=2", f"weights_key:={key}")
    assert refine(*words, f"out:={tmp_path / 'one'}") == 0
    said = capsys.readouterr().out
    assert "4 episodes to learn from, 2 of them successes; 2 held out" in said and "held out: loss" in said
    path, facts = tmp_path / "one" / "refined.safetensors", json.loads((tmp_path / "one" / "refined.json").read_text())
    state, base = snapshot.load(str(path)), policy.trainable_state()
    assert state.keys() == base.keys() and any(not np.array_equal(state[name], base[name]) for name in base)
    assert facts["file_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    table = snapshot.table_of(state)
    manifest = manifest_of(snapshot.pack(state, table), table, 1)
    spec = policy.spec
    expected = signing.sign(signing.load_key(str(key)), manifest, 0, 0, spec.policy_id, spec.config_hash)
    assert facts["payload_sha256"] == manifest.payload_sha256 and not signing.refusal(b"k" * 32, facts["signature"], expected)
    assert len(facts["episodes"]) == 4 and not set(facts["episodes"]) & set(facts["held_out"]) and len(facts["updates"]) == 2
    for when in ("before", "after"):
        assert all(facts[when][name] > 0 for name in ("loss", "joints_success", "joints_failure"))
    assert facts["before"] != facts["after"] and facts["truth"] is None
    # The same again, to the bit.
    assert refine(*words, f"out:={tmp_path / 'two'}") == 0
    again = json.loads((tmp_path / "two" / "refined.json").read_text())
    assert (again["payload_sha256"], again["after"]) == (facts["payload_sha256"], facts["after"])
    # Base and refined side by side; a third run goes on from the refined ones.
    out = tmp_path / "out"
    assert main(["evaluate", str(episodes), f"policy:=flow_vla,flow_vla@{path}", "robot:=so100", f"out:={out}"]) == 0
    found = json.loads((out / "evaluation.json").read_text())["recordings"][0]["policies"]
    assert found["flow_vla"]["figures"]["joints"] != found["flow_vla@refined"]["figures"]["joints"]
    assert refine(*words[:-1], f"weights:={path}", f"out:={tmp_path / 'three'}") == 0


def test_bags_of_several_runs_and_what_refine_may_delete(policy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    types, episode = recorded_bags.store(), recorded_bags.act(PROFILE, policy, 32)
    bags = [tmp_path / run / "bags" / "same" for run in "ab"]
    for bag in bags:
        bag.parent.mkdir(parents=True)
        write_rosbag2(bag, recorded_bags.told(episode, PROFILE, types), store=types)
    out = tmp_path / "out"
    mine = out / "episodes" / "mine"
    mine.mkdir(parents=True)
    words = (*bags, "robot:=so100", "held_out:=0", "learner:=behaviour_cloning", "instruction:=put it there", f"out:={out}")
    assert refine(*words) == 2
    assert "episodes: is there and whetstone refine did not make it: name another folder, out:=" in capsys.readouterr().err
    mine.rmdir()
    # Whatever it made itself is made again.
    for _ in range(2):
        assert refine(*words) == 0
        assert "2 episodes to learn from" in (said := capsys.readouterr().out) and "left out" not in said
        assert "no counterpart: same: actions of 33 of 33 steps are what was reached a step later (no commands in the bag)" in said
        names = json.loads((out / "refined.json").read_text())["episodes"]
        assert names == ["a/bags/bag-same", "b/bags/bag-same"]
    assert refine(out / "episodes" / "a" / "bags", *words) == 2
    assert "bag-same lies in it: name another folder, out:=" in capsys.readouterr().err
    assert (out / "episodes" / "a" / "bags" / "bag-same" / "arrays.npz").is_file()


def test_a_folder_beside_something_elses_run_json(episodes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(episodes, folder)
    (tmp_path / "run.json").write_text('{"of": "another program"}')
    assert refine(folder, "robot:=so100", "held_out:=0", "learner:=flow_refinement", f"out:={tmp_path / 'out'}") == 0


def test_an_episode_that_ended_before_its_first_decision(episodes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "rollouts"
    shutil.copytree(episodes, folder)
    store = RolloutStore(folder)
    whole = store.read(store.list()[0])
    rows = {name: getattr(whole, name)[:0] for name in ("stamps", "proprioception", "actions", "log_probabilities", "policy_versions")}
    images, rewards = ({name: part[:length] for name, part in of.items()} for of, length in ((whole.images, 0), (whole.rewards, 1)))
    store.write(replace(whole, episode_id="brief", images=images, rewards=rewards, latents=None, steps={}, scores={}, **rows))
    assert main(["evaluate", str(folder / "brief"), "reward:=constant", "robot:=so100", f"out:={tmp_path / 'out'}"]) == 2
    assert "brief: holds no decision" in capsys.readouterr().err
    assert refine(folder, "robot:=so100", "held_out:=0", "learner:=behaviour_cloning", f"out:={tmp_path / 'out'}") == 0
    said = capsys.readouterr().out
    assert "left out: brief: holds no decision" in said and "6 episodes to learn from" in said


def test_another_reward_models_word_and_learners_that_cannot(episodes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = load_yaml(find("rewards", "constant"))
    for name, completion in (("never", 0.0), ("always", 1.0)):
        sure = {**settings, "every": 8, "progress": 0.7, "completion": completion, "success": {"threshold": 0.5, "frames": 2}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(sure))
    common = (episodes, "robot:=so100", f"out:={tmp_path / 'out'}", "held_out:=0")
    assert refine(*common, f"reward:={tmp_path / 'always.yaml'}") == 0
    assert "6 episodes to learn from, 6 of them successes" in capsys.readouterr().out
    assert refine(*common, f"reward:={tmp_path / 'always.yaml'}", "outcomes:=recorded") == 0
    assert "6 episodes to learn from, 3 of them successes" in capsys.readouterr().out
    written = (tmp_path / "out" / "refined.json").read_text()
    assert refine(*common, f"reward:={tmp_path / 'never.yaml'}") == 1
    assert "nothing to learn from: no episode was judged successful" in capsys.readouterr().out
    assert (tmp_path / "out" / "refined.json").read_text() == written
    # Failures of another policy's would throw it off (learner_node/refinement.py).
    assert refine(*common, "learner:=flow_refinement") == 0
    assert "failures teach nothing here" in (said := capsys.readouterr().out) and "avoided 0" in said
    for words, wanted in (
        (
            ("learner:=ppo",),
            "learner 'ppo' learns from the newest episodes of its own policy alone; on stored ones use awr, behaviour_cloning",
        ),
        (("learner:=dsrl",), "learner 'dsrl' needs 6; use policy:=steered"),
        (("learner:=filtered",), "did you mean 'filtered_bc'"),
        (("updates:=0",), "must be at least 1"),
        (("held_out:=1",), "must be a share"),
        (("outcomes:=reward",), "needs reward:=NAME"),
    ):
        assert refine(*common, *words) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and wanted in lines[0], (words, lines)

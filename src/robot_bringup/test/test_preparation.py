"""Run directory, domain lock and free space."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing

import pytest
import yaml

from robot_bringup import records
from robot_bringup.plan import plan
from robot_bringup.preparation import DomainLock, Preparation, configuration_hash
from whetstone import jsonfile
from whetstone.errors import ConfigError, InputError

GOOD = {"policy": "still", "reward": "constant"}


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))


def test_parameter_files_say_what_the_plan_says(root, tmp_path):
    planned = plan("refine", {**GOOD, "run_dir": str(tmp_path / "run")})
    with closing(Preparation(planned)) as prepared:
        for node in planned.nodes:
            data = yaml.safe_load(prepared.parameter_files[node.name].read_text())
            assert data == {"/**": {"ros__parameters": node.parameters}}
    remembered = jsonfile.read(tmp_path / "run" / records.SETTINGS)
    assert remembered["arguments"]["reward"] == "constant"
    assert "threshold: 0.7" in remembered["configuration"]["reward"]
    assert remembered["versions"]["python"]


def test_two_runs_on_one_domain_and_namespace(root, tmp_path):
    with closing(Preparation(plan("refine", {**GOOD, "run_dir": str(tmp_path / "a")}))):
        with pytest.raises(ConfigError, match=f"another run .process {os.getpid()}. uses domain_id 0 with namespace franka"):
            Preparation(plan("refine", {**GOOD, "run_dir": str(tmp_path / "b")}))
        assert not (tmp_path / "b").exists()
        for other in ({"domain_id": "1"}, {"namespace": "left"}):
            Preparation(plan("refine", {**GOOD, **other, "run_dir": str(tmp_path / str(other))})).close()
    Preparation(plan("refine", {**GOOD, "run_dir": str(tmp_path / "b")})).close()


def test_the_lock_goes_with_its_process(tmp_path):
    code = """
import os
from robot_bringup.preparation import DomainLock
lock = DomainLock(3, 'x')
print('held', flush=True)
os.kill(os.getpid(), 9)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout == "held\n"
    DomainLock(3, "x").close()


def test_no_space_for_rollouts_creates_nothing(root, tmp_path):
    with pytest.raises(InputError, match="no space for rollouts: .* GB free .* 1e[+]09 GB wanted"):
        Preparation(plan("refine", {**GOOD, "run_dir": str(tmp_path / "run"), "min_free_gb": "1e9"}))
    assert not (tmp_path / "run").exists()


def test_a_run_directory_that_holds_something_is_left_alone(root, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("x")
    with pytest.raises(ConfigError, match="already holds something"):
        Preparation(plan("refine", {**GOOD, "run_dir": str(tmp_path / "run")}))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]


def test_a_run_directory_that_cannot_be_made_frees_the_lock(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Preparation(plan("refine", {**GOOD, "run_dir": str(tmp_path / "file" / "run")}))
    DomainLock(0, "franka").close()


def test_configuration_hash_follows_results_and_not_places(root, tmp_path):
    def of(**changes):
        return configuration_hash(plan("refine", {**GOOD, **changes}))

    base = of()
    assert base == of(run_dir=str(tmp_path / "x"), domain_id="9")
    assert base != of(iterations="3")
    (root / "assets").mkdir()
    (root / "assets" / "a.safetensors").write_text("1")
    assert base != of()
    changed = of()
    (root / "assets" / "policy_so100.safetensors").write_text("2")
    assert changed == of(), "another robot's weights change nothing of this one's run"
    (root / "assets" / "policy_franka.safetensors").write_text("2")
    assert changed != of()
    (root / "config" / "rewards" / "constant.yaml").write_text("plugin: constant\nevery: 6\n")
    assert len({base, of()}) == 2

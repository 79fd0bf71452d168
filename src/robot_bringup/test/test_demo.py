"""The demo, the study, the bench and the making of assets, with what they start replaced by stand-ins."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from robot_bringup import bench, demo, figures, making, records
from robot_bringup.making import Stage
from robot_bringup.running import RunEnded
from robot_bringup.schedule import episodes
from robot_bringup.supervisor import Result
from whetstone import jsonfile
from whetstone.errors import ConfigError, InputError, WhetstoneError

GOOD = {
    "policy": "still",
    "reward": "constant",
    "iterations": "1",
    "episodes": "2",
    "evaluation_episodes": "4",
}


def console():
    return Console(file=io.StringIO(), width=200)


def said(to):
    return to.file.getvalue()


@pytest.fixture
def run(monkeypatch):
    """Replaces the running of nodes: every refined episode succeeds, and base_sampled ones."""
    plans = []

    def fake(planned, to, beside=()):
        plans.append(planned)
        planned.run_dir.mkdir(parents=True)
        described = {"arguments": planned.arguments, "commit": "c", "machine": "m", "versions": {}, "configuration": {}}
        jsonfile.write(planned.run_dir / records.SETTINGS, {**described, "configuration_hash": "h"})
        for episode in episodes(planned.segments):
            common = {"episode_id": episode.episode_id, "index": episode.index, "seed": episode.seed, "iteration": episode.iteration}
            reward = {"max_progress": 1.0, "mean_total": 1.0}
            record = {**common, "mode": episode.mode, "outcome": "success", "steps": 20, "seconds": 0.2, "reward": reward}
            records.append(planned.run_dir / records.EPISODES, record)
            if episode.mode == "evaluate":
                success = "greedy" not in episode.label
                records.append(planned.run_dir / records.EVALUATION, {**common, "label": episode.label, "success": success, "steps": 9})
        jsonfile.write(planned.run_dir / records.OUTCOME, {"result": fake.result, "reason": "why"})
        probe = {"policy": {"count": 9, "seconds": 0.04}, "reward": {"count": 9, "seconds": 0.4}}
        jsonfile.write(planned.run_dir / records.PROBE, {**probe, "simulator": {"frames": 9, "physics_ms": 1.0, "render_ms": 2.0}})
        return Result(fake.code, "why")

    fake.result, fake.code, fake.plans = "finished", 0, plans
    monkeypatch.setattr(demo, "run", fake)
    monkeypatch.setattr(bench, "run", fake)
    return fake


def test_demo_writes_rows_and_report(root, run, tmp_path):
    to = console()
    assert demo.demo({**GOOD, "results": str(tmp_path / "r" / "demo.json"), "run_dir": str(tmp_path / "run")}, to) == 0
    data = jsonfile.read(tmp_path / "r" / "demo.json")
    values = {row["metric"]: row["value"] for row in data["rows"]}
    assert values == {"success_base": 1.0, "success_base_greedy": 0.0, "success_base_sampled": 1.0, "success_refined": 1.0}
    assert (tmp_path / "run" / "report.html").exists()
    assert "refined" in said(to) and "100 %" in said(to)


def test_control_has_the_same_budget_and_its_own_row(root, run, tmp_path):
    (root / "assets").mkdir()
    (root / "assets" / "reward_franka.safetensors").write_text("")
    assert demo.demo({**GOOD, "control": "true", "results": str(tmp_path / "demo.json")}, console()) == 0
    assert [row["metric"] for row in jsonfile.read(tmp_path / "demo.json")["rows"]] == ["success_control"]
    assert run.plans[0].arguments["reward"] == "shuffled"
    assert [(s.label, s.iterations, s.episodes) for s in run.plans[0].segments] == [("", 1, 2), ("refined", 1, 4)]


def test_a_failed_demo_has_no_rows_but_a_report(root, run, tmp_path):
    run.result, run.code = "failed", 1
    with pytest.raises(WhetstoneError, match="why .logs: "):
        demo.demo({**GOOD, "results": str(tmp_path / "demo.json"), "run_dir": str(tmp_path / "run")}, console())
    assert not (tmp_path / "demo.json").exists()
    assert "did not finish" in (tmp_path / "run" / "report.html").read_text()


@pytest.fixture
def started(monkeypatch, run):
    """Replaces the study's processes: each runs the demo at once, in this process."""
    calls = []

    class Process:
        returncode = 0

        def poll(self):
            return self.returncode

        def wait(self):
            return self.returncode

    def start(given, domain, *, quiet):
        calls.append((given["robot"], given["seed"], given["control"], domain))
        process = Process()
        if given["seed"] == str(start.broken):
            process.returncode = 1
        else:
            demo.demo({**given, "domain_id": str(domain)}, console())
        return process

    start.broken, start.calls = None, calls
    monkeypatch.setattr(demo, "_start", start)
    return start


def study_words(root, tmp_path, **more):
    (root / "assets").mkdir(exist_ok=True)
    for robot in ("franka", "so100"):
        (root / "assets" / f"reward_{robot}.safetensors").write_text("")
    return {**GOOD, "results": str(tmp_path / "demo.json"), **more}


def test_study_runs_every_case_once_and_resumes(root, started, tmp_path):
    words = study_words(root, tmp_path, seeds="0,1")
    assert demo.study(words, console()) == 0
    assert sorted(started.calls) == sorted((r, s, c, 0) for r in ("franka", "so100") for s in "01" for c in ("false", "true"))
    started.calls.clear()
    to = console()
    assert demo.study(words, to) == 0
    assert started.calls == [] and said(to).count("there already") == 8
    command = jsonfile.read(tmp_path / "demo.json")["command"]
    assert command.startswith("whetstone demo-study ") and "seeds:=0,1" in command
    assert demo.study({**words, "iterations": "2"}, console()) == 0  # another configuration
    assert len(started.calls) == 8


def test_study_says_which_cases_failed_and_keeps_the_others(root, started, tmp_path):
    words = study_words(root, tmp_path, seeds="0,1", robots="franka", controls="false")
    started.broken = 0
    with pytest.raises(RunEnded, match="1 of the study's cases failed: franka/pick_and_place/seed0"):
        demo.study(words, console())
    assert {row["case"] for row in jsonfile.read(tmp_path / "demo.json")["rows"]} == {"franka/pick_and_place/seed1"}


def test_jobs_get_domains_of_their_own(root, started, tmp_path):
    demo.study(study_words(root, tmp_path, seeds="0,1", robots="franka", controls="false", jobs="2", domain_id="7"), console())
    assert {domain for *_, domain in started.calls} <= {7, 8}


@pytest.mark.parametrize("word", ["robot", "seed"])
def test_the_study_sets_its_cases_itself(root, word):
    with pytest.raises(ConfigError, match=f"argument {word}"):
        demo.study({word: "0"}, console())


def test_bench_rows_add_up(root, run, tmp_path):
    path = tmp_path / "bench.json"
    arguments = {"robots": "so100", "results": str(path), "policy": "still", "reward": "constant", "episodes": "6"}
    assert bench.bench(arguments, console()) == 0
    rows = {row["metric"]: row for row in jsonfile.read(path)["rows"]}
    value = {name: row["value"] for name, row in rows.items()}
    assert rows["real_time_factor"]["case"] == "so100/pick_and_place"
    assert value["steps_per_second"] == pytest.approx(100)
    assert value["real_time_factor"] == pytest.approx(5)
    parts = [name for name in value if name.startswith("step_time_")]
    assert sum(value[name] for name in parts) == pytest.approx(value["step_time"])
    assert rows["step_time"]["n"] == 4 * 20  # two episodes to warm up


def test_bench_needs_episodes_to_measure():
    with pytest.raises(InputError, match="use episodes:=3 or more"):
        bench.rows_of("x", [], {"simulator": {}, "policy": {"seconds": 0}, "reward": {"seconds": 0}}, 20.0)


def test_assets_are_made_in_order_for_each_robot(root, tmp_path, monkeypatch):
    module = tmp_path / "stage_module.py"
    module.write_text(
        "import sys\nopen(sys.argv[1], 'a').write(sys.argv[2] + '\\n')\nsys.exit('disk on fire' if 'bad' in sys.argv[2] else 0)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    stages = [Stage(name, "stage_module", ("{data}/{robot}.txt", name)) for name in ("one", "two", "three")]
    monkeypatch.setattr(making, "STAGES", tuple(stages))
    data = tmp_path / "d" / "data"
    words = {"data": str(data)}
    assert making.make_assets(words, console()) == 0
    for robot in ("franka", "so100"):
        assert (data / f"{robot}.txt").read_text().split() == ["one", "two", "three"]
    monkeypatch.setattr(making, "STAGES", (Stage("bad stage", "stage_module", ("{data}/x.txt", "bad")), stages[0]))
    with pytest.raises(InputError, match="assets: bad stage of franka failed .exit code 1.: disk on fire"):
        making.make_assets({**words, "robots": "franka"}, console())
    with pytest.raises(ConfigError, match="unknown robot 'frank'; did you mean 'franka'"):
        making.make_assets({**words, "robots": "frank"}, console())


def test_results_name_their_command(root, run, tmp_path):
    demo.demo({**GOOD, "run_dir": str(tmp_path / "run")}, console())
    expected = " ".join(["whetstone demo", *(f"{name}:={value}" for name, value in GOOD.items()), f"run_dir:={tmp_path / 'run'}"])
    assert jsonfile.read(tmp_path / "run" / "results.json")["command"] == expected
    assert figures.case_of(run.plans[0].arguments) == "franka/pick_and_place/seed0"

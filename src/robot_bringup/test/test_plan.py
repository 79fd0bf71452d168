"""The table of launch arguments and the plan that follows from it."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robot_bringup import schedule
from robot_bringup.plan import ENDLESS, plan
from robot_bringup.run_arguments import ARGUMENTS, MODES, arguments_of, help_text, resolve
from robot_bringup.so100.emulated_bus import write_calibration
from whetstone import config
from whetstone.errors import AssetError, ConfigError

GOOD = {"policy": "still", "reward": "constant"}


def node(planned, name):
    return next(each for each in planned.nodes if each.name == name)


def names(planned):
    return [each.name for each in planned.nodes]


def test_refine_plan(root):
    planned = plan("refine", {**GOOD, "robot": "so100", "iterations": "2", "episodes": "3", "seed": "4"})
    assert names(planned) == ["simulator", "reward", "policy", "learner", "evaluator", "episode_manager"]
    assert {each.namespace for each in planned.nodes} == {"/so100"}
    for each in planned.nodes:
        assert each.parameters["robot"] == "so100"
        assert each.parameters["run_dir"] == str(planned.run_dir)
    assert node(planned, "simulator").parameters["wait_for_reward"] is True
    assert node(planned, "simulator").parameters["reward_every"] == 5
    manager = node(planned, "episode_manager").parameters
    assert manager["managed"] == ["simulator", "reward", "policy", "learner", "evaluator"]
    assert (manager["success_threshold"], manager["success_frames"]) == (0.7, 3)
    assert schedule.from_json(manager["schedule"]) == list(planned.segments)
    assert next(s for s in planned.segments if s.label == "refined").greedy is True  # as the policy's YAML says
    assert planned.environment["ROS_DOMAIN_ID"] == "0"


def test_only_the_evaluator_and_nobody_who_learns_is_told_where_truth_is(root):
    planned = plan("refine", GOOD)
    for each in planned.nodes:
        assert not any("truth" in key or "truth" in str(value) for key, value in each.parameters.items()), each.name


def test_evaluate_plan_has_no_reward_and_no_learner(root):
    planned = plan("evaluate", {"policy": "still", "deployment": "both", "evaluation_episodes": "7"})
    assert names(planned) == ["simulator", "policy", "evaluator", "episode_manager"]
    assert [(s.label, s.greedy, s.episodes) for s in planned.segments] == [("greedy", True, 7), ("sampled", False, 7)]
    assert node(planned, "simulator").parameters["wait_for_reward"] is False
    assert "success_frames" not in node(planned, "episode_manager").parameters


def test_sim_plan_is_a_robot_in_real_time(root):
    planned = plan("sim", {"robot": "franka"})
    assert names(planned) == ["simulator", "episode_manager"]
    assert node(planned, "simulator").parameters["realtime"] is True
    assert node(planned, "episode_manager").parameters["max_steps"] == ENDLESS


def test_in_real_time_the_watchdog_stands_between_policy_and_driver(root):
    for planned in (plan("refine", {**GOOD, "realtime": "true"}), plan("evaluate", {"policy": "still", "realtime": "true"})):
        assert names(planned).index("watchdog") < names(planned).index("policy")
        assert "watchdog" in node(planned, "episode_manager").parameters["managed"]
        assert node(planned, "policy").parameters["gated"] is True
    for lockstep in (plan("refine", GOOD), plan("evaluate", {"policy": "still"})):
        assert "watchdog" not in names(lockstep) and node(lockstep, "policy").parameters["gated"] is False


def test_a_reward_node_for_several_robots_has_no_manager(root):
    planned = plan("reward", {"reward": "constant", "robot": "so100", "robots": "one, lab/two/", "realtime": "true"})
    assert names(planned) == ["reward"] == [planned.essential] and planned.namespace == "rewards"
    shared = planned.nodes[0]
    assert shared.namespace == "/rewards" and shared.parameters["robots"] == ["one", "lab/two"]
    assert shared.parameters["autostart"] is True and shared.parameters["realtime"] is True
    assert not planned.segments and "OMP_NUM_THREADS" not in planned.environment


def test_a_recorder_is_the_first_that_is_brought_up_and_may_be_started_again(root):
    found = plan("evaluate", {"policy": "still", "record": "true", "record_topics": "/wind", "bag_budget_gb": "2"})
    node, manager = found.nodes[0], found.nodes[-1]
    assert (node.executable, node.again, node.parameters["wall_time"]) == ("bag_recorder", ("restarted",), False)
    assert node.parameters["topics"] == "/wind" and node.parameters["budget_gb"] == 2.0
    assert manager.parameters["managed"][0] == "bag_recorder"
    assert all(node.name != "bag_recorder" for node in plan("evaluate", {"policy": "still"}).nodes)


def test_a_policy_around_another_decides_as_often_as_that(root):
    """`inner` is followed for `execute` and for the weights that must be there; a learner may say which policy it goes with."""
    (root / "config" / "policies" / "wrapped.yaml").write_text("plugin: wrapped\ninner: slow\n")
    (root / "config" / "learners" / "picky.yaml").write_text("plugin: picky\npolicy: wrapped\n")
    (root / "config" / "policies" / "slow.yaml").write_text("plugin: slow\nexecute: 7\n")
    with pytest.raises(ConfigError, match="learner:=picky does not go with policy:=still; use policy:=wrapped"):
        plan("refine", {**GOOD, "learner": "picky"})
    with pytest.raises(ConfigError, match="the policy decides every 7 control steps"):
        plan("refine", {**GOOD, "policy": "wrapped", "learner": "picky"})
    (root / "config" / "policies" / "slow.yaml").write_text("plugin: slow\nexecute: 20\nweights: gone_{robot}.safetensors\n")
    with pytest.raises(AssetError, match="gone_franka.safetensors"):
        plan("refine", {**GOOD, "policy": "wrapped", "learner": "picky"})


def test_a_run_may_leave_the_reward_node_to_another(root):
    planned = plan("refine", {**GOOD, "without": "reward"})
    assert "reward" not in names(planned) and "reward" not in node(planned, "episode_manager").parameters["managed"]
    assert node(planned, "simulator").parameters["wait_for_reward"] is True, "its scores are waited for all the same"
    assert node(planned, "episode_manager").parameters["success_frames"] == 3


def test_real_time_does_not_wait_for_rewards(root):
    assert node(plan("refine", {**GOOD, "realtime": "true"}), "simulator").parameters["wait_for_reward"] is False


@pytest.mark.parametrize(
    ("mode", "arguments", "words"),
    [
        ("refine", {"robot": "frank"}, "unknown robot 'frank'; did you mean 'franka'? known: fr3, fr3_crisp"),
        ("refine", {"task": "juggle"}, "unknown task 'juggle'; known: pick_and_place, push, reach, stack, tray_then_button"),
        ("refine", {"reward": "sarm"}, "unknown reward 'sarm'; did you mean 'sarm2'? known: constant, sarm2, shuffled"),
        ("refine", {"policy": "vla"}, "unknown policy 'vla'"),
        ("refine", {"learner": "ppo"}, "unknown learner 'ppo'; known: flow_refinement"),
        ("refine", {"itterations": "3"}, "unknown argument 'itterations'; did you mean 'iterations'?"),
        ("sim", {"reward": "sarm2"}, "unknown argument 'reward'"),
        ("refine", {"iterations": "many"}, "argument iterations:=many must be an integer from 0 to 1000"),
        ("refine", {"episodes": "0"}, "argument episodes:=0 must be an integer from 1 to 1000"),
        ("refine", {"deadline": "nan"}, "argument deadline:=nan must be a number"),
        ("refine", {"rollout_budget_gb": "inf"}, "argument rollout_budget_gb:=inf must be a number of at least 0"),
        ("refine", {"realtime": "yes"}, "argument realtime:=yes must be true or false"),
        ("refine", {"robot": ""}, "argument robot is empty; it is one of fr3, fr3_crisp"),
        ("refine", {"seed": "50"}, "argument seed:=50 must be an integer from 0 to 49"),
        ("refine", {"domain_id": "233"}, "domain_id:=233"),
        ("refine", {"namespace": "left arm"}, "namespace:=left arm is no ROS name"),
        ("refine", {"sim": "isaac", "robot": "fr3"}, "robot 'fr3' has no profile for sim:=isaac; there are ones for franka, so100"),
        ("refine", {"sim": "isaac", "reset": "prompt"}, "reset:=prompt is for sim:=none"),
        ("refine", {"sim": "mujko"}, "unknown sim 'mujko'; did you mean 'mujoco'?"),
        ("refine", {"record_topics": "/wind"}, "record_topics:=/wind needs record:=true"),
        ("refine", {"record": "true", "record_topics": "/wind=Wind"}, "'Wind' of topic '/wind' is no message type; it is package/msg/Name"),
        ("refine", {"weights": "/nowhere.safetensors"}, "weights:=/nowhere.safetensors: no such file"),
        ("refine", {"robot": "mine.yaml"}, "mine.yaml: no such file"),
        ("refine", {"robot": "~nobody_here/mine.yaml"}, "argument robot:=~nobody_here/mine.yaml: there is no user 'nobody_here'"),
        ("refine", {"run_dir": "~nobody_here/run"}, "argument run_dir:=~nobody_here/run: there is no user 'nobody_here'"),
        ("refine", {**GOOD, "iterations": "0", "evaluation_episodes": "0"}, "nothing to do"),
        ("refine", {**GOOD, "deployment": "both"}, "deployment:=both belongs to evaluate"),
        ("refine", {**GOOD, "iterations": "200", "episodes": "100"}, "iterations x episodes is 20000"),
        ("evaluate", {"policy": "still", "evaluation_episodes": "0"}, "evaluation_episodes:=0"),
        ("reward", {"reward": "constant"}, "argument robots is empty"),
        ("reward", {"reward": "constant", "robots": "one,,two"}, "argument robots:= is no ROS name"),
        ("reward", {"reward": "constant", "robots": "one, one"}, "argument robots:=one, one names one twice"),
        ("reward", {"reward": "constant", "robots": "one", "task": "push"}, "unknown argument 'task'"),
        ("refine", {**GOOD, "without": "simulator"}, "unknown without 'simulator'; known: reward"),
        ("refin", {}, "unknown mode 'refin'; did you mean 'refine'?"),
    ],
)
def test_wrong_input_is_one_line_that_names_it(root, mode, arguments, words):
    with pytest.raises(ConfigError) as caught:
        plan(mode, arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"policy": "flow_vla", "reward": "constant"}, "asset 'policy_franka.safetensors' is missing"),
        ({"policy": "still", "reward": "sarm2", "robot": "so100"}, "asset 'reward_so100.safetensors' is missing"),
        ({"policy": "still", "reward": "shuffled"}, "asset 'reward_franka.safetensors' is missing"),
    ],
)
def test_a_missing_asset_is_named_with_the_command_that_makes_it(root, arguments, words):
    with pytest.raises(AssetError, match="make assets") as caught:
        plan("refine", arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("every: 8\nmodel: null", "config/rewards/constant.yaml: key 'model' is empty; this reward needs a model folder of your own"),
        ("every: 8\nmodel: /nowhere/qwen", "config/rewards/constant.yaml: model '/nowhere/qwen': no such folder; download the model"),
    ],
)
def test_a_model_that_is_not_there_is_said_before_anything_starts(root, text, words):
    path = root / "config" / "rewards" / "constant.yaml"
    path.write_text(text)
    with pytest.raises(AssetError) as caught:
        plan("refine", GOOD)
    assert words in str(caught.value)
    for fine in ("model: pocket", "model: a-name\nurl: http://gpu-box:8000"):
        path.write_text(f"every: 4\n{fine}")
        plan("refine", GOOD)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("every: [", "config/rewards/constant.yaml:1: not valid YAML"),
        ("evry: 4", "config/rewards/constant.yaml: key 'every' is missing"),
        ("every: four", "config/rewards/constant.yaml: key 'every' is 'four'; it must be an integer of at least 1"),
        ("every: 0", "key 'every' is 0"),
        ("every: 4\nsuccess: {treshold: 0.7}", "key 'treshold' is unknown; did you mean 'threshold'?"),
        ("every: 4\nsuccess: {threshold: 1.5}", "config/rewards/constant.yaml: success: key 'threshold' must be at most 1.0"),
        ("every: 4\nsuccess: {threshold: 0.5, frames: 0}", "key 'frames' must be at least 1"),
    ],
)
def test_bad_yaml_names_file_and_key(root, text, words):
    (root / "config" / "rewards" / "constant.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        plan("refine", GOOD)
    assert words in str(caught.value)


def test_a_wrong_ros_domain_in_the_environment_is_named(root, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "300")
    with pytest.raises(ConfigError, match="ROS_DOMAIN_ID=300"):
        plan("sim")
    assert plan("sim", {"domain_id": "7"}).domain_id == 7


def test_planning_creates_nothing(root):
    plan("refine", GOOD)
    plan("sim")
    assert list(root.parent.joinpath("work").iterdir()) == []


@pytest.mark.parametrize("mode", MODES)
def test_help_lists_exactly_the_mode_s_arguments_with_their_defaults(root, mode):
    shown = [line.strip() for line in help_text(mode).splitlines() if ":=" in line and line.startswith("  ") and not line.startswith("   ")]
    assert shown == [f"{argument.name}:={argument.default or repr('')}" for argument in arguments_of(mode)]


def test_every_default_is_valid(root):
    for mode in MODES:
        assert set(resolve(mode, {})) == {argument.name for argument in ARGUMENTS if mode in argument.modes}


def test_parameters_are_what_ros_can_carry(root):
    given = {"refine": GOOD, "evaluate": {"policy": "still"}, "sim": {}, "reward": {"reward": "constant", "robots": "one,two"}}
    given["learner"] = {"policy": "still", "robots": "one,two"}
    for mode in MODES:
        for each in plan(mode, given[mode]).nodes:
            for key, value in each.parameters.items():
                assert isinstance(value, (bool, int, float, str, list)), key
                json.dumps(value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(name=st.sampled_from([argument.name for argument in ARGUMENTS]), text=st.text(max_size=12))
def test_any_text_gives_a_value_or_one_line(root, name, text):
    try:
        plan("refine", {**GOOD, name: text})
    except (ConfigError, AssetError) as error:
        assert "\n" not in str(error).strip()


def test_a_reward_that_misses_the_decisions_is_refused(tmp_path):
    text = config.find("rewards", "constant").read_text().replace("every: 4", "every: 5")
    file = tmp_path / "sparse.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"key 'every' is 5, but the policy decides every 8"):
        plan("refine", {"reward": str(file)})


def test_a_learner_for_several_robots_is_a_run_of_its_own(root):
    planned = plan("learner", {"policy": "still", "robots": "left, lab/right", "iterations": "3", "keep": "0"})
    (only,) = planned.nodes
    assert (only.name, only.namespace, planned.essential, only.again) == ("learner", "/learners", "learner", ("restarted",))
    assert only.parameters["robots"] == ["left", "lab/right"] and only.parameters["autostart"] is True
    assert only.parameters["iterations"] == 3 and only.parameters["keep"] == 0
    robot = plan("refine", {**GOOD, "without": "reward,learner", "namespace": "left"})
    assert names(robot) == ["simulator", "policy", "evaluator", "episode_manager"]
    assert node(robot, "episode_manager").parameters["await_learner"] is True
    for wrong, said in (({}, "argument robots is empty"), ({"robots": "a,a"}, "names one twice")):
        with pytest.raises(ConfigError, match=said):
            plan("learner", {"policy": "still", **wrong})
    with pytest.raises(ConfigError, match="unknown without 'lerner'"):
        plan("refine", {**GOOD, "without": "lerner"})


def test_without_a_simulator_a_robot_is_driven_in_real_time_and_its_scene_brought_back():
    made = plan("refine", {"sim": "none", "reset": "park"})
    names = [node.name for node in made.nodes]
    assert "simulator" not in names and "evaluator" not in names
    assert names[0] == "scene" and "watchdog" in names
    parameters = {node.name: node.parameters for node in made.nodes}
    assert parameters["scene"]["reset"] == "park" and parameters["policy"]["realtime"] and parameters["policy"]["gated"]
    assert parameters["episode_manager"]["reset_deadline"] == 3600 and parameters["episode_manager"]["managed"][0] == "scene"


@pytest.mark.parametrize(
    ("mode", "given", "said"),
    [
        ("sim", {}, "start the robot's driver"),
        ("evaluate", {"reset": "park,wave"}, "'wave' is no way"),
        ("evaluate", {"reset": "replay"}, "reset_episode:=FOLDER"),
        ("evaluate", {"reset_episode": "runs"}, "reset_episode:=FOLDER"),
    ],
)
def test_what_cannot_be_meant_without_a_simulator(mode, given, said):
    with pytest.raises(ConfigError, match=said):
        plan(mode, {"sim": "none", **given})


@pytest.fixture
def arm(tmp_path):
    """Arguments of a run with our SO-100 driver, whose port and calibration are there."""
    (tmp_path / "port").touch()
    write_calibration(tmp_path / "arm.yaml")
    files = {"port": str(tmp_path / "port"), "calibration": str(tmp_path / "arm.yaml")}
    return {"robot": "so100", "sim": "none", "driver": "so100", **files}


def test_our_so100_driver_is_a_node_of_the_run(arm):
    made = plan("evaluate", arm)
    assert names(made)[0] == "so100_driver" and node(made, "episode_manager").parameters["managed"][0] == "so100_driver"
    told = node(made, "so100_driver").parameters
    assert (told["port"], told["calibration"], told["driver"]) == (arm["port"], arm["calibration"], "so100")
    assert "autostart" not in told, "the episode manager brings it up"
    assert made.config_files["driver"].name == "so100.yaml"
    # Parking: the longest way of a joint (6.28 rad) at 0.6 rad/s, 2 s of patience, and 3 s for the rest.
    assert node(made, "so100_driver").stopping == pytest.approx(6.28 / 0.6 + 5.0, abs=0.01)
    assert all(one.stopping == 0 for one in made.nodes[1:])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"port": ""}, "argument port is empty; name the arm's serial adapter, one of `ls /dev/serial/by-id/"),
        ({"port": "/nowhere/tty"}, "port:=/nowhere/tty: no such device; is the USB cable in"),
        (
            {"calibration": ""},
            "argument calibration is empty; `whetstone calibrate-arm robot:=so100 port:=.*port out:=arm",
        ),
        ({"calibration": "/nowhere.yaml"}, "/nowhere.yaml: no such calibration; `whetstone calibrate-arm"),
        ({"driver": "so10"}, "unknown driver 'so10'; did you mean 'so100'"),
        ({"driver": ""}, "argument port:=.*/port needs driver:=so100 beside it"),
        ({"sim": "mujoco"}, "argument driver:=so100 needs sim:=none beside it"),
        ({"robot": "so101_follower"}, "robot 'so101_follower' has command.kind forward .* this driver takes joint_trajectory"),
        ({"robot": "franka"}, "servos"),
    ],
)
def test_what_our_driver_lacks_is_named_before_anything_starts(arm, given, said):
    with pytest.raises(ConfigError, match=said):
        plan("evaluate", {**arm, **given})


def test_episodes_that_a_human_starts():
    manager = node(plan("evaluate", {"sim": "none", "start": "service"}), "episode_manager").parameters
    assert manager["await_start"] is True and manager["simulated"] is False
    manager = node(plan("evaluate", {"sim": "none"}), "episode_manager").parameters
    assert manager["await_start"] is False
    assert "simulated" not in node(plan("evaluate", {}), "episode_manager").parameters
    with pytest.raises(ConfigError, match="argument start:=service needs sim:=none"):
        plan("evaluate", {"start": "service"})


def test_the_watchdog_s_patience_is_an_argument_with_bounds():
    made = plan("evaluate", {"realtime": "true", "watchdog_patience": "3.5"})
    assert node(made, "watchdog").parameters["patience"] == 3.5
    assert node(plan("evaluate", {"realtime": "true"}), "watchdog").parameters["patience"] == 2
    for wrong in ("1.4", "101", "nan"):
        with pytest.raises(ConfigError, match=f"argument watchdog_patience:={wrong} must be a number from 1.5 to 100"):
            plan("evaluate", {"watchdog_patience": wrong})


@pytest.mark.parametrize(("sim", "objects"), [("isaac", "topics"), ("gazebo", "gazebo")])
def test_before_a_foreign_simulator_stands_a_scene_node_with_the_profile_for_it(sim, objects):
    made = plan("evaluate", {"sim": sim, "namespace": "lab/left"})
    assert names(made) == ["scene", "watchdog", "policy", "evaluator", "episode_manager"], "the truth is known there"
    assert {each.parameters["robot"] for each in made.nodes} == {f"franka_{sim}"} and made.arguments["robot"] == f"franka_{sim}"
    scene = node(made, "scene").parameters
    assert (scene["reset"], scene["objects"], scene["world"]) == ("park,place", objects, "lab_left")
    assert scene["realtime"] and node(made, "policy").parameters["gated"] and not node(made, "watchdog").parameters["hardware"]
    assert plan("evaluate", {"sim": sim}).namespace == "franka"
    alone = plan("sim", {"sim": sim, "robot": "so100"})
    assert names(alone) == ["scene", "episode_manager"] and node(alone, "scene").parameters["reset"] == "place"

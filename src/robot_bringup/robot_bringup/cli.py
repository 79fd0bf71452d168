"""The `whetstone` command.

Role: reads the command line, calls what does the work, turns every error into one line on stderr and an exit code (2: wrong
input, 1: a run failed, 130: interrupted). Does not depend on ROS.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from robot_bringup import bench as benchmark
from robot_bringup import demo as demonstration
from robot_bringup import episodes, making
from robot_bringup.evaluation import command as evaluation
from robot_bringup.plan import plan
from robot_bringup.report import write_report
from robot_bringup.run_arguments import DESCRIPTIONS, MODES, Argument, help_text
from robot_bringup.running import RunEnded, run
from whetstone import config
from whetstone.errors import ConfigError, WhetstoneError

_HELP = """whetstone: refine a manipulation policy on the robot it will run on

  whetstone run MODE name:=value ...                    start the nodes of a run: refine, evaluate, sim, reward (run --help)
  whetstone evaluate RECORDING... name:=value ...       reward models and policies over bags and stored episodes: a report
  whetstone refine RECORDING... name:=value ...         a policy refined on stored episodes alone
  whetstone demo name:=value ...                        refine, compare before and after, write a report
  whetstone demo-study name:=value ...                  the demo for every robot and seed, and the controls
  whetstone episodes COMMAND FOLDER ...                 list, show, protect, prune, clear, label, export, import the episodes of a run
  whetstone convert FROM TO name:=value ...             bags, episodes and LeRobot datasets, each from each
  whetstone view BAG name:=value ...                    a bag in rerun
  whetstone replay BAG... name:=value ...               say recorded episodes again to nodes that run, losing nothing
  whetstone report RUN_DIR                              write RUN_DIR/report.html again
  whetstone bench name:=value ...                       steps per second of the whole loop, and where the time goes
  whetstone evaluate-reward name:=value ...             whether a reward model can be trusted: table, JSON, plots
  whetstone calibrate name:=value ...                   fit the map from a reward model's own figure to progress
  whetstone conform name:=value ...                     check a running robot or simulator against its profile
  whetstone isaac-scene name:=value ...                 the scene as a file for Isaac Sim's stage script
  whetstone calibrate-arm name:=value ...               show our driver of a SO-100 what its servos' ticks mean
  whetstone assets name:=value ...                      make base policies and reward models again from nothing
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Executable `whetstone`. Returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _main(words)
    except RunEnded as error:
        print(f"whetstone: {error}", file=sys.stderr)
        return error.code
    except WhetstoneError as error:
        print(f"whetstone: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("whetstone: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0
    commands: dict[str, Callable[[list[str]], int]] = {
        "run": _run,
        "demo": _demo,
        "demo-study": _study,
        "report": _report,
        "episodes": lambda rest: episodes.main(rest, Console()),
        "evaluate": lambda rest: evaluation.main(rest, Console()),
        "refine": _refine,
        "convert": _convert,
        "view": _view,
        "bench": _bench,
        "assets": _assets,
        "replay": lambda rest: _module("robot_bringup.replay", rest),
        "evaluate-reward": lambda rest: _module("reward_node.honesty", rest),
        "calibrate": lambda rest: _module("reward_node.calibration", rest),
        "conform": lambda rest: _module("robot_bringup.conformance", rest),
        "isaac-scene": _isaac_scene,
        "calibrate-arm": _calibrate_arm,
    }
    name, *rest = words
    if name in MODES and name not in commands:
        raise ConfigError(f"'{name}' is a mode of run: whetstone run {name}")
    if name not in commands:
        raise ConfigError(config.unknown("command", name, commands))
    return commands[name](rest)


def pairs(words: Sequence[str]) -> dict[str, str]:
    """["robot:=so100"] -> {"robot": "so100"}. Raises ConfigError naming the word that is no argument."""
    given: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition(":=")
        if not separator or not name:
            match = re.fullmatch(r"-{0,2}([\w]+)=(.*)", word)
            hint = f"; did you mean {match[1]}:={match[2]}?" if match else ""
            raise ConfigError(f"argument '{word}' is not name:=value{hint}")
        if name in given:
            raise ConfigError(f"argument {name} is given twice")
        given[name] = value
    return given


def _wants_help(words: Sequence[str]) -> bool:
    return any(word in ("-h", "--help") for word in words)


def _run(words: list[str]) -> int:
    mode = "refine"
    if words and re.fullmatch(r"\w+", words[0]):
        mode = words.pop(0)
        if mode not in MODES:
            raise ConfigError(config.unknown("mode", mode, MODES))
    if _wants_help(words):
        print("whetstone run MODE name:=value ...\n")
        for name in MODES:
            print(f"  {name:<9} {DESCRIPTIONS[name]}")
        print("\n" + help_text(mode))
        return 0
    planned = plan(mode, pairs(words))  # type: ignore[arg-type]
    console = Console()
    ended = run(planned, console)
    if ended.code:
        raise RunEnded.of(ended, planned.run_dir)
    console.print(ended.reason, highlight=False, soft_wrap=True)
    return 0


def _demo(words: list[str]) -> int:
    if _wants_help(words):
        _print_help("demo", "refine, compare before and after, write a report", demonstration.DEMO_ARGUMENTS)
        return 0
    return demonstration.demo(pairs(words), Console())


def _study(words: list[str]) -> int:
    if _wants_help(words):
        _print_help("demo-study", "the demo for every robot and seed, and the controls", demonstration.STUDY_ARGUMENTS)
        return 0
    return demonstration.study(pairs(words), Console())


def _bench(words: list[str]) -> int:
    if _wants_help(words):
        _print_help("bench", "steps per second of the whole loop, and where the time goes", benchmark.BENCH_ARGUMENTS)
        return 0
    return benchmark.bench(pairs(words), Console())


def _assets(words: list[str]) -> int:
    if _wants_help(words):
        _print_help("assets", "make base policies and reward models again from nothing", making.ASSETS_ARGUMENTS, refine=False)
        return 0
    return making.make_assets(pairs(words), Console())


def _convert(words: list[str]) -> int:
    from robot_bringup.bags import convert  # its libraries are nobody else's need

    return convert.main(words, Console())


def _view(words: list[str]) -> int:
    from robot_bringup.bags import view

    return view.main(words, Console())


def _calibrate_arm(words: list[str]) -> int:
    from robot_bringup.so100 import calibrate  # the servos' SDK is nobody else's need

    return calibrate.main(words, Console())


def _refine(words: list[str]) -> int:
    from robot_bringup import stored_refinement  # what it loads, the other commands do not need

    return stored_refinement.main(words, Console())


def _isaac_scene(words: list[str]) -> int:
    from robot_bringup.isaac import scene  # MuJoCo takes a second

    return scene.main(words)


def _module(name: str, words: list[str]) -> int:
    """A command of another package, as a process: it says its own errors."""
    return subprocess.run([sys.executable, "-m", name, *words], check=False).returncode


def _print_help(name: str, description: str, own: Sequence[Argument], *, refine: bool = True) -> None:
    print(f"whetstone {name} name:=value ...: {description}\n\nOwn arguments:")
    for argument in own:
        print(f"  {argument.name}:={argument.default or repr('')}\n      {argument.description}")
    if refine:
        print("\nAnd those of\n" + help_text("refine"))


def _report(words: list[str]) -> int:
    if _wants_help(words) or len(words) != 1:
        print("whetstone report RUN_DIR: write RUN_DIR/report.html again")
        return 0 if _wants_help(words) else 2
    print(write_report(Path(words[0])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

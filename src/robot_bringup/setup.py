"""Packaging of robot_bringup.

config/, launch/ and assets/ lie at the root of the repository, for they speak of all packages. This package installs
them into its share folder, where `ros2 launch` and an installed Whetstone look for them; it reaches them by the links
beside this file, because colcon takes relative paths below the package only.
"""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "robot_bringup"


def shared_files():
    """(destination folder, files) for every folder below config/, launch/ and assets/."""
    folders = {}
    for top in ("config", "launch", "assets"):
        for path in sorted(Path(top).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                folders.setdefault(path.parent, []).append(str(path))
    return [(f"share/{PACKAGE}/{folder}", files) for folder, files in folders.items()]


setup(
    name=PACKAGE,
    version="0.1.0",
    description="Simulator, episode manager, evaluator, the launch plan and the whetstone command.",
    license="Apache-2.0",
    maintainer="Whetstone contributors",
    maintainer_email="whetstone@users.noreply.github.com",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        *shared_files(),
    ],
    zip_safe=False,
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            "bag_recorder = robot_bringup.bag_recorder_node:main",
            "replay = robot_bringup.replay.node:main",
            "simulator = robot_bringup.simulator_node:main",
            "scene = robot_bringup.scene_node:main",
            "episode_manager = robot_bringup.episode_manager_node:main",
            "so100_driver = robot_bringup.so100.driver_node:main",
            "evaluator = robot_bringup.evaluator_node:main",
            "whetstone = robot_bringup.cli:main",
        ],
    },
)

"""Packaging of reward_node."""

from setuptools import find_packages, setup

PACKAGE = "reward_node"

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Reward models that score camera frames, and the node that publishes the scores.",
    license="Apache-2.0",
    maintainer="Whetstone contributors",
    maintainer_email="whetstone@users.noreply.github.com",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
    ],
    zip_safe=False,
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": ["reward_node = reward_node.node:main"],
        "whetstone.rewards": [
            "sarm2 = reward_node.sarm2:SARM2Reward",
            "topreward = reward_node.topreward:TOPReward",
            "topreward_remote = reward_node.remote:RemoteTOPReward",
            "lrm = reward_node.lrm:LRMReward",
            "gvl = reward_node.gvl:GVLReward",
            "clip = reward_node.clip:CLIPReward",
            "robometer = reward_node.robometer:RobometerReward",
            "roboreward = reward_node.roboreward:RoboRewardReward",
            "constant = reward_node.controls:ConstantReward",
            "shuffled = reward_node.controls:ShuffledReward",
        ],
    },
)

"""Packaging of policy_node."""

from setuptools import find_packages, setup

PACKAGE = "policy_node"

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Policies that turn images, instruction and proprioception into chunks of commands, and the node that executes them.",
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
        "console_scripts": ["policy_node = policy_node.node:main", "watchdog = policy_node.watchdog_node:main"],
        "whetstone.policies": [
            "flow_vla = policy_node.flow_vla:FlowVLAPolicy",
            "steered = policy_node.steered:SteeredPolicy",
            "stochastic = policy_node.stochastic:StochasticPolicy",
            "conditioned = policy_node.conditioned:ConditionedPolicy",
            "residual = policy_node.residual:ResidualPolicy",
            "delayed = policy_node.delayed:DelayedPolicy",
            "lerobot = policy_node.lerobot_policy:LeRobotPolicy",
            "remote = policy_node.remote:RemotePolicy",
            "openvla = policy_node.openvla:OpenVLAPolicy",
            "openvla_oft = policy_node.openvla_oft:OpenVLAOFTPolicy",
        ],
    },
)

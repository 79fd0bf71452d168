"""Packaging of learner_node."""

from setuptools import find_packages, setup

PACKAGE = "learner_node"

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Joins rewards to steps, records rollouts, improves the policy and publishes its weights.",
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
        "console_scripts": ["learner_node = learner_node.node:main"],
        "whetstone.learners": [
            "flow_refinement = learner_node.refinement:FlowRefinement",
            "behaviour_cloning = learner_node.behaviour_cloning:BehaviourCloning",
            "filtered_bc = learner_node.filtered_bc:FilteredBC",
            "ra_bc = learner_node.ra_bc:RABC",
            "top_awr = learner_node.top_awr:TOPAWR",
            "awr = learner_node.awr:AWR",
            "recap = learner_node.recap:RECAP",
            "spiral = learner_node.spiral:SPIRAL",
            "dsrl = learner_node.dsrl:DSRL",
            "ppo = learner_node.ppo:PPO",
        ],
    },
)

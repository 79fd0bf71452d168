"""Packaging of whetstone."""

from setuptools import find_packages, setup

PACKAGE = "whetstone"

setup(
    name=PACKAGE,
    version="0.1.0",
    description="The shared vocabulary of Whetstone: robot profiles, tasks, episodes and their store, images, weight snapshots, the guard.",
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
)

"""What pytest collects and runs under, for all packages."""

import itertools
import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

# As the plan does for the nodes: on a machine with one busy core a second torch thread makes a test a hundred times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The launch tests run wherever ROS 2's launch is installed; it does not exist as a Python wheel.
# tests/ checks the same plan through `whetstone run` everywhere.
collect_ignore = [] if find_spec("launch") and find_spec("launch_pytest") else ["tests/launch"]

# 1 to 101 are the domains that every platform can use; two pytest processes at a time begin at different ones.
_DOMAINS = itertools.islice(itertools.cycle(range(1, 102)), os.getpid() % 101, None)


@pytest.fixture
def domains() -> Iterator[int]:
    """ROS domains that no other test of this process has had lately: a node that another test left behind meets nobody."""
    return _DOMAINS


@pytest.fixture
def domain(domains: Iterator[int]) -> int:
    """A ROS domain of the test's own."""
    return next(domains)

"""What pytest collects and runs under, for all packages."""

import os
from importlib.util import find_spec

# As the plan does for the nodes: on a machine with one busy core a second torch thread makes a test a hundred times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The launch tests run wherever ROS 2's launch is installed; it does not exist as a Python wheel.
# tests/ checks the same plan through `whetstone run` everywhere.
collect_ignore = [] if find_spec("launch") and find_spec("launch_pytest") else ["tests/launch"]

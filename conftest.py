"""What pytest collects, for all packages."""

from importlib.util import find_spec

# The launch tests run wherever ROS 2's launch is installed; it does not exist as a Python wheel.
# tests/ checks the same plan through `whetstone run` everywhere.
collect_ignore = [] if find_spec("launch") and find_spec("launch_pytest") else ["tests/launch"]

"""What of the launch tests this machine can collect."""

import pytest

# Jazzy's launch_pytest reads an attribute of fixtures that pytest 8.4 renamed.
collect_ignore = ["test_launch_pytest.py"] if pytest.version_tuple >= (8, 4) else []

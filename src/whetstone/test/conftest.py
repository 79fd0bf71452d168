"""Lets the tests import their helpers whichever folder pytest starts in, and runs generated cases alike on every machine."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

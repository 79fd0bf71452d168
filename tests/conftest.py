"""Lets the tests import their helpers, and those of whetstone's own tests, whichever folder pytest starts in."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "src" / "whetstone" / "test"))

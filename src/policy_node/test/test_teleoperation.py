"""Whose word counts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from policy_node.teleoperation import PATIENCE, Teleoperation


def test_nobody_drives_before_a_word() -> None:
    human = Teleoperation()
    assert human.target(0.0) is None and not human.active


@given(st.lists(st.tuples(st.floats(0.01, 0.6), st.booleans()), max_size=40))
def test_a_human_drives_as_long_as_messages_come(events: list[tuple[float, bool]]) -> None:
    human, now, heard = Teleoperation(), 0.0, None
    for number, (passed, speaks) in enumerate(events):
        now += passed
        if speaks:
            human.hear(np.full(3, float(number)), now)
            heard = (now, number)
        target = human.target(now)
        driving = heard is not None and now - heard[0] <= PATIENCE
        assert human.active == driving
        assert (target is not None and target[0] == heard[1]) if driving and heard else target is None

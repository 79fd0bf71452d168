"""Which decisions a human took part in, and what was done there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_flow import rollout

from learner_node.interventions import corrected, intervened
from whetstone.contracts import Rollout
from whetstone.errors import InputError

PERIOD, EXECUTE, HORIZON = 50, 4, 6


def episode(marked: list[bool], sent: list[bool] | None = None, jitter: int = 0) -> Rollout:
    """A decision every EXECUTE control steps; at step n what was commanded is n, what was measured -n, what the policy wanted 0."""
    count = len(marked)
    stamps = np.arange(count, dtype=np.int64) * PERIOD + 1000
    decisions = stamps[::EXECUTE]
    commanded = np.tile(np.arange(count, dtype=np.float32)[:, None], (1, 2))
    measured = -commanded
    commanded[~np.array(sent if sent is not None else [True] * count)] = np.nan
    made = rollout("timeout", (0.0, 0.0), progress=(0.0,) * (len(decisions) + 1))
    return replace(
        made,
        stamps=decisions,
        actions=np.zeros((len(decisions), HORIZON, 2), np.float32),
        steps={"stamps": stamps + jitter, "commanded": commanded, "measured": measured, "intervention": np.array(marked)},
    )


@given(marked=st.lists(st.booleans(), min_size=1, max_size=30), jitter=st.integers(-PERIOD // 2 + 2, PERIOD // 2 - 2))
def test_a_decision_is_the_human_s_where_any_control_step_until_the_next_one_was(marked: list[bool], jitter: int) -> None:
    expected = [any(marked[first : first + EXECUTE]) for first in range(0, len(marked), EXECUTE)]
    jitter = 0 if len(marked) < 2 else jitter  # one stamp tells no period
    assert intervened(episode(marked, jitter=jitter)).tolist() == expected


@given(marked=st.lists(st.booleans(), min_size=2, max_size=30), data=st.data())
def test_what_was_commanded_replaces_the_chunk_of_such_decisions_alone(marked: list[bool], data: st.DataObject) -> None:
    sent = data.draw(st.lists(st.booleans(), min_size=len(marked), max_size=len(marked)))
    made = episode(marked, sent)
    found, which = corrected(made), intervened(made)
    assert not made.actions.any(), "the record itself stays as it was"
    for index, chunk in enumerate(found.actions):
        for row, action in enumerate(chunk):
            at = min(index * EXECUTE + row, len(marked) - 1)
            newest = max((step for step in range(at + 1) if sent[step]), default=None)
            wanted = 0.0 if not which[index] else float(-at if newest is None else newest)
            assert action.tolist() == [wanted, wanted]
    assert np.isfinite(found.actions).all()


def test_a_missing_control_step_shifts_no_row() -> None:
    made = episode([True] * 12)
    made.steps = {name: np.delete(array, 2, axis=0) for name, array in made.steps.items()}
    assert corrected(made).actions[0, :, 0].tolist() == [0, 1, 3, 3, 4, 5], "the row that is missing is the one that follows"


def test_nobody_intervened_where_nobody_recorded_it() -> None:
    made = episode([True] * 5)
    del made.steps["intervention"]
    assert not intervened(made).any() and corrected(made) is made
    plain = rollout("success", (0.0, 0.0))
    assert not intervened(plain).any() and corrected(plain) is plain


def test_an_intervention_without_what_was_commanded_is_named() -> None:
    made = episode([True] * 5)
    del made.steps["commanded"]
    with pytest.raises(InputError, match="episode train-0: it marks interventions but has no steps/commanded"):
        corrected(made)

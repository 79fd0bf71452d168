"""The benchmark of weights: what it sends arrives bit by bit, and its figures are of what they say."""

from __future__ import annotations

import numpy as np
import pytest

from robot_bringup.bench_weights import __main__ as bench
from robot_bringup.bench_weights import states
from robot_bringup.bench_weights.__main__ import ARGUMENTS, Failed, Push, Subject, measure, rows
from whetstone.errors import ConfigError


def test_weights_have_their_size_and_updates_are_the_same_everywhere() -> None:
    state, twin = states.dense(9), states.dense(9)
    assert sum(array.nbytes for array in state.values()) == 9_000_000 and len(state) == 3
    states.update(state, 1)
    assert states.fingerprint(state) != states.fingerprint(twin)
    states.update(twin, 1)
    assert states.fingerprint(state) == states.fingerprint(twin)


def test_of_a_policy_only_what_is_trained_changes() -> None:
    before, state = states.policy(), states.policy()
    assert sum(array.nbytes for name, array in state.items() if not states.is_adapter(name)) == 100_000_000
    states.update(state, 1, states.is_adapter)
    changed = {name for name in state if not np.array_equal(state[name], before[name])}
    assert changed == set(states.adapters(state)) != set()


def test_what_is_sent_arrives_in_another_process(tmp_path, domain: int) -> None:
    pytest.importorskip("rclpy")
    options = {"precision": "bf16", "differences": False}
    (push,) = measure(Subject("whetstone", options), 1, 1, {**ARGUMENTS, "domain": str(domain)}, tmp_path)
    assert push.right and push.seconds > 0 and min(push.cpu) > 0 and 0 < push.received < 600_000


def test_a_side_that_fails_is_named(tmp_path) -> None:
    with pytest.raises(Failed, match=r"(sender|receiver) ended with 1: KeyError: 'pigeon'"):
        measure(Subject("pigeon"), 1, 1, ARGUMENTS, tmp_path)


def test_rows_are_medians_and_the_worst_of_memory() -> None:
    pushes = [Push(seconds, (seconds, 1.0), (10**6 * index, 10**6), 5 * 10**6, index != 1) for index, seconds in enumerate((3.0, 1.0, 2.0))]
    values = {row["metric"]: row["value"] for row in rows("1MB", "whetstone", pushes, "quiet")}
    assert (values["push_to_applied"], values["push_to_applied_slowest"], values["cpu_time"]) == (2.0, 3.0, 3.0)
    assert (values["peak_memory"], values["peak_memory_sender"], values["corrupt_applied"], values["sent"]) == (3.0, 2.0, 1.0, 5.0)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("sizes:=2MB", "unknown size '2MB'"),
        ("subjects:=grpc", "unknown subject 'grpc'"),
        ("loss:=many", "loss:= whole per cents"),
        ("repeats:=0", "repeats:= must be at least 1"),
    ],
)
def test_wrong_words_are_named(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench.main([word])

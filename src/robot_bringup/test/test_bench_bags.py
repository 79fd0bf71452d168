"""The benchmark of bags reads and converts what it says, and notices where the two loops read different things."""

from __future__ import annotations

from pathlib import Path

import pytest

from robot_bringup.bench_bags import reading
from robot_bringup.bench_bags.sample import START, write_bag
from whetstone.bags.reader import open_bag
from whetstone.errors import InputError
from whetstone.profile import load_profile


def test_the_sample_has_its_rates(tmp_path: Path) -> None:
    profile = load_profile("so100")
    assert write_bag(tmp_path / "bag", profile, 1.0, 30.0) == 2 * 30
    with open_bag(tmp_path / "bag") as bag:
        assert {name: topic.count for name, topic in bag.topics.items()} == {
            "/joint_states": 100,
            **{f"/camera/{camera.name}/image_raw": 30 for camera in profile.cameras},
        }
        assert bag.start == START


def test_rows_of_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = reading.rows(tmp_path, seconds=0.2, repeats=1)
    assert [(row["subject"], row["metric"]) for row in rows] == [
        ("whetstone", "read_rate"),
        ("rosbags_loop", "read_rate"),
        ("whetstone", "speedup"),
        ("whetstone", "time_per_gb"),
        ("whetstone", "time_per_gb"),
    ]
    assert all(row["value"] > 0 for row in rows)
    with open_bag(tmp_path / "bag") as bag:
        size = sum(len(message.data) for message in bag.messages())
    assert f"{size / 1e9:.2f} GB" in rows[0]["case"] and reading.ours(tmp_path / "bag") == reading.plain_loop(tmp_path / "bag")
    monkeypatch.setattr(reading, "plain_loop", lambda path: (size, -1))
    with pytest.raises(InputError, match="the two loops read different things"):
        reading.rows(tmp_path / "other", seconds=0.2, repeats=1)

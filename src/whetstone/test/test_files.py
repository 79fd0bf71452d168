"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from whetstone import files


def test_what_is_there_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.replacing(path) as partial:
        partial.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with files.replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    with files.replacing(path) as partial:
        partial.write_text("new")
        partial.with_name(partial.name.replace(".txt.", ".txt.1")).write_text("half")
    assert len(list(tmp_path.iterdir())) == 2
    files.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "nowhere" / "one.txt") as partial:
        partial.write_text("new")

"""Rollouts on disk: whole or not there, and exactly what was written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from whetstone_samples import rollout

from whetstone.contracts import Rollout
from whetstone.errors import InputError
from whetstone.store import RolloutStore


def assert_equal(a: Rollout, b: Rollout) -> None:
    for field in fields(Rollout):
        x, y = getattr(a, field.name), getattr(b, field.name)
        pairs = [(x[key], y[key]) for key in x] if isinstance(x, dict) else [(x, y)]
        assert not isinstance(x, dict) or list(x) == list(y)
        for left, right in pairs:
            if isinstance(left, np.ndarray):
                assert left.dtype == right.dtype and np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
            else:
                assert left == right and type(left) is type(right)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path / "new" / "rollouts")
    assert store.list() == []
    for steps in (5, 0):
        written = rollout(f"train-000-000{steps}", steps)
        store.write(written)
        assert_equal(written, store.read(written.episode_id))
    without = rollout("bare")
    without.latents, without.last_proprioception, without.last_images = None, None, {}
    without.seed, without.iteration = np.int64(3), np.uint32(1)  # type: ignore[assignment]
    store.write(without)
    back = store.read("bare")
    assert back.latents is None and back.last_proprioception is None and back.last_images == {} and back.seed == 3
    assert store.list() == ["bare", "train-000-0000", "train-000-0005"]


def test_an_episode_of_the_same_id_is_replaced(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    store.write(rollout(seed=1))
    store.write(rollout(seed=2))
    assert_equal(rollout(seed=2), store.read("train-000-0001"))
    assert os.listdir(tmp_path) == ["train-000-0001"]


def test_a_killed_writer_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    """A process that dies while it writes (at the first fsync) leaves no episode; the next start clears up."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[2]);"
        "from whetstone_samples import rollout; from whetstone.store import RolloutStore;"
        "os.fsync = lambda _: os._exit(9);"
        "RolloutStore(sys.argv[1]).write(rollout())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)], timeout=60, check=False)
    assert done.returncode == 9
    store = RolloutStore(tmp_path)
    assert len(os.listdir(tmp_path)) == 1 and store.list() == []
    assert store.clean() == 1 and os.listdir(tmp_path) == []


def test_no_space_is_one_clear_line_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1 << 20))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"^no space for rollouts: .* has 1 MiB free, 64 MiB are needed$"):
        RolloutStore(tmp_path).write(rollout())
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"^no space for rollouts: "):
        RolloutStore(tmp_path).write(rollout())
    assert os.listdir(tmp_path) == []


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(InputError, match=r"cannot be written"):
        RolloutStore(tmp_path / "f").write(rollout())


@pytest.mark.parametrize("name", ["meta.json", "arrays.npz"])
def test_any_damage_names_the_file(tmp_path: Path, name: str) -> None:
    store = RolloutStore(tmp_path)
    path = store.write(rollout()) / name
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\x80\x04garbage", whole[:-30]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            store.read("train-000-0001")
    if name == "arrays.npz":
        flipped = bytearray(whole)
        flipped[len(whole) // 3] ^= 0xFF
        path.write_bytes(bytes(flipped))
        with pytest.raises(InputError, match=r"arrays\.npz"):
            store.read("train-000-0001")
        path.unlink()
        with pytest.raises(InputError, match=r"arrays\.npz"):
            store.read("train-000-0001")
    else:
        path.write_text(json.dumps({**json.loads(whole), "format": 99}))
        with pytest.raises(InputError, match=r"format 99"):
            store.read("train-000-0001")


def test_whatever_byte_of_the_arrays_is_damaged_it_is_said_or_harmless(tmp_path: Path) -> None:
    """Every place of an archive's directory, where compression, encryption and names are told, and some of the rest."""
    store = RolloutStore(tmp_path)
    path = store.write(rollout()) / "arrays.npz"
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    said = 0
    for place in (*range(0, directory, 211), *range(directory, len(whole), 3)):
        flipped = bytearray(whole)
        flipped[place] ^= 0xFF
        path.write_bytes(bytes(flipped))
        try:
            assert_equal(rollout(), store.read("train-000-0001"))
        except InputError as error:
            assert "arrays.npz: damaged" in str(error)
            said += 1
    assert said > 100


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    folder = store.write(rollout())
    np.savez(folder / "arrays.npz", stamps=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"arrays\.npz"):
        store.read("train-000-0001")


def test_wrong_lengths_and_ids_are_refused(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    short = rollout()
    short.rewards["total"] = short.rewards["total"][:-1]
    with pytest.raises(InputError, match=r"rewards/total has 5 rows, 6 are needed"):
        store.write(short)
    for episode_id in ("../x", "", ".hidden", "a/b"):
        with pytest.raises(InputError, match=r"episode id"):
            store.write(rollout(episode_id))
    with pytest.raises(InputError, match=r"'nobody' is not in"):
        store.read("nobody")


def test_an_episode_of_usual_size_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    big = rollout(steps=20)
    smooth = np.linspace(0, 200, 128, dtype=np.uint8)[:, None, None] + np.zeros((20, 128, 128, 3), np.uint8)
    big.images = {"front": smooth, "wrist": smooth}
    store, times = RolloutStore(tmp_path), []
    for _ in range(5):
        start = time.process_time()
        store.write(big)
        times.append(time.process_time() - start)
    assert min(times) < 0.1
    assert sum(file.stat().st_size for file in (tmp_path / big.episode_id).iterdir()) < 400_000


def test_what_cannot_be_read_is_set_aside_and_named(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    for index in range(3):
        store.write(rollout(f"train-000-000{index}"))
    for _ in range(2):  # the second of the same name finds the first one's place taken
        (tmp_path / "train-000-0001" / "arrays.npz").write_bytes(b"broken")
        assert [one.episode_id for one in store.read_all()] == ["train-000-0000", "train-000-0002"]
        assert store.list() == ["train-000-0000", "train-000-0002"]
        store.write(rollout("train-000-0001"))
    aside = store.quarantined()
    assert list(aside) == ["train-000-0001", "train-000-0001-1"]
    assert all("arrays.npz: damaged" in reason for reason in aside.values())
    assert (tmp_path / "quarantine" / "train-000-0001" / "arrays.npz").read_bytes() == b"broken"
    assert [one.episode_id for one in store.read_all()] == [f"train-000-000{index}" for index in range(3)]


def test_the_budget_takes_the_oldest_unprotected_and_never_the_newest(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    for index in range(5):
        meta = store.write(rollout(f"train-000-000{index}")) / "meta.json"
        os.utime(meta, ns=(index, index))
    store.protect("train-000-0001")
    size = store.size("train-000-0000")
    assert store.prune(5 * size + 100) == []
    assert store.prune(3 * size + 100) == ["train-000-0000", "train-000-0002"]
    assert store.list() == ["train-000-0001", "train-000-0003", "train-000-0004"]
    assert store.prune(0) == ["train-000-0003"] and store.list() == ["train-000-0001", "train-000-0004"]
    store.protect("train-000-0001", False)
    assert not store.protected("train-000-0001") and store.prune(0) == ["train-000-0001"]
    with pytest.raises(InputError, match="'train-000-0001' is not in"):
        store.protect("train-000-0001")


def test_what_is_set_aside_counts_in_the_budget_and_goes_at_a_human_s_word_alone(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    for index in range(4):
        meta = store.write(rollout(f"train-000-000{index}")) / "meta.json"
        os.utime(meta, ns=(index, index))
    size = store.size("train-000-0000")
    assert store.set_aside() == {"interrupted": (0, 0), "quarantine": (0, 0)}
    store.quarantine("train-000-0000", "broken")
    store.begin("train-000-0009").close()
    store.interrupt("train-000-0009", rollout("train-000-0009"), "killed")
    aside = store.set_aside()
    assert [count for count, _ in aside.values()] == [1, 1] and all(bytes_ > size / 2 for _, bytes_ in aside.values())
    taken = sum(bytes_ for _, bytes_ in aside.values())
    assert store.prune(3 * size + taken + 100) == []
    assert store.prune(3 * size + 100) == ["train-000-0001", "train-000-0002"] and store.set_aside() == aside
    with pytest.raises(InputError, match="'running' cannot be cleared; there are interrupted and quarantine"):
        store.clear("running")
    assert store.clear("interrupted") == aside["interrupted"][1]
    assert store.set_aside() == {"interrupted": (0, 0), "quarantine": aside["quarantine"]}
    assert store.list() == ["train-000-0003"] and store.prune(size + taken) == []


def test_reading_while_another_process_removes_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RolloutStore(tmp_path)
    for name in ("a", "b", "c"):
        store.write(rollout(name))
    reading = store.read_all()
    assert next(reading).episode_id == "a"
    shutil.rmtree(tmp_path / "b")
    assert [one.episode_id for one in reading] == ["c"]
    assert store.quarantined() == {}
    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: (*real(path), path / "gone"))
    assert store.size("a") > 0 and store.prune(1) == ["a"]


def test_another_recording_of_the_same_name_does_not_take_the_first_one_s_place(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    for seed in (1, 2):
        running = store.begin("train-000-0001")
        running.close()
        store.write(rollout(seed=seed))
    assert_equal(rollout(seed=2), store.read("train-000-0001"))
    assert store.interrupted() == {"train-000-0001": "another episode of this name was recorded after it"}
    assert_equal(rollout(seed=1), RolloutStore(tmp_path / "interrupted").read("train-000-0001"))


@pytest.mark.parametrize("format", [1, 2])
def test_an_episode_of_a_format_before_is_read(tmp_path: Path, format: int) -> None:
    store = RolloutStore(tmp_path)
    old = rollout()
    if format == 1:
        old.scores, old.steps = {}, {}
    path = store.write(old) / "meta.json"
    meta = {**json.loads(path.read_text()), "format": format}
    for later in ("end", "source", "record"):
        del meta[later]
    path.write_text(json.dumps(meta))
    assert_equal(old, store.read(old.episode_id))
    assert (old.end, old.source) == (None, "policy")


def test_rewards_of_an_episode_are_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RolloutStore(tmp_path)
    old, new = rollout(), rollout()
    new.rewards["total"] = np.ones_like(new.rewards["total"])
    folder = store.write(old)
    store.protect(old.episode_id)
    os.utime(folder / "meta.json", ns=(5, 7))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(InputError, match="no space for rollouts"):
            store.rewrite(new)
    assert_equal(old, store.read(old.episode_id))
    store.rewrite(new)
    assert_equal(new, store.read(old.episode_id))
    assert store.protected(old.episode_id) and (folder / "meta.json").stat().st_mtime_ns == 7
    assert sorted(path.name for path in folder.iterdir()) == ["arrays.npz", "meta.json", "protected"]
    with pytest.raises(InputError, match="'nobody' is not in"):
        store.rewrite(rollout("nobody"))


@pytest.mark.parametrize("killed_at", range(1, 6))
def test_a_writer_killed_while_it_replaces_leaves_the_old_or_the_new(tmp_path: Path, killed_at: int) -> None:
    """At any of the steps on the disk by which a new episode takes the place of an old one."""
    code = (
        "import os, sys, shutil; sys.path.insert(0, sys.argv[2]);"
        "from pathlib import Path; from whetstone_samples import rollout; from whetstone.store import RolloutStore;"
        "store = RolloutStore(sys.argv[1]); store.write(rollout(seed=1)); steps = [0]\n"
        "def counted(call):\n"
        "    def step(*arguments, **options):\n"
        "        steps[0] += 1\n"
        "        if steps[0] == int(sys.argv[3]): os._exit(9)\n"
        "        return call(*arguments, **options)\n"
        "    return step\n"
        "Path.rename = counted(Path.rename); os.fsync = counted(os.fsync)\n"
        "store.write(rollout(seed=2))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent), str(killed_at)]
    assert subprocess.run(command, timeout=60, check=False).returncode == 9
    store = RolloutStore(tmp_path)
    store.clean()
    # fsync of arrays and meta, the old one aside, the new one in its place, fsync of the folder
    assert_equal(rollout(seed=2 if killed_at == 5 else 1), store.read("train-000-0001"))
    assert os.listdir(tmp_path) == ["train-000-0001"]


def test_steps_and_scores_of_unequal_length_are_refused(tmp_path: Path) -> None:
    short = rollout()
    short.steps["measured"] = short.steps["measured"][:-1]
    with pytest.raises(InputError, match="steps/measured has 8 rows, 9 are needed"):
        RolloutStore(tmp_path).write(short)

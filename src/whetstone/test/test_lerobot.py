"""To LeRobotDataset v3.0 and back: the schema of lerobot itself, the same arrays, and a clear word where something does not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lerobot_gold import describe
from test_store import assert_equal
from whetstone_samples import picture, recorded, robot

from whetstone.contracts import Rollout
from whetstone.errors import InputError, WhetstoneError
from whetstone.frames import encode
from whetstone.lerobot_dataset import DatasetReader, DatasetWriter, Feature, picture_feature
from whetstone.lerobot_export import PROGRESS_FILE, SIDE_COLUMN, ExportOptions, decision_rows, export, step_rows
from whetstone.lerobot_import import ImportOptions, import_dataset
from whetstone.store import RolloutStore

CAMERA = {"width": 64, "height": 64}
ROBOT = robot(cameras=[{"name": "front", **CAMERA}])
TWO_CAMERAS = robot(cameras=[{"name": "front", **CAMERA}, {"name": "wrist", **CAMERA}])
PNG, VIDEO = ExportOptions(images="png"), ExportOptions()


def filled(root: Path, *rollouts: Rollout, frames: bool = False) -> RolloutStore:
    store = RolloutStore(root)
    for rollout in rollouts:
        store.write(rollout, every_frame(rollout) if frames else None)
    return store


def every_frame(rollout: Rollout) -> Iterator[tuple[str, int, bytes]]:
    for camera in rollout.images:
        for row, stamp in enumerate(rollout.steps["stamps"].tolist()):
            yield camera, stamp, encode(picture(1000 + row), lossless=True)


def data_of(root: Path) -> dict[str, list[Any]]:
    return pyarrow.parquet.read_table(root / "data/chunk-000/file-000.parquet").to_pydict()


@pytest.mark.parametrize("kind", ["video", "image"])
def test_the_schema_is_that_of_a_dataset_which_lerobot_wrote(tmp_path: Path, kind: str) -> None:
    gold = json.loads((Path(__file__).parent / "lerobot_v3.json").read_text())[kind]
    rollouts = (recorded(f"train-000-000{one}", instruction=f"task {one}", seed=one) for one in range(2))
    store = filled(tmp_path / "store", *rollouts)
    export(store, store.list(), ROBOT, tmp_path / "ds", VIDEO if kind == "video" else PNG)
    ours = describe(tmp_path / "ds")
    ours["files"] = [name for name in ours["files"] if not name.startswith("whetstone/") and name != PROGRESS_FILE]
    del ours["tables"]["meta/episodes/chunk-000/file-000.parquet"]["columns"][SIDE_COLUMN]
    for name, table in gold["tables"].items():
        mine, theirs = ours["tables"][name]["columns"], table["columns"]
        assert dict(sorted(mine.items())) == dict(sorted(theirs.items())), name
        if name.startswith("data"):
            assert list(mine) == list(theirs), "the order of columns"
        for key in ("huggingface", "pandas_index"):
            assert ours["tables"][name][key] == table[key], (name, key)
    for key in ("files", "info", "features", "stats"):
        assert ours[key] == gold[key], key


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)), min_size=1, max_size=3), st.integers(1, 4), st.booleans())
def test_out_and_in_again_gives_the_same_rollouts(tmp_path_factory: Any, sizes: list[tuple[int, int]], execute: int, steps: bool) -> None:
    folder = tmp_path_factory.mktemp("trip")
    written = [recorded(f"train-000-000{index}", count, execute, seed) for index, (count, seed) in enumerate(sizes)]
    written[0].outcome = "timeout"
    # Without a second decision in the first episode its period is not known.
    written = [one for one in written if len(one.stamps) > 1 or steps] or [recorded(decisions=2)]
    store = filled(folder / "store", *written, frames=steps)
    done = export(store, store.list(), ROBOT, folder / "ds", PNG)
    assert done.rows_are == ("control steps" if steps else "decisions") and not done.left_out
    back = RolloutStore(folder / "back")
    assert import_dataset(folder / "ds", back, ROBOT, ImportOptions(frames="all")) == [one.episode_id for one in written]
    for rollout in written:
        assert_equal(rollout, back.read(rollout.episode_id))
        if steps:
            frames, others = store.frames(rollout.episode_id), back.frames(rollout.episode_id)
            assert frames is not None and others is not None
            decided = set(rollout.stamps.tolist())
            for stamp in rollout.steps["stamps"].tolist()[:-1]:  # the end has no command, so no row
                seen = rollout.images["front"][rollout.stamps.tolist().index(stamp)] if stamp in decided else frames.read("front", stamp)
                np.testing.assert_array_equal(others.read("front", stamp), seen)


def test_video_changes_images_a_little_and_mixes_no_cameras(tmp_path: Path) -> None:
    written = [recorded(f"train-000-000{one}", seed=50 * one, cameras=("front", "wrist")) for one in range(3)]
    store = filled(tmp_path / "store", *written)
    export(store, store.list(), TWO_CAMERAS, tmp_path / "ds", VIDEO)
    assert len(list((tmp_path / "ds/videos").rglob("*.mp4"))) == 2, "one file for all episodes of a camera"
    back = RolloutStore(tmp_path / "back")
    import_dataset(tmp_path / "ds", back, TWO_CAMERAS, ImportOptions())
    for rollout in written:
        for camera, images in back.read(rollout.episode_id).images.items():
            assert np.abs(images.astype(int) - rollout.images[camera]).mean() < 3


def test_decisions_are_some_of_the_control_steps() -> None:
    rollout = recorded(decisions=3, execute=4)
    decisions, steps = decision_rows(rollout, VIDEO), step_rows(rollout, None, ROBOT, ExportOptions(images="none"))
    for name in ("stamps", "state", "action", "progress"):
        np.testing.assert_array_equal(getattr(decisions, name), getattr(steps, name)[::4], err_msg=name)
    assert decisions.intervention.tolist() == [True, False, False] and steps.intervention.sum() == 1


def test_where_nothing_was_sent_the_last_target_stands() -> None:
    rollout = recorded(decisions=2, execute=4)
    rollout.steps["commanded"][[0, 3, 4]] = np.nan
    rows = step_rows(rollout, None, ROBOT, ExportOptions(images="none"))
    assert rows.stamps[0] == rollout.steps["stamps"][1] and len(rows.stamps) == 7
    np.testing.assert_array_equal(rows.action[2:4], rollout.steps["commanded"][[2, 2]])
    assert np.isfinite(rows.action).all()


def test_rewards_are_those_of_the_next_row_and_unlabelled_stays_so(tmp_path: Path) -> None:
    rollout = recorded(decisions=4)
    rollout.rewards["total"] = np.array([0.1, 0.2, np.nan, 0.4, 0.5], np.float32)
    rollout.rewards["progress"] = np.array([0.1, np.nan, 0.3, 0.4, 0.5], np.float32)
    store = filled(tmp_path / "store", rollout, recorded("train-000-0001", outcome="timeout"))
    done = export(store, store.list(), ROBOT, tmp_path / "ds", ExportOptions(images="none"))
    data = data_of(tmp_path / "ds")
    np.testing.assert_array_equal(data["next.reward"][:4], np.array([0.2, np.nan, 0.4, 0.5], np.float32))
    assert done.unlabelled == 1 + 1, "and the last row of the other"
    assert data["next.done"] == [False, False, False, True] * 2 and data["next.success"] == [False, False, False, True] + [False] * 4
    progress = pyarrow.parquet.read_table(tmp_path / "ds" / PROGRESS_FILE)
    assert progress.schema.metadata == {b"reward_model_path": b"sarm2@1f3a9c"}
    assert [f"{field.name} {field.type}" for field in progress.schema] == [
        "index int64", "episode_index int64", "frame_index int64", "progress_sparse float",
    ]  # fmt: skip
    assert progress["index"].to_pylist() == list(range(8)) and progress["frame_index"].to_pylist() == [0, 1, 2, 3] * 2
    np.testing.assert_array_equal(progress["progress_sparse"].to_numpy()[:4], rollout.rewards["progress"][:4])
    export(store, store.list(), ROBOT, tmp_path / "sparse", ExportOptions(images="none", reward="success"))
    assert data_of(tmp_path / "sparse")["next.reward"] == [0, 0, 0, 1, 0, 0, 0, 0]


def test_between_scores_rewards_are_held_and_progress_is_interpolated() -> None:
    rollout = recorded(decisions=2, execute=4)
    stamps = rollout.steps["stamps"]
    rollout.scores = {
        "stamps": stamps[[1, 5, 7]],
        "valid": np.array([True, True, False]),
        "total": np.array([0.2, 0.6, 0.9], np.float32),
        "progress": np.array([0.2, 0.6, 0.9], np.float32),
    }
    rows = step_rows(rollout, None, ROBOT, ExportOptions(images="none"))
    np.testing.assert_allclose(rows.reward, [0.2, 0.2, 0.2, 0.2, 0.6, 0.6, 0.6, 0.6], rtol=1e-6)
    np.testing.assert_allclose(rows.progress, [np.nan, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6], rtol=1e-6)


def test_statistics_are_those_of_the_rows(tmp_path: Path) -> None:
    written = [recorded(f"train-000-000{one}", decisions=3 + one, seed=one) for one in range(2)]
    store = filled(tmp_path / "store", *written)
    export(store, store.list(), ROBOT, tmp_path / "ds", PNG)
    stats = json.loads((tmp_path / "ds/meta/stats.json").read_text())
    state = np.concatenate([one.proprioception for one in written]).astype(np.float64)
    pixels = np.concatenate([one.images["front"] for one in written]) / 255
    for array, axis, found in (
        (state, 0, stats["observation.state"]),
        (pixels, (0, 1, 2), {key: np.ravel(value) for key, value in stats["observation.images.front"].items()}),
    ):
        for name in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(found[name], getattr(array, name)(axis=axis), rtol=1e-6, atol=1e-9)
        assert found["count"] == [7]
    one = written[0].images["front"][..., 1] / 255
    line = pyarrow.parquet.read_table(tmp_path / "ds/meta/episodes/chunk-000/file-000.parquet").to_pylist()[0]
    for name, share in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
        assert abs(np.ravel(line[f"stats/observation.images.front/{name}"])[1] - np.quantile(one, share)) < 1.5 / 255


def test_what_cannot_be_a_part_is_left_out_by_name(tmp_path: Path) -> None:
    gap = recorded("gap", decisions=5)
    keep = [0, 1, 3, 4]
    gap = recorded("gap", decisions=4, stamps=gap.stamps[keep])
    other = recorded("other", images={"side": recorded().images["front"]})
    store = filled(tmp_path / "store", recorded("a"), recorded("broken"), gap, other, recorded("z"))
    (tmp_path / "store/broken/arrays.npz").write_bytes(b"")
    done = export(store, ["a", "broken", "gap", "nobody", "other", "z"], ROBOT, tmp_path / "ds", PNG)
    assert done.episodes == 2 and list(done.left_out) == ["broken", "gap", "nobody", "other"]
    for name, words in {"broken": "damaged", "gap": "a row is missing 0.40 s", "nobody": "is not in", "other": "its images are"}.items():
        assert words in done.left_out[name]
    assert len(store.list()) == 5, "an export changes no store"


@pytest.mark.parametrize(
    ("chosen", "options", "said"),
    [
        (["nobody"], PNG, "no episode to export: nobody: .* is not in"),
        ([], PNG, "no episode to export: none was chosen"),
        (["a"], ExportOptions(reward="luck"), "reward 'luck' is not one of success, raw"),
        (["a"], ExportOptions(rows="steps"), "images of every control step were not recorded .*rows:=decisions"),
        (["odd"], VIDEO, "camera 'front' is 63x63: video needs even sizes; images:=png"),
        (["seven"], PNG, "it has 7 joint columns, robot 'twolink' has 3"),
    ],
)
def test_no_dataset_is_begun_that_cannot_be_made(tmp_path: Path, chosen: list[str], options: ExportOptions, said: str) -> None:
    odd = recorded("odd", images={"front": recorded().images["front"][:, 1:, 1:]})
    seven = recorded("seven", proprioception=np.zeros((4, 7), np.float32))
    store = filled(tmp_path / "store", recorded("a"), odd, seven)
    with pytest.raises(InputError, match=said):
        export(store, chosen, ROBOT, tmp_path / "ds", options)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", recorded("a"))
    with pytest.raises(InputError, match="store is there already"):
        export(store, ["a"], ROBOT, tmp_path / "store", PNG)
    assert store.list() == ["a"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path / "store", recorded("a"))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet.ParquetWriter, "write_table", full)
    with pytest.raises(InputError, match="ds cannot be written: the disk is full"):
        export(store, ["a"], ROBOT, tmp_path / "ds", VIDEO)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_large_datasets_go_on_in_further_files_and_folders(tmp_path: Path) -> None:
    features = {"action": Feature("float32", (2,), ("a", "b")), "observation.images.top": picture_feature("video", 64, 64)}
    random = np.random.default_rng(0)
    actions = [random.normal(size=(3, 2)).astype(np.float32) for _ in range(5)]
    with DatasetWriter(tmp_path / "ds", Fraction(30), features, "x", chunks_size=2, data_mb=1e-6, video_mb=1e-6) as writer:
        for index, one in enumerate(actions):
            noise = (random.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(3))
            writer.add_episode({"action": one}, {"observation.images.top": noise}, f"task {index % 2}")
    assert (tmp_path / "ds/data/chunk-002/file-000.parquet").exists()
    assert (tmp_path / "ds/videos/observation.images.top/chunk-002/file-000.mp4").exists()
    reader = DatasetReader(tmp_path / "ds")
    for index, one in enumerate(actions):
        np.testing.assert_array_equal(reader.columns(index)["action"], one)
        assert len(list(reader.images(index, "observation.images.top"))) == 3 and reader.task(index) == f"task {index % 2}"


def test_what_somebody_else_recorded_becomes_demonstrations(tmp_path: Path) -> None:
    original = recorded(decisions=3, execute=4)
    store = filled(tmp_path / "store", original, recorded("train-000-0001", outcome="timeout"), frames=True)
    export(store, store.list(), ROBOT, tmp_path / "ds", PNG)
    back = RolloutStore(tmp_path / "back")
    options = ImportOptions(sidecar=False, execute=5, horizon=4, task="pick", frames="all")
    assert import_dataset(tmp_path / "ds", back, ROBOT, options) == ["demo-000000", "demo-000001"]
    demo = back.read("demo-000000")
    assert (demo.source, demo.outcome, demo.task, demo.instruction) == ("demonstration", "success", "pick", original.instruction)
    assert back.read("demo-000001").outcome == "failure"
    assert all(np.isnan(values).all() and len(values) == 4 for values in demo.rewards.values())
    rows = [0, 5, 10]  # of 12; the last is the last frame
    commanded = original.steps["commanded"][:12]
    np.testing.assert_array_equal(demo.steps["measured"], original.steps["measured"][:12])
    np.testing.assert_array_equal(demo.steps["commanded"], commanded)
    np.testing.assert_array_equal(demo.steps["intervention"], original.steps["intervention"][:12])
    np.testing.assert_array_equal(demo.proprioception, original.steps["measured"][rows])
    np.testing.assert_array_equal(demo.actions[1], commanded[5:9])
    np.testing.assert_array_equal(demo.actions[2], commanded[[10, 11, 11, 11]])
    np.testing.assert_array_equal(demo.images["front"][1], picture(1005))
    np.testing.assert_array_equal(demo.last_images["front"], picture(1011))
    frames = back.frames("demo-000000")
    assert frames is not None and len(frames.stamps("front")) == 12
    with pytest.raises(InputError, match="'demo-000000' is in .* already"):
        import_dataset(tmp_path / "ds", back, ROBOT, options)


FOREIGN = {"observation.state": ("g", "y", "x"), "action": ("x", "y", "g")}


def foreign(root: Path, *, fps: int = 20, names: dict[str, Any] = FOREIGN, scale: float = 1.0, size: int = 64, **drop: bool) -> Path:
    """A dataset with other names, in degrees, whose gripper goes from 100 (closed) to 0."""
    features = {
        **{name: Feature("float32", (3,), columns) for name, columns in names.items()},
        "observation.images.top": picture_feature("image", size, size),
        "next.success": Feature("bool", (1,)),
    }
    features = {name: one for name, one in features.items() if name not in drop}
    values = np.linspace([0, 0, 100], [45, 90, 0], 10).astype(np.float32) * scale
    columns = {name: values[:, [("x", "y", "g").index(c) for c in given or ("x", "y", "g")]] for name, given in names.items()}
    columns = {name: one for name, one in {**columns, "next.success": np.arange(10) == 9}.items() if name not in drop}
    with DatasetWriter(root, Fraction(fps), features, "other") as writer:
        writer.add_episode({"action": values, **columns}, {"observation.images.top": (picture(row, size) for row in range(10))}, "do it")
    return root


SUITS: dict[str, Any] = {
    "cameras": {"front": "observation.images.top"},
    "joints": {"a": "x", "b": "y", "gripper": "g"},
    "units": "deg",
    "gripper": (100.0, 0.0),
}


def test_other_names_orders_and_units(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path / "store")
    import_dataset(foreign(tmp_path / "ds"), store, ROBOT, ImportOptions(**SUITS))
    steps = store.read("demo-000000").steps
    expected = np.linspace([0, 0, 0], [np.pi / 4, np.pi / 2, 1], 10)
    np.testing.assert_allclose(steps["measured"], expected, atol=1e-6)
    np.testing.assert_allclose(steps["commanded"], expected, atol=1e-6)


def test_another_rate_and_size(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path / "store")
    options = ImportOptions(**SUITS, resample=True, resize="crop", frames="all")
    import_dataset(foreign(tmp_path / "ds", fps=30, size=96), store, ROBOT, options)
    rollout = store.read("demo-000000")
    np.testing.assert_allclose(rollout.steps["measured"], np.linspace([0, 0, 0], [np.pi / 4, np.pi / 2, 1], 7), atol=1e-6)
    assert rollout.images["front"].shape[1:] == (64, 64, 3)
    frames = store.frames("demo-000000")
    assert frames is not None and len(frames.stamps("front")) == 7


@pytest.mark.parametrize(
    ("dataset", "changed", "said"),
    [
        (
            {},
            {"cameras": {}},
            "no picture feature .*.front for camera 'front'; it has observation.images.top; cameras:=front=",
        ),
        ({}, {"cameras": {"side": "observation.images.top"}}, "unknown camera 'side'"),
        ({}, {"joints": {}}, "observation.state has no column 'a'; it has g, y, x; say which it is, joints:=a=COLUMN"),
        ({}, {"units": "rad"}, "joint 'a' would be at 45 rad, its range is -1 to 1; are its units right .units:=deg."),
        ({}, {"gripper": (0.0, 1.0)}, "the gripper's opening would be 100; give its values, gripper:=CLOSED,OPEN"),
        ({"fps": 30}, {}, "30 rows per second, twolink is driven at 20 Hz; resample:=true"),
        ({"size": 96}, {}, "observation.images.top is 96x96, camera 'front' of twolink is 64x64; resize:=crop"),
        ({"next.success": True}, {}, "no feature next.success; say how the episodes ended, outcome:="),
        ({"names": {"action": ("x", "y", "g")}}, {}, "no feature observation.state; it has action"),
        ({"names": {**FOREIGN, "action": None}}, {}, "action does not name its columns; by_position:=true"),
        ({"scale": np.nan}, {}, "observation.state has values that are not finite"),
        ({}, {"episodes": (1,)}, "no episode 1; it has 1"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, dataset: dict[str, Any], changed: dict[str, Any], said: str) -> None:
    root = foreign(tmp_path / "ds", **dataset)
    with pytest.raises(WhetstoneError, match=said) as caught:
        import_dataset(root, RolloutStore(tmp_path / "store"), ROBOT, ImportOptions(**{**SUITS, **changed}))
    assert "\n" not in str(caught.value)
    assert RolloutStore(tmp_path / "store").list() == []


@pytest.mark.parametrize("damage", ["missing", "version", "info", "episodes", "data", "video", "short video", "sidecar", "edited"])
def test_a_damaged_dataset_is_named(tmp_path: Path, damage: str) -> None:
    store = filled(tmp_path / "store", recorded("a"), recorded("b", seed=1))
    root = tmp_path / "ds"
    export(store, ["a", "b"], ROBOT, root, VIDEO)
    info = root / "meta/info.json"
    data, video = root / "data/chunk-000/file-000.parquet", root / "videos/observation.images.front/chunk-000/file-000.mp4"
    words = {
        "missing": "no LeRobotDataset", "version": "v2.1; convert it", "info": "damaged", "episodes": "meta/episodes",
        "data": "rows of episode 0",
        "video": "video of observation.images.front", "short video": "frame . of episode 1 is missing", "sidecar": "sidecar:=false",
        "edited": "episode 0 was changed since it was exported",
    }  # fmt: skip
    if damage == "missing":
        info.unlink()
    elif damage == "version":
        info.write_text(info.read_text().replace("v3.0", "v2.1"))
    elif damage == "info":
        info.write_text("{")
    elif damage == "episodes":
        (root / "meta/episodes/chunk-000/file-000.parquet").unlink()
    elif damage == "data":
        data.write_bytes(data.read_bytes()[:-8])
    elif damage == "video":
        video.write_bytes(video.read_bytes()[:100])
    elif damage == "short video":
        export(store, ["a"], ROBOT, tmp_path / "short", VIDEO)
        (tmp_path / "short/videos/observation.images.front/chunk-000/file-000.mp4").replace(video)
    elif damage == "sidecar":
        (root / "whetstone/episode_000000.npz").write_bytes(b"PK")
    else:
        table = pyarrow.parquet.read_table(data)
        place = table.schema.get_field_index("action")
        pyarrow.parquet.write_table(table.set_column(place, "action", table["observation.state"]), data)
    with pytest.raises(InputError, match=words[damage]) as caught:
        import_dataset(root, RolloutStore(tmp_path / "back"), ROBOT, ImportOptions())
    assert "\n" not in str(caught.value)

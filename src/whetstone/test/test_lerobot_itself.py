"""What we export, read by lerobot 0.4 itself: rows, pictures, batches, statistics, RA-BC weights.

lerobot wants an older torch than this project pins, so it cannot be in the same environment and CI does not run this file; there the
schema is held to lerobot_v3.json. In an environment with lerobot 0.4.4, pytest, hypothesis and pyyaml:
PYTHONPATH=src/whetstone python -m pytest -c /dev/null src/whetstone/test/test_lerobot_itself.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lerobot")

from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.rabc import RABCWeights
from torch.utils.data import DataLoader
from whetstone_samples import recorded, robot

from whetstone.frames import encode
from whetstone.lerobot_export import PROGRESS_FILE, ExportOptions, export
from whetstone.store import RolloutStore

ROBOT = robot(cameras=[{"name": "front", "width": 64, "height": 64}, {"name": "wrist", "width": 64, "height": 64}])


@pytest.mark.parametrize("rows", ["decisions", "steps"])
@pytest.mark.parametrize("images", ["video", "png"])
def test_lerobot_reads_what_we_export(tmp_path: Path, rows: str, images: str) -> None:
    store = RolloutStore(tmp_path / "store")
    written = [
        recorded(
            f"train-000-000{one}", decisions=3 + one, execute=8, seed=50 * one, cameras=("front", "wrist"), instruction=f"task {one % 2}"
        )
        for one in range(3)
    ]
    for one in written:
        stamps = one.steps["stamps"].tolist()
        frames = ((camera, stamp, encode(one.images[camera][0], lossless=True)) for camera in one.images for stamp in stamps)
        store.write(one, frames if rows == "steps" else None)
    done = export(store, store.list(), ROBOT, tmp_path / "ds", ExportOptions(images=images))  # type: ignore[arg-type]
    dataset = LeRobotDataset("local/ours", root=tmp_path / "ds", video_backend="pyav")
    assert dataset.fps == float(done.fps) == (2.5 if rows == "decisions" else 20)
    assert (dataset.num_episodes, len(dataset)) == (3, done.rows)
    stride = 1 if rows == "decisions" else 8
    start = 0
    for index, rollout in enumerate(written):
        for row in range(len(rollout.stamps)):
            item = dataset[start + row * stride]
            assert (item["episode_index"], item["frame_index"], item["task"]) == (index, row * stride, rollout.instruction)
            assert float(item["timestamp"]) == pytest.approx(row * stride / float(done.fps))
            np.testing.assert_array_equal(item["observation.state"], rollout.proprioception[row])
            np.testing.assert_array_equal(item["action"], rollout.steps["commanded"][row * 8])
            for camera in ("front", "wrist"):
                seen = item[f"observation.images.{camera}"].numpy().transpose(1, 2, 0) * 255
                assert np.abs(seen - rollout.images[camera][row]).mean() < (3 if images == "video" else 1e-3)
        start += len(rollout.stamps) * stride
    np.testing.assert_allclose(dataset.meta.stats["action"]["mean"].shape, (3,))
    batch = next(iter(DataLoader(dataset, batch_size=5, shuffle=True)))
    assert batch["observation.images.wrist"].shape == (5, 3, 64, 64) and batch["action"].shape == (5, 3) and len(batch["task"]) == 5
    part = LeRobotDataset(
        "local/ours", root=tmp_path / "ds", video_backend="pyav", episodes=[1], delta_timestamps={"action": [0, 1 / dataset.fps]}
    )
    assert part[0]["action"].shape == (2, 3) and part[0]["episode_index"] == 1

    # RA-BC (arXiv 2509.25358, eq. 8 and 9) from the progress file, by lerobot's class and by hand.
    chunk = 2
    weights = RABCWeights(tmp_path / "ds" / PROGRESS_FILE, chunk_size=chunk, device="cpu")  # type: ignore[arg-type]
    found, _ = weights.compute_batch_weights({"index": np.arange(len(dataset))})
    progress = [one.rewards["progress"][:-1].astype(np.float64) for one in written]
    if rows == "steps":
        places = [np.arange(len(one.stamps) * 8) for one in written]
        progress = [np.interp(place, place[::8], one).astype(np.float32).astype(np.float64) for place, one in zip(places, progress)]
    gain = np.concatenate([one[np.minimum(np.arange(len(one)) + chunk, len(one) - 1)] - one for one in progress])
    mean, deviation = max(gain.mean(), 0), gain.std()
    soft = ((gain - (mean - 2 * deviation)) / (4 * deviation + 1e-6)).clip(0, 1)
    expected = np.where(gain > 0.01, 1, np.where(gain >= 0, soft, 0))
    np.testing.assert_allclose(found.numpy(), expected * len(expected) / (expected.sum() + 1e-6), atol=1e-5)

"""What a LeRobotDataset v3.0 looks like, as a description of files, keys, types and lengths.

`describe` is what the tests compare. Where lerobot is installed, `python lerobot_gold.py FILE` has lerobot itself write a small dataset
with our columns, once with videos and once with images, and its description goes to FILE: lerobot_v3.json came from there.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

NAMES = ["a", "b", "gripper"]
SIZE = 64
FPS = 5


def describe(root: Path) -> dict[str, Any]:
    """Everything about a dataset that does not depend on its content."""
    info = json.loads((root / "meta/info.json").read_text(encoding="utf-8"))
    stats = json.loads((root / "meta/stats.json").read_text(encoding="utf-8"))
    tables = {}
    for name in ("data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet"):
        schema = pyarrow.parquet.read_schema(root / name)
        metadata = {key.decode(): json.loads(value) for key, value in (schema.metadata or {}).items() if key != b"ARROW:schema"}
        tables[name] = {
            "columns": {field.name: str(field.type) for field in schema},
            "huggingface": metadata.get("huggingface", {}).get("info"),
            "pandas_index": metadata.get("pandas", {}).get("index_columns"),
        }
    return {
        "files": sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()),
        "info": {key: value if key in ("codebase_version", "chunks_size", "data_path", "video_path", "fps") else _kind(value)
                 for key, value in info.items() if key != "features"},
        "features": info["features"],
        "stats": {name: {key: _kind(value) for key, value in one.items()} for name, one in stats.items()},
        "tables": tables,
    }  # fmt: skip


def _kind(value: Any) -> Any:
    if isinstance(value, list):
        return [len(value), _kind(value[0])] if value else [0]
    if isinstance(value, dict):
        return {key: _kind(one) for key, one in value.items()}
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def _write(root: Path, kind: str) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features = {
        "observation.state": {"dtype": "float32", "shape": (3,), "names": NAMES},
        "action": {"dtype": "float32", "shape": (3,), "names": NAMES},
        "observation.images.front": {"dtype": kind, "shape": (SIZE, SIZE, 3), "names": ["height", "width", "channels"]},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
        "next.done": {"dtype": "bool", "shape": (1,), "names": None},
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
        "complementary_info.is_intervention": {"dtype": "float32", "shape": (1,), "names": ["is_intervention"]},
    }
    dataset = LeRobotDataset.create(
        "local/gold", fps=FPS, features=features, root=root, robot_type="twolink", use_videos=kind == "video", vcodec="h264"
    )
    random = np.random.default_rng(0)
    for episode in range(2):
        for row in range(4):
            dataset.add_frame(
                {
                    "observation.state": random.normal(size=3).astype(np.float32),
                    "action": random.normal(size=3).astype(np.float32),
                    "observation.images.front": random.integers(0, 256, (SIZE, SIZE, 3), np.uint8),
                    "next.reward": np.array([row / 4], np.float32),
                    "next.done": np.array([row == 3]),
                    "next.success": np.array([row == 3]),
                    "complementary_info.is_intervention": np.zeros(1, np.float32),
                    "task": f"task {episode}",
                }
            )
        dataset.save_episode()
    dataset.finalize()


def main() -> None:
    from importlib import metadata

    described = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("video", "image"):
            _write(Path(folder) / kind, kind)
            described[kind] = describe(Path(folder) / kind)
    versions = {name: metadata.version(name) for name in ("lerobot", "datasets", "pyarrow", "av", "torch")}
    told = {"from": "src/whetstone/test/lerobot_gold.py, a dataset that lerobot itself wrote", "versions": versions, **described}
    Path(sys.argv[1]).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
